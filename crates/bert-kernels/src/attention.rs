//! Scaled dot-product attention over heads.

use std::ops::Range;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax;

use crate::backend::kernels;
use crate::precision::{matmul, wide_matmul_transposed};
use crate::sequences::{Sequence, Sequences};

/// The value added to masked scores. It is finite, but so large in magnitude that adding it to a score
/// gives this value itself. A query whose keys are all masked therefore attends to all of them equally, and no result
/// is NaN.
pub const MASKED: f64 = f32::MIN as f64;

/// The arguments of [`attention`] besides queries, keys and values.
#[derive(Clone, Copy, Debug)]
pub struct AttentionArgs<'a> {
    /// `N`, the number of heads `H` is split into.
    pub heads: usize,
    /// What the dot products are multiplied by, `1/√D`.
    pub scale: f64,
    /// Added to the scores: 0 where visible, [`MASKED`] where not, F32 and
    /// broadcastable to `[B, N, Q, K]`.
    pub mask: Option<&'a Tensor>,
    /// What the weights are multiplied by after the softmax (dropout, head masks), in the dtype of
    /// `v` and broadcastable to `[B, N, Q, K]`.
    pub weights_factor: Option<&'a Tensor>,
    /// What the distance between query and key adds to their score.
    pub relative: Option<RelativePositions<'a>>,
    /// Sequences of different lengths in one row, if `B` is 1; without `mask`, `weights_factor` and
    /// `relative`.
    pub sequences: Option<&'a Sequences>,
}

/// Learned embeddings of distances. Shaw et al. 2018; Huang et al. 2020, method 4.
#[derive(Clone, Copy, Debug)]
pub struct RelativePositions<'a> {
    /// The embedding of the distance between each query and key: `[Q, K, D]`. Its dot product with
    /// the query is added to their score before scaling.
    pub embeddings: &'a Tensor,
    /// Whether its dot product with the key is added as well.
    pub with_keys: bool,
}

/// `softmax(q kᵀ · scale + mask) v` in each head. Vaswani et al. 2017, §3.2.
///
/// `q`: `[B, Q, H]`; `k`, `v`: `[B, K, H]` → `[B, Q, H]`, in the dtype of `q`.
///
/// # Errors
/// When `H` is not a multiple of the heads, or shapes, dtypes or devices do not fit together.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, args: AttentionArgs) -> Result<Tensor> {
    let AttentionArgs { heads, scale, mask, weights_factor, relative, sequences } = args;
    if let Some(sequences) = sequences {
        check(sequences, q, k, args)?;
    }
    if weights_factor.is_none()
        && relative.is_none()
        && let Some(context) = kernels(q).attention([q, k, v], (heads, scale), mask, sequences)?
    {
        return Ok(context);
    }
    let Some(sequences) = sequences else { return Ok(attention_with_weights(q, k, v, args)?.0) };
    let args = AttentionArgs { sequences: None, ..args };
    let contexts = sequences.iter().map(|Sequence { queries, keys }| {
        let part = |x: &Tensor, rows: &Range<usize>| x.narrow(1, rows.start, rows.len());
        attention(&part(q, queries)?, &part(k, keys)?, &part(v, keys)?, args)
    });
    Tensor::cat(&contexts.collect::<Result<Vec<_>>>()?, 1)
}

/// Checks that the sequences are those of `q` and `k`.
fn check(sequences: &Sequences, q: &Tensor, k: &Tensor, args: AttentionArgs) -> Result<()> {
    let (q, k) = (q.dims3()?, k.dims3()?);
    let plain = args.mask.is_none() && args.weights_factor.is_none() && args.relative.is_none();
    let rows = sequences.rows();
    if let Some(Sequence { keys, .. }) = sequences.iter().find(|it| it.keys.end > k.1) {
        candle_core::bail!("attention: a sequence has keys {keys:?} for k {k:?}");
    }
    if rows != q.1 || q.0 != 1 || k.0 != 1 || !plain {
        candle_core::bail!(
            "attention: packed sequences of {rows} rows need B = 1 and neither mask, weights factor nor \
             relative positions; q has shape {q:?}, k {k:?}"
        );
    }
    Ok(())
}

/// [`attention`] and the attention weights, `[B, N, Q, K]`. This is the definition of both.
///
/// # Errors
/// As [`attention`].
pub fn attention_with_weights(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    args: AttentionArgs,
) -> Result<(Tensor, Tensor)> {
    let n = args.heads;
    let (q, k, v) = (split_heads(q, n)?, split_heads(k, n)?, split_heads(v, n)?);
    let q = (q * args.scale)?;
    let mut scores = wide_matmul_transposed(&q, &k)?; // [B, N, Q, K]
    if let Some(RelativePositions { embeddings, with_keys }) = args.relative {
        scores = (scores + distance_scores(&q, embeddings)?)?;
        if with_keys {
            let from_keys = distance_scores(&(&k * args.scale)?, &embeddings.transpose(0, 1)?)?;
            scores = (scores + from_keys.transpose(2, 3)?)?;
        }
    }
    if let Some(mask) = args.mask {
        scores = scores.broadcast_add(&mask.to_dtype(scores.dtype())?)?;
    }
    let mut weights = softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    if let Some(factor) = args.weights_factor {
        weights = weights.broadcast_mul(factor)?;
    }
    let context = matmul(&weights, &v)?.transpose(1, 2)?.flatten_from(2)?; // [B, Q, H]
    Ok((context, weights))
}

