//! A linear layer.

use bert_kernels::{LinearWeights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::named;

/// `x Wᵀ + b`. PyTorch: `nn.Linear`.
///
/// Unlike `candle_nn::Linear` its parameters have names ([`Named`](crate::Named)) and can be packed.
#[derive(Clone, Debug)]
pub struct Linear {
    weights: LinearWeights,
}

impl Linear {
    /// Loads `weight`, `[output, input]`, and `bias`, `[output]`. New weights start with the config's
    /// `initializer_range`.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, input: usize, output: usize, config: &BertConfig) -> Result<Self> {
        Ok(Self { weights: init::linear(vb, (input, output), config)? })
    }

    /// `x`: `[…, input]` → `[…, output]`.
    ///
    /// # Errors
    /// When `x` has another width, dtype or device.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(linear(x, &self.weights)?)
    }
}

named!(Linear { "" => weights });
