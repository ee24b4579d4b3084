//! Tensors as matrices in a GPU's memory.

use candle_core::cuda_backend::CudaStorageSlice;
use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, StorageRef, Tensor};

/// A tensor `[…, H]` as a matrix: rows of `H` neighboring numbers. Its storage stays borrowed.
pub(crate) struct Matrix<'a> {
    storage: StorageRef<'a>,
    start: usize,
    size: usize,
    pub(crate) rows: usize,
    /// The distance between rows, in numbers.
    pub(crate) stride: usize,
}

/// `x`, copied if its rows do not lie at equal distances. If it needs a gradient, no kernel will read it.
pub(crate) fn in_rows(x: &Tensor) -> Result<Tensor> {
    if x.track_op() || Matrix::of(x).is_some() { Ok(x.clone()) } else { x.contiguous() }
}

/// What keeps the addresses of a launch valid until it is submitted.
pub(crate) type Guards<'a> = Vec<SyncOnDrop<'a>>;

impl<'a> Matrix<'a> {
    /// `None` unless `x` is on a GPU, needs no gradient, and has rows at equal distances.
    pub(crate) fn of(x: &'a Tensor) -> Option<Self> {
        let (storage, layout) = x.storage_and_layout();
        let (dims, strides) = (layout.dims(), layout.stride());
        let (width, leading) = dims.split_last()?;
        let (step, leading_strides) = strides.split_last()?;
        if x.track_op() || !matches!(&*storage, Storage::Cuda(_)) || (*step != 1 && *width > 1) {
            return None;
        }
        let (mut rows, mut stride) = (1, *width);
        for (size, step) in
            leading.iter().zip(leading_strides).rev().filter(|(size, _)| **size != 1)
        {
            if rows > 1 && *step != stride * rows {
                return None;
            }
            if rows == 1 {
                stride = *step;
            }
            rows *= size;
        }
        Some(Self {
            start: layout.start_offset(),
            size: x.dtype().size_in_bytes(),
            storage,
            rows,
            stride,
        })
    }

    /// The first number of `x`, whatever its strides.
    pub(crate) fn first_of(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self {
            start: layout.start_offset(),
            size: x.dtype().size_in_bytes(),
            storage,
            rows: 1,
            stride: 1,
        }
    }

    /// The address of the first number.
    pub(crate) fn address<'b>(
        &'b self,
        stream: &'b CudaStream,
        guards: &mut Guards<'b>,
    ) -> Result<u64> {
        let Storage::Cuda(storage) = &*self.storage else {
            candle_core::bail!("expected a tensor on a GPU")
        };
        let (at, guard) = match &storage.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
            CudaStorageSlice::U32(slice) => slice.device_ptr(stream),
            _ => candle_core::bail!("kernels for GPUs know F32, F16, BF16 and U32"),
        };
        guards.push(guard);
        Ok(at + (self.start * self.size) as u64)
    }

    /// Whether every row begins at a multiple of 16 bytes. (Allocations begin at multiples of 256.)
    pub(crate) fn is_aligned(&self) -> bool {
        let is_multiple = |numbers: usize| (numbers * self.size).is_multiple_of(16);
        is_multiple(self.start) && (self.rows == 1 || is_multiple(self.stride))
    }
}

/// Memory for a kernel's result.
pub(crate) struct Output(CudaStorage);

impl Output {
    /// # Errors
    /// When `dtype` is not F32, F16 or BF16, or the GPU's memory is full.
    pub(crate) fn new(device: &CudaDevice, dtype: DType, count: usize) -> Result<Self> {
        // SAFETY: nothing reads the memory before a kernel has written it.
        let slice = unsafe {
            match dtype {
                DType::F32 => CudaStorageSlice::F32(device.alloc(count)?),
                DType::F16 => CudaStorageSlice::F16(device.alloc(count)?),
                DType::BF16 => CudaStorageSlice::BF16(device.alloc(count)?),
                _ => candle_core::bail!("kernels for GPUs compute in F32, F16 and BF16"),
            }
        };
        Ok(Self(CudaStorage { slice, device: device.clone() }))
    }

    /// The address of the first number.
    pub(crate) fn address<'b>(
        &'b mut self,
        stream: &'b CudaStream,
        guards: &mut Guards<'b>,
    ) -> Result<u64> {
        let (at, guard) = match &mut self.0.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(stream),
            _ => candle_core::bail!("kernels for GPUs compute in F32, F16 and BF16"),
        };
        guards.push(guard);
        Ok(at)
    }

    /// The result as a contiguous tensor.
    pub(crate) fn into_tensor(self, shape: impl Into<Shape>) -> Tensor {
        Tensor::from_storage(Storage::Cuda(self.0), shape, BackpropOp::none(), false)
    }
}

/// A dtype's name in kernels.
pub(crate) fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        _ => "f32",
    }
}

/// A length as kernels take it.
pub(crate) fn u32_of(length: usize) -> Result<u32> {
    u32::try_from(length).map_err(|_| {
        candle_core::Error::Msg(format!("a GPU's kernel cannot count to {length}; pass fewer rows"))
    })
}
