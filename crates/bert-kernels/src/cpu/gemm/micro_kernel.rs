//! The innermost loops: tiles of sums in registers.

use std::ops::Range;

use pulp::Simd;

use super::block::Block;
use super::schedule::slices;
use super::tile::{MAX_MR, Tiled, for_height, rank_1_update, tile_groups};
use crate::cpu::activation::VectorActivation;
use crate::cpu::rows::SharedRows;
use crate::cpu::simd::prefetch;

/// Multiplies a block's rows by a chunk of panels.
pub(super) struct MultiplyBlock<'a, 'b> {
    pub(super) block: Block<'a>,
    /// The block's rows as `PackRows` writes them.
    pub(super) packed: &'b [f32],
    pub(super) panels: Range<usize>,
}

impl Tiled for MultiplyBlock<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const NV: usize>(self, simd: S) {
        let Self { block, packed: mut left, panels } = self;
        for slice in slices(block.matrix.k) {
            let packed;
            (packed, left) = left.split_at(block.rows.len() * slice.len());
            for panel in panels.clone() {
                let mut packed = packed;
                for (rows, height) in tile_groups(block.rows.clone(), MR) {
                    let x;
                    (x, packed) = packed.split_at(rows.len() * slice.len());
                    for_height!(
                        height,
                        MR,
                        block.multiply::<S, _, NV>(simd, panel, &slice, rows, x)
                    );
                }
            }
        }
    }
}

impl Block<'_> {
    /// Adds the products with a slice of a panel to the sums of some rows. They begin with the bias;
    /// after the last slice of K the activation is applied. `x`: `[slice, HEIGHT]` for each tile.
    #[inline(always)]
    fn multiply<S: Simd, const HEIGHT: usize, const NV: usize>(
        &self,
        simd: S,
        panel: usize,
        slice: &Range<usize>,
        rows: Range<usize>,
        x: &[f32],
    ) {
        let matrix = self.matrix;
        let output = self.outputs.iter().find(|(part, _)| part.panels.contains(&panel));
        let Some((part, out)) = output else { return };
        let Some(values) = matrix.panel(panel, slice) else { return };
        let nr = matrix.nr;
        let start = (panel - part.panels.start) * nr;
        let columns = start..(start + nr).min(part.n);
        // The first rows of a block prefetch the next panel.
        let next = matrix.panel(panel + 1, slice).filter(|_| rows.start == self.rows.start);
        let is_last = slice.end == matrix.k;
        let kernel = MicroKernel::<S, HEIGHT, NV> {
            simd,
            x: x.as_chunks().0,
            values: S::as_simd_f32s(values).0.as_chunks().0,
            bias: (slice.start == 0).then(|| S::as_simd_f32s(&matrix.bias[panel * nr..][..nr]).0),
            next: next.unwrap_or(&[]),
            activation: if is_last { self.activation } else { VectorActivation::Linear },
            out,
            rows,
            column: start,
        };
        match columns.len() == nr {
            true => simd.vectorize(kernel),
            false => kernel.multiply_narrow(columns),
        }
    }
}

/// Tiles below each other. It is a function of its own for each instruction set: within a larger
/// function the compiler would stop inlining.
struct MicroKernel<'a, S: Simd, const HEIGHT: usize, const NV: usize> {
    simd: S,
    /// `[slice]` for each tile.
    x: &'a [[f32; HEIGHT]],
    /// `[slice]`.
    values: &'a [[S::f32s; NV]],
    /// What the sums begin with. `None`: they continue what an earlier slice of K wrote to `out`.
    bias: Option<&'a [S::f32s]>,
    /// What to prefetch.
    next: &'a [f32],
    /// Applied to the sums.
    activation: VectorActivation,
    out: &'a SharedRows<'a>,
    rows: Range<usize>,
    column: usize,
}

