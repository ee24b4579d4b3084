//! The tokenizer: its parts, and what it says of itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::OnceLock;

use serde_json::{Map, Value};
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{
    AddedToken, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper,
    PostProcessorWrapper, Tokenizer,
};

use crate::beginning::Cuts;
use crate::build::Built;
use crate::checks::guarded;
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::options::Side;
use crate::template::Template;

/// Texts to token ids and back. Hugging Face: `BertTokenizer`.
///
/// Truncation and padding happen when a call asks for them. Of the truncation and padding in a `tokenizer.json`,
/// only the sides and the padding token's name count; applying the rest would cut texts silently.
#[derive(Clone, Debug)]
pub struct BertTokenizer {
    /// Normalizer, pre-tokenizer, vocabulary and decoder only.
    pub(crate) tokens: Tokenizer,
    /// The same, but special tokens in texts are split if there they are not, and the other way around.
    pub(crate) with_other_splits: OnceLock<Tokenizer>,
    pub(crate) special_tokens: Option<PostProcessorWrapper>,
    /// `special_tokens`, if it is a template.
    pub(crate) template: Option<Template>,
    /// The special tokens that have a name: the name, then the token.
    named: Vec<(String, String)>,
    /// The special tokens that have none.
    unnamed: Vec<String>,
    /// Added tokens that normalization makes equal to one with a lower id: both ids.
    pub(crate) twins: HashMap<u32, u32>,
    /// Where a long text can be cut.
    pub(crate) cuts: Option<Cuts>,
    /// `tokenizer_config.json`, to be saved again.
    pub(crate) config: Map<String, Value>,
    /// Whether transformers makes the same of that file and the vocabulary alone.
    is_bert: bool,
    /// Whether the tokenizer's models read which text of a pair a token is from.
    pub(crate) has_types: bool,
}

