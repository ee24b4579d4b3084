//! Scores of pairs of texts.

use std::borrow::Cow;

use bert_core::{BertForSequenceClassification, Head};
use bert_tokenize::{BertTokenizer, EncodeOptions, Encoding, Text, Truncation};
use candle_core::{D, DType};
use serde::Serialize;
use serde_json::Value;

use super::activation::Activation;
use super::files::SentenceFiles;
use super::options::Task;
use super::texts::Prompts;
use crate::batches::{in_batches, in_windows_ahead};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::options::LoadOptions;
use crate::load::pretrained::PreTrainedModel;
use crate::scores::{largest, rows};
use crate::task_error::TaskError;

/// Scores of pairs of texts, for example how well a document answers a query. sentence-transformers:
/// `CrossEncoder`.
///
/// ```no_run
/// use bert::{CrossEncoder, CrossEncoderOptions, LoadOptions};
///
/// # fn main() -> bert::Result<()> {
/// let id = "cross-encoder/ms-marco-MiniLM-L6-v2"; // or a folder
/// let model = CrossEncoder::from_pretrained(id, &LoadOptions::new())?;
/// let texts = ["Berlin has 3.8 million people.", "Berlin is green."];
/// let query = "How many people live in Berlin?";
/// let ranked = model.rank(query, &texts, &CrossEncoderOptions::new())?;
/// println!("{:.2} {}", ranked[0].score, ranked[0].text);
/// # Ok(())
/// # }
/// ```
///
/// Of pairs that are longer than the model reads, the longer text is cut at its end, as in
/// sentence-transformers.
#[derive(Clone, Debug)]
pub struct CrossEncoder {
    /// The model.
    pub model: BertForSequenceClassification,
    /// Its tokenizer.
    pub tokenizer: BertTokenizer,
    prompts: Prompts,
    activation: Activation,
    max_length: usize,
}

/// A document with its score.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ranked {
    /// The document's index.
    pub corpus_id: usize,
    /// Its score.
    pub score: f32,
    /// The document.
    pub text: String,
}

/// The options of [`CrossEncoder`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct CrossEncoderOptions {
    /// Whether scores of several labels become probabilities. Default: no.
    pub apply_softmax: bool,
    /// The text before the first text of each pair. Default: the prompt of
    /// [`CrossEncoderOptions::prompt_name`].
    pub prompt: Option<String>,
    /// The name of a prompt of the checkpoint. Default: the checkpoint's default prompt, if it has one.
    pub prompt_name: Option<String>,
    /// The documents that [`CrossEncoder::rank`] returns. Default: all.
    pub top_k: Option<usize>,
}

impl CrossEncoderOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes probabilities of the scores of several labels, after the checkpoint's own function.
    pub fn with_softmax(self) -> Self {
        Self { apply_softmax: true, ..self }
    }

    /// Sets [`CrossEncoderOptions::prompt`].
    pub fn with_prompt(self, prompt: impl Into<String>) -> Self {
        Self { prompt: Some(prompt.into()), ..self }
    }

    /// Sets [`CrossEncoderOptions::prompt_name`].
    pub fn with_prompt_name(self, name: impl Into<String>) -> Self {
        Self { prompt_name: Some(name.into()), ..self }
    }

    /// Sets [`CrossEncoderOptions::top_k`].
    pub fn with_top_k(self, documents: usize) -> Self {
        Self { top_k: Some(documents), ..self }
    }
}

