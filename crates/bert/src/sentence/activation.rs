//! Activation functions by the names of PyTorch's classes.

use bert_kernels::activate;
use candle_core::{D, Tensor};

use crate::error::Result;

/// A function of each number, or of each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Identity,
    Elementwise(bert_kernels::Activation),
    Softmax,
    Softplus,
}

impl Activation {
    const NAMES: [(&str, Self); 8] = [
        ("Identity", Self::Identity),
        ("GELU", Self::Elementwise(bert_kernels::Activation::Gelu)),
        ("ReLU", Self::Elementwise(bert_kernels::Activation::Relu)),
        ("Sigmoid", Self::SIGMOID),
        ("SiLU", Self::Elementwise(bert_kernels::Activation::Silu)),
        ("Softmax", Self::Softmax),
        ("Softplus", Self::Softplus),
        ("Tanh", Self::TANH),
    ];
    pub(super) const SIGMOID: Self = Self::Elementwise(bert_kernels::Activation::Sigmoid);
    pub(super) const TANH: Self = Self::Elementwise(bert_kernels::Activation::Tanh);

    /// The function of a class, like `torch.nn.modules.activation.Tanh`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub(super) fn of_class(path: &str) -> std::result::Result<Self, String> {
        let name = path.rsplit('.').next().unwrap_or_default();
        let found =
            Self::NAMES.iter().find(|(known, _)| path.starts_with("torch.") && *known == name);
        found.map(|(_, function)| *function).ok_or_else(|| {
            let known = Self::NAMES.map(|(name, _)| name).join(", ");
            format!("the activation function is {path:?}, expected PyTorch's {known}")
        })
    }

    pub(super) fn apply(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Identity => x.clone(),
            Self::Elementwise(function) => activate(x, function)?,
            Self::Softmax => candle_nn::ops::softmax(x, D::Minus1)?,
            // Without overflow: max(x, 0) + ln(1 + exp(−|x|)).
            Self::Softplus => (x.relu()? + (x.abs()?.neg()?.exp()? + 1.)?.log()?)?,
        })
    }
}
