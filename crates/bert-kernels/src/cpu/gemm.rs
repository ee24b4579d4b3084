//! Products with matrices that were packed once.
//!
//! A packed matrix lies in panels of as many columns as a tile is wide, so that the innermost loop
//! reads it in order; a tile of the result stays in registers while it runs. Per multiply-add of two
//! vectors the loop moves less than one vector from the first-level cache.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::shared::{SharedRows, with_scratch};
use super::simd::Fused;

/// Rows of the first factor that are worked on at a time, so that they stay in the second-level
/// cache: at most these times [`DEPTH`] floats.
const ROWS: usize = 144;
/// How much of a row and of a column is multiplied at a time, so that a panel's part stays in the
/// first-level cache.
const DEPTH: usize = 384;

/// Several matrices `[K, N]` side by side, with what is added to each column.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    k: usize,
    /// Columns of a panel.
    width: usize,
    parts: Vec<Part>,
    /// Panel after panel: `[K, width]` each, zero beyond a matrix's last column.
    panels: Aligned,
    /// `[width]` for each panel.
    bias: Vec<f32>,
}

/// Floats that begin where a line of the cache does, so that no vector lies in two.
#[derive(Debug)]
struct Aligned {
    buffer: Vec<f32>,
    range: Range<usize>,
}

impl Aligned {
    fn zeros(len: usize) -> Self {
        const LINE: usize = 64;
        let buffer = vec![0.; len + LINE / size_of::<f32>()];
        let start = buffer.as_ptr().align_offset(LINE).min(buffer.len() - len);
        Self { buffer, range: start..start + len }
    }

    fn floats(&self) -> &[f32] {
        &self.buffer[self.range.clone()]
    }

    fn floats_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.range.clone()]
    }
}

/// One of the matrices.
#[derive(Debug)]
struct Part {
    panels: Range<usize>,
    n: usize,
}

impl PackedMatrix {
    /// Packs the transposes of `weights`, `[N, K]` each, and their biases, `[N]` each.
    pub(crate) fn new(arch: Arch, k: usize, weights: &[(&[f32], &[f32])]) -> Self {
        let width = tile_width(arch);
        let mut parts = Vec::new();
        let mut count = 0;
        for (_, bias) in weights {
            let panels = count..count + bias.len().div_ceil(width);
            count = panels.end;
            parts.push(Part { panels, n: bias.len() });
        }
        let mut packed = Self {
            k,
            width,
            parts,
            panels: Aligned::zeros(count * width * k),
            bias: vec![0.; count * width],
        };
        for (part, (weight, bias)) in packed.parts.iter().zip(weights) {
            let start = part.panels.start * width;
            packed.bias[start..start + part.n].copy_from_slice(bias);
            let panels = &mut packed.panels.floats_mut()[start * k..part.panels.end * width * k];
            panels.par_chunks_mut((width * k).max(1)).enumerate().for_each(|(i, panel)| {
                let columns = i * width..((i + 1) * width).min(part.n);
                for (j, column) in columns.enumerate() {
                    let values = &weight[column * k..][..k];
                    for (place, value) in panel[j..].iter_mut().step_by(width).zip(values) {
                        *place = *value;
                    }
                }
            });
        }
        packed
    }

    /// `K`.
    pub(crate) fn depth(&self) -> usize {
        self.k
    }

    /// How many matrices there are.
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// `N` of a matrix.
    pub(crate) fn columns(&self, part: usize) -> usize {
        self.parts[part].n
    }

    /// What was packed: the weight, `[N, K]`, and the bias, `[N]`.
    pub(crate) fn unpack(&self, part: usize) -> (Vec<f32>, Vec<f32>) {
        let Part { panels, n } = &self.parts[part];
        let (k, width, first) = (self.k, self.width, panels.start * self.width);
        let mut weight = Vec::with_capacity(n * k);
        for column in (first..first + n).filter(|_| k > 0) {
            let panel = &self.panels.floats()[column / width * width * k..][..width * k];
            weight.extend(panel[column % width..].iter().step_by(width));
        }
        (weight, self.bias[first..first + n].to_vec())
    }
}

/// `count` rows of floats, one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) count: usize,
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Every thread of the pool.
    All,
    /// The one that asks, which others are beside.
    This,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn part(&self, row: usize, columns: &Range<usize>) -> &'a [f32] {
        let stride = self.data.len() / self.count;
        &self.data[row * stride + columns.start..row * stride + columns.end]
    }
}

