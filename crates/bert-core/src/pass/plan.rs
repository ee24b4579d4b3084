//! How a pass is computed: this file alone decides what is left out.

use bert_kernels::PassPolicy;

use super::state::PassState;
use crate::config::{BertConfig, PositionEmbeddingType};

/// The tokens for which the last layer computes hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// The first of each sequence.
    First,
}

/// How a pass is computed. [`BertModel::forward`](crate::BertModel::forward) explains it to users.
///
/// | | rows are packed | first tokens only in the last layer | large batches in parts |
/// |---|---|---|---|
/// | the backend's policy | skips padding | | tokens at a time |
/// | the caller wants | zeros at padding, and nothing reads it | first tokens | |
/// | the batch | has unneeded padding, or is packed | | |
/// | attentions, a cache, encoder states, dropout | no | no | no |
/// | hidden states | | no | no |
/// | a head mask, trained parameters | no | | |
/// | absolute positions | yes | yes | yes |
/// | a decoder, a chunked feed-forward network | no | no | |
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) packed: bool,
    pub(crate) rows: Rows,
    pub(crate) tokens_at_a_time: usize,
}

impl Plan {
    /// `rows` are those that the caller wants. `can_be_packed` says whether the batch, the caller and
    /// the parameters allow packed rows; it takes a walk over all tokens and parameters.
    pub(crate) fn new(
        rows: Rows,
        policy: PassPolicy,
        config: &BertConfig,
        state: &PassState,
        can_be_packed: impl FnOnce() -> bool,
    ) -> Self {
        let plain = state.recorded.attentions.is_none()
            && state.recorded.past_key_values.is_none()
            && state.encoder.is_none()
            && !state.dropout.is_active()
            && config.position_embedding_type == PositionEmbeddingType::Absolute;
        let tokens_are_independent =
            plain && !config.is_decoder && config.chunk_size_feed_forward == 0;
        let keeps_result_only = plain && state.recorded.hidden_states.is_none();
        Self {
            packed: policy.skips_padding
                && tokens_are_independent
                && state.head_mask.is_none()
                && can_be_packed(),
            rows: match tokens_are_independent && keeps_result_only {
                true => rows,
                false => Rows::All,
            },
            tokens_at_a_time: match keeps_result_only {
                true => policy.tokens_at_a_time,
                false => usize::MAX,
            },
        }
    }
}
