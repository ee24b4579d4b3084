//! Devices by their names.

use std::sync::OnceLock;

use candle_core::Device;

use crate::error::{Error, Result};

/// The fastest device of this build on this machine: CUDA, then Metal, then the CPU.
pub fn best_device() -> Device {
    cuda_device().or_else(|_| metal_device()).unwrap_or(Device::Cpu)
}

/// The first CUDA device. Every call gives the same one, which threads may share: all of its work is in
/// one stream. (`Device::new_cuda` gives each thread a stream of its own, which nothing orders.)
///
/// With `BERT_CUDA_KERNELS=all` in the environment, this library's kernels are used even if no record
/// shows yet that they are right on a GPU; see DESIGN.md.
///
/// # Errors
/// [`Error::NoDevice`] when there is none, when its driver or compute capability is too old, or the crate
/// was built without the feature `cuda`.
pub fn cuda_device() -> Result<Device> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    once(&DEVICE, || new_cuda_device().map_err(|error| no_device("cuda", &error)))
}

#[cfg(feature = "cuda")]
fn new_cuda_device() -> candle_core::Result<Device> {
    if std::env::var("BERT_CUDA_KERNELS").is_ok_and(|kernels| kernels == "all") {
        bert_kernels::cuda::use_unconfirmed_kernels();
    }
    bert_kernels::cuda::device(0)
}

#[cfg(not(feature = "cuda"))]
fn new_cuda_device() -> candle_core::Result<Device> {
    Device::new_cuda(0)
}

/// The first Metal device. Every call gives the same one.
///
/// # Errors
/// [`Error::NoDevice`] when there is none, or the crate was built without the feature `metal`.
pub fn metal_device() -> Result<Device> {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    once(&DEVICE, || {
        // Candle takes the first Metal device without checking that there is one.
        let device = std::panic::catch_unwind(|| Device::new_metal(0));
        let reason = "this machine has none".to_owned();
        let device = device.map_err(|_| Error::NoDevice { name: "metal", reason })?;
        device.map_err(|error| no_device("metal", &error))
    })
}

/// Candle compares devices by their handle, so a program must keep one.
fn once(cell: &OnceLock<Device>, make: impl FnOnce() -> Result<Device>) -> Result<Device> {
    if let Some(device) = cell.get() {
        return Ok(device.clone());
    }
    let device = make()?;
    Ok(cell.get_or_init(|| device).clone())
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
