//! Multi-head self-attention.

use bert_kernels::{AttentionArgs, LinearWeights, attention, attention_with_weights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::context::ForwardContext;
use crate::error::Result;
use crate::mask::AttentionMask;
use crate::names;

/// `MultiHead(x) = Concat(head₁ … head_N) Wᴼ`, every head attending from `x` to `x`.
///
/// Vaswani et al. 2017, §3.2. Hugging Face: `BertSelfAttention` and the first half of
/// `BertSelfOutput`.
#[derive(Clone, Debug)]
pub(crate) struct SelfAttention {
    query: LinearWeights,
    key: LinearWeights,
    value: LinearWeights,
    output: LinearWeights,
    heads: usize,
    scale: f64,
    dropout: f64,
}

impl SelfAttention {
    /// Loads `self.query`, `self.key`, `self.value` and `output.dense`.
    pub(crate) fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let h = config.hidden_size;
        let square = |name| names::linear(vb.pp(name), (h, h), config);
        Ok(Self {
            query: square("self.query")?,
            key: square("self.key")?,
            value: square("self.value")?,
            output: square("output.dense")?,
            heads: config.num_attention_heads,
            scale: ((h / config.num_attention_heads) as f64).powf(-0.5),
            dropout: config.attention_probs_dropout_prob,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let q = linear(x, &self.query)?;
        let (k, v) = (linear(x, &self.key)?, linear(x, &self.value)?);
        let (k, v) = context.extend_cache(k, v)?; // [B, K, H]
        let scores = (q.dim(0)?, self.heads, q.dim(1)?, k.dim(1)?);
        let dropped = context.dropout_factor(scores, self.dropout, v.dtype(), v.device())?;
        let args = AttentionArgs {
            heads: self.heads,
            scale: self.scale,
            mask: mask.bias(),
            weights_factor: dropped.as_ref(),
        };
        let attended = if context.wants_attention() {
            let (attended, weights) = attention_with_weights(&q, &k, &v, args)?;
            context.keep_attention(&weights);
            attended
        } else {
            attention(&q, &k, &v, args)?
        };
        Ok(linear(&attended, &self.output)?)
    }
}
