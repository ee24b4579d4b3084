//! Texts as tokens, and tokens as tensors.

use bert_core::{BertInput, PackedInput};
use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::options::Side;

/// One text, or pair of texts, as tokens. Every list has one entry per token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoding {
    /// The tokens' ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary writes them.
    pub tokens: Vec<String>,
    /// 0 for tokens of the first text, 1 for those of the second. The model gets 0 for all if the tokenizer
    /// is of models that read no types (`model_input_names`).
    pub type_ids: Vec<u32>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<u32>,
    /// 1 for tokens that are not from the text: `[CLS]`, `[SEP]`, padding.
    pub special_tokens_mask: Vec<u32>,
    /// The start and end of a token in its text or, if the text was given as words, in its word, in the
    /// unit of [`EncodeOptions::offsets`](crate::EncodeOptions::offsets); `(0, 0)` for tokens that are not
    /// from the text.
    pub offsets: Vec<(usize, usize)>,
    /// The index of a token's word in its text: of the words that were given, or else of those that the
    /// pre-tokenizer makes. `None` for tokens that are not from the text.
    pub word_ids: Vec<Option<u32>>,
    /// The text that a token is from: 0 for the first, 1 for the second of a pair. `None` for tokens that
    /// are not from a text.
    pub sequence_ids: Vec<Option<usize>>,
    /// Whether the model gets the types.
    pub(crate) has_types: bool,
}

impl Encoding {
    /// The number of tokens, including padding.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self {
            ids: Vec::with_capacity(tokens),
            tokens: Vec::with_capacity(tokens),
            type_ids: Vec::with_capacity(tokens),
            attention_mask: Vec::with_capacity(tokens),
            special_tokens_mask: Vec::with_capacity(tokens),
            offsets: Vec::with_capacity(tokens),
            word_ids: Vec::with_capacity(tokens),
            sequence_ids: Vec::with_capacity(tokens),
            has_types: true,
        }
    }

    /// Adds a token that is not from a text. Nothing attends to it if `attention_mask` is 0.
    pub fn push_special(&mut self, id: u32, token: &str, type_id: u32, attention_mask: u32) {
        self.ids.push(id);
        self.tokens.push(token.to_owned());
        self.type_ids.push(type_id);
        self.attention_mask.push(attention_mask);
        self.special_tokens_mask.push(1);
        self.offsets.push((0, 0));
        self.word_ids.push(None);
        self.sequence_ids.push(None);
    }

    /// Adds the tokens of a text, the first or the second one of a pair.
    pub(crate) fn extend(&mut self, text: &tokenizers::Encoding, sequence_id: usize, type_id: u32) {
        let count = text.len();
        self.ids.extend_from_slice(text.get_ids());
        self.tokens.extend_from_slice(text.get_tokens());
        self.type_ids.resize(self.type_ids.len() + count, type_id);
        self.attention_mask.extend_from_slice(text.get_attention_mask());
        self.special_tokens_mask.extend_from_slice(text.get_special_tokens_mask());
        self.offsets.extend_from_slice(text.get_offsets());
        self.word_ids.extend_from_slice(text.get_word_ids());
        self.sequence_ids.resize(self.sequence_ids.len() + count, Some(sequence_id));
    }

    /// Pads to `length` tokens.
    pub(crate) fn pad(&mut self, length: usize, side: Side, id: u32, token: &str) {
        let missing = length.saturating_sub(self.len());
        for _ in 0..missing {
            self.push_special(id, token, 0, 0);
        }
        if side == Side::Left && missing > 0 {
            self.ids.rotate_right(missing);
            self.tokens.rotate_right(missing);
            self.type_ids.rotate_right(missing);
            self.attention_mask.rotate_right(missing);
            self.special_tokens_mask.rotate_right(missing);
            self.offsets.rotate_right(missing);
            self.word_ids.rotate_right(missing);
            self.sequence_ids.rotate_right(missing);
        }
    }
}

