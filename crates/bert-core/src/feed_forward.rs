//! The position-wise feed-forward network.

use bert_kernels::{Activation, LinearWeights, feed_forward};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::named;

/// `FFN(x) = activation(x W₁ + b₁) W₂ + b₂`, GELU in BERT.
///
/// Vaswani et al. 2017, §3.3. Hugging Face: `BertIntermediate` and the first half of `BertOutput`.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    expand: LinearWeights,
    activation: Activation,
    contract: LinearWeights,
    /// The number of tokens computed at a time; 0 for all.
    chunk: usize,
}

impl FeedForward {
    /// Loads `intermediate.dense` and `output.dense`.
    pub(crate) fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (h, f) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            expand: init::linear(vb.pp("intermediate.dense"), (h, f), config)?,
            activation: config.activation()?,
            contract: init::linear(vb.pp("output.dense"), (f, h), config)?,
            chunk: config.chunk_size_feed_forward,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let s = x.dim(1)?;
        let transform =
            |x: &Tensor| Ok(feed_forward(x, &self.expand, self.activation, &self.contract)?);
        if self.chunk == 0 {
            return transform(x);
        }
        if s % self.chunk != 0 {
            return Err(Error::ChunkSize { got: s, chunk: self.chunk });
        }
        let chunks = (0..s).step_by(self.chunk);
        let chunks = chunks.map(|start| transform(&x.narrow(1, start, self.chunk)?));
        Ok(Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 1)?)
    }
}

named!(FeedForward { "intermediate.dense" => expand, "output.dense" => contract });
