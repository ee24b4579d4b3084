//! A GPU as a device of Candle's.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError, sys};
use candle_core::{Device, Result};

use super::gpu::LEAST_CAPABILITY;

/// The version of CUDA for which kernels are compiled, as drivers report theirs.
const CUDA_VERSION: i32 = 13_000;

/// GPU number `ordinal`, as a device that threads may share: all of its work is in one stream, in the order
/// in which it is submitted. (`Device::new_cuda` gives each thread a stream of its own, which nothing
/// orders.)
///
/// # Errors
/// When something is missing: a GPU, a driver for CUDA 13, or compute capability 8.0.
pub fn device(ordinal: usize) -> Result<Device> {
    let mut version = 0;
    // SAFETY: the pointer is valid during the call.
    let answer = unsafe { sys::cuDriverGetVersion(&mut version) };
    if answer == sys::cudaError_enum::CUDA_SUCCESS && version < CUDA_VERSION {
        let [got, needed] =
            [version, CUDA_VERSION].map(|it| format!("{}.{}", it / 1000, it % 1000 / 10));
        candle_core::bail!(
            "the driver supports CUDA {got}; this program needs one that supports CUDA {needed}"
        );
    }
    let context = CudaContext::new(ordinal).w()?;
    let (major, minor) = context.compute_capability().w()?;
    if (major, minor) < LEAST_CAPABILITY {
        let (least_major, least_minor) = LEAST_CAPABILITY;
        candle_core::bail!(
            "GPU {ordinal} has compute capability {major}.{minor}; this program needs \
             {least_major}.{least_minor} or more"
        );
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: there is one stream, so no event has anything to order.
        unsafe { cuda.disable_event_tracking() };
    }
    if context.has_async_alloc() {
        keep_memory(&context).w()?;
    }
    Ok(device)
}

/// Tells the driver to keep freed memory for this process. By default it gives it back at each
/// synchronization.
fn keep_memory(context: &CudaContext) -> std::result::Result<(), DriverError> {
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: both pointers are valid during the calls, and the attribute is a u64.
    unsafe {
        sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()).result()?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut all).cast()).result()
    }
}
