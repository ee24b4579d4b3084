//! The dtype in which an operation computes.

use candle_core::{DType, Result, Tensor};

/// `x` in the dtype in which statistics are computed: F32 for F16 and BF16, its own otherwise.
///
/// `x`: `[…]` → `[…]`.
///
/// # Errors
/// When the backend cannot convert it.
pub fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

/// `a + b`, where `b` is repeated to the shape of `a`.
///
/// Its gradient is a sum over the repetitions, which would stop growing in 16 bits: it is computed in F32.
pub(crate) fn add_repeated(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match b.track_op() {
        true => widen(a)?.broadcast_add(&widen(b)?)?.to_dtype(a.dtype()),
        false => a.broadcast_add(b),
    }
}

/// `a · bᵀ` over the last two dimensions, in the dtype of `a`. See [`matmul`].
pub(crate) fn matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        wide_matmul_transposed(a, b)?.to_dtype(DType::BF16)
    } else {
        a.matmul(&b.t()?)
    }
}

/// `a · bᵀ` over the last two dimensions, in the dtype of statistics: F32 for F16 and BF16. On the CPU nothing
/// is rounded in between; elsewhere the product is rounded to the dtype of `a` first.
pub(crate) fn wide_matmul_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match a.device().is_cpu() {
        // Neighbors in memory are converted faster than columns.
        true => widen(a)?.matmul(&widen(b)?.t()?),
        false => widen(&a.matmul(&b.t()?)?),
    }
}

/// `a · b` over the last two dimensions.
///
/// On the CPU, where Candle cannot multiply BF16 matrices, it is computed in F32 and rounded.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        widen(a)?.matmul(&widen(b)?)?.to_dtype(DType::BF16)
    } else {
        a.matmul(b)
    }
}
