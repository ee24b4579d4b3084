//! The operations a BERT is made of, one file each.
//!
//! The model calls these functions and nothing below them: it never names a backend, a dtype or a
//! device. Each function is defined by differentiable Candle operations, so it runs wherever Candle
//! does and gradients pass through it. On the CPU in F32, where no gradient is wanted, the products
//! (with [packed](LinearWeights::pack) weights), LayerNorm and attention have kernels of their own.
//!
//! | operation | computes | shapes |
//! |---|---|---|
//! | [`embedding`] | rows of a table | `[V, H]`, `[B, S]` → `[B, S, H]` |
//! | [`embeddings_layer_norm`] | LayerNorm of a sum of them | `[V, H]`, `[B, S]` → `[B, S, H]` |
//! | [`linear`], [`linears`] | `x Wᵀ + b`, for one map or several | `[…, I]` → `[…, O]` |
//! | [`linear_activation`] | `activation(x Wᵀ + b)` | `[…, I]` → `[…, O]` |
//! | [`feed_forward`] | `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂` | `[…, H]` → `[…, H]` |
//! | [`activate`] | an elementwise [`Activation`] | `[…]` → `[…]` |
//! | [`layer_norm`] | LayerNorm | `[…, H]` → `[…, H]` |
//! | [`add_layer_norm`] | LayerNorm of a sum | `[…, H]`, `[…, H]` → `[…, H]` |
//! | [`attention`] | scaled dot-product attention | `[B, Q, H]`, `[B, K, H]` → `[B, Q, H]` |
//!
//! [`together`] keeps threads ready for the operations of a whole pass.
//!
//! Dtypes: F32, F64, F16 and BF16. For F16 and BF16 tensors, activations, softmax and LayerNorm
//! compute in F32 and round their result; products accumulate as the backend does, and sums of two
//! tensors are rounded to their dtype.

mod activation;
mod attention;
mod cpu;
mod embedding;
mod feed_forward;
mod floats;
mod layer_norm;
mod linear;
mod precision;

pub use activation::{Activation, activate};
pub use attention::{
    AttentionArgs, MASKED, RelativePositions, Sequence, attention, attention_with_weights,
    prefers_sequences, tokens_at_a_time,
};
pub use cpu::team::together;
pub use embedding::{EmbeddingWeights, Lookup, embedding, embeddings_layer_norm};
pub use feed_forward::feed_forward;
pub use layer_norm::{LayerNormWeights, add_layer_norm, layer_norm};
pub use linear::{LinearWeights, linear, linear_activation, linears};
pub use precision::widen;