/// `activation(x Wᵀ + b)` for some matrices of `matrix`.
///
/// `x`: `[M, K]`; `outs`: `[M, N]` for each of the `parts`.
pub(crate) fn multiply(
    arch: Arch,
    x: Rows,
    matrix: &PackedMatrix,
    parts: Range<usize>,
    activation: Fused,
    outs: &mut [&mut [f32]],
    threads: Threads,
) {
    let k = matrix.k;
    let outs: Vec<SharedRows> = (outs.iter_mut())
        .zip(&matrix.parts[parts.clone()])
        .map(|(out, part)| SharedRows::new(out, part.n))
        .collect();
    let blocks: Vec<Block> = tasks(x.count, matrix, &parts, threads)
        .into_iter()
        .map(|(rows, part, panels)| Block {
            x,
            rows,
            matrix,
            part: &matrix.parts[part],
            panels,
            activation,
            out: outs[part - parts.start],
        })
        .collect();
    let compute = |block: Block| {
        // Outside of `dispatch`: closures are not compiled for an instruction set.
        with_scratch(block.rows.len() * DEPTH.min(k), |scratch| {
            arch.dispatch(InTiles(BlockIn { block, scratch }));
        });
    };
    match threads {
        Threads::All => blocks.into_par_iter().with_max_len(1).for_each(compute),
        Threads::This => blocks.into_iter().for_each(compute),
    }
}

/// Cuts a product into blocks of rows and panels, enough of them for every thread.
fn tasks(
    rows: usize,
    matrix: &PackedMatrix,
    parts: &Range<usize>,
    threads: Threads,
) -> Vec<(Range<usize>, usize, Range<usize>)> {
    // Blocks of equal heights, so that none is a remainder.
    let blocks = rows.div_ceil(ROWS).max(1);
    let height = rows.div_ceil(blocks).next_multiple_of(2).max(1);
    // Each piece of a block packs its rows again, so there are no more pieces than threads want.
    let enough = match threads {
        Threads::All => 4 * rayon::current_num_threads(),
        Threads::This => 1,
    };
    let mut tasks = Vec::new();
    for part in parts.clone() {
        let panels = matrix.parts[part].panels.clone();
        let pieces = enough.div_ceil(blocks * parts.len()).clamp(1, panels.len().max(1));
        let size = panels.len().div_ceil(pieces).max(1);
        for first in panels.clone().step_by(size) {
            for row in (0..rows).step_by(height) {
                let panels = first..(first + size).min(panels.end);
                tasks.push((row..(row + height).min(rows), part, panels));
            }
        }
    }
    tasks
}

/// A part of a product that one thread computes.
struct Block<'a> {
    x: Rows<'a>,
    rows: Range<usize>,
    matrix: &'a PackedMatrix,
    part: &'a Part,
    panels: Range<usize>,
    activation: Fused,
    out: SharedRows<'a>,
}

/// Work in tiles of sums that stay in registers: `HEIGHT` rows of `WIDTH` vectors.
pub(crate) trait Tiled {
    type Output;

    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, simd: S) -> Self::Output;
}

/// The tallest tile of any instruction set.
pub(crate) const TALLEST: usize = 14;

/// Does the work in the tiles of an instruction set: sums fill its registers but for two or three.
pub(crate) struct InTiles<W>(pub(crate) W);

impl<W: Tiled> WithSimd for InTiles<W> {
    type Output = W::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> W::Output {
        match (S::F32_LANES, S::REGISTER_COUNT >= 32) {
            (16, true) => self.0.compute::<S, TALLEST, 2>(simd),
            (4, true) => self.0.compute::<S, 8, 3>(simd),
            _ => self.0.compute::<S, 6, 2>(simd),
        }
    }
}

/// Columns of a tile.
pub(crate) fn tile_width(arch: Arch) -> usize {
    arch.dispatch(InTiles(TileWidth))
}

struct TileWidth;

impl Tiled for TileWidth {
    type Output = usize;

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, _: S) -> usize {
        S::F32_LANES * WIDTH
    }
}

/// A block, and room for its rows' packed form.
struct BlockIn<'a, 'b> {
    block: Block<'a>,
    scratch: &'b mut [f32],
}