/// The dot products of each row of `x` with the embeddings of its position.
///
/// `x`: `[B, N, Q, D]`; `embeddings`: `[Q, K, D]` → `[B, N, Q, K]`, in the dtype of statistics.
fn distance_scores(x: &Tensor, embeddings: &Tensor) -> Result<Tensor> {
    let (b, n, q, d) = x.dims4()?;
    let by_position = x.permute((2, 0, 1, 3))?.reshape((q, b * n, d))?;
    let scores = wide_matmul_transposed(&by_position, &embeddings.contiguous()?)?; // [Q, B·N, K]
    scores.reshape((q, b, n, ()))?.permute((1, 2, 0, 3))
}

/// `[B, S, H]` → `[B, N, S, D]`.
fn split_heads(x: &Tensor, n: usize) -> Result<Tensor> {
    let (b, s, h) = x.dims3()?;
    if n == 0 || h % n != 0 {
        candle_core::bail!("attention: H = {h} cannot be split into {n} heads");
    }
    x.reshape((b, s, n, h / n))?.transpose(1, 2)?.contiguous()
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::testing::{assert_close, strided, wave};

    #[test]
    fn scores_in_half_precision_are_not_rounded() -> Result<()> {
        for (dtype, tolerance) in [(DType::F16, 8e-4), (DType::BF16, 6e-3)] {
            // Scores with a standard deviation of about 8.
            let part = |seed, size: f64| (wave(&[1, 64, 64], seed)? * size)?.to_dtype(dtype);
            let [q, k, v] = [part(0.7, 3.)?, part(1.3, 3.)?, part(2.1, 1.)?];
            let attend = |dtype| -> Result<Tensor> {
                let [q, k, v] = [&q, &k, &v].map(|x| x.to_dtype(dtype));
                attention(&q?, &k?, &v?, args(1, None))?.to_dtype(DType::F64)
            };
            let (got, expected) = (attend(dtype)?, attend(DType::F64)?);
            let squares = |x: &Tensor| x.sqr()?.sum_all()?.to_scalar::<f64>();
            let error = (squares(&(got - &expected)?)? / squares(&expected)?).sqrt();
            assert!(error < tolerance, "{dtype:?}: {error}");
        }
        Ok(())
    }

    fn args(heads: usize, mask: Option<&Tensor>) -> AttentionArgs<'_> {
        AttentionArgs {
            heads,
            scale: 0.5,
            mask,
            weights_factor: None,
            relative: None,
            sequences: None,
        }
    }

    /// Attention of one head over slices, in f64: the definition, written without tensors.
    fn by_hand(q: &[f64], keys: &[[f64; 2]], values: &[[f64; 2]]) -> [f64; 2] {
        let exps: Vec<f64> =
            keys.iter().map(|k| (0.5 * (q[0] * k[0] + q[1] * k[1])).exp()).collect();
        let sum: f64 = exps.iter().sum();
        let mut context = [0.; 2];
        for (e, v) in exps.iter().zip(values) {
            context[0] += e / sum * v[0];
            context[1] += e / sum * v[1];
        }
        context
    }

    #[test]
    fn each_head_sees_its_own_columns() -> Result<()> {
        let q = Tensor::new(&[[[0.3f64, -1., 2., 0.5]]], &Device::Cpu)?;
        let k = Tensor::new(&[[[1f64, 0.2, -0.7, 1.1], [0.4, 2., 0.1, -3.]]], &Device::Cpu)?;
        let v = Tensor::new(&[[[5f64, 6., 7., 8.], [-1., -2., -3., -4.]]], &Device::Cpu)?;
        let (context, weights) = attention_with_weights(&q, &k, &v, args(2, None))?;
        assert_eq!(weights.dims(), [1, 2, 1, 2]);
        let first = by_hand(&[0.3, -1.], &[[1., 0.2], [0.4, 2.]], &[[5., 6.], [-1., -2.]]);
        let second = by_hand(&[2., 0.5], &[[-0.7, 1.1], [0.1, -3.]], &[[7., 8.], [-3., -4.]]);
        let context = context.flatten_all()?.to_vec1::<f64>()?;
        for (got, expected) in context.iter().zip(first.iter().chain(&second)) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
        Ok(())
    }

    #[test]
    fn a_query_without_visible_keys_attends_uniformly_in_every_dtype() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let q = Tensor::new(&[[[40f32, -70.]]], &Device::Cpu)?.to_dtype(dtype)?;
            let k = Tensor::new(&[[[9f32, 1.], [-50., 3.]]], &Device::Cpu)?.to_dtype(dtype)?;
            let mask = (Tensor::ones((1, 1, 1, 2), DType::F32, &Device::Cpu)? * MASKED)?;
            let (context, weights) = attention_with_weights(&q, &k, &k, args(1, Some(&mask)))?;
            assert_eq!(weights.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?, [0.5, 0.5]);
            assert_eq!(context.to_dtype(DType::F32)?.to_vec3::<f32>()?, [[[-20.5, 2.]]]);
        }
        Ok(())
    }

    fn sequences<const N: usize>(each: [(Range<usize>, Range<usize>); N]) -> Result<Sequences> {
        let each = each.map(|(queries, keys)| Sequence { queries, keys });
        Sequences::new(each.into())
    }

    #[test]
    fn sequences_one_after_the_other_do_not_see_each_other() -> Result<()> {
        // The first token of the second sequence is no key; the third has one token.
        let sequences = sequences([(0..3, 0..3), (3..5, 4..5), (5..6, 5..6)])?;
        for dtype in [DType::F32, DType::F64] {
            let [q, k, v] = [1., 2., 3.].map(|seed| wave(&[1, 6, 4], seed)?.to_dtype(dtype));
            let (q, k, v) = (q?, k?, v?);
            let packed = AttentionArgs { sequences: Some(&sequences), ..args(2, None) };
            let got = attention(&q, &k, &v, packed)?;
            for Sequence { queries, keys } in sequences.iter() {
                let of = |x: &Tensor, rows: &Range<usize>| x.narrow(1, rows.start, rows.len());
                let (k, v) = (of(&k, keys)?, of(&v, keys)?);
                let alone = attention_with_weights(&of(&q, queries)?, &k, &v, args(2, None))?.0;
                let apart = (of(&got, queries)? - alone)?.abs()?.to_dtype(DType::F64)?;
                assert!(apart.max_all()?.to_scalar::<f64>()? < 1e-6, "{dtype:?} {queries:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn sequences_that_leave_rows_out_are_an_error() -> Result<()> {
        let x = Tensor::ones((1, 6, 4), DType::F32, &Device::Cpu)?;
        for (queries, keys) in [(0..5, 0..6), (1..6, 0..6), (0..6, 0..7), (0..6, 3..3)] {
            let refused = match sequences([(queries.clone(), keys.clone())]) {
                Ok(sequences) => {
                    let packed = AttentionArgs { sequences: Some(&sequences), ..args(2, None) };
                    attention(&x, &x, &x, packed).is_err()
                }
                Err(_) => true,
            };
            assert!(refused, "{queries:?} {keys:?}");
        }
        Ok(())
    }

    #[test]
    fn strided_inputs_and_masks_are_read_in_order() -> Result<()> {
        let [q, k, v] = [1., 2., 3.].map(|seed| strided(&[2, 7, 6], seed));
        let (q, k, v) = (q?, k?, v?);
        let [q_f64, k_f64, v_f64] = [&q, &k, &v].map(|x| x.contiguous()?.to_dtype(DType::F64));
        let (q_f64, k_f64, v_f64) = (q_f64?, k_f64?, v_f64?);
        // By query and key, by key alone, and expanded.
        let by_query = strided(&[1, 1, 7, 7], 4.)?;
        let by_key = strided(&[2, 1, 3, 7], 5.)?.narrow(2, 1, 1)?;
        let expanded = by_query.broadcast_as((2, 3, 7, 7))?;
        for mask in [&by_query, &by_key, &expanded] {
            let contiguous = mask.contiguous()?;
            let expected =
                attention_with_weights(&q_f64, &k_f64, &v_f64, args(3, Some(&contiguous)))?.0;
            assert_close(&attention(&q, &k, &v, args(3, Some(mask)))?, &expected, 1e-6)?;
        }
        let sequences = sequences([(0..3, 0..3), (3..7, 3..7)])?;
        let packed = AttentionArgs { sequences: Some(&sequences), ..args(3, None) };
        let first = |x: &Tensor| x.narrow(0, 0, 1);
        let got = attention(&first(&q)?, &first(&k)?, &first(&v)?, packed)?;
        let expected = attention(&first(&q_f64)?, &first(&k_f64)?, &first(&v_f64)?, packed)?;
        assert_close(&got, &expected, 1e-6)
    }

    #[test]
    fn heads_that_do_not_divide_the_width_are_an_error() -> Result<()> {
        let x = Tensor::ones((1, 2, 6), DType::F32, &Device::Cpu)?;
        assert!(attention(&x, &x, &x, args(4, None)).is_err());
        assert!(attention(&x, &x, &x, args(0, None)).is_err());
        Ok(())
    }
}
