//! Attention of padded or packed sequences, head by head.
//!
//! The scores of a few queries with all keys fit into the L2 cache. They are computed, turned into
//! weights and used there: `[B, N, Q, K]` is never stored, and the softmax sees all scores of a query
//! at once.

use std::array;
use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use pulp::{Arch, Simd};

use super::gemm::tile::{
    InTiles, MAX_MR, Tiled, for_height, rank_1_update, tile_groups, tile_size,
};
use super::math::exp;
use super::rows::{SharedRows, UninitMatrix};
use super::scratch::with_scratch;
use super::simd::arch;
use super::slices::try_cpu_slice;
use super::team;
use crate::kernels::dims_of_scores;
use crate::sequences::{Sequence, Sequences};

/// The most queries of a task, if there are fewer heads and sequences than threads can share.
const QUERIES: usize = 96;

/// See [`attention`](crate::attention); `mask` is added to the scores.
pub(crate) fn attention(
    [q, k, v]: [&Tensor; 3],
    (heads, scale): (usize, f64),
    mask: Option<&Tensor>,
    sequences: Option<&Sequences>,
) -> Result<Option<Tensor>> {
    let Some(scores) = dims_of_scores([q, k, v], heads) else { return Ok(None) };
    let ([b, _, queries, keys], h) = (scores, q.dim(2)?);
    if sequences.is_some_and(|sequences| sequences.rows() != b * queries) {
        return Ok(None);
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let [Some(q), Some(k), Some(v)] = [&q, &k, &v].map(try_cpu_slice) else { return Ok(None) };
    let mask = mask.map(Tensor::contiguous).transpose()?;
    let mask = mask.as_ref().map(|mask| try_cpu_slice(mask).zip(mask_strides(mask, scores)));
    let bias = match &mask {
        Some(Some((data, strides))) => Some(Bias { data, strides: *strides }),
        // The definition returns the error.
        Some(None) => return Ok(None),
        None => None,
    };
    let part = |i: usize, rows: usize| i * rows..(i + 1) * rows;
    let each: Vec<Sequence> =
        (0..b).map(|i| Sequence { queries: part(i, queries), keys: part(i, keys) }).collect();
    let sequences = sequences.map_or(&*each, |sequences| sequences);
    let (head_size, scale) = (h / heads, scale as f32);
    let mut output = UninitMatrix::new(b * queries, h)?;
    let attention = Attention { q: &q, k: &k, v: &v, sequences, heads, head_size, scale, bias };
    attention.run(arch(), output.rows(0..b * queries));
    // SAFETY: the sequences' queries are all rows, and `run` writes every element of theirs.
    Ok(Some(Tensor::from_vec(unsafe { output.assume_init() }, (b, queries, h), &Device::Cpu)?))
}

/// The distances in floats between sequences, heads and queries of a contiguous mask; 0 where all share
/// it. `None` if it does not fit scores `[B, N, Q, K]`.
fn mask_strides(mask: &Tensor, [b, n, q, k]: [usize; 4]) -> Option<[usize; 3]> {
    let [mb, mn, mq, mk] = *mask.dims() else { return None };
    let fits = |got, expected| got == 1 || got == expected;
    let stride = |size, stride| if size > 1 { stride } else { 0 };
    (mk == k && fits(mb, b) && fits(mn, n) && fits(mq, q))
        .then(|| [stride(mb, mn * mq * k), stride(mn, mq * k), stride(mq, k)])
}

/// Added to the scores: `[B or 1, N or 1, Q or 1, K]`.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(crate) data: &'a [f32],
    /// The distance in floats between sequences, heads and queries; 0 where all share the bias.
    pub(crate) strides: [usize; 3],
}

/// `softmax(q kᵀ · scale + bias) v` in each head.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// Rows of queries, keys and values: `H` floats each.
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
    pub(crate) sequences: &'a [Sequence],
    pub(crate) heads: usize,
    /// `D`.
    pub(crate) head_size: usize,
    pub(crate) scale: f32,
    pub(crate) bias: Option<Bias<'a>>,
}

