//! Rows in another order, and sums of rows.

use std::ops::Range;

use candle_core::cuda_backend::cudarc::driver::DeviceRepr;
use candle_core::{DType, Result, Tensor};

use super::confirmed::ROWS;
use super::gpu::{self, Launch};
use super::operand::{Guards, Matrix, Output, in_rows, type_name, u32_of};
use crate::ids::Ids;

/// `GatherRows` of rows.cu.
#[repr(C)]
struct GatherRows {
    x: u64,
    ids: u64,
    y: u64,
    rows: u32,
    length: u32,
    stride: u32,
}

// SAFETY: three addresses and three u32, as in rows.cu.
unsafe impl DeviceRepr for GatherRows {}

/// See [`gather_rows`](crate::gather_rows).
pub(crate) fn gather_rows(x: &Tensor, rows: &Ids) -> Result<Option<Tensor>> {
    let Some((gpu, device)) = gpu::of(x, ROWS)? else { return Ok(None) };
    let (&[_, h], (b, s)) = (x.dims(), rows.dims()) else { return Ok(None) };
    let x = in_rows(x)?;
    let Some(matrix) = Matrix::of(&x).filter(|_| b * s * h > 0) else { return Ok(None) };
    let (stream, ids) = (device.cuda_stream(), rows.tensor(x.device())?);
    let Some(ids) = Matrix::of(&ids) else { return Ok(None) };
    let mut output = Output::new(device, x.dtype(), b * s * h)?;
    {
        let mut guards = Guards::new();
        let size = x.dtype().size_in_bytes();
        let in_16_bytes = matrix.is_aligned() && (h * size).is_multiple_of(16);
        let unit = if in_16_bytes { 16 } else { size };
        let arguments = GatherRows {
            x: matrix.address(&stream, &mut guards)?,
            ids: ids.address(&stream, &mut guards)?,
            y: output.address(&stream, &mut guards)?,
            rows: u32_of(b * s)?,
            length: u32_of(h * size / unit)?,
            stride: u32_of(matrix.stride * size / unit)?,
        };
        let kernel = format!("gather_rows_{unit}");
        let blocks = ((b * s).div_ceil(4), 1);
        let launch = Launch { family: ROWS, kernel, blocks, threads: 128, shared: 0 };
        // SAFETY: `GatherRows` is the kernel's parameter; `Ids` are below the number of rows of `x`,
        // and `y` has `b * s` rows.
        unsafe { gpu.launch(&stream, &launch, &arguments) }?;
    }
    Ok(Some(output.into_tensor((b, s, h))))
}

/// `SumRows` of rows.cu.
#[repr(C)]
struct SumRows {
    x: u64,
    ranges: u64,
    y: u64,
    width: u32,
    stride: u32,
}

// SAFETY: three addresses and two u32, as in rows.cu.
unsafe impl DeviceRepr for SumRows {}

/// See [`sum_rows`](crate::sum_rows).
pub(crate) fn sum_rows(x: &Tensor, ranges: &[Range<usize>]) -> Result<Option<Tensor>> {
    const WARPS: usize = 8;
    let Some((gpu, device)) = gpu::of(x, ROWS)? else { return Ok(None) };
    let (&[t, h], b) = (x.dims(), ranges.len()) else { return Ok(None) };
    let x = in_rows(x)?;
    let Some(matrix) = Matrix::of(&x).filter(|_| b * h > 0) else { return Ok(None) };
    u32_of(t)?;
    let bounds: Vec<_> = ranges.iter().map(|it| [it.start as u32, it.end as u32]).collect();
    let bounds = Tensor::from_slice(bounds.as_flattened(), (b, 2), x.device())?;
    let Some(bounds) = Matrix::of(&bounds) else { return Ok(None) };
    let (stream, mut output) = (device.cuda_stream(), Output::new(device, DType::F32, b * h)?);
    {
        let mut guards = Guards::new();
        let arguments = SumRows {
            x: matrix.address(&stream, &mut guards)?,
            ranges: bounds.address(&stream, &mut guards)?,
            y: output.address(&stream, &mut guards)?,
            width: u32_of(h)?,
            stride: u32_of(matrix.stride)?,
        };
        let size = x.dtype().size_in_bytes();
        let in_16_bytes = matrix.is_aligned() && (h * size).is_multiple_of(16);
        let (form, each) = if in_16_bytes { ("", 16 / size) } else { ("any_", 1) };
        let kernel = format!("sum_rows_{form}{}", type_name(x.dtype()));
        let (blocks, threads) = ((b, h.div_ceil(32 * each)), WARPS as u32 * 32);
        let shared = WARPS * 32 * each * size_of::<f32>();
        let launch = Launch { family: ROWS, kernel, blocks, threads, shared };
        // SAFETY: `SumRows` is the kernel's parameter; the caller has checked the ranges, and `y` has
        // `b` rows.
        unsafe { gpu.launch(&stream, &launch, &arguments) }?;
    }
    Ok(Some(output.into_tensor((b, h))))
}