impl<S: Simd, const HEIGHT: usize, const NV: usize> MicroKernel<'_, S, HEIGHT, NV> {
    /// The last panel of a matrix is wider than the output: its tiles are computed in a buffer.
    #[inline(always)]
    fn multiply_narrow(self, columns: Range<usize>) {
        let (nr, depth) = (S::F32_LANES * NV, self.values.len());
        let mut buffer = [0f32; 32 * MAX_MR];
        let buffer = &mut buffer[..HEIGHT * nr];
        for (tile, row) in self.rows.clone().step_by(HEIGHT).enumerate() {
            let rows = || {
                // SAFETY: each block has its own rows, each chunk its own columns, and this thread
                // uses one part at a time.
                (row..row + HEIGHT).map(|row| unsafe { self.out.part(row, columns.clone()) })
            };
            if self.bias.is_none() {
                for (sums, row) in buffer.chunks_exact_mut(nr).zip(rows()) {
                    // SAFETY: the slice of K before this one wrote the row.
                    sums[..row.len()].copy_from_slice(unsafe { row.assume_init_ref() });
                }
            }
            let out = &SharedRows::new(buffer, nr);
            let x = &self.x[tile * depth..][..depth];
            let next = if tile == 0 { self.next } else { &[] };
            let kernel = MicroKernel { x, next, out, rows: 0..HEIGHT, column: 0, ..self };
            self.simd.vectorize(kernel);
            for (sums, row) in buffer.chunks_exact(nr).zip(rows()) {
                row.write_copy_of_slice(&sums[..row.len()]);
            }
        }
    }
}

impl<S: Simd, const HEIGHT: usize, const NV: usize> pulp::NullaryFnOnce
    for MicroKernel<'_, S, HEIGHT, NV>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Rank-1 updates in a row without a jump.
        const STEPS: usize = 16;
        const LINE: usize = 64 / size_of::<f32>();
        let Self { simd, x, values, bias, next, activation, out, rows, column } = self;
        // SAFETY: the parts of both are those below.
        let out = unsafe { out.share() };
        let columns = column..column + S::F32_LANES * NV;
        let (depth, tiles) = (values.len(), rows.len() / HEIGHT);
        // The next panel is prefetched little by little: each tile asks for its share.
        let share = next.len().div_ceil(tiles.max(1));
        let lines = share.div_ceil(LINE).div_ceil((depth / STEPS).max(1));
        for tile in 0..tiles {
            let mut next = next.as_ptr().wrapping_add(tile * share);
            let row = rows.start + tile * HEIGHT;
            let mut sums = [[simd.splat_f32s(0.); NV]; HEIGHT];
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: each block has its own rows, each chunk its own columns, and this thread
                // uses one part at a time.
                let out = unsafe { out.part(row + i, columns.clone()) };
                let start = match bias {
                    Some(bias) => {
                        // Written at the end. It may begin in the middle of a cache line.
                        out.iter().step_by(LINE).for_each(|element| prefetch(element));
                        out.last().into_iter().for_each(|element| prefetch(element));
                        bias
                    }
                    // SAFETY: without a bias this is not the first slice of K, and every slice writes
                    // all sums.
                    None => S::as_simd_f32s(unsafe { out.assume_init_ref() }).0,
                };
                sums.copy_from_slice(&start[..NV]);
            }
            let (x, x_rest) = x[tile * depth..][..depth].as_chunks::<STEPS>();
            let (values, rest) = values.as_chunks::<STEPS>();
            for (x, values) in x.iter().zip(values) {
                for _ in 0..lines {
                    prefetch(next);
                    next = next.wrapping_add(LINE);
                }
                // Two loops, each short enough for the compiler to unroll.
                for p in 0..STEPS / 2 {
                    rank_1_update(simd, &mut sums, &x[p], &values[p]);
                }
                for p in STEPS / 2..STEPS {
                    rank_1_update(simd, &mut sums, &x[p], &values[p]);
                }
            }
            for (x, values) in x_rest.iter().zip(rest) {
                rank_1_update(simd, &mut sums, x, values);
            }
            // A copy, so that the sums stay in registers until here.
            let mut results = sums;
            if activation != VectorActivation::Linear {
                let sums = results.as_flattened_mut();
                simd.vectorize(Activate { simd, activation, sums });
            }
            for (i, results) in results.iter().enumerate() {
                // SAFETY: as above.
                let out = unsafe { out.part(row + i, columns.clone()) };
                S::as_uninit_mut_simd_f32s(out).0.write_copy_of_slice(results);
            }
        }
    }
}

/// The activation of a tile's sums.
struct Activate<'a, S: Simd> {
    simd: S,
    activation: VectorActivation,
    sums: &'a mut [S::f32s],
}

impl<S: Simd> pulp::NullaryFnOnce for Activate<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, activation, sums } = self;
        // The compiler tests which activation it is once, before the loop.
        for sum in sums {
            *sum = activation.apply(simd, *sum);
        }
    }
}