impl Attention<'_> {
    /// Writes the queries' rows of `out`, `H` floats each; other rows stay as they are.
    pub(crate) fn run(self, arch: Arch, out: SharedRows) {
        let in_order = |pair: &[Sequence]| pair[0].queries.end <= pair[1].queries.start;
        assert!(self.sequences.windows(2).all(in_order), "no query belongs to two sequences");
        let mut tasks = Vec::new();
        for (index, sequence) in self.sequences.iter().enumerate() {
            // Each task packs the keys, so tasks are split only where threads would be idle.
            let few = self.sequences.len() * self.heads < 4 * rayon::current_num_threads();
            let size = if few { QUERIES } else { usize::MAX };
            for head in 0..self.heads {
                for first in sequence.queries.clone().step_by(size) {
                    let queries = first..first.saturating_add(size).min(sequence.queries.end);
                    tasks.push(Task { attention: self, sequence, index, head, queries, out: &out });
                }
            }
        }
        let (_, width) = tile_size(arch);
        team::for_each(tasks.len(), |index| {
            let task = &tasks[index];
            let (d, count) = (self.head_size, task.sequence.keys.len());
            let [wide, padded] = [d, count].map(|columns| columns.next_multiple_of(width));
            let sizes = [padded * d, count * wide, MAX_MR * padded, MAX_MR * wide];
            // Outside of `dispatch`: closures would not be compiled for the instruction set.
            with_scratch(sizes, |[keys, values, scores, sums]| {
                let tiled = TiledTask { task, keys, values, scores, sums, padded, width };
                arch.dispatch(InTiles(tiled));
            });
        });
    }
}

/// Some queries of one sequence in one head.
struct Task<'a> {
    attention: Attention<'a>,
    sequence: &'a Sequence,
    index: usize,
    head: usize,
    queries: Range<usize>,
    out: &'a SharedRows<'a>,
}

/// A task with its scratch memory: keys and values of the head in panels, and the scores of a few
/// queries.
struct TiledTask<'a> {
    task: &'a Task<'a>,
    /// `[D, width]` for each panel of keys, multiplied by the scale.
    keys: &'a mut [f32],
    /// `[K, width]` for each panel of a head's columns.
    values: &'a mut [f32],
    /// `[queries, padded]`.
    scores: &'a mut [f32],
    /// `[queries, D rounded up to whole panels]`.
    sums: &'a mut [f32],
    /// The number of keys, rounded up to whole panels.
    padded: usize,
    width: usize,
}

impl Tiled for TiledTask<'_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const NV: usize>(mut self, simd: S) {
        self.pack::<S, NV>(simd);
        for (rows, height) in tile_groups(self.task.queries.clone(), MR) {
            for query in rows.step_by(height) {
                for_height!(height, MR, self.attend::<S, _, NV>(simd, query));
            }
        }
    }
}

impl TiledTask<'_> {
    #[inline(always)]
    fn pack<S: Simd, const NV: usize>(&mut self, simd: S) {
        let Self { task, width, .. } = *self;
        let Attention { k, v, heads, head_size: d, scale, .. } = task.attention;
        let (h, column) = (heads * d, task.head * d);
        self.keys.fill(0.);
        for (j, row) in task.sequence.keys.clone().enumerate() {
            let key = &k[row * h + column..][..d];
            let panel = &mut self.keys[j / width * width * d + j % width..];
            for (slot, value) in panel.iter_mut().step_by(width).zip(key) {
                *slot = value * scale;
            }
        }
        let panels = self.values.chunks_exact_mut((task.sequence.keys.len() * width).max(1));
        for (panel, from) in panels.zip((0..d).step_by(width)) {
            let columns = from..(from + width).min(d);
            let slots = S::as_mut_simd_f32s(panel).0.as_chunks_mut::<NV>().0;
            for (slot, row) in slots.iter_mut().zip(task.sequence.keys.clone()) {
                let value = &v[row * h + column..][columns.clone()];
                match S::as_simd_f32s(value).0.as_chunks().0 {
                    // The size is a constant, so copying calls no function.
                    [whole] => *slot = *whole,
                    _ => {
                        for (j, slot) in slot.iter_mut().enumerate() {
                            let from = (j * S::F32_LANES).min(value.len());
                            let to = (from + S::F32_LANES).min(value.len());
                            *slot = simd.partial_load_f32s(&value[from..to]);
                        }
                    }
                }
            }
        }
    }

    /// `HEIGHT` queries from `query` on.
    #[inline(always)]
    fn attend<S: Simd, const HEIGHT: usize, const NV: usize>(&mut self, simd: S, query: usize) {
        let Self { task, padded, width, .. } = *self;
        let Attention { q, heads, head_size: d, bias, .. } = task.attention;
        let (h, column, count) = (heads * d, task.head * d, task.sequence.keys.len());
        let queries: [&[f32]; HEIGHT] = array::from_fn(|i| &q[(query + i) * h + column..][..d]);
        let values = S::as_simd_f32s(self.keys).0.as_chunks::<NV>().0;
        let out = &mut *self.scores;
        simd.vectorize(DotProducts { simd, x: queries, depth: d, values, out, stride: padded });
        let mut factors = [0f32; HEIGHT];
        let rows = self.scores.chunks_exact_mut(padded.max(1));
        for (i, (scores, factor)) in rows.zip(&mut factors).enumerate() {
            if let Some(Bias { data, strides }) = bias {
                let index = query + i - task.sequence.queries.start;
                let start = task.index * strides[0] + task.head * strides[1] + index * strides[2];
                for (score, bias) in scores.iter_mut().zip(&data[start..][..count]) {
                    *score += bias;
                }
            }
            scores[count..].fill(f32::NEG_INFINITY);
            *factor = 1. / simd.vectorize(Exponentials { simd, scores });
        }
        let weights: [&[f32]; HEIGHT] = array::from_fn(|i| &self.scores[i * padded..][..count]);
        let values = S::as_simd_f32s(self.values).0.as_chunks::<NV>().0;
        let (out, stride) = (&mut *self.sums, d.next_multiple_of(width));
        simd.vectorize(DotProducts { simd, x: weights, depth: count, values, out, stride });
        let rows = self.sums.chunks_exact(stride.max(1));
        for (i, (sums, factor)) in rows.zip(factors).enumerate() {
            // SAFETY: each task has queries and columns of its own, because sequences do not overlap.
            let out = unsafe { task.out.part(query + i, column..column + d) };
            for (out, sum) in out.iter_mut().zip(sums) {
                out.write(sum * factor);
            }
        }
    }
}

