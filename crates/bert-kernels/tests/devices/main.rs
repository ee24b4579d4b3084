//! The operations on every device of this build, beside their definitions on the CPU in F64.
//!
//! With the feature `cuda` there has to be a GPU; `scripts/emulate-cuda` emulates one. With
//! `EMULATE_CANDLE_KERNELS=copies` none of Candle's computes there, so tests in `kernels` pass only if ours do.

use bert_kernels::{
    AttentionArgs, Ids, LayerNormWeights, LinearWeights, Sequence, Sequences, WeightForm,
};
use candle_core::{DType, Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn devices() -> Result<Vec<Device>> {
    Ok(vec![
        Device::Cpu,
        #[cfg(feature = "cuda")]
        gpu()?,
    ])
}

/// Every device with every dtype that has kernels.
fn cases() -> Result<Vec<(Device, DType)>> {
    let with_dtypes = |device: Device| DTYPES.map(|dtype| (device.clone(), dtype));
    Ok(devices()?.into_iter().flat_map(with_dtypes).collect())
}

/// The first GPU, with all kernels.
#[cfg(feature = "cuda")]
fn gpu() -> Result<Device> {
    static DEVICE: std::sync::Mutex<Option<Device>> = std::sync::Mutex::new(None);
    bert_kernels::cuda::use_unconfirmed_kernels();
    let mut device = DEVICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if device.is_none() {
        *device = Some(bert_kernels::cuda::device(0)?);
    }
    device.clone().ok_or_else(|| candle_core::Error::Msg("no device".into()))
}

/// Random numbers, reproducible.
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Numbers between `mean − 1` and `mean + 1` that `dtype` can represent, on the CPU.
    fn tensor(&mut self, dims: &[usize], mean: f64, dtype: DType) -> Result<Tensor> {
        let number = |_| mean + f64::from(self.0.next_u32()) / f64::from(1u32 << 31) - 1.;
        let numbers: Vec<f64> = (0..dims.iter().product()).map(number).collect();
        Tensor::from_vec(numbers, dims, &Device::Cpu)?.to_dtype(dtype)
    }
}

fn f64s(x: &Tensor) -> Result<Vec<f64>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest difference relative to the largest expected number; what is not a number is infinitely far.
#[track_caller]
fn assert_near(got: &Tensor, expected: &Tensor, tolerance: f64, what: &str) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (f64s(got)?, f64s(expected)?);
    let largest = expected.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let difference = (got - expected).abs() / largest;
        assert!(difference <= tolerance, "{what}: {got} at {i}, expected {expected}");
    }
    Ok(())
}

/// One rounding of the result in 16 bits (2⁻¹¹, 2⁻⁸), twice that where an intermediate result is rounded too.
fn tolerance(dtype: DType, roundings: f64) -> f64 {
    match dtype {
        DType::F16 => roundings * 2f64.powi(-11),
        DType::BF16 => roundings * 2f64.powi(-8),
        _ => 1e-5,
    }
}

/// Attention without anything but queries, keys and values.
const ARGS: AttentionArgs = AttentionArgs {
    heads: 2,
    scale: 0.1,
    mask: None,
    weights_factor: None,
    relative: None,
    sequences: None,
};

#[cfg(feature = "cuda")]
mod definitions;
mod kernels;
