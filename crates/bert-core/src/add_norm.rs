//! "Add & Norm": the residual connection around a sub-layer.

use bert_kernels::{LayerNormWeights, add_layer_norm};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::named;
use crate::pass::dropout::Dropout;

/// `LayerNorm(dropout(sublayer(x)) + x)`.
///
/// Vaswani et al. 2017, §3.1 and §5.4. Hugging Face: the second halves of `BertSelfOutput` and
/// `BertOutput`.
#[derive(Clone, Debug)]
pub(crate) struct AddNorm {
    norm: LayerNormWeights,
    dropout: f64,
}

impl AddNorm {
    /// Loads a `LayerNorm`.
    pub(crate) fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Ok(Self { norm: init::layer_norm(vb, config)?, dropout: config.hidden_dropout_prob })
    }

    /// `sublayer`, the sub-layer's output for `x`, and `x`: `[B, S, H]` each → `[B, S, H]`.
    pub(crate) fn forward(
        &self,
        sublayer: &Tensor,
        x: &Tensor,
        dropout: &Dropout,
    ) -> Result<Tensor> {
        Ok(add_layer_norm(&dropout.apply(sublayer, self.dropout)?, x, &self.norm)?)
    }
}

named!(AddNorm { "" => norm });
