//! The names of elementwise activations.

/// The activations of transformers' `ACT2FN` that have no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x Φ(x) = x/2 (1 + erf(x/√2))`, exact. Hendrycks & Gimpel 2016.
    Gelu,
    /// [`Activation::Gelu`] clipped to `[−10, 10]`.
    Gelu10,
    /// `x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the approximation of the original BERT code.
    GeluTanh,
    /// `x σ(1.702 x)`.
    QuickGelu,
    /// `x ReLU6(x + 3) / 6`.
    Hardswish,
    /// `(1 + erf((x − μ) / (σ√2))) / 2` with `μ = √½`, `σ = 0.282095`. Ma et al. 2022.
    Laplace,
    /// `x` if positive, otherwise `x/100`.
    LeakyRelu,
    /// `x`.
    Linear,
    /// `x tanh(softplus(x))`. Misra 2019.
    Mish,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²`. So et al. 2021.
    Relu2,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `σ(x) = 1 / (1 + e⁻ˣ)`.
    Sigmoid,
    /// `x σ(x)`.
    Silu,
    /// `√softplus(x)`.
    SqrtSoftplus,
    /// `tanh(x)`.
    Tanh,
}

/// Transformers' names of the activations. A function may have several names.
const NAMES: [(&str, Activation); 22] = [
    ("gelu", Activation::Gelu),
    ("gelu_10", Activation::Gelu10),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_python", Activation::Gelu),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("hardswish", Activation::Hardswish),
    ("laplace", Activation::Laplace),
    ("leaky_relu", Activation::LeakyRelu),
    ("linear", Activation::Linear),
    ("mish", Activation::Mish),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("relu2", Activation::Relu2),
    ("relu6", Activation::Relu6),
    ("sigmoid", Activation::Sigmoid),
    ("silu", Activation::Silu),
    ("sqrtsoftplus", Activation::SqrtSoftplus),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

impl Activation {
    /// The activation that a config's `hidden_act` names, or `None` for an unknown name.
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }

    /// Every name [`Activation::from_name`] knows, in alphabetical order.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }
}