impl Tiled for BlockIn<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, simd: S) {
        let Self { block, scratch } = self;
        let (k, width) = (block.matrix.k, block.matrix.width);
        for from in (0..k.max(1)).step_by(DEPTH) {
            let depth = from..(from + DEPTH).min(k);
            block.pack::<HEIGHT>(&depth, scratch);
            for panel in block.panels.clone() {
                let values = &block.matrix.panels.floats()[panel * width * k..];
                let values = &values[depth.start * width..depth.end * width];
                let tile = Tile { block: &block, panel, depth: &depth, values };
                let mut rows = block.rows.clone();
                let mut packed = &*scratch;
                while !rows.is_empty() {
                    let height = group(rows.len(), HEIGHT);
                    let (x, rest) = packed.split_at(height * depth.len());
                    match height {
                        height if height == HEIGHT => {
                            tile.compute::<S, HEIGHT, WIDTH>(simd, rows.start, x)
                        }
                        8 => tile.compute::<S, 8, WIDTH>(simd, rows.start, x),
                        4 => tile.compute::<S, 4, WIDTH>(simd, rows.start, x),
                        2 => tile.compute::<S, 2, WIDTH>(simd, rows.start, x),
                        _ => tile.compute::<S, 1, WIDTH>(simd, rows.start, x),
                    }
                    (rows.start, packed) = (rows.start + height, rest);
                }
            }
        }
    }
}

/// The height of the next tile where `rows` are left: the tallest there is.
#[inline(always)]
fn group(rows: usize, most: usize) -> usize {
    match rows {
        _ if rows >= most => most,
        8.. => 8,
        4.. => 4,
        2.. => 2,
        _ => 1,
    }
}

impl Block<'_> {
    /// Writes its rows tile by tile: `[depth, height]` for each, as the innermost loop reads them.
    #[inline(always)]
    fn pack<const HEIGHT: usize>(&self, depth: &Range<usize>, packed: &mut [f32]) {
        let mut rows = self.rows.clone();
        let mut packed = packed;
        while !rows.is_empty() {
            let height = group(rows.len(), HEIGHT);
            let (tile, rest) = packed.split_at_mut(height * depth.len());
            for i in (0..height).filter(|_| !depth.is_empty()) {
                let row = self.x.part(rows.start + i, depth);
                for (place, value) in tile[i..].iter_mut().step_by(height).zip(row) {
                    *place = *value;
                }
            }
            (rows.start, packed) = (rows.start + height, rest);
        }
    }
}

/// A panel for some rows.
struct Tile<'a> {
    block: &'a Block<'a>,
    panel: usize,
    depth: &'a Range<usize>,
    /// The panel's part: `[depth, width]`.
    values: &'a [f32],
}

impl Tile<'_> {
    /// Adds products to the rows from `row` on, which begin with the bias. `x`: `[depth, HEIGHT]`.
    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(
        &self,
        simd: S,
        row: usize,
        x: &[f32],
    ) {
        let Self { block, panel, depth, values } = *self;
        let (matrix, lanes) = (block.matrix, S::F32_LANES);
        let start = (panel - block.part.panels.start) * matrix.width;
        let end = (start + matrix.width).min(block.part.n);
        let whole = end - start == matrix.width;
        // SAFETY: each block has rows and panels of its own, and a thread uses one part at a time.
        let out = |i: usize| unsafe { block.out.part(row + i, start..end) };
        let vector = |j: usize| (j * lanes).min(end - start)..((j + 1) * lanes).min(end - start);
        let mut sums = [[simd.splat_f32s(0.); WIDTH]; HEIGHT];
        if depth.start == 0 {
            let bias = S::as_simd_f32s(&matrix.bias[panel * matrix.width..][..matrix.width]).0;
            for sums in &mut sums {
                sums.copy_from_slice(&bias[..WIDTH]);
            }
        } else if whole {
            for (i, sums) in sums.iter_mut().enumerate() {
                sums.copy_from_slice(&S::as_simd_f32s(out(i)).0[..WIDTH]);
            }
        } else {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.partial_load_f32s(&out(i)[vector(j)]);
                }
            }
        }
        let (x, values) = (x.as_chunks().0, S::as_simd_f32s(values).0.as_chunks().0);
        let mut sums = simd.vectorize(Products { simd, x, values, sums });
        if depth.end == matrix.k && block.activation != Fused::Linear {
            let (activation, sums) = (block.activation, sums.as_flattened_mut());
            simd.vectorize(Activate { simd, activation, sums });
        }
        for (i, sums) in sums.iter().enumerate() {
            if whole {
                S::as_mut_simd_f32s(out(i)).0[..WIDTH].copy_from_slice(sums);
            } else {
                for (j, sum) in sums.iter().enumerate() {
                    simd.partial_store_f32s(&mut out(i)[vector(j)], *sum);
                }
            }
        }
    }
}