impl CrossEncoder {
    /// Loads a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`] and [`Checkpoint::tokenizer`]; [`TaskError::Module`] for files
    /// that cannot be used.
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        let files = SentenceFiles::read(&checkpoint, "CrossEncoder")?;
        if let Some(module) = files.modules.iter().flatten().next() {
            let got = module.class.clone();
            return Err(TaskError::UnknownModule { got, known: "a Transformer alone" }.into());
        }
        let model = BertForSequenceClassification::from_pretrained(&files.transformer, options)?;
        let config = model.bert.config();
        let (tokenizer, max_length) = files.tokenizer(config)?;
        let of_config = match config.other.get("sentence_transformers") {
            Some(settings) if settings.get("activation_fn").is_some() => &settings["activation_fn"],
            _ => config.other.get("sbert_ce_default_activation_function").unwrap_or(&Value::Null),
        };
        // A function of another package is ignored there, too.
        let is_known = |name: &&str| name.starts_with("torch.");
        let named = files.config.activation_fn.as_deref().filter(is_known);
        let named = named.or(of_config.as_str().filter(is_known));
        let activation = match named {
            Some(name) => Activation::of_class(name).map_err(|reason| TaskError::Module {
                path: checkpoint.to_string().into(),
                reason,
            })?,
            None if config.num_labels() == 1 => Activation::SIGMOID,
            None => Activation::Identity,
        };
        let prompts =
            Prompts::new(files.config.prompts(), files.config.default_prompt_name.clone())?;
        Ok(Self { model, tokenizer, prompts, activation, max_length })
    }

    /// The most tokens of a pair, with special tokens. Longer pairs are cut.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The scores of one pair: one for each label.
    ///
    /// # Errors
    /// [`TaskError::NoSuchPrompt`] for a prompt that the checkpoint does not have.
    pub fn predict(&self, pair: (&str, &str), options: &CrossEncoderOptions) -> Result<Vec<f32>> {
        Ok(self.scores(&self.encode(&[pair], options)?, options)?.remove(0))
    }

    /// The scores of pairs, in their order. A few hundred pairs are read and computed at a time, when the
    /// iterator gets to them; it ends after the first error.
    pub fn predict_all<'s, A, B, I: IntoIterator<Item = (A, B)>>(
        &'s self,
        pairs: I,
        options: &CrossEncoderOptions,
    ) -> impl Iterator<Item = Result<Vec<f32>>> + use<'s, A, B, I>
    where
        A: AsRef<str> + Send + Sync,
        B: AsRef<str> + Send + Sync,
    {
        let (options, its_options) = (options.clone(), options.clone());
        let size = |(a, b): &(A, B)| a.as_ref().len() + b.as_ref().len();
        let encode = move |pairs: &[(A, B)]| self.encode(pairs, &its_options);
        in_windows_ahead(pairs, size, encode, move |encodings, _| self.scores(encodings, &options))
    }

    /// Documents by their score with a query, the best first.
    ///
    /// # Errors
    /// [`TaskError::Option`] for a model with several labels, and as [`CrossEncoder::predict`].
    pub fn rank<T: AsRef<str>>(
        &self,
        query: &str,
        documents: &[T],
        options: &CrossEncoderOptions,
    ) -> Result<Vec<Ranked>> {
        let labels = self.model.bert.config().num_labels();
        if labels != 1 {
            let expected = "1 to rank documents; use CrossEncoder::predict";
            return Err(TaskError::option("number of the model's labels", labels, expected).into());
        }
        let pairs = documents.iter().map(|document| (query, document.as_ref()));
        let scores = self.predict_all(pairs, options).collect::<Result<Vec<_>>>()?.concat();
        let best = largest(&scores, options.top_k.unwrap_or(usize::MAX)).into_iter();
        let ranked = best.map(|corpus_id| Ranked {
            corpus_id,
            score: scores[corpus_id],
            text: documents[corpus_id].as_ref().to_owned(),
        });
        Ok(ranked.collect())
    }

    fn encode<A: AsRef<str>, B: AsRef<str>>(
        &self,
        pairs: &[(A, B)],
        options: &CrossEncoderOptions,
    ) -> Result<Vec<Encoding>> {
        let prompt = self.prompts.of(&options.prompt, &options.prompt_name, Task::None)?;
        let first: Vec<Cow<str>> = pairs
            .iter()
            .map(|(first, _)| match prompt {
                "" => Cow::Borrowed(first.as_ref()),
                prompt => Cow::Owned(format!("{prompt}{}", first.as_ref())),
            })
            .collect();
        let texts = first.iter().zip(pairs);
        let texts = texts.map(|(first, (_, second))| Text::Pair(first, second.as_ref()));
        let options = EncodeOptions::new().with_truncation(Truncation::to(self.max_length));
        Ok(self.tokenizer.encode_batch(texts, &options)?.encodings)
    }

    fn scores(
        &self,
        encodings: &[Encoding],
        options: &CrossEncoderOptions,
    ) -> Result<Vec<Vec<f32>>> {
        in_batches(encodings, self.model.bert.device(), Encoding::len, |input, _| {
            // In half precision, good scores would become equal.
            let logits = self.model.forward_packed(input)?.logits.to_dtype(DType::F32)?;
            let scores = self.activation.apply(&logits)?;
            let several = scores.dim(1)? > 1;
            match options.apply_softmax && several {
                true => rows(&candle_nn::ops::softmax(&scores, D::Minus1)?),
                false => rows(&scores),
            }
        })
    }
}