impl From<&tokenizers::Encoding> for Encoding {
    fn from(encoding: &tokenizers::Encoding) -> Self {
        Self {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            attention_mask: encoding.get_attention_mask().to_vec(),
            special_tokens_mask: encoding.get_special_tokens_mask().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            word_ids: encoding.get_word_ids().to_vec(),
            sequence_ids: encoding.get_sequence_ids(),
            has_types: true,
        }
    }
}

/// One or more texts as tokens. Hugging Face: `BatchEncoding`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchEncoding {
    /// The texts in the order in which they were given: B of them, or more with
    /// [`Truncation::with_overflow`](crate::Truncation::with_overflow), where the pieces of a text follow
    /// each other.
    pub encodings: Vec<Encoding>,
    /// The index of the text that an encoding is of: B numbers.
    pub overflow_to_sample_mapping: Vec<usize>,
    /// The tokenizer's id of padding.
    pub pad_token_id: Option<u32>,
}

impl BatchEncoding {
    /// Ids, types and mask as tensors on `device`, `[B, S]` each, U32, and the id of padding.
    ///
    /// # Errors
    /// [`Error::EmptyBatch`] for no texts and [`Error::Ragged`] for texts of different lengths.
    pub fn to_input(&self, device: &Device) -> Result<BertInput> {
        let s = self.encodings.first().ok_or(Error::EmptyBatch)?.len();
        if let Some(row) = self.encodings.iter().position(|encoding| encoding.len() != s) {
            return Err(Error::Ragged { first: s, row, got: self.encodings[row].len() });
        }
        let tensor = |list: fn(&Encoding) -> &[u32]| {
            let values: Vec<u32> = self.encodings.iter().flat_map(list).copied().collect();
            Tensor::from_vec(values, (self.encodings.len(), s), device)
        };
        let mut input = BertInput::from_ids(tensor(|encoding| &encoding.ids)?)
            .with_attention_mask(tensor(|encoding| &encoding.attention_mask)?);
        if self.encodings.iter().all(|encoding| encoding.has_types) {
            input.token_type_ids = Some(tensor(|encoding| &encoding.type_ids)?);
        }
        input.pad_token_id = self.pad_token_id;
        Ok(input)
    }

    /// The tokens without padding, one text after the other: ids, types and positions as tensors on
    /// `device`, `[T]` each, U32. Texts may have different lengths. A token's position is its index in
    /// its text, counting padding before it, so its hidden states are those of
    /// [`BatchEncoding::to_input`].
    ///
    /// # Errors
    /// [`Error::EmptyBatch`] for no texts and [`Error::NoTokens`] for a text without tokens.
    pub fn to_packed(&self, device: &Device) -> Result<PackedInput> {
        Self::pack(&self.encodings, device)
    }

    /// [`BatchEncoding::to_packed`] of some encodings, in their order.
    ///
    /// # Errors
    /// As [`BatchEncoding::to_packed`].
    pub fn pack<'a>(
        encodings: impl IntoIterator<Item = &'a Encoding>,
        device: &Device,
    ) -> Result<PackedInput> {
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut cumulative_lengths = vec![0];
        for (row, encoding) in encodings.into_iter().enumerate() {
            let start = ids.len();
            let tokens = encoding.ids.iter().zip(&encoding.type_ids).zip(&encoding.attention_mask);
            for (i, ((id, type_id), _)) in tokens.enumerate().filter(|(_, (_, mask))| **mask != 0) {
                ids.push(*id);
                types.push(if encoding.has_types { *type_id } else { 0 });
                positions.push(i as u32);
            }
            if ids.len() == start {
                return Err(Error::NoTokens { row });
            }
            cumulative_lengths.push(ids.len());
        }
        if ids.is_empty() {
            return Err(Error::EmptyBatch);
        }
        Ok(PackedInput::new(Tensor::new(ids, device)?, cumulative_lengths)
            .with_token_type_ids(Tensor::new(types, device)?)
            .with_position_ids(Tensor::new(positions, device)?))
    }
}