/// Multiplies rows of `x` by panels. It is a function of its own for each instruction set.
struct DotProducts<'a, S: Simd, const HEIGHT: usize, const NV: usize> {
    simd: S,
    x: [&'a [f32]; HEIGHT],
    depth: usize,
    /// `[depth]` for each panel.
    values: &'a [[S::f32s; NV]],
    /// `[HEIGHT, stride]`.
    out: &'a mut [f32],
    stride: usize,
}

impl<S: Simd, const HEIGHT: usize, const NV: usize> pulp::NullaryFnOnce
    for DotProducts<'_, S, HEIGHT, NV>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Rank-1 updates in a row without a jump.
        const STEPS: usize = 4;
        let Self { simd, x, depth, values, out, stride } = self;
        let x = x.map(|row| &row[..depth]);
        // SAFETY: each row was cut to `depth`, and `p` is below it. The compiler would check it at each
        // step (bench/LOG.md, CPU kernels, step 4).
        let factors = |p: usize| array::from_fn(|i| unsafe { *x[i].get_unchecked(p) });
        for (panel, values) in values.chunks_exact(depth.max(1)).enumerate() {
            let mut sums = [[simd.splat_f32s(0.); NV]; HEIGHT];
            let (chunks, rest) = values.as_chunks::<STEPS>();
            for (chunk, values) in chunks.iter().enumerate() {
                for (p, values) in values.iter().enumerate() {
                    rank_1_update(simd, &mut sums, &factors(chunk * STEPS + p), values);
                }
            }
            for (p, values) in rest.iter().enumerate() {
                rank_1_update(simd, &mut sums, &factors(chunks.len() * STEPS + p), values);
            }
            let columns = NV * S::F32_LANES;
            for (i, sums) in sums.iter().enumerate() {
                let out = &mut out[i * stride + panel * columns..][..columns];
                S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
            }
        }
    }
}

/// Replaces scores by the exponentials of their differences from the largest; returns the sum. It is a
/// function of its own for each instruction set.
struct Exponentials<'a, S: Simd> {
    simd: S,
    scores: &'a mut [f32],
}

