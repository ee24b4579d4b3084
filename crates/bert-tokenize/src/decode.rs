//! From ids and tokens to texts.

use serde_json::Value;
use tokenizers::{Decoder, ModelWrapper};

use crate::checks::guarded;
use crate::error::{Error, Result};
use crate::tokenizer::BertTokenizer;

/// The options of [`BertTokenizer::decode_with`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct DecodeOptions {
    /// Whether `[CLS]`, `[SEP]` and the like are left out. Default: no.
    pub skip_special_tokens: bool,
    /// Whether spaces before punctuation are removed. Default: as `tokenizer_config.json` says, or else no.
    /// After BPE never, because there they belong to the text.
    pub clean_up_tokenization_spaces: Option<bool>,
}

impl DecodeOptions {
    /// All tokens, as the tokenizer writes them.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out `[CLS]`, `[SEP]` and the like.
    pub fn without_special_tokens(self) -> Self {
        Self { skip_special_tokens: true, ..self }
    }

    /// Sets [`DecodeOptions::clean_up_tokenization_spaces`].
    pub fn with_clean_up(self, clean_up: bool) -> Self {
        Self { clean_up_tokenization_spaces: Some(clean_up), ..self }
    }
}

impl BertTokenizer {
    /// The text of `ids`, as far as the vocabulary tells.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the decoder fails. Ids outside the vocabulary are skipped.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, &DecodeOptions::new())
    }

    /// [`BertTokenizer::decode`] with options.
    ///
    /// # Errors
    /// As [`BertTokenizer::decode`].
    pub fn decode_with(&self, ids: &[u32], options: &DecodeOptions) -> Result<String> {
        // Some decoders fail without a token.
        if ids.is_empty() {
            return Ok(String::new());
        }
        let text = guarded(|| self.tokens.decode(ids, options.skip_special_tokens));
        let text = text.map_err(Error::Tokenizer)?;
        let is_bpe = matches!(self.tokens.get_model(), ModelWrapper::BPE(_));
        let own = || self.config.get("clean_up_tokenization_spaces").and_then(Value::as_bool);
        let cleans = options.clean_up_tokenization_spaces.or_else(own) == Some(true) && !is_bpe;
        Ok(if cleans { clean_up_tokenization(text) } else { text })
    }

    /// The text of tokens. Hugging Face: `convert_tokens_to_string`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the decoder fails.
    pub fn convert_tokens_to_string<T: Into<String>>(
        &self,
        tokens: impl IntoIterator<Item = T>,
    ) -> Result<String> {
        let tokens: Vec<String> = tokens.into_iter().map(Into::into).collect();
        match self.tokens.get_decoder().filter(|_| !tokens.is_empty()) {
            Some(decoder) => guarded(|| decoder.decode(tokens)).map_err(Error::Tokenizer),
            None => Ok(tokens.join(" ")),
        }
    }
}

/// Removes spaces that tokens had put before marks. transformers: `clean_up_tokenization`.
fn clean_up_tokenization(text: String) -> String {
    let spaces = [" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"];
    spaces.iter().fold(text, |text, found| text.replace(found, found.trim()))
}
