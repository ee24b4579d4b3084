//! Linear maps.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::activation::apply;
use super::confirmed::{ACTIVATION, LINEAR, is_used};
use super::gpu;
use super::matmul::Matmul;
use super::operand::{Guards, Matrix, Output, in_rows};
use crate::activation::Activation;
use crate::weights::{LinearWeights, rows_of};

/// See [`Kernels::project`](crate::kernels::Kernels::project). Joined projections are one matmul, of which
/// the results are columns.
pub(crate) fn project(
    x: &Tensor,
    weights: &LinearWeights,
    projections: Range<usize>,
    activation: Activation,
) -> Result<Option<Vec<Tensor>>> {
    if let Some(joined) = weights.joined(projections.clone())? {
        let Some(y) = linear(x, &joined, activation)? else { return Ok(None) };
        return weights.split(&y, projections).map(Some);
    }
    let each = projections.map(|i| match weights.tensors(i) {
        Some(weights) => linear(x, weights, activation),
        None => Ok(None),
    });
    each.collect()
}

/// `activation(x Wᵀ + b)`.
fn linear(
    x: &Tensor,
    [weight, bias]: &[Tensor; 2],
    activation: Activation,
) -> Result<Option<Tensor>> {
    let Some((gpu, device)) = gpu::of(x, LINEAR)? else { return Ok(None) };
    let is_same = |y: &Tensor| {
        y.dtype() == x.dtype() && y.device().same_device(x.device()) && y.is_contiguous()
    };
    let activates = activation == Activation::Linear || is_used(ACTIVATION, x.dtype());
    let &[n, k] = weight.dims() else { return Ok(None) };
    if !is_same(weight) || !is_same(bias) || bias.dims() != [n] || !activates || n * k == 0 {
        return Ok(None);
    }
    let (leading, m) = rows_of(x, [n, k])?;
    let x = in_rows(x)?;
    let matrices = [&x, weight, bias].map(Matrix::of);
    let [Some(rows), Some(w), Some(b)] = matrices else { return Ok(None) };
    if m == 0 || (rows.rows > 1 && rows.stride < k) {
        return Ok(None);
    }
    let stream = device.cuda_stream();
    let mut output = Output::new(device, x.dtype(), m * n)?;
    {
        let mut guards = Guards::new();
        let y = output.address(&stream, &mut guards)?;
        let matmul = Matmul {
            dtype: x.dtype(),
            m,
            n,
            k,
            x: rows.address(&stream, &mut guards)?,
            x_stride: rows.stride,
            w: w.address(&stream, &mut guards)?,
            b: b.address(&stream, &mut guards)?,
            y,
        };
        // SAFETY: the sizes are those of the tensors, and `y` has `m * n` numbers.
        if !unsafe { gpu.cublas_lt.multiply(&stream, matmul) }? {
            return Ok(None);
        }
        if activation != Activation::Linear {
            // SAFETY: as above; the driver's memory begins at multiples of 256 bytes.
            unsafe { apply(&gpu, &stream, activation, x.dtype(), [y; 2], m * n) }?;
        }
    }
    Ok(Some(output.into_tensor([leading, &[n]].concat())))
}
