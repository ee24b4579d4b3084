//! How a pass is computed: this file alone decides what is left out.

use bert_kernels::PassPolicy;

use super::batch::Packing;
use super::options::PaddingStates;
use super::state::PassState;

/// The tokens for which the last layer computes hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    All,
    /// The first of each sequence.
    First,
}

/// What a caller wants of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) rows: Rows,
    pub(crate) padding: PaddingStates,
    /// Whether a loss or scores depend on the states of padding.
    pub(crate) reads_padding: bool,
}

/// What a model says of its passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModelFacts {
    pub(crate) absolute_positions: bool,
    pub(crate) chunked_feed_forward: bool,
    pub(crate) decoder: bool,
    pub(crate) policy: PassPolicy,
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
    /// `is_trained` says whether any parameter is; it takes a walk over all of them.
    pub(crate) fn new(
        wanted: Wanted,
        packing: Packing,
        model: ModelFacts,
        state: &PassState,
        is_trained: impl FnOnce() -> bool,
    ) -> Self {
        let plain = state.keeps_no_attentions()
            && !state.has_cache()
            && !state.has_encoder_states()
            && !state.dropout.is_active()
            && model.absolute_positions;
        let tokens_are_independent = plain && !model.decoder && !model.chunked_feed_forward;
        let can_be_packed = match packing {
            Packing::Given => true,
            Packing::Impossible => false,
            Packing::Possible => wanted.padding == PaddingStates::Zeros && !wanted.reads_padding,
        };
        let keeps_result_only = plain && !state.keeps_hidden_states();
        Self {
            packed: can_be_packed
                && model.policy.skips_padding
                && tokens_are_independent
                && !state.has_head_mask()
                && !is_trained(),
            rows: match tokens_are_independent && keeps_result_only {
                true => wanted.rows,
                false => Rows::All,
            },
            tokens_at_a_time: match keeps_result_only {
                true => model.policy.tokens_at_a_time,
                false => usize::MAX,
            },
        }
    }
}
