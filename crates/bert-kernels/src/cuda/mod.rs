//! Kernels for NVIDIA GPUs of compute capability 8.0 and above, in F16, BF16 and F32.
//!
//! A file in CUDA C++ for each family of operations, and a file in Rust beside it that checks tensors and
//! launches. Matrices are multiplied by cuBLASLt. All statistics and sums are computed in F32. There are no
//! gradients.
//!
//! [`device`] opens a GPU that threads may share. A kernel that no committed record shows to be right on a
//! GPU is not used unless [`use_unconfirmed_kernels`] was called: Candle's operations serve until then.

mod activation;
mod attention;
mod confirmed;
mod device;
mod gpu;
mod layer_norm;
mod linear;
mod matmul;
mod operand;
mod rows;

use std::ops::Range;

use candle_core::{Result, Tensor};

pub use confirmed::{declined, use_unconfirmed_kernels};
pub use device::device;

use self::confirmed::{ACTIVATION, ATTENTION, LAYER_NORM, LINEAR, ROWS, counted, is_used};
use crate::activation::Activation;
use crate::ids::Ids;
use crate::kernels::Kernels;
use crate::policy::PassPolicy;
use crate::sequences::Sequences;
use crate::weights::{LayerNormWeights, LinearWeights};

/// The kernels of GPUs.
pub(crate) struct Cuda;

impl Kernels for Cuda {
    /// Padding is skipped if attention to packed sequences has a kernel; without one they would be
    /// computed one by one.
    fn policy(&self, x: &Tensor) -> PassPolicy {
        let skips_padding = !x.track_op() && gpu::of(x, ATTENTION).is_ok_and(|it| it.is_some());
        PassPolicy { skips_padding, ..PassPolicy::WHOLE }
    }

    fn gather_rows(&self, x: &Tensor, rows: &Ids) -> Result<Option<Tensor>> {
        counted(x, ROWS, rows::gather_rows(x, rows))
    }

    fn sum_rows(&self, x: &Tensor, ranges: &[Range<usize>]) -> Result<Option<Tensor>> {
        counted(x, ROWS, rows::sum_rows(x, ranges))
    }

    fn sum_layer_norm(
        &self,
        terms: &[(&Tensor, Option<&Ids>)],
        weights: &LayerNormWeights,
    ) -> Result<Option<Tensor>> {
        counted(&weights.gamma, LAYER_NORM, layer_norm::sum_layer_norm(terms, weights))
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Option<Tensor>> {
        counted(x, ACTIVATION, activation::activate(x, activation))
    }

    fn joins(&self, weight: &Tensor) -> bool {
        !weight.track_op() && is_used(LINEAR, weight.dtype())
    }

    fn project(
        &self,
        x: &Tensor,
        weights: &LinearWeights,
        projections: Range<usize>,
        activation: Activation,
    ) -> Result<Option<Vec<Tensor>>> {
        counted(x, LINEAR, linear::project(x, weights, projections, activation))
    }

    fn attention(
        &self,
        qkv: [&Tensor; 3],
        heads_and_scale: (usize, f64),
        mask: Option<&Tensor>,
        sequences: Option<&Sequences>,
    ) -> Result<Option<Tensor>> {
        counted(qkv[0], ATTENTION, attention::attention(qkv, heads_and_scale, mask, sequences))
    }
}
