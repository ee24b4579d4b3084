//! One layer of the encoder.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::add_norm::AddNorm;
use crate::attention::SelfAttention;
use crate::config::BertConfig;
use crate::context::ForwardContext;
use crate::error::Result;
use crate::feed_forward::FeedForward;
use crate::mask::AttentionMask;

/// One encoder layer: self-attention and feed-forward, each followed by Add & Norm.
///
/// Post-norm, as in the paper. Vaswani et al. 2017, Figure 1, left; Devlin et al. 2018, §3.
/// Hugging Face: `BertLayer`.
#[derive(Clone, Debug)]
pub struct BertLayer {
    attention: SelfAttention,
    attention_norm: AddNorm,
    feed_forward: FeedForward,
    feed_forward_norm: AddNorm,
}

impl BertLayer {
    /// Loads `attention`, `intermediate` and `output`.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.check_supported()?;
        Ok(Self {
            attention: SelfAttention::load(vb.pp("attention"), config)?,
            attention_norm: AddNorm::load(vb.pp("attention.output.LayerNorm"), config)?,
            feed_forward: FeedForward::load(vb.clone(), config)?,
            feed_forward_norm: AddNorm::load(vb.pp("output.LayerNorm"), config)?,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`.
    ///
    /// Called alone, a layer drops as the context says but keeps nothing: hidden states, attentions
    /// and the cache come from [`BertEncoder`](crate::BertEncoder).
    ///
    /// # Errors
    /// When `x` or `mask` has another shape than the layer or each other.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let attended = self.attention.forward(x, mask, context)?;
        let x = self.attention_norm.forward(&attended, x, context)?;
        let transformed = self.feed_forward.forward(&x)?;
        self.feed_forward_norm.forward(&transformed, &x, context)
    }
}
