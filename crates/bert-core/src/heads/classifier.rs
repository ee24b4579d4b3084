//! The linear layer of classifiers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::HeadPass;
use crate::config::BertConfig;
use crate::error::Result;
use crate::linear::Linear;
use crate::named;

/// `dropout(x) Wᵀ + b`, with the config's `classifier_dropout`.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    linear: Linear,
    dropout: f64,
}

impl Classifier {
    /// Loads `classifier` for `classes` outputs.
    pub(crate) fn load(vb: VarBuilder, classes: usize, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            linear: Linear::load(vb.pp("classifier"), config.hidden_size, classes, config)?,
            dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
        })
    }

    /// `x`: `[…, H]` → `[…, C]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &HeadPass) -> Result<Tensor> {
        self.linear.forward(&pass.dropout(x, self.dropout)?)
    }
}

named!(Classifier { "" => linear });
