//! The floats of tensors on the CPU.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Result, Storage, Tensor};

/// The elements of a tensor, row by row. `G` holds on to its storage.
pub(crate) struct Floats<G> {
    storage: G,
    range: Range<usize>,
}

/// Those of a contiguous F32 tensor on the CPU that no gradient is wanted of; `None` otherwise.
pub(crate) fn floats_of(tensor: &Tensor) -> Option<Floats<impl Deref<Target = Storage> + '_>> {
    if tensor.track_op() {
        return None;
    }
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    match &*storage {
        Storage::Cpu(CpuStorage::F32(_)) => Some(Floats { storage, range: start..end }),
        _ => None,
    }
}

/// [`floats_of`] where there must be some.
pub(crate) fn floats(tensor: &Tensor) -> Result<Floats<impl Deref<Target = Storage> + '_>> {
    match floats_of(tensor) {
        Some(floats) => Ok(floats),
        None => candle_core::bail!(
            "expected contiguous F32 on the CPU, got {:?} on {:?}",
            tensor.dtype(),
            tensor.device().location()
        ),
    }
}

impl<G: Deref<Target = Storage>> Floats<G> {
    pub(crate) fn slice(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(floats)) => &floats[self.range.clone()],
            // `floats_of` has looked.
            _ => &[],
        }
    }
}
