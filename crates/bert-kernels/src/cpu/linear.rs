//! Linear maps and the feed-forward network with packed weights.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use super::activation::VectorActivation;
use super::gemm::{PackedMatrix, Rows, multiply, runs};
use super::rows::{SharedRows, UninitMatrix};
use super::scratch::with_scratch;
use super::simd::arch;
use super::slices::cpu_slice;
use crate::activation::{Activation, activate};
use crate::weights::LinearWeights;

/// See [`linear_activation`](crate::linear_activation).
pub(crate) fn linear_activation(
    x: &Tensor,
    weights: &LinearWeights,
    activation: Activation,
) -> Result<Option<Tensor>> {
    let Some(matrix) = weights.packed_for(x) else { return Ok(None) };
    let fused = VectorActivation::of(activation);
    let activated = fused.unwrap_or(VectorActivation::Linear);
    let y = multiply_all(x, weights, matrix, 0..1, activated)?.remove(0);
    Ok(Some(if fused.is_some() { y } else { activate(&y, activation)? }))
}

/// See [`linear_joined`](crate::linear_joined).
pub(crate) fn linear_joined(
    x: &Tensor,
    weights: &LinearWeights,
    projections: Range<usize>,
) -> Result<Option<Vec<Tensor>>> {
    let Some(matrix) = weights.packed_for(x) else { return Ok(None) };
    Ok(Some(multiply_all(x, weights, matrix, projections, VectorActivation::Linear)?))
}

/// One output for each of the projections.
fn multiply_all(
    x: &Tensor,
    weights: &LinearWeights,
    matrix: &PackedMatrix,
    projections: Range<usize>,
    activation: VectorActivation,
) -> Result<Vec<Tensor>> {
    let (leading, count) = weights.rows_of(x, projections.start)?;
    let x = x.contiguous()?;
    let mut outputs = projections
        .clone()
        .map(|projection| UninitMatrix::new(count, matrix.n(projection)))
        .collect::<Result<Vec<_>>>()?;
    {
        let x = cpu_slice(&x)?;
        let mut outputs: Vec<SharedRows> = outputs.iter_mut().map(UninitMatrix::rows).collect();
        let x = Rows { data: x.floats(), count };
        multiply(arch(), x, matrix, projections.clone(), activation, &mut outputs);
    }
    let outputs = outputs.into_iter().zip(projections).map(|(output, projection)| {
        let dims = [leading, &[matrix.n(projection)]].concat();
        // SAFETY: `multiply` writes every element of its outputs.
        Tensor::from_vec(unsafe { output.assume_init() }, dims, &Device::Cpu)
    });
    outputs.collect()
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
    let (Some((first, second)), Some(activation)) = (packed, VectorActivation::of(activation))
    else {
        return Ok(None);
    };
    if f != contract_f {
        return Ok(None);
    }
    let (leading, count) = expand.rows_of(x, 0)?;
    let x = x.contiguous()?;
    let mut output = UninitMatrix::new(count, o)?;
    {
        let (x, mut out) = (cpu_slice(&x)?, output.rows());
        for Range { start, end } in runs(count, f.max(h)) {
            let count = end - start;
            with_scratch(count * f, |expanded| {
                let x = Rows { data: &x.floats()[start * h..end * h], count };
                let mut expanded_rows = [SharedRows::new(expanded, f)];
                multiply(arch(), x, first, 0..1, activation, &mut expanded_rows);
                let x = Rows { data: expanded, count };
                let out = out.narrow(start..end);
                multiply(arch(), x, second, 0..1, VectorActivation::Linear, &mut [out]);
            });
        }
    }
    let dims = [leading, &[o]].concat();
    // SAFETY: the runs cover all rows, and `multiply` writes every element of its outputs.
    Ok(Some(Tensor::from_vec(unsafe { output.assume_init() }, dims, &Device::Cpu)?))
}