/// Adds to each sum the products of a row of the first factor and a column of the second.
///
/// A function of its own for each instruction set: in a larger one the compiler stops to inline.
struct Products<'a, S: Simd, const HEIGHT: usize, const WIDTH: usize> {
    simd: S,
    x: &'a [[f32; HEIGHT]],
    values: &'a [[S::f32s; WIDTH]],
    sums: [[S::f32s; WIDTH]; HEIGHT],
}

impl<S: Simd, const HEIGHT: usize, const WIDTH: usize> pulp::NullaryFnOnce
    for Products<'_, S, HEIGHT, WIDTH>
{
    type Output = [[S::f32s; WIDTH]; HEIGHT];

    #[inline(always)]
    fn call(self) -> Self::Output {
        let Self { simd, x, values, mut sums } = self;
        for (x, values) in x.iter().zip(values) {
            for i in 0..HEIGHT {
                let factor = simd.splat_f32s(x[i]);
                for j in 0..WIDTH {
                    sums[i][j] = simd.mul_add_e_f32s(factor, values[j], sums[i][j]);
                }
            }
        }
        sums
    }
}

/// An activation of the sums of a tile.
struct Activate<'a, S: Simd> {
    simd: S,
    activation: Fused,
    sums: &'a mut [S::f32s],
}

impl<S: Simd> pulp::NullaryFnOnce for Activate<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for sum in self.sums {
            *sum = self.activation.apply(self.simd, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::simd::tests::{assert_near, numbers};

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

    #[test]
    fn products_of_every_shape_are_right_on_every_instruction_set() {
        for arch in archs() {
            for (seed, (m, n, k)) in [
                (1, 1, 1),
                (1, 16, 8),
                (2, 17, 3),
                (3, 31, 64),
                (5, 7, 11),
                (6, 32, 383),
                (7, 33, 384),
                (13, 48, 385),
                (29, 5, 769),
                (145, 96, 100),
                (301, 67, 29),
            ]
            .into_iter()
            .enumerate()
            {
                let seed = seed as u64;
                let (x, weight, bias) =
                    (numbers(m * k, seed), numbers(n * k, seed + 100), numbers(n, seed + 200));
                let packed = PackedMatrix::new(arch, k, &[(&weight, &bias)]);
                // A poisoned output shows what is not written.
                let mut out = vec![f32::NAN; m * n];
                let x_rows = Rows { data: &x, count: m };
                multiply(arch, x_rows, &packed, 0..1, Fused::Linear, &mut [&mut out], Threads::All);
                let what = format!("{arch:?} {m}×{n}×{k}");
                let expected = by_hand(&x, &weight, &bias, k);
                assert_near(&what, &out, &expected, 2e-6 * (k as f64).sqrt());
                out.fill(f32::NAN);
                multiply(arch, x_rows, &packed, 0..1, Fused::Relu, &mut [&mut out], Threads::This);
                let expected: Vec<f64> = expected.iter().map(|x| x.max(0.)).collect();
                assert_near(&what, &out, &expected, 2e-6 * (k as f64).sqrt());
                assert_eq!(packed.unpack(0), (weight, bias), "{what}: unpacked");
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
            let mut slices: Vec<_> = outs.iter_mut().map(Vec::as_mut_slice).collect();
            let rows = Rows { data: &x, count: m };
            multiply(arch, rows, &packed, 1..3, Fused::Linear, &mut slices, Threads::All);
            for (i, out) in outs.iter().enumerate() {
                let (weight, bias) = &maps[i + 1];
                assert_near("side by side", out, &by_hand(&x, weight, bias, k), 1e-5);
                assert_eq!(packed.unpack(i + 1), (weight.clone(), bias.clone()));
            }
        }
    }

    #[test]
    fn no_rows_give_no_rows() {
        let arch = crate::cpu::simd::arch();
        let packed = PackedMatrix::new(arch, 2, &[(&[1., 2.], &[3.]), (&[], &[])]);
        let none = Rows { data: &[], count: 0 };
        multiply(arch, none, &packed, 0..2, Fused::Linear, &mut [&mut [], &mut []], Threads::All);
        let one = Rows { data: &[1., 1.], count: 1 };
        multiply(arch, one, &packed, 1..2, Fused::Linear, &mut [&mut []], Threads::All);
        let deep = PackedMatrix::new(arch, 0, &[(&[], &[3., 4.])]);
        let mut bias = [0.; 4];
        let rows = Rows { data: &[], count: 2 };
        multiply(arch, rows, &deep, 0..1, Fused::Linear, &mut [&mut bias], Threads::All);
        assert_eq!(bias, [3., 4., 3., 4.]);
        assert_eq!(deep.unpack(0), (vec![], vec![3., 4.]));
    }
}
