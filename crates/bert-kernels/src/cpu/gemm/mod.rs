//! Matrix multiplication with matrices that were packed once.
//!
//! `out = activation(x · Wᵀ + bias)`, with `x` `[M, K]` and `W` `[N, K]`. The loops and their names
//! are those of BLIS (Van Zee & van de Geijn 2015); what differs is the order of the outer ones,
//! because `W` is packed ahead of time and `x` is small:
//!
//! ```text
//! for run in M by 16 MB of x:                            // `runs`: packed x stays in the L3 cache
//!     pack run of x into micro-panels [K, MR]            // `PackRows`, in parallel
//!     for chunk in N by NC, for block in run by MC:      // `Schedule`, in parallel
//!         for slice in K by KC:                          // block of x: L2 cache
//!             for panel in chunk by NR:                  // panel of W: L2, then L1 cache
//!                 for tile in block by MR:               // `MicroKernel`: MR × NR sums in registers
//!                     for k in slice:                    // `rank_1_update`
//!                         sums += x[tile, k] · W[panel, k]
//! ```
//!
//! `MR × NR` is 14 × 32 with AVX-512, 6 × 16 with AVX2 and 8 × 12 with NEON. For every two multiply-add
//! instructions, the innermost loop loads less than two vectors from the L1 cache.
//!
//! Each sum is added up in the same order whatever tile it is in, so a row's result does not depend
//! on the other rows.

mod block;
mod micro_kernel;
mod pack;
mod packed;
mod schedule;
pub(crate) mod tile;

use std::ops::Range;

use pulp::Arch;

use self::block::Block;
pub(crate) use self::block::Rows;
use self::micro_kernel::MultiplyBlock;
use self::pack::PackRows;
pub(crate) use self::packed::PackedMatrix;
pub(crate) use self::schedule::runs;
use self::schedule::{Schedule, row_blocks};
use self::tile::InTiles;
use super::activation::VectorActivation;
use super::rows::SharedRows;
use super::scratch::with_scratch;
use super::team;

