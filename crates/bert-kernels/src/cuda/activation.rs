//! Elementwise activations.

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
use candle_core::{DType, Result, Tensor};

use super::confirmed::ACTIVATION;
use super::gpu::{self, Gpu, Launch};
use super::operand::{Guards, Matrix, Output, type_name};
use crate::activation::Activation;

/// `Activate` of activation.cu.
#[repr(C)]
struct Activate {
    x: u64,
    y: u64,
    count: usize,
}

// SAFETY: two addresses and a size_t, as in activation.cu.
unsafe impl DeviceRepr for Activate {}

/// See [`activate`](crate::activate).
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
    let Some((gpu, device)) = gpu::of(x, ACTIVATION)? else { return Ok(None) };
    let count = x.elem_count();
    let x = x.contiguous()?;
    let matrix = Matrix::of(&x).filter(|it| it.is_aligned() && count > 0);
    let Some(matrix) = matrix else { return Ok(None) };
    let stream = device.cuda_stream();
    let mut output = Output::new(device, x.dtype(), count)?;
    {
        let mut guards = Guards::new();
        let at = matrix.address(&stream, &mut guards)?;
        let to = output.address(&stream, &mut guards)?;
        // SAFETY: both have `count` numbers of the dtype, from 16 bytes on.
        unsafe { apply(&gpu, &stream, activation, x.dtype(), [at, to], count) }?;
    }
    Ok(Some(output.into_tensor(x.shape())))
}

/// Applies an activation to `count` numbers at the first address, into the second, which may be the same.
///
/// # Safety
/// Both addresses are multiples of 16 and have as many numbers of `dtype`.
pub(crate) unsafe fn apply(
    gpu: &Gpu,
    stream: &CudaStream,
    activation: Activation,
    dtype: DType,
    [x, y]: [u64; 2],
    count: usize,
) -> Result<()> {
    const THREADS: usize = 256;
    let vectors = (count * dtype.size_in_bytes()).div_ceil(16);
    let arguments = Activate { x, y, count };
    let launch = Launch {
        family: ACTIVATION,
        kernel: format!("activate_{}_{}", type_name(dtype), activation as u32),
        // More blocks than all multiprocessors hold go around.
        blocks: (vectors.div_ceil(THREADS).min(1 << 16), 1),
        threads: THREADS as u32,
        shared: 0,
    };
    // SAFETY: `Activate` is the kernel's parameter; the caller's promise about the addresses.
    unsafe { gpu.launch(stream, &launch, &arguments) }
}
