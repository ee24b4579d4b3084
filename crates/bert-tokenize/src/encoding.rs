//! Texts as tokens, and tokens as tensors.

use bert_core::{BertInput, PackedInput};
use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// One text, or pair of texts, as tokens. Every list has one entry per token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Encoding {
    /// The tokens' ids.
    pub ids: Vec<u32>,
    /// The tokens as the vocabulary writes them.
    pub tokens: Vec<String>,
    /// 0 for tokens of the first text, 1 for those of the second.
    pub type_ids: Vec<u32>,
    /// 1 for tokens, 0 for padding.
    pub attention_mask: Vec<u32>,
    /// 1 for tokens that are not from the text: `[CLS]`, `[SEP]`, padding.
    pub special_tokens_mask: Vec<u32>,
    /// The start and end of a token in its text, in the unit of
    /// [`EncodeOptions::offsets`](crate::EncodeOptions::offsets); `(0, 0)` for tokens that are not from
    /// the text.
    pub offsets: Vec<(usize, usize)>,
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
}

impl From<tokenizers::Encoding> for Encoding {
    fn from(encoding: tokenizers::Encoding) -> Self {
        Self {
            ids: encoding.get_ids().to_vec(),
            tokens: encoding.get_tokens().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            attention_mask: encoding.get_attention_mask().to_vec(),
            special_tokens_mask: encoding.get_special_tokens_mask().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
        }
    }
}

/// One or more texts as tokens. Hugging Face: `BatchEncoding`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchEncoding {
    /// The texts in the order in which they were given: B of them.
    pub encodings: Vec<Encoding>,
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
            .with_token_type_ids(tensor(|encoding| &encoding.type_ids)?)
            .with_attention_mask(tensor(|encoding| &encoding.attention_mask)?);
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
        if self.encodings.is_empty() {
            return Err(Error::EmptyBatch);
        }
        let (mut ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut cumulative_lengths = vec![0];
        for (row, encoding) in self.encodings.iter().enumerate() {
            let start = ids.len();
            let tokens = encoding.ids.iter().zip(&encoding.type_ids).zip(&encoding.attention_mask);
            for (i, ((id, type_id), _)) in tokens.enumerate().filter(|(_, (_, mask))| **mask != 0) {
                ids.push(*id);
                types.push(*type_id);
                positions.push(i as u32);
            }
            if ids.len() == start {
                return Err(Error::NoTokens { row });
            }
            cumulative_lengths.push(ids.len());
        }
        Ok(PackedInput::new(Tensor::new(ids, device)?, cumulative_lengths)
            .with_token_type_ids(Tensor::new(types, device)?)
            .with_position_ids(Tensor::new(positions, device)?))
    }
}
