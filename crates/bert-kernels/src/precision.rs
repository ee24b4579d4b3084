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
