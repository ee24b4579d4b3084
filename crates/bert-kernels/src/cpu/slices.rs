//! Tensors as slices of floats.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Result, Storage, Tensor};

/// The elements of a tensor in row-major order. `G` keeps its storage borrowed.
pub(crate) struct CpuSlice<G> {
    storage: G,
    range: Range<usize>,
}

/// The elements of a contiguous F32 tensor on the CPU that needs no gradient; `None` for others.
pub(crate) fn try_cpu_slice(
    tensor: &Tensor,
) -> Option<CpuSlice<impl Deref<Target = Storage> + '_>> {
    if tensor.track_op() {
        return None;
    }
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Some(CpuSlice { storage, range: start..end }),
        _ => None,
    }
}

/// [`try_cpu_slice`] where anything else is an error.
pub(crate) fn cpu_slice(tensor: &Tensor) -> Result<CpuSlice<impl Deref<Target = Storage> + '_>> {
    match try_cpu_slice(tensor) {
        Some(slice) => Ok(slice),
        None => candle_core::bail!(
            "expected a contiguous F32 tensor on the CPU, got {:?} on {:?}",
            tensor.dtype(),
            tensor.device().location()
        ),
    }
}

impl<G: Deref<Target = Storage>> CpuSlice<G> {
    pub(crate) fn floats(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(floats)) => &floats[self.range.clone()],
            // `try_cpu_slice` has made sure of the dtype.
            _ => &[],
        }
    }
}
