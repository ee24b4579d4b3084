//! Inputs and comparisons for tests.

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

/// Fails unless `got` is `expected`, up to rounding.
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
