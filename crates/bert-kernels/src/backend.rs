//! The kernels of each device.

use candle_core::{Device, Tensor};

use crate::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::cuda::Cuda;
use crate::kernels::Kernels;
#[cfg(not(all(feature = "cuda", feature = "metal")))]
use crate::kernels::NoKernels;
#[cfg(feature = "metal")]
use crate::metal::Metal;
use crate::policy::PassPolicy;

/// The kernels of the device on which `x` is.
pub(crate) fn kernels(x: &Tensor) -> &'static dyn Kernels {
    match x.device() {
        Device::Cpu => &Cpu,
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => &Cuda,
        #[cfg(feature = "metal")]
        Device::Metal(_) => &Metal,
        #[cfg(not(all(feature = "cuda", feature = "metal")))]
        _ => &NoKernels,
    }
}

impl PassPolicy {
    /// The policy for hidden states like `x`: `[…, H]`.
    ///
    /// On the CPU in F32, and on CUDA where it has kernels for `x`, padding is skipped if `x` needs no
    /// gradient. On the CPU in F32, large batches go through the layers in parts. Elsewhere padding is
    /// computed and batches stay whole.
    pub fn of(x: &Tensor) -> Self {
        kernels(x).policy(x)
    }
}
