//! Tensors as slices of floats.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Result, Storage, StorageRef, Tensor};

/// The elements of a tensor in row-major order. Its storage stays borrowed.
pub(crate) struct CpuSlice<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

/// The elements of a contiguous F32 tensor on the CPU that needs no gradient; `None` for others.
pub(crate) fn try_cpu_slice(tensor: &Tensor) -> Option<CpuSlice<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    let fits = matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) && !tensor.track_op();
    fits.then_some(CpuSlice { storage, range: start..end })
}

/// [`try_cpu_slice`] where anything else is an error.
pub(crate) fn cpu_slice(tensor: &Tensor) -> Result<CpuSlice<'_>> {
    match try_cpu_slice(tensor) {
        Some(slice) => Ok(slice),
        None => candle_core::bail!(
            "expected a contiguous F32 tensor on the CPU, got {:?} on {:?}",
            tensor.dtype(),
            tensor.device().location()
        ),
    }
}

impl Deref for CpuSlice<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(floats)) => &floats[self.range.clone()],
            // `try_cpu_slice` has made sure of the dtype.
            _ => &[],
        }
    }
}