impl<S: Simd> pulp::NullaryFnOnce for Exponentials<'_, S> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        let Self { simd, scores } = self;
        let scores = S::as_mut_simd_f32s(scores).0;
        // Loops: closures would not be compiled for the instruction set.
        let mut largest = simd.splat_f32s(f32::NEG_INFINITY);
        for score in scores.iter() {
            largest = simd.max_f32s(largest, *score);
        }
        let largest = simd.splat_f32s(simd.reduce_max_f32s(largest));
        let mut sum = simd.splat_f32s(0.);
        for score in scores.iter_mut() {
            *score = exp(simd, simd.sub_f32s(*score, largest));
            sum = simd.add_f32s(sum, *score);
        }
        simd.reduce_sum_f32s(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::testing::{Random, assert_near, numbers};

    /// The definition, query by query in f64; rows of no sequence are NaN.
    fn by_hand(attention: Attention, rows: usize) -> Vec<f64> {
        let Attention { q, k, v, sequences, heads, head_size: d, scale, bias } = attention;
        let h = heads * d;
        let mut out = vec![f64::NAN; rows * h];
        for (index, Sequence { queries, keys }) in sequences.iter().enumerate() {
            for (place, query) in queries.clone().enumerate() {
                for head in 0..heads {
                    let at = |x: &[f32], row: usize, c: usize| f64::from(x[row * h + head * d + c]);
                    let score = |(j, key)| {
                        let dot: f64 = (0..d).map(|c| at(q, query, c) * at(k, key, c)).sum();
                        let bias = bias.map_or(0., |Bias { data, strides: [b, n, s] }| {
                            f64::from(data[index * b + head * n + place * s + j])
                        });
                        // In f32 a masked score is the mask itself.
                        f64::from((dot * f64::from(scale)) as f32 + bias as f32)
                    };
                    let scores: Vec<f64> = keys.clone().enumerate().map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|x| (x - largest).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for c in 0..d {
                        let weighed = weights.iter().zip(keys.clone());
                        out[query * h + head * d + c] =
                            weighed.map(|(w, key)| w * at(v, key, c)).sum::<f64>() / sum;
                    }
                }
            }
        }
        out
    }

    #[track_caller]
    fn check(attention: Attention, rows: usize, what: &str) {
        let expected = by_hand(attention, rows);
        for arch in archs() {
            let mut out = vec![f32::NAN; rows * attention.heads * attention.head_size];
            attention.run(arch, SharedRows::new(&mut out, attention.heads * attention.head_size));
            let (got, expected): (Vec<f32>, Vec<f64>) =
                out.iter().zip(&expected).filter(|(_, expected)| !expected.is_nan()).unzip();
            assert_near(&format!("{arch:?} {what}"), &got, &expected, 1e-5);
            let untouched = out.iter().filter(|x| x.is_nan()).count();
            assert_eq!(untouched, out.len() - got.len(), "{what}: rows of no sequence");
        }
    }

    /// Checks sequences with these numbers of queries and keys. Between two sequences there is a row
    /// that belongs to neither.
    fn check_lengths(heads: usize, head_size: usize, lengths: &[(usize, usize)]) {
        let h = heads * head_size;
        let (rows, keys) = lengths.iter().fold((0, 0), |(q, k), (a, b)| (q + a + 1, k + b));
        let (mut query, mut key) = (0, 0);
        let sequences: Vec<Sequence> = lengths
            .iter()
            .map(|(a, b)| {
                let sequence = Sequence { queries: query..query + a, keys: key..key + b };
                (query, key) = (query + a + 1, key + b);
                sequence
            })
            .collect();
        let [q, k, v] = [(rows, 1), (keys, 2), (keys, 3)].map(|(n, seed)| numbers(n * h, seed));
        let sequences = &sequences[..];
        let (q, k, v) = (&q[..], &k[..], &v[..]);
        let attention = Attention { q, k, v, sequences, heads, head_size, scale: 2., bias: None };
        check(attention, rows, &format!("{heads} heads of {head_size}, {lengths:?}"));
    }

    #[test]
    fn sequences_of_every_length_and_head_size_are_right_on_every_instruction_set() {
        for (heads, head_size) in [(1, 8), (3, 10), (2, 64), (1, 128), (1, 1)] {
            let lengths = [(1, 1), (7, 7), (1, 33), (16, 16), (97, 97), (5, 200)];
            check_lengths(heads, head_size, &lengths);
        }
        let mut random = Random(1);
        for _ in 0..40 {
            let lengths: Vec<_> =
                (0..random.up_to(4)).map(|_| (random.up_to(110), random.up_to(110))).collect();
            check_lengths(random.up_to(3), 7 + random.up_to(121), &lengths);
        }
    }

    #[test]
    fn masks_by_sequence_head_and_query_count() {
        // Enough queries to be divided among threads.
        let (b, heads, d, s) = (2, 3, 5, 203);
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(b * s * heads * d, seed));
        let sequences: Vec<Sequence> = (0..b)
            .map(|i| Sequence { queries: i * s..(i + 1) * s, keys: i * s..(i + 1) * s })
            .collect();
        for (mb, mn, mq) in [(1, 1, 1), (b, 1, 1), (b, 1, s), (1, heads, s), (b, heads, s)] {
            let mut data = numbers(mb * mn * mq * s, 4);
            // The first query of the mask sees no key, others some.
            data[..s].fill(f32::MIN);
            data.iter_mut().skip(s).step_by(3).for_each(|x| *x = f32::MIN);
            let stride = |count: usize, size: usize| if count > 1 { size } else { 0 };
            let strides = [stride(mb, mn * mq * s), stride(mn, mq * s), stride(mq, s)];
            let attention = Attention {
                q: &q,
                k: &k,
                v: &v,
                sequences: &sequences,
                heads,
                head_size: d,
                scale: 0.5,
                bias: Some(Bias { data: &data, strides }),
            };
            check(attention, b * s, &format!("mask [{mb}, {mn}, {mq}, {s}]"));
        }
    }

    #[test]
    fn a_long_sequence_is_divided_among_threads() {
        check_lengths(1, 64, &[(600, 600)]);
    }
}
