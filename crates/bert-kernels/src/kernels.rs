//! What a backend has to offer.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::activation::Activation;
use crate::ids::Ids;
use crate::policy::PassPolicy;
use crate::sequences::Sequences;
use crate::weights::{LayerNormWeights, LinearWeights};

/// A backend's kernels, none by default. Each returns `None` if the operation has to use its definition:
/// where a gradient is needed, and for dtypes, sizes and layouts that the kernel does not know.
pub(crate) trait Kernels {
    /// See [`PassPolicy::of`].
    fn policy(&self, _x: &Tensor) -> PassPolicy {
        PassPolicy::WHOLE
    }

    /// See [`gather_rows`](crate::gather_rows).
    fn gather_rows(&self, _x: &Tensor, _rows: &Ids) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`sum_rows`](crate::sum_rows).
    fn sum_rows(&self, _x: &Tensor, _ranges: &[Range<usize>]) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// LayerNorm of the sum of some terms: tensors `[…, H]`, and tables `[V, H]` with the ids of their
    /// rows. See [`layer_norm`](crate::layer_norm), [`add_layer_norm`](crate::add_layer_norm) and
    /// [`embeddings_layer_norm`](crate::embeddings_layer_norm).
    fn sum_layer_norm(
        &self,
        _terms: &[(&Tensor, Option<&Ids>)],
        _weights: &LayerNormWeights,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`activate`](crate::activate).
    fn activate(&self, _x: &Tensor, _activation: Activation) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// Whether projections like `weight` are multiplied faster in one matrix.
    fn joins(&self, _weight: &Tensor) -> bool {
        false
    }

    /// `activation(x Wᵀ + b)` for each of the projections. See [`linear_joined`](crate::linear_joined) and
    /// [`linear_activation`](crate::linear_activation).
    fn project(
        &self,
        _x: &Tensor,
        _weights: &LinearWeights,
        _projections: Range<usize>,
        _activation: Activation,
    ) -> Result<Option<Vec<Tensor>>> {
        Ok(None)
    }

    /// See [`feed_forward`](crate::feed_forward).
    fn feed_forward(
        &self,
        _x: &Tensor,
        _expand: &LinearWeights,
        _activation: Activation,
        _contract: &LinearWeights,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }

    /// See [`attention`](crate::attention). `mask` is added to the scores.
    fn attention(
        &self,
        _qkv: [&Tensor; 3],
        _heads_and_scale: (usize, f64),
        _mask: Option<&Tensor>,
        _sequences: Option<&Sequences>,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// `[B, N, Q, K]` of queries, keys and values that fit each other; `None` for others, and for none.
pub(crate) fn dims_of_scores([q, k, v]: [&Tensor; 3], heads: usize) -> Option<[usize; 4]> {
    let (&[b, queries, h], &[kb, keys, kh]) = (q.dims(), k.dims()) else { return None };
    let is_same = |x: &Tensor| x.dtype() == q.dtype() && x.device().same_device(q.device());
    let fits = heads > 0 && h % heads == 0 && kb == b && kh == h && v.dims() == k.dims();
    let is_empty = q.elem_count() == 0 || keys == 0;
    (fits && !is_empty && is_same(k) && is_same(v)).then_some([b, heads, queries, keys])
}

/// For devices without kernels.
pub(crate) struct NoKernels;

impl Kernels for NoKernels {}
