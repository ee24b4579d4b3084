//! LayerNorm of sums of rows, without storing the sums.

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DeviceRepr};
use candle_core::{Result, Tensor};

use super::confirmed::LAYER_NORM;
use super::gpu::{self, Launch};
use super::operand::{Guards, Matrix, Output, in_rows, type_name, u32_of};
use crate::ids::Ids;
use crate::weights::LayerNormWeights;

/// `Term` of layer_norm.cu.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Term {
    matrix: u64,
    ids: u64,
    count: u32,
    stride: u32,
}

/// `LayerNorm` of layer_norm.cu.
#[repr(C)]
struct LayerNorm {
    terms: [Term; MOST_TERMS],
    gamma: u64,
    beta: u64,
    y: u64,
    terms_count: u32,
    rows: u32,
    width: u32,
    eps: f32,
}

// SAFETY: the fields are those of layer_norm.cu.
unsafe impl DeviceRepr for LayerNorm {}

const MOST_TERMS: usize = 3;
/// The widest row that stays in the registers of a warp.
const WIDEST_IN_REGISTERS: usize = 1024;

/// The rows of a term, and the ids that select them.
struct Operand<'a> {
    rows: Matrix<'a>,
    ids: Option<Matrix<'a>>,
    count: usize,
}

/// See [`Kernels::sum_layer_norm`](crate::kernels::Kernels::sum_layer_norm).
pub(crate) fn sum_layer_norm(
    terms: &[(&Tensor, Option<&Ids>)],
    weights: &LayerNormWeights,
) -> Result<Option<Tensor>> {
    let LayerNormWeights { gamma, beta, eps } = weights;
    let Some((gpu, device)) = gpu::of(gamma, LAYER_NORM)? else { return Ok(None) };
    let (dtype, h) = (gamma.dtype(), gamma.elem_count());
    let is_same = |x: &Tensor| x.dtype() == dtype && x.device().same_device(gamma.device());
    let all_same = is_same(beta) && terms.iter().all(|(x, _)| is_same(x));
    let fits = all_same && terms.len() <= MOST_TERMS;
    let Some(dims) = weights.dims_of_sum(terms).filter(|_| fits) else { return Ok(None) };
    let ids = terms.iter().map(|(_, ids)| ids.map(|ids| ids.tensor(gamma.device())).transpose());
    let ids = ids.collect::<Result<Vec<_>>>()?;
    let rows = terms.iter().map(|(x, _)| in_rows(x)).collect::<Result<Vec<_>>>()?;
    let operands: Option<Vec<_>> =
        rows.iter().zip(&ids).map(|(x, ids)| Operand::of(x, ids.as_ref())).collect();
    let affine = [gamma, beta].map(Matrix::of);
    let (Some(operands), [Some(gamma), Some(beta)]) = (operands, affine) else { return Ok(None) };
    let rows = dims.iter().product::<usize>() / h;
    let (stream, mut output) = (device.cuda_stream(), Output::new(device, dtype, rows * h)?);
    {
        let mut guards = Guards::new();
        let mut arguments = LayerNorm {
            terms: [Term::default(); MOST_TERMS],
            gamma: gamma.address(&stream, &mut guards)?,
            beta: beta.address(&stream, &mut guards)?,
            y: output.address(&stream, &mut guards)?,
            terms_count: u32_of(terms.len())?,
            rows: u32_of(rows)?,
            width: u32_of(h)?,
            eps: *eps as f32,
        };
        for (term, operand) in arguments.terms.iter_mut().zip(&operands) {
            *term = operand.term(&stream, &mut guards)?;
        }
        let mut all = operands.iter().map(|it| &it.rows).chain([&gamma, &beta]);
        let aligned = all.all(Matrix::is_aligned);
        let in_registers =
            h <= WIDEST_IN_REGISTERS && (h * dtype.size_in_bytes()).is_multiple_of(16);
        let form = if aligned && in_registers { "layer_norm" } else { "layer_norm_any" };
        let (kernel, blocks) = (format!("{form}_{}", type_name(dtype)), (rows.div_ceil(4), 1));
        let launch = Launch { family: LAYER_NORM, kernel, blocks, threads: 128, shared: 0 };
        // SAFETY: `LayerNorm` is the kernel's parameter. `dims_of_sum` has checked that terms have
        // `rows` rows of `h` numbers, or ids of rows that exist.
        unsafe { gpu.launch(&stream, &launch, &arguments) }?;
    }
    Ok(Some(output.into_tensor(dims)))
}

impl<'x> Operand<'x> {
    fn of(x: &'x Tensor, ids: Option<&'x Tensor>) -> Option<Self> {
        let count = ids.map_or(0, Tensor::elem_count);
        let ids = match ids {
            Some(ids) => Some(Matrix::of(ids)?),
            None => None,
        };
        Some(Self { rows: Matrix::of(x)?, ids, count })
    }

    fn term<'a>(&'a self, stream: &'a CudaStream, guards: &mut Guards<'a>) -> Result<Term> {
        Ok(Term {
            matrix: self.rows.address(stream, guards)?,
            ids: self.ids.as_ref().map_or(Ok(0), |ids| ids.address(stream, guards))?,
            count: u32_of(self.count)?,
            stride: u32_of(self.rows.stride)?,
        })
    }
}
