//! Linear maps and the feed-forward network with packed weights.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::activation::VectorActivation;
use super::gemm::{Rows, multiply, runs};
use super::rows::{SharedRows, UninitMatrix};
use super::scratch::with_scratch;
use super::simd::arch;
use super::slices::cpu_slice;
use crate::activation::Activation;
use crate::weights::{LinearWeights, rows_of};

/// See [`Kernels::project`](crate::kernels::Kernels::project).
pub(crate) fn project(
    x: &Tensor,
    weights: &LinearWeights,
    projections: Range<usize>,
    activation: Activation,
) -> Result<Option<Vec<Tensor>>> {
    let packed = weights.packed_for(x).zip(VectorActivation::of(activation));
    let Some((matrix, activation)) = packed else { return Ok(None) };
    let (leading, count) = rows_of(x, weights.dims(projections.start))?;
    let x = x.contiguous()?;
    let parts = &matrix.parts[projections.clone()];
    let outputs = parts.iter().map(|part| UninitMatrix::new(count, part.n));
    let mut outputs = outputs.collect::<Result<Vec<_>>>()?;
    let mut rows: Vec<_> = outputs.iter_mut().map(|output| output.rows(0..count)).collect();
    let x = Rows { data: &cpu_slice(&x)?, count };
    multiply(arch(), x, matrix, projections, activation, &mut rows);
    let outputs = outputs.into_iter().zip(parts).map(|(output, part)| {
        let dims = [leading, &[part.n]].concat();
        // SAFETY: `multiply` writes every element of its outputs.
        Tensor::from_vec(unsafe { output.assume_init() }, dims, &Device::Cpu)
    });
    outputs.collect::<Result<_>>().map(Some)
}

/// See [`feed_forward`](crate::feed_forward). The intermediate activations are stored for one run of
/// rows at a time.
pub(crate) fn feed_forward(
    x: &Tensor,
    expand: &LinearWeights,
    activation: Activation,
    contract: &LinearWeights,
) -> Result<Option<Tensor>> {
    let ([f, h], [o, contract_f]) = (expand.dims(0), contract.dims(0));
    let packed = expand.packed_for(x).zip(contract.packed_for(x));
    let fused = VectorActivation::of(activation);
    let (Some((first, second)), Some(fused), true) = (packed, fused, f == contract_f) else {
        return Ok(None);
    };
    let (leading, count) = rows_of(x, [f, h])?;
    let x = x.contiguous()?;
    let mut output = UninitMatrix::new(count, o)?;
    let x = cpu_slice(&x)?;
    for Range { start, end } in runs(count, f.max(h)) {
        let count = end - start;
        with_scratch([count * f], |[expanded]| {
            let x = Rows { data: &x[start * h..end * h], count };
            multiply(arch(), x, first, 0..1, fused, &mut [SharedRows::new(expanded, f)]);
            let x = Rows { data: expanded, count };
            let out = output.rows(start..end);
            multiply(arch(), x, second, 0..1, VectorActivation::Linear, &mut [out]);
        });
    }
    let dims = [leading, &[o]].concat();
    // SAFETY: the runs cover all rows, and `multiply` writes every element of its outputs.
    Ok(Some(Tensor::from_vec(unsafe { output.assume_init() }, dims, &Device::Cpu)?))
}
