//! Rows of `x` in the order in which the innermost loop reads them.

use std::mem::MaybeUninit;
use std::ops::Range;

use pulp::Simd;

use super::block::Block;
use super::schedule::slices;
use super::tile::{Tiled, for_height, tile_groups};

/// Packs a block's rows, slice by slice of K: micro-panels `[slice, height]`, one for
/// each tile.
pub(super) struct PackRows<'a, 'b> {
    pub(super) block: Block<'a>,
    /// As many elements as the block has.
    pub(super) packed: &'b mut [MaybeUninit<f32>],
}

impl Tiled for PackRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const NV: usize>(self, _: S) {
        let Self { block, mut packed } = self;
        for slice in slices(block.matrix.k) {
            for (rows, height) in tile_groups(block.rows.clone(), MR) {
                let here;
                (here, packed) = packed.split_at_mut(rows.len() * slice.len());
                for_height!(height, MR, block.pack::<_>(rows, &slice, here));
            }
        }
    }
}

impl Block<'_> {
    /// Packs rows of one height.
    fn pack<const HEIGHT: usize>(
        &self,
        rows: Range<usize>,
        slice: &Range<usize>,
        packed: &mut [MaybeUninit<f32>],
    ) {
        let k = self.matrix.k;
        let tiles = packed.as_chunks_mut::<HEIGHT>().0.chunks_exact_mut(slice.len().max(1));
        for (row, tile) in rows.step_by(HEIGHT).zip(tiles) {
            let x: [&[f32]; HEIGHT] =
                std::array::from_fn(|i| &self.x.data[(row + i) * k..][slice.clone()][..tile.len()]);
            for (j, column) in tile.iter_mut().enumerate() {
                for i in 0..HEIGHT {
                    // SAFETY: each row was cut to the length of the tile, and `j` is below it.
                    column[i].write(unsafe { *x[i].get_unchecked(j) });
                }
            }
        }
    }
}
