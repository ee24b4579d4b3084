//! A vector for the whole sequence.

use bert_kernels::{Activation, LinearWeights, linear_activation};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::named;

/// `tanh(x₀ W + b)` of the first token's state.
///
/// Devlin et al. 2018, §3.1 (`C`). Hugging Face: `BertPooler`.
#[derive(Clone, Debug)]
pub struct BertPooler {
    dense: LinearWeights,
}

impl BertPooler {
    /// Loads `dense`.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let h = config.hidden_size;
        Ok(Self { dense: init::linear(vb.pp("dense"), (h, h), config)? })
    }

    /// `x`: `[B, S, H]` → `[B, H]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` is not `[B, S, H]` with at least one token.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [_, h] = self.dense.dims(0);
        match *x.dims() {
            [_, s, width] if s > 0 && width == h => {
                let first = x.narrow(1, 0, 1)?.squeeze(1)?; // [B, H]
                Ok(linear_activation(&first, &self.dense, Activation::Tanh)?)
            }
            _ => Err(Error::shape("hidden_states", x, format!("[B, S, {h}]"))),
        }
    }
}

named!(BertPooler { "dense" => dense });
