//! The linear layer of classifiers.

use bert_kernels::{LinearWeights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::pass::options::ForwardContext;
use crate::surgery::named;

/// `dropout(x) Wᵀ + b`, with the config's `classifier_dropout`.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    linear: LinearWeights,
    dropout: f64,
}

impl Classifier {
    /// Loads `weight` and `bias` for `classes` outputs.
    pub(crate) fn load(vb: VarBuilder, classes: usize, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            linear: init::linear(vb, (config.hidden_size, classes), config)?,
            dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
        })
    }

    /// `x`: `[…, H]` → `[…, C]`.
    pub(crate) fn forward(&self, x: &Tensor, context: &mut ForwardContext) -> Result<Tensor> {
        Ok(linear(&context.dropout(x, self.dropout)?, &self.linear)?)
    }
}

named!(Classifier { "" => linear });
