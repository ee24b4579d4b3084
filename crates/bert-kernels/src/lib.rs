//! The operations a BERT is made of, one file each.
//!
//! The model calls these functions and nothing below them: it never chooses by backend, dtype or
//! device. Each function is defined by differentiable Candle operations, so it runs on every device
//! and gradients pass through it. Where a backend has a kernel and no gradient is needed, the kernel
//! computes the same. Kernels exist for the CPU in F32: [packed](WeightForm::Packed) linear maps and
//! feed-forward networks, LayerNorm, embeddings and attention. With the feature `cuda` there are kernels
//! for GPUs in F32, F16 and BF16; with `metal`, Candle's fused operations serve.
//!
//! | operation | computes | shapes |
//! |---|---|---|
//! | [`embedding`] | rows of a table | `[V, H]`, `[B, S]` → `[B, S, H]` |
//! | [`embeddings_layer_norm`] | LayerNorm of a sum of embeddings | `[V, H]`, `[B, S]` → `[B, S, H]` |
//! | [`gather_rows`] | rows in another order | `[R, H]`, `[B, S]` → `[B, S, H]` |
//! | [`sum_rows`] | sums of ranges of rows | `[T, H]` → `[B, H]` |
//! | [`linear`], [`linear_joined`] | `x Wᵀ + b`, for one or several `W` | `[…, I]` → `[…, O]` |
//! | [`linear_activation`] | `activation(x Wᵀ + b)` | `[…, I]` → `[…, O]` |
//! | [`feed_forward`] | `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂` | `[…, H]` → `[…, H]` |
//! | [`activate`] | an elementwise [`Activation`] | `[…]` → `[…]` |
//! | [`layer_norm`] | LayerNorm | `[…, H]` → `[…, H]` |
//! | [`add_layer_norm`] | LayerNorm of a sum | `[…, H]`, `[…, H]` → `[…, H]` |
//! | [`attention`] | scaled dot-product attention | `[B, Q, H]`, `[B, K, H]` → `[B, Q, H]` |
//!
//! [`with_thread_team`] keeps threads awake for the operations of a whole pass. [`PassPolicy`] says how
//! a backend prefers to compute one.
//!
//! Dtypes: F32, F64, F16 and BF16. For F16 and BF16 tensors, activations, softmax and LayerNorm
//! compute in F32 and round their result; matrix multiplications accumulate as the backend does. Sums
//! of two tensors are rounded to their dtype, except within a kernel.

mod activate;
mod activation;
mod attention;
mod backend;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod embedding;
mod feed_forward;
mod ids;
mod kernels;
mod layer_norm;
mod linear;
#[cfg(feature = "metal")]
mod metal;
mod policy;
mod precision;
mod sequences;
mod sum_rows;
#[cfg(test)]
mod testing;
mod weights;

pub use activate::{activate, log1p};
pub use activation::Activation;
pub use attention::{AttentionArgs, MASKED, RelativePositions, attention, attention_with_weights};
pub use cpu::team::with_thread_team;
pub use embedding::{Lookup, embedding, embeddings_layer_norm, gather_rows};
pub use feed_forward::feed_forward;
pub use ids::Ids;
pub use layer_norm::{add_layer_norm, layer_norm};
pub use linear::{linear, linear_activation, linear_joined};
pub use policy::PassPolicy;
pub use precision::widen;
pub use sequences::{Sequence, Sequences};
pub use sum_rows::sum_rows;
pub use weights::{EmbeddingWeights, LayerNormWeights, LinearWeights, WeightForm};

/// Compiles the README's program as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
