//! From texts to encodings: prompts, lengths and tokens of queries.

use std::collections::BTreeMap;

use bert_core::{BertConfig, BertModel};
use bert_tokenize::{BertTokenizer, EncodeOptions, Encoding, Truncation};

use super::files::{Expansion, ExpansionStrategy, SentenceFiles};
use super::options::{SentenceOptions, Task};
use crate::auto::AutoModel;
use crate::batches::in_windows_ahead;
use crate::error::Result;
use crate::load::options::LoadOptions;
use crate::task_error::TaskError;

/// The prompts of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Prompts {
    by_name: BTreeMap<String, String>,
    default: Option<String>,
}

impl Prompts {
    pub(super) fn new(by_name: BTreeMap<String, String>, default: Option<String>) -> Result<Self> {
        let prompts = Self { by_name, default };
        prompts.default.as_deref().map_or(Ok(()), |name| prompts.named(name).map(drop))?;
        Ok(prompts)
    }

    fn named(&self, name: &str) -> Result<&str> {
        let known = || self.by_name.keys().cloned().collect();
        let found = self.by_name.get(name).map(String::as_str);
        let error = || TaskError::NoSuchPrompt { got: name.to_owned(), known: known() }.into();
        found.ok_or_else(error)
    }

    /// The prompt of a call.
    pub(super) fn of<'a>(
        &'a self,
        prompt: &'a Option<String>,
        name: &Option<String>,
        task: Task,
    ) -> Result<&'a str> {
        match (prompt, name, task) {
            (Some(prompt), ..) => Ok(prompt),
            (None, Some(name), _) => self.named(name),
            (None, None, Task::Query) => self.named("query"),
            (None, None, Task::Document) => self.named("document"),
            (None, None, Task::None) => self.default.as_deref().map_or(Ok(""), |it| self.named(it)),
        }
    }

    /// Puts something before a prompt, unless it is there.
    pub(super) fn prefix(&mut self, name: &str, prefix: &str) {
        let prompt = self.by_name.entry(name.to_owned()).or_default();
        if !prompt.starts_with(prefix) {
            prompt.insert_str(0, prefix);
        }
    }
}

/// What makes encodings of texts.
#[derive(Clone, Debug)]
pub(super) struct TextEncoder {
    pub(super) tokenizer: BertTokenizer,
    pub(super) prompts: Prompts,
    /// The most tokens of a text.
    pub(super) max_seq_length: usize,
    pub(super) query_length: Option<usize>,
    pub(super) document_length: Option<usize>,
    pub(super) expansion: Option<Expansion>,
    positions: usize,
}

impl TextEncoder {
    /// A model without a pooler, and what makes its encodings.
    pub(super) fn with_model(
        files: &SentenceFiles,
        options: &LoadOptions,
    ) -> Result<(BertModel, Self)> {
        let options = options.clone().without_pooling_layer();
        let model = AutoModel::from_pretrained(&files.transformer, &options)?;
        let texts = Self::new(files, model.config())?;
        Ok((model, texts))
    }

    pub(super) fn new(files: &SentenceFiles, config: &BertConfig) -> Result<Self> {
        let settings = &files.transformer_config;
        let (tokenizer, max_seq_length) = files.tokenizer(config)?;
        let mut prompts = files.config.prompts();
        for name in ["query", "document"] {
            prompts.entry(name.to_owned()).or_default();
        }
        let prompts = Prompts::new(prompts, files.config.default_prompt_name.clone())?;
        Ok(Self {
            tokenizer,
            prompts,
            max_seq_length,
            query_length: settings.query_length,
            document_length: settings.document_length,
            expansion: settings.query_expansion.clone(),
            positions: config.max_position_embeddings,
        })
    }

    /// Returns the results of texts in the order of the texts. While `run` computes some of them, the next
    /// texts are encoded.
    pub(super) fn run_all<'s, T, I, R, F>(
        &'s self,
        texts: I,
        options: &SentenceOptions,
        run: F,
    ) -> impl Iterator<Item = Result<R>> + use<'s, T, I, R, F>
    where
        T: AsRef<str> + Send + Sync,
        I: IntoIterator<Item = T>,
        F: Fn(&[Encoding], &SentenceOptions) -> Result<Vec<R>>,
    {
        let (options, its_options) = (options.clone(), options.clone());
        let size = |text: &T| text.as_ref().len();
        let encode = move |texts: &[T]| self.encode(texts, &its_options);
        in_windows_ahead(texts, size, encode, move |encodings, done| {
            let results = run(encodings, &options)?;
            options.tell(done);
            Ok(results)
        })
    }

    /// The prompt of a call.
    pub(super) fn prompt<'a>(&'a self, options: &'a SentenceOptions) -> Result<&'a str> {
        self.prompts.of(&options.prompt, &options.prompt_name, options.task)
    }

    /// The encodings of texts behind the prompt of a call. Texts that are too long are cut at their end.
    pub(super) fn encode<T: AsRef<str>>(
        &self,
        texts: &[T],
        options: &SentenceOptions,
    ) -> Result<Vec<Encoding>> {
        let prompt = self.prompt(options)?;
        let encode_options =
            EncodeOptions::new().with_truncation(Truncation::to(self.length(options.task)));
        let batch = match prompt {
            "" => self.tokenizer.encode_batch(texts.iter().map(AsRef::as_ref), &encode_options)?,
            prompt => {
                let texts: Vec<String> =
                    texts.iter().map(|text| format!("{prompt}{}", text.as_ref())).collect();
                self.tokenizer.encode_batch(&texts, &encode_options)?
            }
        };
        let mut encodings = batch.encodings;
        if let Some(expansion) = self.expansion.as_ref().filter(|_| options.task == Task::Query) {
            for encoding in &mut encodings {
                self.expand(encoding, expansion)?;
            }
        }
        Ok(encodings)
    }

    /// The most tokens of a text.
    fn length(&self, task: Task) -> usize {
        let longest = match task {
            Task::Query => self.query_length,
            Task::Document => self.document_length,
            Task::None => None,
        };
        let longest = longest.unwrap_or(self.max_seq_length);
        let expansion = self.expansion.as_ref().filter(|_| task == Task::Query);
        let longest = match expansion.map(|it| (it.strategy, it.length)) {
            Some((ExpansionStrategy::Fixed, length)) => length,
            Some((ExpansionStrategy::Min, length)) if self.query_length.is_some() => {
                longest.max(length)
            }
            _ => longest,
        };
        longest.min(self.positions)
    }

    /// Adds tokens to a query that is short.
    fn expand(&self, encoding: &mut Encoding, expansion: &Expansion) -> Result<()> {
        let token = match &expansion.token {
            Some(token) => Some(token.as_str()),
            None => self.tokenizer.mask_token().or(self.tokenizer.eos_token()),
        };
        let id = token.and_then(|token| self.tokenizer.token_to_id(token));
        let (Some(token), Some(id)) = (token, id) else {
            return Err(TaskError::NoMaskToken.into());
        };
        for _ in encoding.len()..expansion.length.min(self.positions) {
            encoding.push_special(id, token, 0, u32::from(expansion.attend));
        }
        Ok(())
    }

    /// The tokens that a prompt takes up of a text.
    pub(super) fn prompt_length(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let options = EncodeOptions::new().with_truncation(Truncation::to(self.max_seq_length));
        let batch = self.tokenizer.encode(prompt, &options)?;
        let special = &batch.encodings[0].special_tokens_mask;
        // The last one, which ends the text.
        Ok(special.len() - usize::from(special.last() == Some(&1)))
    }
}
