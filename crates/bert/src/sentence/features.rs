//! What modules read and write.

use candle_core::{DType, Tensor};
use serde::Deserialize;

use crate::error::Result;

/// The states of tokens and the vectors of texts.
pub(super) struct Features {
    /// The states of all texts' tokens, one text after the other: `[T, D]`.
    pub(super) tokens: Tensor,
    /// The first token of each text, then T.
    pub(super) starts: Vec<usize>,
    /// The tokens of the prompt at the beginning of each text.
    pub(super) prompt_length: usize,
    /// The texts' vectors, once they are pooled: `[B, D]`.
    pub(super) sentence: Option<Tensor>,
}

/// What a module changes.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(super) enum Target {
    #[default]
    #[serde(rename = "sentence_embedding")]
    Sentence,
    #[serde(rename = "token_embeddings")]
    Tokens,
}

/// The dtype in which sums over a tensor are computed.
pub(super) fn accumulated_dtype(x: &Tensor) -> DType {
    match x.dtype() {
        DType::F16 | DType::BF16 => DType::F32,
        dtype => dtype,
    }
}

impl Features {
    /// Changes what a module changes, if it is there.
    pub(super) fn change(
        &mut self,
        target: Target,
        change: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        match target {
            Target::Tokens => self.tokens = change(&self.tokens)?,
            Target::Sentence => self.sentence = self.sentence.as_ref().map(change).transpose()?,
        }
        Ok(())
    }
}
