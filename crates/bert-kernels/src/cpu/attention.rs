//! Attention of sequences that lie one after the other, head by head.
//!
//! Scores of a few queries with all keys fit into the second-level cache, so they are made, turned
//! into weights and used up there: `[B, N, Q, K]` is never stored, and the softmax needs no
//! correction on the way.

use std::ops::Range;

use pulp::{Arch, Simd};

use super::gemm::{InTiles, TALLEST, Tiled, step, tile_size};
use super::rows::{SharedRows, with_scratch};
use super::simd::exp;
use super::team;
use crate::attention::Sequence;

/// Queries that one thread works on at a time.
const QUERIES: usize = 96;

/// What is added to scores: `[B or 1, N or 1, Q or 1, K]`.
#[derive(Clone, Copy)]
pub(crate) struct Bias<'a> {
    pub(crate) data: &'a [f32],
    /// Floats from one sequence, head and query to the next; 0 where all have the same.
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
    /// `out`: a row for each query, `H` floats each. Rows of no sequence stay as they are.
    pub(crate) fn run(self, arch: Arch, out: SharedRows) {
        let mut tasks = Vec::new();
        for (index, sequence) in self.sequences.iter().enumerate() {
            // Keys are packed once for each task, which long sequences can afford more than once.
            let few = self.sequences.len() * self.heads < 4 * rayon::current_num_threads();
            let size = if few { QUERIES } else { usize::MAX };
            for head in 0..self.heads {
                for first in sequence.queries.clone().step_by(size) {
                    let queries = first..first.saturating_add(size).min(sequence.queries.end);
                    let keys = sequence.keys.clone();
                    tasks.push(Task { attention: self, index, head, queries, keys, out });
                }
            }
        }
        let (_, width) = tile_size(arch);
        team::for_each(tasks.len(), |index| {
            let task = &tasks[index];
            // Outside of `dispatch`: closures are not compiled for an instruction set.
            with_scratch(Room::len(task, width), |scratch| {
                arch.dispatch(InTiles(TaskIn { room: Room::new(scratch, task, width), task }));
            });
        });
    }
}

/// Some queries of one sequence in one head.
struct Task<'a> {
    attention: Attention<'a>,
    index: usize,
    head: usize,
    queries: Range<usize>,
    keys: Range<usize>,
    out: SharedRows<'a>,
}

/// Keys and values of a head in panels, and room for the scores of a few queries.
struct Room<'a> {
    /// `[D, width]` for each panel of keys, multiplied with the scale.
    keys: &'a mut [f32],
    /// `[K, width]` for each panel of a head's columns.
    values: &'a mut [f32],
    /// `[queries, padded]`.
    scores: &'a mut [f32],
    /// `[queries, D rounded up to whole panels]`.
    sums: &'a mut [f32],
    /// Keys, rounded up to whole panels.
    padded: usize,
    width: usize,
}

impl<'a> Room<'a> {
    fn sizes(task: &Task, width: usize) -> [usize; 4] {
        let (d, count) = (task.attention.head_size, task.keys.len());
        let [wide, padded] = [d, count].map(|columns| columns.next_multiple_of(width));
        [padded * d, count * wide, TALLEST * padded, TALLEST * wide]
    }

    fn len(task: &Task, width: usize) -> usize {
        Self::sizes(task, width).iter().sum()
    }

    fn new(scratch: &'a mut [f32], task: &Task, width: usize) -> Self {
        let sizes = Self::sizes(task, width);
        let (keys, rest) = scratch.split_at_mut(sizes[0]);
        let (values, rest) = rest.split_at_mut(sizes[1]);
        let (scores, sums) = rest.split_at_mut(sizes[2]);
        Self { keys, values, scores, sums, padded: task.keys.len().next_multiple_of(width), width }
    }
}

/// A task and its room.
struct TaskIn<'a, 'b> {
    task: &'b Task<'a>,
    room: Room<'b>,
}

