//! The tokenizer: tokens of each text, then truncation, special tokens and padding.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};
use tokenizers::tokenizer::{PaddingDirection, PaddingParams, PaddingStrategy, PostProcessor};
use tokenizers::utils::padding::pad_encodings;
use tokenizers::utils::truncation::{
    TruncationDirection, TruncationParams, TruncationStrategy as Strategy, truncate_encodings,
};
use tokenizers::{
    AddedToken, Encoding, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper,
    PostProcessorWrapper, Tokenizer,
};

use crate::beginning::{Cuts, encode_beginnings};
use crate::build::Built;
use crate::checks::guarded;
use crate::encoding::BatchEncoding;
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::options::{EncodeOptions, OffsetUnit, Padding, Side, Truncation, TruncationStrategy};
use crate::text::Text;

/// The most tokens that a text can be padded to: far more than the positions of any BERT.
const MOST_PADDED: usize = 1 << 20;

/// Texts to token ids and back. Hugging Face: `BertTokenizer`.
///
/// Truncation and padding happen when a call asks for them. Those that a `tokenizer.json` contains are
/// ignored: they would cut texts silently.
#[derive(Clone, Debug)]
pub struct BertTokenizer {
    /// Normalizer, pre-tokenizer, vocabulary and decoder only.
    tokens: Tokenizer,
    special_tokens: Option<PostProcessorWrapper>,
    /// The special tokens that have a name: the name, then the token.
    named: Vec<(String, String)>,
    /// The special tokens that have none.
    unnamed: Vec<String>,
    /// Added tokens that normalization makes equal to one with a lower id: both ids.
    twins: HashMap<u32, u32>,
    /// Where a long text can be cut.
    cuts: Option<Cuts>,
    /// `tokenizer_config.json`, to be saved again.
    config: Map<String, Value>,
    /// Whether transformers makes the same of that file and the vocabulary alone.
    is_bert: bool,
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
        let Built { tokenizer: mut tokens, named, unnamed, config, is_bert } =
            Built::from_files(files)?;
        let special_tokens = tokens.get_post_processor().cloned();
        tokens.with_padding(None);
        tokens.with_post_processor(None::<PostProcessorWrapper>);
        tokens.with_truncation(None).map_err(Error::Syntax)?;
        let (twins, cuts) = (twins(&tokens)?, Cuts::of(&tokens)?);
        Ok(Self { tokens, special_tokens, named, unnamed, twins, cuts, config, is_bert })
    }

    /// Encodes one text or pair.
    ///
    /// # Errors
    /// As [`BertTokenizer::encode_batch`].
    pub fn encode<'a>(
        &self,
        text: impl Into<Text<'a>>,
        options: &EncodeOptions,
    ) -> Result<BatchEncoding> {
        self.encode_batch([text], options)
    }

    /// Encodes texts or pairs in parallel. Without texts the batch is empty.
    ///
    /// `texts` may be `&[&str]`, `&Vec<String>`, arrays, or iterators of texts, pairs or [`Text`]s.
    ///
    /// # Errors
    /// [`Error::MaxLength`] and [`Error::Truncation`] when a text cannot be cut as asked,
    /// [`Error::NoPadToken`] when padding is asked for and there is no padding token,
    /// [`Error::PaddingLength`] for an absurd length.
    pub fn encode_batch<'a, T: Into<Text<'a>>>(
        &self,
        texts: impl IntoIterator<Item = T>,
        options: &EncodeOptions,
    ) -> Result<BatchEncoding> {
        let texts: Vec<Text> = texts.into_iter().map(Into::into).collect();
        let encode = |texts: Vec<&str>| self.encode_all(texts, options.offsets);
        let cuts = self.cuts.as_ref().zip(options.truncation);
        let mut sequences = encode_beginnings(&texts, cuts, encode)?.into_iter();

        let mut encodings = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            let Some(first) = sequences.next() else { break };
            let is_pair = matches!(text, Text::Pair(..));
            let mut second = if is_pair { sequences.next() } else { None };
            if let Some(second) = &mut second {
                second.set_type_ids(vec![1; second.len()]);
            }
            let (first, second) = self.truncate(row, first, second, options)?;
            encodings.push(match &self.special_tokens {
                Some(processor) => {
                    guarded(|| processor.process(first, second, options.add_special_tokens))
                        .map_err(Error::Tokenizer)?
                }
                None => Encoding::merge(std::iter::once(first).chain(second), false),
            });
        }
        self.pad(&mut encodings, options)?;
        let encodings = encodings.into_iter().map(|encoding| self.without_twins(encoding.into()));
        Ok(BatchEncoding { encodings: encodings.collect(), pad_token_id: self.pad_token_id() })
    }

    /// The tokens of each text, without special tokens.
    fn encode_all(&self, texts: Vec<&str>, unit: OffsetUnit) -> Result<Vec<Encoding>> {
        let one = |text| match unit {
            OffsetUnit::Characters => self.tokens.encode_char_offsets(text, false),
            OffsetUnit::Bytes => self.tokens.encode(text, false),
        };
        let all = || match unit {
            // A thread of the pool may be busy for a while.
            _ if texts.len() <= 2 => texts.into_iter().map(one).collect(),
            OffsetUnit::Characters => self.tokens.encode_batch_char_offsets(texts, false),
            OffsetUnit::Bytes => self.tokens.encode_batch(texts, false),
        };
        guarded(all).map_err(Error::Tokenizer)
    }

    /// The encoding with the lowest id in place of each one that means the same.
    fn without_twins(&self, mut encoding: crate::Encoding) -> crate::Encoding {
        if !self.twins.is_empty() {
            for (id, token) in encoding.ids.iter_mut().zip(&mut encoding.tokens) {
                if let Some(first) = self.twins.get(id) {
                    *id = *first;
                    *token = self.id_to_token(*first).unwrap_or_default();
                }
            }
        }
        encoding
    }

    /// The text of `ids`, as far as the vocabulary tells.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the decoder fails. Ids outside the vocabulary are skipped.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.text(ids, false)
    }

    /// [`BertTokenizer::decode`] without `[CLS]`, `[SEP]` and the like.
    ///
    /// # Errors
    /// As [`BertTokenizer::decode`].
    pub fn decode_without_special_tokens(&self, ids: &[u32]) -> Result<String> {
        self.text(ids, true)
    }

    fn text(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        // Some decoders fail without a token.
        if ids.is_empty() {
            return Ok(String::new());
        }
        let text =
            guarded(|| self.tokens.decode(ids, skip_special_tokens)).map_err(Error::Tokenizer)?;
        let is_bpe = matches!(self.tokens.get_model(), ModelWrapper::BPE(_));
        let cleans = self.config.get("clean_up_tokenization_spaces").and_then(Value::as_bool);
        Ok(if cleans == Some(true) && !is_bpe { clean_up_tokenization(text) } else { text })
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
        let before = self.vocab_size();
        // An error may come after some tokens were added.
        let mut grown = self.tokens.clone();
        guarded(|| grown.add_tokens(tokens)).map_err(Error::Tokenizer)?;
        (self.twins, self.cuts) = (twins(&grown)?, Cuts::of(&grown)?);
        self.tokens = grown;
        Ok(self.vocab_size() - before)
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
            Some(NormalizerWrapper::BertNormalizer(bert)) if self.is_bert && bert.clean_text => {
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

    /// The special token that a file names so, like `cls_token` or a name of the model's own.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        let named = self.named.iter().find(|(other, _)| other == name);
        named.map(|(_, token)| token.as_str())
    }

    /// The number of tokens, including added ones.
    pub fn vocab_size(&self) -> usize {
        self.tokens.get_vocab_size(true)
    }

    fn truncate(
        &self,
        row: usize,
        first: Encoding,
        second: Option<Encoding>,
        options: &EncodeOptions,
    ) -> Result<(Encoding, Option<Encoding>)> {
        let Some(truncation) = options.truncation else { return Ok((first, second)) };
        let Truncation { max_length, strategy, side } = truncation;
        let processor = self.special_tokens.as_ref().filter(|_| options.add_special_tokens);
        let special = processor.map_or(0, |processor| processor.added_tokens(second.is_some()));
        let room =
            max_length.checked_sub(special).ok_or(Error::MaxLength { got: max_length, special })?;
        let second_length = second.as_ref().map(|second| second.len());
        let excess = (first.len() + second_length.unwrap_or(0)).saturating_sub(room);
        // The text that alone is shortened, and its length.
        let (strategy, only) = match strategy {
            TruncationStrategy::LongestFirst => (Strategy::LongestFirst, None),
            TruncationStrategy::OnlyFirst => {
                (Strategy::OnlyFirst, Some(("first", Some(first.len()))))
            }
            TruncationStrategy::OnlySecond => {
                (Strategy::OnlySecond, Some(("second", second_length)))
            }
        };
        if let Some((which, length)) = only
            && excess > 0
            && length.is_none_or(|length| length <= excess)
        {
            let reason = if length.is_none() { "there is none" } else { "it is too short" };
            return Err(Error::Truncation { row, max_length, which, reason });
        }
        let params = TruncationParams {
            max_length: room,
            stride: 0,
            direction: match side {
                Side::Left => TruncationDirection::Left,
                Side::Right => TruncationDirection::Right,
            },
            strategy,
        };
        let (mut first, mut second) =
            truncate_encodings(first, second, &params).map_err(Error::Tokenizer)?;
        // The rest would otherwise be combined: each piece of one text with each piece of the other.
        drop(first.take_overflowing());
        drop(second.as_mut().map(|second| second.take_overflowing()));
        Ok((first, second))
    }

    fn pad(&self, encodings: &mut [Encoding], options: &EncodeOptions) -> Result<()> {
        let (strategy, length) = match options.padding {
            Padding::None => return Ok(()),
            Padding::Longest => (PaddingStrategy::BatchLongest, 0),
            Padding::Length(tokens) => (PaddingStrategy::Fixed(tokens), tokens),
        };
        for got in [options.pad_to_multiple_of, length] {
            if got > MOST_PADDED {
                return Err(Error::PaddingLength { got, most: MOST_PADDED });
            }
        }
        let (Some(pad_token), Some(pad_id)) = (self.pad_token(), self.pad_token_id()) else {
            return Err(Error::NoPadToken);
        };
        let params = PaddingParams {
            strategy,
            direction: match options.padding_side {
                Side::Left => PaddingDirection::Left,
                Side::Right => PaddingDirection::Right,
            },
            pad_to_multiple_of: Some(options.pad_to_multiple_of),
            pad_id,
            pad_type_id: 0,
            pad_token: pad_token.to_owned(),
        };
        pad_encodings(encodings, &params).map_err(Error::Tokenizer)
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

/// Removes spaces that tokens had put before marks. transformers: `clean_up_tokenization`.
fn clean_up_tokenization(text: String) -> String {
    let spaces = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"];
    spaces.iter().fold(text, |text, found| text.replace(found, found.trim()))
}

/// The special tokens that have a name, and their ids.
macro_rules! special_tokens {
    ($($(#[$doc:meta])* $token:ident, $id:ident;)*) => {
        impl BertTokenizer {
            $(
                $(#[$doc])*
                pub fn $token(&self) -> Option<&str> {
                    self.special_token(stringify!($token))
                }

                #[doc = concat!("The id of [`BertTokenizer::", stringify!($token), "`].")]
                pub fn $id(&self) -> Option<u32> {
                    self.token_to_id(self.$token()?)
                }
            )*
        }
    };
}

special_tokens! {
    /// The token that begins a sequence, usually `[CLS]`. `None` if the tokenizer has none.
    cls_token, cls_token_id;
    /// The token that ends a text, usually `[SEP]`. `None` if the tokenizer has none.
    sep_token, sep_token_id;
    /// The token in place of a masked word, usually `[MASK]`. `None` if the tokenizer has none.
    mask_token, mask_token_id;
    /// The token for padding, usually `[PAD]`. `None` if the tokenizer has none.
    pad_token, pad_token_id;
    /// The token in place of an unknown word, usually `[UNK]`. `None` if the tokenizer has none.
    unk_token, unk_token_id;
    /// The token that begins a generated text. `None` if the tokenizer has none.
    bos_token, bos_token_id;
    /// The token that ends a generated text. `None` if the tokenizer has none.
    eos_token, eos_token_id;
}
