//! Which device to compute on.

use candle_core::Device;

use crate::error::{Error, Result};

/// The fastest device that this build supports and this machine has: CUDA, then Metal, then the CPU.
pub fn best_device() -> Device {
    cuda_device().or_else(|_| metal_device()).unwrap_or(Device::Cpu)
}

/// The first CUDA device.
///
/// # Errors
/// [`Error::NoDevice`] when there is none, or the crate was built without the feature `cuda`.
pub fn cuda_device() -> Result<Device> {
    Device::new_cuda(0).map_err(|error| no_device("cuda", &error))
}

/// The first Metal device.
///
/// # Errors
/// [`Error::NoDevice`] when there is none, or the crate was built without the feature `metal`.
pub fn metal_device() -> Result<Device> {
    Device::new_metal(0).map_err(|error| no_device("metal", &error))
}

fn no_device(name: &'static str, error: &candle_core::Error) -> Error {
    let reason = match error {
        candle_core::Error::NotCompiledWithCudaSupport
        | candle_core::Error::NotCompiledWithMetalSupport => {
            format!("this program was built without the feature `{name}`")
        }
        // Candle appends a backtrace to its messages.
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    Error::NoDevice { name, reason }
}
