//! Candle's fused operations for Apple's GPUs, where they compute what the definitions do.
//!
//! It was type-checked for aarch64-apple-darwin and has never run.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops;

use crate::ids::Ids;
use crate::kernels::{Kernels, dims_of_scores};
use crate::sequences::Sequences;
use crate::weights::LayerNormWeights;

/// The head sizes that Candle's attention knows in every dtype and for any number of queries.
const HEAD_SIZES: [usize; 4] = [32, 64, 96, 128];

/// What is added to the scores of hidden keys. Candle's attention multiplies it by log₂ e, which would make −∞ of
/// [`MASKED`](crate::MASKED), and NaN of a query that sees no key. Scores disappear in this number too.
const HIDDEN: f64 = -1e30;

/// The kernels of Apple's GPUs.
pub(crate) struct Metal;

impl Kernels for Metal {
    /// In F32, where Candle's operation has stable statistics. In F16 and BF16 it normalizes in that dtype.
    fn sum_layer_norm(
        &self,
        terms: &[(&Tensor, Option<&Ids>)],
        weights: &LayerNormWeights,
    ) -> Result<Option<Tensor>> {
        let LayerNormWeights { gamma, beta, eps } = weights;
        let fits = |x: &Tensor| x.dtype() == DType::F32 && x.device().is_metal() && !x.track_op();
        let all_fit = terms.iter().all(|(x, ids)| ids.is_none() && fits(x));
        if weights.dims_of_sum(terms).is_none() || !all_fit || !fits(gamma) || !fits(beta) {
            return Ok(None);
        }
        let sum = terms.iter().map(|(x, _)| Ok((*x).clone()));
        let Some(sum) = sum.reduce(|sum: Result<Tensor>, x| sum? + x?) else { return Ok(None) };
        let (gamma, beta) = (gamma.contiguous()?, beta.contiguous()?);
        ops::layer_norm(&sum?.contiguous()?, &gamma, &beta, *eps as f32).map(Some)
    }

    fn attention(
        &self,
        [q, k, v]: [&Tensor; 3],
        (heads, scale): (usize, f64),
        mask: Option<&Tensor>,
        sequences: Option<&Sequences>,
    ) -> Result<Option<Tensor>> {
        let Some([b, _, queries, keys]) = dims_of_scores([q, k, v], heads) else { return Ok(None) };
        let h = q.dim(2)?;
        let computes = matches!(q.dtype(), DType::F32 | DType::F16 | DType::BF16)
            && ![q, k, v].iter().any(|x| x.track_op());
        // With one query, Candle's attention ignores masks; in F16 and BF16 it would round them, and F16 scores
        // would not disappear in the least number.
        let adds_mask = queries > 1 && q.dtype() == DType::F32;
        if !computes || sequences.is_some() || (mask.is_some() && !adds_mask) {
            return Ok(None);
        }
        if !HEAD_SIZES.contains(&(h / heads)) || queries > keys {
            return Ok(None);
        }
        let scores = (b, heads, queries, keys);
        // A new tensor: Candle's attention reads masks from the beginning of their memory.
        let mask = mask.map(|mask| {
            let hidden = mask.maximum(HIDDEN)?.to_dtype(q.dtype())?;
            let mask = hidden.broadcast_as(scores)?;
            // The numbers of neighboring keys have to be neighbors in memory.
            if hidden.dim(D::Minus1)? == keys { Ok(mask) } else { mask.contiguous() }
        });
        let split =
            |x: &Tensor| x.reshape((b, (), heads, h / heads))?.transpose(1, 2)?.contiguous();
        let (q, k, v) = (split(q)?, split(k)?, split(v)?);
        let context = ops::sdpa(&q, &k, &v, mask.transpose()?.as_ref(), false, scale as f32, 1.)?;
        context.transpose(1, 2)?.flatten_from(2).map(Some)
    }
}
