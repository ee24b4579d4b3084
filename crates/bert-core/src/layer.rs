//! One layer of the encoder.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::add_norm::AddNorm;
use crate::attention::Attention;
use crate::config::BertConfig;
use crate::error::Result;
use crate::feed_forward::FeedForward;
use crate::pass::mask::AttentionMask;
use crate::pass::options::{AttentionKind, EncoderStates, ForwardContext};
use crate::surgery::named;

/// One layer: self-attention and feed-forward, each followed by Add & Norm; between them, in decoders
/// that have it, attention to another encoder's states.
///
/// Post-norm, as in the paper. Vaswani et al. 2017, Figure 1; Devlin et al. 2018, §3.
/// Hugging Face: `BertLayer`.
#[derive(Clone, Debug)]
pub struct BertLayer {
    attention: Attention,
    attention_norm: AddNorm,
    cross_attention: Option<CrossAttention>,
    feed_forward: FeedForward,
    feed_forward_norm: AddNorm,
}

impl BertLayer {
    /// Loads `attention`, `intermediate`, `output` and, where the config has it, `crossattention`,
    /// as layer number `layer` of the encoder, which says which heads are pruned.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, layer: usize, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let pruned = config.pruned_heads.get(&layer).map_or(&[][..], Vec::as_slice);
        let kind = AttentionKind::Itself;
        Ok(Self {
            attention: Attention::load(vb.pp("attention"), kind, pruned, config)?,
            attention_norm: AddNorm::load(vb.pp("attention.output.LayerNorm"), config)?,
            cross_attention: match config.add_cross_attention {
                true => Some(CrossAttention::load(vb.pp("crossattention"), config)?),
                false => None,
            },
            feed_forward: FeedForward::load(vb.clone(), config)?,
            feed_forward_norm: AddNorm::load(vb.pp("output.LayerNorm"), config)?,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`.
    ///
    /// Called alone, a layer drops as the context says but keeps nothing: hidden states, attentions,
    /// the cache and other encoders' states come with [`BertModel`](crate::BertModel), and of a head
    /// mask by layer the first row counts.
    ///
    /// # Errors
    /// When `x` or `mask` has another shape than the layer or each other.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        self.forward_rows(x, x, mask, context)
    }

    /// [`BertLayer::forward`] for the first tokens only: `x`: `[B, S, H]` → `[B, 1, H]`, or
    /// `[1, T, H]` → `[1, B, H]`.
    pub(crate) fn forward_first(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let (first, mask) = mask.first_tokens(x)?;
        self.forward_rows(&first, x, &mask, context)
    }

    /// `x`, whose states are computed: `[B, Q, H]`; `tokens`, which they attend to: `[B, S, H]`.
    fn forward_rows(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let attended = self.attention.to_tokens(x, tokens, mask, context)?;
        let mut x = self.attention_norm.forward(&attended, x, context)?;
        if let Some(cross_attention) = &self.cross_attention {
            x = cross_attention.forward(&x, context)?;
        }
        let transformed = self.feed_forward.forward(&x)?;
        self.feed_forward_norm.forward(&transformed, &x, context)
    }

    /// The numbers of the heads that are left.
    pub(crate) fn heads(&self) -> &[u32] {
        self.attention.heads()
    }

    /// Removes the other heads of self-attention.
    pub(crate) fn keep_heads(&mut self, kept: &[u32]) -> Result<()> {
        self.attention.keep_heads(kept)
    }
}

/// Attention to another encoder's states, followed by Add & Norm.
///
/// Vaswani et al. 2017, §3.2.3. Hugging Face: `BertAttention` with `is_cross_attention`.
#[derive(Clone, Debug)]
struct CrossAttention {
    attention: Attention,
    norm: AddNorm,
}

impl CrossAttention {
    fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            attention: Attention::load(vb.clone(), AttentionKind::Cross, &[], config)?,
            norm: AddNorm::load(vb.pp("output.LayerNorm"), config)?,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`; `x` itself where the context has no encoder states.
    fn forward(&self, x: &Tensor, context: &mut ForwardContext) -> Result<Tensor> {
        let Some(EncoderStates { states, mask }) = context.encoder_states() else {
            return Ok(x.clone());
        };
        let attended = self.attention.to_states(x, &states, &mask, context)?;
        self.norm.forward(&attended, x, context)
    }
}

named!(BertLayer {
    "attention" => attention,
    "attention.output.LayerNorm" => attention_norm,
    "crossattention" => cross_attention,
    "" => feed_forward,
    "output.LayerNorm" => feed_forward_norm,
});

named!(CrossAttention { "" => attention, "output.LayerNorm" => norm });
