//! The position-wise feed-forward network.

use bert_kernels::{Activation, LinearWeights, activate, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::Result;
use crate::names;

/// `FFN(x) = activation(x W₁ + b₁) W₂ + b₂`, GELU in BERT.
///
/// Vaswani et al. 2017, §3.3. Hugging Face: `BertIntermediate` and the first half of `BertOutput`.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    expand: LinearWeights,
    activation: Activation,
    contract: LinearWeights,
}

impl FeedForward {
    /// Loads `intermediate.dense` and `output.dense`.
    pub(crate) fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            expand: names::linear(vb.pp("intermediate.dense"), (h, f), config)?,
            activation: config.activation()?,
            contract: names::linear(vb.pp("output.dense"), (f, h), config)?,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let expanded = activate(&linear(x, &self.expand)?, self.activation)?; // [B, S, F]
        Ok(linear(&expanded, &self.contract)?)
    }
}