/// `activation(x Wᵀ + b)` for some of the matrices in `matrix`. Writes every element of `outputs`.
///
/// `x`: `[M, K]`; `outputs`: `[M, N]` for each of the `parts`.
///
/// # Panics
/// When the sizes differ.
pub(crate) fn multiply(
    arch: Arch,
    x: Rows,
    matrix: &PackedMatrix,
    parts: Range<usize>,
    activation: VectorActivation,
    outputs: &mut [SharedRows],
) {
    let (k, parts) = (matrix.k, &matrix.parts[parts]);
    assert_eq!(x.data.len(), x.count * k, "x has M · K elements");
    assert_eq!(parts.len(), outputs.len(), "one output for each matrix");
    let outputs: Vec<_> = parts.iter().zip(&*outputs).collect();
    for (part, rows) in &outputs {
        // A matrix without columns has no elements to write, whatever its rows.
        let [row_count, columns] = rows.dims();
        let fits = columns == part.n && (row_count == x.count || columns == 0);
        assert!(fits, "an output is [M, N]");
    }
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
    let panels = first.panels.start..last.panels.end;
    for rows in runs(x.count, k) {
        let len = rows.len() * k;
        let blocks = row_blocks(rows, matrix.mr);
        let block = |i: usize| {
            let rows: Range<usize> = blocks[i].clone();
            let packed = (rows.start - blocks[0].start) * k..(rows.end - blocks[0].start) * k;
            (Block { x, rows, matrix, outputs: &outputs, activation }, packed)
        };
        with_scratch([len], |[scratch]| {
            let packed_x = SharedRows::new(scratch, len);
            // For K = 0 there is nothing to pack.
            team::for_each(if k > 0 { blocks.len() } else { 0 }, |i| {
                let (block, range) = block(i);
                // SAFETY: the ranges of different blocks do not overlap, and `PackRows` writes floats.
                let packed = unsafe { packed_x.part(0, range) };
                arch.dispatch(InTiles(PackRows { block, packed }));
            });
            let packed_x = &*scratch;
            let schedule = Schedule::new(panels.clone(), matrix.nr * k, blocks.len());
            team::for_each(schedule.chunks() * blocks.len(), |i| {
                // All blocks of rows use a chunk of panels before the next chunk is read.
                let panels = schedule.chunk(i / blocks.len());
                let (block, range) = block(i % blocks.len());
                arch.dispatch(InTiles(MultiplyBlock { block, packed: &packed_x[range], panels }));
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::schedule::{CHUNK_FLOATS, CHUNKS_PER_THREAD, MC};
    use super::*;
    use crate::cpu::simd::{arch, archs};
    use crate::cpu::testing::{Random, assert_near, numbers};

    fn by_hand(x: &[f32], weight: &[f32], bias: &[f32], k: usize) -> Vec<f64> {
        let product = |row: &[f32], column: &[f32]| -> f64 {
            row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let rows = x.chunks_exact(k);
        rows.flat_map(|row| {
            let columns = weight.chunks_exact(k).zip(bias);
            columns.map(move |(column, bias)| product(row, column) + f64::from(*bias))
        })
        .collect()
    }

    #[track_caller]
    fn check(arch: Arch, [m, n, k]: [usize; 3], seed: u64, tolerance: f64) {
        let (x, weight, bias) =
            (numbers(m * k, seed), numbers(n * k, seed + 100), numbers(n, seed + 200));
        let packed = PackedMatrix::new(arch, k, &[(&weight, &bias)]);
        // NaN marks elements that are not written.
        let mut out = vec![f32::NAN; m * n];
        let rows = Rows { data: &x, count: m };
        multiply(
            arch,
            rows,
            &packed,
            0..1,
            VectorActivation::Linear,
            &mut [SharedRows::new(&mut out, n)],
        );
        let what = format!("{arch:?} {m}×{n}×{k}");
        let expected = by_hand(&x, &weight, &bias, k);
        assert_near(&what, &out, &expected, tolerance);
        out.fill(f32::NAN);
        multiply(
            arch,
            rows,
            &packed,
            0..1,
            VectorActivation::Relu,
            &mut [SharedRows::new(&mut out, n)],
        );
        let expected: Vec<f64> = expected.iter().map(|x| x.max(0.)).collect();
        assert_near(&what, &out, &expected, tolerance);
        assert_eq!(packed.unpack_weight(0), weight, "{what}: unpacked");
        assert_eq!(packed.bias(0), bias, "{what}: unpacked");
    }

    #[test]
    fn products_of_every_shape_are_right_on_every_instruction_set() {
        let mut shapes = vec![
            [1, 1, 1],
            [1, 16, 8],
            [2, 17, 3],
            [3, 31, 64],
            [5, 7, 11],
            [6, 32, 1535],
            [7, 33, 1536],
            [13, 48, 1537],
            [29, 5, 3079],
            [145, 96, 100],
            [301, 67, 29],
        ];
        // Tiles of every height, one and several.
        shapes.extend((1..=30).map(|m| [m, 19, 23]));
        let mut sizes = Random(1);
        shapes.extend((0..40).map(|_| [sizes.up_to(160), sizes.up_to(120), sizes.up_to(200)]));
        for arch in archs() {
            for (seed, shape) in (0..).zip(&shapes) {
                check(arch, *shape, seed, 2e-6 * (shape[2] as f64).sqrt());
            }
        }
    }

    #[test]
    fn rows_that_are_packed_part_by_part_are_right() {
        let (rows, deep) = (2900, 3000);
        assert_eq!(runs(rows, deep).count(), 3);
        check(arch(), [rows, 3, deep], 1, 2e-4);
    }

    #[test]
    fn panels_too_large_for_the_cache_are_right() {
        let [rows, columns, deep] = [300, 800, 2000];
        let (blocks, threads) = (rows / MC + 1, 2);
        let by_size = (columns * deep).div_ceil(CHUNK_FLOATS);
        assert!(by_size > (CHUNKS_PER_THREAD * threads).div_ceil(blocks));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("two threads").install(|| {
            assert_eq!(Schedule::new(0..columns / 16, 16 * deep, blocks).chunks(), by_size);
            check(arch(), [rows, columns, deep], 2, 2e-4);
        });
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_rows_are_beside_it() {
        for arch in archs() {
            let (k, n) = (1600, 35);
            let (x, weight, bias) = (numbers(150 * k, 1), numbers(n * k, 2), numbers(n, 3));
            let packed = PackedMatrix::new(arch, k, &[(&weight, &bias)]);
            let product = |rows: Range<usize>| {
                let mut out = vec![f32::NAN; rows.len() * n];
                let x = Rows { data: &x[rows.start * k..rows.end * k], count: rows.len() };
                multiply(
                    arch,
                    x,
                    &packed,
                    0..1,
                    VectorActivation::Gelu,
                    &mut [SharedRows::new(&mut out, n)],
                );
                out
            };
            let together = product(0..150);
            for rows in [0..1, 7..9, 20..25, 71..74, 100..107, 5..150] {
                let expected = &together[rows.start * n..rows.end * n];
                assert_eq!(product(rows.clone()), expected, "{arch:?} rows {rows:?}");
            }
        }
    }

    #[test]
    fn matrices_side_by_side_have_an_output_each() {
        for arch in archs() {
            let (m, k, sizes) = (9, 20, [17usize, 40, 1]);
            let x = numbers(m * k, 1);
            let maps: Vec<_> =
                sizes.iter().map(|n| (numbers(n * k, *n as u64), numbers(*n, 7))).collect();
            let slices: Vec<_> = maps.iter().map(|(w, b)| (w.as_slice(), b.as_slice())).collect();
            let packed = PackedMatrix::new(arch, k, &slices);
            let mut outs: Vec<_> = sizes[1..].iter().map(|n| vec![f32::NAN; m * n]).collect();
            let mut shared: Vec<_> =
                outs.iter_mut().zip(&sizes[1..]).map(|(out, n)| SharedRows::new(out, *n)).collect();
            let rows = Rows { data: &x, count: m };
            multiply(arch, rows, &packed, 1..3, VectorActivation::Linear, &mut shared);
            for (i, out) in outs.iter().enumerate() {
                let (weight, bias) = &maps[i + 1];
                assert_near("side by side", out, &by_hand(&x, weight, bias, k), 1e-5);
                assert_eq!(packed.unpack_weight(i + 1), *weight);
                assert_eq!(packed.bias(i + 1), bias);
            }
        }
    }

    #[test]
    fn no_rows_give_no_rows() {
        let arch = arch();
        let packed = PackedMatrix::new(arch, 2, &[(&[1., 2.], &[3.]), (&[], &[])]);
        let none = Rows { data: &[], count: 0 };
        let mut empty = [SharedRows::new(&mut [], 1), SharedRows::new(&mut [], 0)];
        multiply(arch, none, &packed, 0..2, VectorActivation::Linear, &mut empty);
        let one = Rows { data: &[1., 1.], count: 1 };
        multiply(arch, one, &packed, 1..2, VectorActivation::Linear, &mut empty[1..]);
        let deep = PackedMatrix::new(arch, 0, &[(&[], &[3., 4.])]);
        let mut bias = [0.; 4];
        let rows = Rows { data: &[], count: 2 };
        multiply(
            arch,
            rows,
            &deep,
            0..1,
            VectorActivation::Linear,
            &mut [SharedRows::new(&mut bias, 2)],
        );
        assert_eq!(bias, [3., 4., 3., 4.]);
        assert!(deep.unpack_weight(0).is_empty());
        assert_eq!(deep.bias(0), [3., 4.]);
    }
}
