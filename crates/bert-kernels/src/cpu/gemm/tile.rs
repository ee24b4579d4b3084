//! The sizes of tiles, whose sums stay in registers.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

/// Work in tiles of `MR` rows by `NV` vectors (`NR = NV · lanes` columns).
pub(crate) trait Tiled {
    type Output;

    fn compute<S: Simd, const MR: usize, const NV: usize>(self, simd: S) -> Self::Output;
}

/// The largest `MR` of any instruction set.
pub(crate) const MAX_MR: usize = 14;

/// Does the work with the tile size of an instruction set. The sums leave four vector registers free
/// (eight with NEON).
pub(crate) struct InTiles<W>(pub(crate) W);

impl<W: Tiled> WithSimd for InTiles<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> W::Output {
        match (S::F32_LANES, S::REGISTER_COUNT >= 32) {
            (16, true) => self.0.compute::<S, MAX_MR, 2>(simd),
            (4, true) => self.0.compute::<S, 8, 3>(simd),
            _ => self.0.compute::<S, 6, 2>(simd),
        }
    }
}

/// `(MR, NR)` of an instruction set.
pub(crate) fn tile_size(arch: Arch) -> (usize, usize) {
    arch.dispatch(InTiles(TileSize))
}

struct TileSize;

impl Tiled for TileSize {
    type Output = (usize, usize);

    #[inline(always)]
    fn compute<S: Simd, const MR: usize, const NV: usize>(self, _: S) -> Self::Output {
        (MR, S::F32_LANES * NV)
    }
}

/// Groups rows into tiles of one height: `MR` while there are enough rows, without leaving one or two
/// rows, which would take as long as three or four.
#[inline(always)]
pub(crate) fn tile_groups(
    mut rows: Range<usize>,
    mr: usize,
) -> impl Iterator<Item = (Range<usize>, usize)> {
    std::iter::from_fn(move || {
        let left = rows.len();
        let height = match left {
            0 => return None,
            _ if left == mr || left >= mr + 3 => mr,
            8.. if mr > 8 => 8,
            5 => 3,
            4.. => 4,
            _ => left,
        };
        let count = match left % mr {
            // Two tiles of a height are one group.
            _ if left == 2 * height => left,
            _ if height < mr => height,
            1 | 2 => left - left % mr - mr,
            rest => left - rest,
        };
        let group = rows.start..rows.start + count;
        rows.start += count;
        Some((group, height))
    })
}

/// Calls a function whose const parameter, written `_`, is the height of a tile from
/// [`tile_groups`].
macro_rules! for_height {
    ($height:expr, $mr:ident, $object:ident.$function:ident::<$($simd:ident,)? _ $(, $nv:ident)?> $arguments:tt) => {
        match $height {
            8 if $mr > 8 => $object.$function::<$($simd,)? 8 $(, $nv)?> $arguments,
            4 => $object.$function::<$($simd,)? 4 $(, $nv)?> $arguments,
            3 => $object.$function::<$($simd,)? 3 $(, $nv)?> $arguments,
            2 => $object.$function::<$($simd,)? 2 $(, $nv)?> $arguments,
            1 => $object.$function::<$($simd,)? 1 $(, $nv)?> $arguments,
            _ => $object.$function::<$($simd,)? $mr $(, $nv)?> $arguments,
        }
    };
}
pub(crate) use for_height;

/// Adds the outer product of a column of `x` and a row of `values` to a tile's sums.
#[inline(always)]
pub(crate) fn rank_1_update<S: Simd, const HEIGHT: usize, const NV: usize>(
    simd: S,
    sums: &mut [[S::f32s; NV]; HEIGHT],
    x: &[f32; HEIGHT],
    values: &[S::f32s; NV],
) {
    for i in 0..HEIGHT {
        let factor = simd.splat_f32s(x[i]);
        for j in 0..NV {
            sums[i][j] = simd.mul_add_e_f32s(factor, values[j], sums[i][j]);
        }
    }
}