impl Tiled for TaskIn<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(mut self, simd: S) {
        let Self { task, room } = &mut self;
        task.pack::<S, WIDTH>(simd, room);
        let mut query = task.queries.start;
        while query < task.queries.end {
            query += match task.queries.end - query {
                left if left >= HEIGHT => task.rows::<S, HEIGHT, WIDTH>(simd, query, room),
                4.. => task.rows::<S, 4, WIDTH>(simd, query, room),
                2.. => task.rows::<S, 2, WIDTH>(simd, query, room),
                _ => task.rows::<S, 1, WIDTH>(simd, query, room),
            };
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn pack<S: Simd, const WIDTH: usize>(&self, simd: S, room: &mut Room) {
        let Attention { k, v, heads, head_size: d, scale, .. } = self.attention;
        let (h, width) = (heads * d, room.width);
        let column = self.head * d;
        room.keys.fill(0.);
        for (j, row) in self.keys.clone().enumerate() {
            let key = &k[row * h + column..][..d];
            let panel = &mut room.keys[j / width * width * d + j % width..];
            for (place, value) in panel.iter_mut().step_by(width).zip(key) {
                *place = value * scale;
            }
        }
        let count = self.keys.len();
        for (panel, from) in
            room.values.chunks_exact_mut((count * width).max(1)).zip((0..d).step_by(width))
        {
            let columns = from..(from + width).min(d);
            let places = S::as_mut_simd_f32s(panel).0.as_chunks_mut::<WIDTH>().0;
            for (place, row) in places.iter_mut().zip(self.keys.clone()) {
                let value = &v[row * h + column..][columns.clone()];
                match S::as_simd_f32s(value).0.as_chunks().0 {
                    // The size is known, so no function is called for each row.
                    [whole] => *place = *whole,
                    _ => {
                        for (j, place) in place.iter_mut().enumerate() {
                            let from = (j * S::F32_LANES).min(value.len());
                            let to = (from + S::F32_LANES).min(value.len());
                            *place = simd.partial_load_f32s(&value[from..to]);
                        }
                    }
                }
            }
        }
    }

    /// A few queries; returns how many.
    #[inline(always)]
    fn rows<S: Simd, const HEIGHT: usize, const WIDTH: usize>(
        &self,
        simd: S,
        query: usize,
        room: &mut Room,
    ) -> usize {
        let Attention { q, sequences, heads, head_size: d, bias, .. } = self.attention;
        let (h, column) = (heads * d, self.head * d);
        let (count, padded, width) = (self.keys.len(), room.padded, room.width);
        let queries: [&[f32]; HEIGHT] =
            std::array::from_fn(|i| &q[(query + i) * h + column..][..d]);
        let values = S::as_simd_f32s(room.keys).0.as_chunks::<WIDTH>().0;
        let out = &mut *room.scores;
        simd.vectorize(Products { simd, x: queries, depth: d, values, out, stride: padded });
        let mut factors = [0f32; HEIGHT];
        for (i, (scores, factor)) in
            room.scores.chunks_exact_mut(padded.max(1)).zip(&mut factors).enumerate()
        {
            if let Some(Bias { data, strides }) = bias {
                let place = query + i - sequences[self.index].queries.start;
                let start = self.index * strides[0] + self.head * strides[1] + place * strides[2];
                for (score, bias) in scores.iter_mut().zip(&data[start..][..count]) {
                    *score += bias;
                }
            }
            scores[count..].fill(f32::NEG_INFINITY);
            *factor = 1. / simd.vectorize(Exponentials { simd, scores });
        }
        let weights: [&[f32]; HEIGHT] =
            std::array::from_fn(|i| &room.scores[i * padded..][..count]);
        let values = S::as_simd_f32s(room.values).0.as_chunks::<WIDTH>().0;
        let (out, stride) = (&mut *room.sums, d.next_multiple_of(width));
        simd.vectorize(Products { simd, x: weights, depth: count, values, out, stride });
        for (i, (sums, factor)) in room.sums.chunks_exact(stride.max(1)).zip(factors).enumerate() {
            // SAFETY: each task has queries and columns of its own.
            let out = unsafe { self.out.part(query + i, column..column + d) };
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * factor);
        }
        HEIGHT
    }
}

/// The products of rows of `x` and the columns of some panels, in a function of its own for each
/// instruction set.
struct Products<'a, S: Simd, const HEIGHT: usize, const WIDTH: usize> {
    simd: S,
    x: [&'a [f32]; HEIGHT],
    depth: usize,
    /// `[depth]` for each panel.
    values: &'a [[S::f32s; WIDTH]],
    /// `[HEIGHT, stride]`.
    out: &'a mut [f32],
    stride: usize,
}

impl<S: Simd, const HEIGHT: usize, const WIDTH: usize> pulp::NullaryFnOnce
    for Products<'_, S, HEIGHT, WIDTH>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Steps in a row without a jump.
        const STEPS: usize = 4;
        let Self { simd, x, depth, values, out, stride } = self;
        let x = x.map(|row| &row[..depth]);
        // SAFETY: each row was cut to `depth`, and `p` is an index of as many values. The compiler
        // would check it again at each step (bench/LOG.md, CPU kernels, step 4).
        let factors = |p: usize| std::array::from_fn(|i| unsafe { *x[i].get_unchecked(p) });
        for (panel, values) in values.chunks_exact(depth.max(1)).enumerate() {
            let mut sums = [[simd.splat_f32s(0.); WIDTH]; HEIGHT];
            let (chunks, rest) = values.as_chunks::<STEPS>();
            for (chunk, values) in chunks.iter().enumerate() {
                for (p, values) in values.iter().enumerate() {
                    step(simd, &mut sums, &factors(chunk * STEPS + p), values);
                }
            }
            for (p, values) in rest.iter().enumerate() {
                step(simd, &mut sums, &factors(chunks.len() * STEPS + p), values);
            }
            let columns = WIDTH * S::F32_LANES;
            for (i, sums) in sums.iter().enumerate() {
                let out = &mut out[i * stride + panel * columns..][..columns];
                S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
            }
        }
    }
}

/// The exponentials of scores, in a function of its own for each instruction set.
struct Exponentials<'a, S: Simd> {
    simd: S,
    scores: &'a mut [f32],
}

impl<S: Simd> pulp::NullaryFnOnce for Exponentials<'_, S> {
    type Output = f32;

    #[inline(always)]
    fn call(self) -> f32 {
        exponentials(self.simd, self.scores)
    }
}

/// Replaces scores by the exponentials of their distances from the largest; returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let scores = S::as_mut_simd_f32s(scores).0;
    // Loops, not closures, which are not compiled for an instruction set.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::simd::tests::{Random, assert_near, numbers};

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

    /// Attention of sequences of so many queries and keys, with a row between two that belongs to neither.
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
        // So many queries are divided among threads.
        let (b, heads, d, s) = (2, 3, 5, 203);
        let [q, k, v] = [1, 2, 3].map(|seed| numbers(b * s * heads * d, seed));
        let sequences: Vec<Sequence> = (0..b)
            .map(|i| Sequence { queries: i * s..(i + 1) * s, keys: i * s..(i + 1) * s })
            .collect();
        for (mb, mn, mq) in [(1, 1, 1), (b, 1, 1), (b, 1, s), (1, heads, s), (b, heads, s)] {
            let mut data = numbers(mb * mn * mq * s, 4);
            // The first query of the mask sees nothing, others not every key.
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
