//! Kernels for the CPU in F32.
//!
//! [`linear`], [`attention`] and [`layer_norm`] take tensors and compute on their [`slices`].

mod activation;
mod attention;
pub(crate) mod gemm;
mod layer_norm;
mod linear;
mod math;
mod rows;
mod scratch;
mod simd;
mod slices;
pub(crate) mod team;
#[cfg(test)]
mod testing;

use std::ops::Range;

use candle_core::{DType, Result, Tensor};

use crate::activation::Activation;
use crate::ids::Ids;
use crate::kernels::Kernels;
use crate::policy::PassPolicy;
use crate::sequences::Sequences;
use crate::weights::{LayerNormWeights, LinearWeights};

/// The kernels of the CPU.
pub(crate) struct Cpu;

impl Kernels for Cpu {
    /// In F32, if `x` needs no gradient, padding is skipped, and 1.5 MB of states for each thread go
    /// through the layers at a time (0.75 and 3 MB measured the same).
    fn policy(&self, x: &Tensor) -> PassPolicy {
        const FLOATS_PER_THREAD: usize = 3 << 17;
        match x.dims().last() {
            Some(&h) if x.dtype() == DType::F32 && !x.track_op() => PassPolicy {
                skips_padding: true,
                tokens_at_a_time: rayon::current_num_threads() * FLOATS_PER_THREAD / h.max(1),
            },
            _ => PassPolicy::WHOLE,
        }
    }

    fn sum_layer_norm(
        &self,
        terms: &[(&Tensor, Option<&Ids>)],
        weights: &LayerNormWeights,
    ) -> Result<Option<Tensor>> {
        layer_norm::sum_layer_norm(terms, weights)
    }

    fn project(
        &self,
        x: &Tensor,
        weights: &LinearWeights,
        projections: Range<usize>,
        activation: Activation,
    ) -> Result<Option<Vec<Tensor>>> {
        linear::project(x, weights, projections, activation)
    }

    fn feed_forward(
        &self,
        x: &Tensor,
        expand: &LinearWeights,
        activation: Activation,
        contract: &LinearWeights,
    ) -> Result<Option<Tensor>> {
        linear::feed_forward(x, expand, activation, contract)
    }

    fn attention(
        &self,
        qkv: [&Tensor; 3],
        heads_and_scale: (usize, f64),
        mask: Option<&Tensor>,
        sequences: Option<&Sequences>,
    ) -> Result<Option<Tensor>> {
        attention::attention(qkv, heads_and_scale, mask, sequences)
    }
}
