//! What a caller asks of a forward pass.

use candle_core::Tensor;

use super::cache::KeyValueCache;
use super::dropout::Dropout;

/// Which of a model's per-layer tensors to return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those with these indices; −1 is the last.
    Only(Vec<i64>),
}

/// What the states of padding are.
///
/// Padding is a token that the attention mask `[B, S]` hides and whose id is the padding id: that of
/// the input ([`BertInput::pad_token_id`](crate::BertInput::pad_token_id)) or else the config's. The
/// first token of a sequence is never padding. With `inputs_embeds`, under a mask by query (three or
/// four dimensions) and in decoders nothing is padding.
///
/// All other tokens have transformers' numbers, including hidden tokens with another id, which
/// late-interaction models read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaddingStates {
    /// Zeros, in `last_hidden_state` and `hidden_states`, on every device, in every dtype and
    /// whatever else is asked for. Logits at padding are those of a zero state, except where a loss
    /// or answer spans depend on them: there they are transformers'.
    #[default]
    Zeros,
    /// Transformers' numbers.
    Kept,
}

/// The options of a forward pass. By default nothing is kept and nothing is dropped.
///
/// ```
/// use bert_core::{ForwardOptions, Layers};
///
/// let options = ForwardOptions::new()
///     .with_hidden_states(Layers::All)
///     .with_attentions(Layers::Only(vec![-1]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ForwardOptions {
    pub(crate) hidden_states: Option<Layers>,
    pub(crate) attentions: Option<Layers>,
    pub(crate) dropout: Dropout,
    pub(crate) cache: Option<KeyValueCache>,
    pub(crate) head_mask: Option<Tensor>,
    pub(crate) padding: PaddingStates,
}

impl ForwardOptions {
    /// Evaluation, without dropout. Hidden states and attentions are returned if the config has
    /// `output_hidden_states` or `output_attentions`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only the result, whatever the config says.
    pub(crate) fn result_only() -> Self {
        Self::new().with_hidden_states(Layers::None).with_attentions(Layers::None)
    }

    /// Training: dropout with the config's probabilities, drawn from a generator with this seed. Each
    /// pass draws new numbers. Clones share the generator.
    pub fn training(seed: u64) -> Self {
        Self { dropout: Dropout::seeded(seed), ..Self::default() }
    }

    /// Asks for hidden states: index 0 is the embeddings' output, index `l` the output of layer `l`.
    pub fn with_hidden_states(self, layers: Layers) -> Self {
        Self { hidden_states: Some(layers), ..self }
    }

    /// Asks for attention weights, `[B, N, Q, K]` per layer; in training, those after dropout.
    pub fn with_attentions(self, layers: Layers) -> Self {
        Self { attentions: Some(layers), ..self }
    }

    /// Continues after the tokens whose keys and values are in `cache`. The pass returns a longer
    /// cache as `past_key_values`.
    pub fn with_cache(self, cache: KeyValueCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Multiplies the attention weights of each head, also those of cross-attention: `[N]` for all
    /// layers or `[L, N]`, 1 to keep a head and 0 to silence it. Hugging Face: `head_mask`, until
    /// version 4.
    pub fn with_head_mask(self, mask: Tensor) -> Self {
        Self { head_mask: Some(mask), ..self }
    }

    /// Sets the states of padding. Default: [`PaddingStates::Zeros`].
    pub fn with_padding_states(self, padding: PaddingStates) -> Self {
        Self { padding, ..self }
    }

    /// The number of cached tokens per sequence.
    pub(crate) fn past(&self) -> usize {
        self.cache.as_ref().map_or(0, KeyValueCache::len)
    }
}
