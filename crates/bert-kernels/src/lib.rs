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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result, Tensor};

    /// Numbers between −1 and 1 that look irregular.
    pub(crate) fn wave(dims: &[usize], seed: f64) -> Result<Tensor> {
        let x = Tensor::arange(0f64, dims.iter().product::<usize>() as f64, &Device::Cpu)?;
        x.affine(0.7 + seed / 9., seed)?.sin()?.reshape(dims)
    }

    /// The same in F32, with the last two dimensions exchanged in memory.
    pub(crate) fn strided(dims: &[usize], seed: f64) -> Result<Tensor> {
        let x = wave(dims, seed)?.to_dtype(DType::F32)?;
        let x = x.transpose(dims.len() - 2, dims.len() - 1)?.contiguous()?;
        let x = x.transpose(dims.len() - 2, dims.len() - 1)?;
        assert!(!x.is_contiguous());
        Ok(x)
    }

    /// Fails unless `got` is `expected`, but for rounding.
    #[track_caller]
    pub(crate) fn assert_close(got: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
        assert_eq!(got.dims(), expected.dims());
        let apart = (got.to_dtype(DType::F64)? - expected.to_dtype(DType::F64)?)?.abs()?;
        let apart: Vec<f64> = apart.flatten_all()?.to_vec1()?;
        for (i, apart) in apart.into_iter().enumerate() {
            // NaN is not close.
            assert!(apart <= tolerance, "{apart} apart at {i}");
        }
        Ok(())
    }
}