impl BertTokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Syntax`] when they are not one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::from_files(&TokenizerFiles { tokenizer: Some(bytes), ..TokenizerFiles::default() })
    }

    /// Reads a tokenizer from all of its files.
    ///
    /// # Errors
    /// [`Error::NoVocabulary`] without `tokenizer.json` and `vocab.txt`; [`Error::Syntax`],
    /// [`Error::File`] and [`Error::AddedToken`] when files are broken or contradict each other.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self> {
        let Built { tokenizer: mut tokens, named, unnamed, config, is_bert, has_types } =
            Built::from_files(files)?;
        let special_tokens = tokens.get_post_processor().cloned();
        tokens.with_padding(None);
        tokens.with_post_processor(None::<PostProcessorWrapper>);
        tokens.with_truncation(None).map_err(Error::Syntax)?;
        Ok(Self {
            twins: twins(&tokens)?,
            cuts: Cuts::of(&tokens)?,
            tokens,
            with_other_splits: OnceLock::new(),
            template: Template::of(special_tokens.as_ref()),
            special_tokens,
            named,
            unnamed,
            config,
            is_bert,
            has_types,
        })
    }

    /// The id of a token, if the vocabulary has it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokens.token_to_id(token)
    }

    /// The token of an id, if the vocabulary has it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokens.id_to_token(id)
    }

    /// Adds words that are never split. Returns the number of words that the vocabulary did not have.
    /// A model needs rows for them: `resize_token_embeddings(tokenizer.vocab_size())`. Hugging Face:
    /// `add_tokens`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer refuses them.
    pub fn add_tokens<T: Into<String>>(
        &mut self,
        tokens: impl IntoIterator<Item = T>,
    ) -> Result<usize> {
        let tokens = tokens.into_iter().map(|token| AddedToken::from(token, false));
        self.add(|tokenizer| tokenizer.add_tokens(tokens))
    }

    /// [`BertTokenizer::add_tokens`] for tokens like `[CLS]`, which are found before a text is normalized
    /// and left out by [`DecodeOptions::without_special_tokens`](crate::DecodeOptions). Words of the
    /// vocabulary become such tokens. Hugging Face: `add_special_tokens`.
    ///
    /// # Errors
    /// As [`BertTokenizer::add_tokens`].
    pub fn add_special_tokens<T: Into<String>>(
        &mut self,
        tokens: impl IntoIterator<Item = T>,
    ) -> Result<usize> {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        let special = tokens.iter().map(|token| AddedToken::from(token.as_str(), true));
        let added = self.add(|tokenizer| tokenizer.add_special_tokens(special))?;
        let named = self.named.iter().map(|(_, token)| token);
        let known: HashSet<String> = named.chain(&self.unnamed).cloned().collect();
        self.unnamed.extend(tokens.into_iter().filter(|token| !known.contains(token)));
        Ok(added)
    }

    fn add(
        &mut self,
        add: impl FnOnce(&mut Tokenizer) -> tokenizers::Result<usize>,
    ) -> Result<usize> {
        let before = self.vocab_size();
        // An error may come after some tokens were added.
        let mut grown = self.tokens.clone();
        guarded(|| add(&mut grown)).map_err(Error::Tokenizer)?;
        self.replace(grown)?;
        Ok(self.vocab_size() - before)
    }

    /// The tokenizer with texts in small letters, whatever else it does to them. sentence-transformers:
    /// `do_lower_case`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer refuses it.
    pub fn with_lowercase(mut self) -> Result<Self> {
        let mut tokens = self.tokens.clone();
        let (lowercase, old) = (NormalizerWrapper::Lowercase(Lowercase), tokens.get_normalizer());
        let is_there = |it: &NormalizerWrapper| matches!(it, NormalizerWrapper::Lowercase(_));
        let normalizer = match old {
            None => lowercase,
            Some(NormalizerWrapper::Sequence(all)) if all.as_ref().iter().any(is_there) => {
                return Ok(self);
            }
            Some(old) if is_there(old) => return Ok(self),
            Some(old) => NormalizerWrapper::Sequence(Sequence::new(vec![lowercase, old.clone()])),
        };
        guarded(|| tokens.with_normalizer(Some(normalizer)).map(drop)).map_err(Error::Tokenizer)?;
        self.replace(tokens)?;
        Ok(self)
    }

    fn replace(&mut self, tokens: Tokenizer) -> Result<()> {
        (self.twins, self.cuts) = (twins(&tokens)?, Cuts::of(&tokens)?);
        self.tokens = tokens;
        self.with_other_splits = OnceLock::new();
        Ok(())
    }

    /// The names and contents of `tokenizer.json` and `tokenizer_config.json`, from which
    /// [`BertTokenizer::from_files`] and transformers read this tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer cannot be serialized.
    pub fn to_files(&self) -> Result<[(&'static str, String); 2]> {
        let mut tokenizer = self.tokens.clone();
        tokenizer.with_post_processor(self.special_tokens.clone());
        let mut config = self.config.clone();
        // With it, files that an earlier save left beside these two do not count.
        let added = serde_json::to_value(tokenizer.get_added_tokens_decoder());
        let added = added.map_err(|error| Error::Tokenizer(error.into()))?;
        config.insert("added_tokens_decoder".to_owned(), added);
        match tokenizer.get_normalizer() {
            Some(NormalizerWrapper::BertNormalizer(bert))
                if self.is_bert && bert.clean_text && self.has_usual_words() =>
            {
                let chinese = bert.handle_chinese_chars;
                config.insert("do_lower_case".to_owned(), bert.lowercase.into());
                config.insert("strip_accents".to_owned(), bert.strip_accents.into());
                config.insert("tokenize_chinese_chars".to_owned(), chinese.into());
                config.entry("tokenizer_class").or_insert("BertTokenizer".into());
            }
            // For other classes transformers would not take all of tokenizer.json.
            _ => {
                drop(config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into()))
            }
        }
        let mut inputs = vec!["input_ids", "token_type_ids", "attention_mask"];
        inputs.retain(|name| self.has_types || *name != "token_type_ids");
        config.insert("model_input_names".to_owned(), inputs.into());
        for (name, token) in &self.named {
            config.insert(name.clone(), token.clone().into());
        }
        // Version 4 does not read the new name of the list.
        config.remove("extra_special_tokens");
        config.insert("additional_special_tokens".to_owned(), self.unnamed.clone().into());
        let tokenizer = tokenizer.to_string(true).map_err(Error::Tokenizer)?;
        let config = format!("{:#}", Value::Object(config));
        Ok([("tokenizer.json", tokenizer), ("tokenizer_config.json", config)])
    }

    /// Whether words are cut as transformers' `BertTokenizer` cuts them.
    fn has_usual_words(&self) -> bool {
        match self.tokens.get_model() {
            ModelWrapper::WordPiece(model) => {
                model.continuing_subword_prefix == "##" && model.max_input_chars_per_word == 100
            }
            _ => false,
        }
    }

    /// The special token that a file names so, like `cls_token` or a name of the model's own.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let named = self.named.iter().find(|(other, _)| other == name);
        named.map(|(_, token)| token.as_str())
    }

    /// The number of tokens, including added ones.
    pub fn vocab_size(&self) -> usize {
        self.tokens.get_vocab_size(true)
    }

    /// The most tokens that the tokenizer's model reads, if `tokenizer_config.json` says. A call truncates
    /// only if it is told to.
    pub fn model_max_length(&self) -> Option<usize> {
        // Old files have another name for it.
        let length = self.config.get("model_max_length").or(self.config.get("max_len"))?;
        // transformers writes 10^30 for none.
        let length = length.as_u64().or_else(|| length.as_f64().map(|length| length as u64))?;
        usize::try_from(length).ok().filter(|length| (1..1 << 32).contains(length))
    }

    /// The side of padding if a call does not say.
    pub fn padding_side(&self) -> Side {
        self.side("padding_side")
    }

    /// The side at which texts are truncated if a call does not say.
    pub fn truncation_side(&self) -> Side {
        self.side("truncation_side")
    }

    fn side(&self, key: &str) -> Side {
        match self.config.get(key).and_then(Value::as_str) {
            Some("left") => Side::Left,
            _ => Side::Right,
        }
    }

    /// What the vocabulary writes before a token that continues a word, like `##`. `None` if it does not
    /// tell them apart.
    pub fn continuing_subword_prefix(&self) -> Option<&str> {
        match self.tokens.get_model() {
            ModelWrapper::WordPiece(model) => Some(&model.continuing_subword_prefix),
            ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_deref(),
            ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => None,
        }
    }
}

/// For each added token that normalization makes equal to another one, the lowest id of them. The
/// library would find any of them.
fn twins(tokenizer: &Tokenizer) -> Result<HashMap<u32, u32>> {
    let Some(normalizer) = tokenizer.get_normalizer() else { return Ok(HashMap::new()) };
    let added: BTreeMap<u32, AddedToken> =
        tokenizer.get_added_tokens_decoder().into_iter().collect();
    let (mut first, mut twins) = (HashMap::new(), HashMap::new());
    for (id, token) in added.into_iter().filter(|(_, token)| token.normalized) {
        let mut text = NormalizedString::from(token.content);
        guarded(|| normalizer.normalize(&mut text)).map_err(Error::Tokenizer)?;
        let lowest = *first.entry(text.get().to_owned()).or_insert(id);
        if lowest != id {
            twins.insert(id, lowest);
        }
    }
    Ok(twins)
}
