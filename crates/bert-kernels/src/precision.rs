//! In which dtype an operation computes.

use candle_core::{DType, Result, Tensor};

/// `x` in the dtype in which statistics are computed: F32 for half precision, its own otherwise.
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
/// Candle has no BF16 product on the CPU, so there the product is computed in F32 and rounded.
pub(crate) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dtype() == DType::BF16 && a.device().is_cpu() {
        widen(a)?.matmul(&widen(b)?)?.to_dtype(DType::BF16)
    } else {
        a.matmul(b)
    }
}
