//! Products with matrices that were packed once.
//!
//! A packed matrix lies in panels of as many columns as a tile is wide, so that the innermost loop
//! reads it in order; a tile of the result stays in registers while it runs. Per multiply-add of two
//! vectors the loop moves less than one vector from the first-level cache.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::rows::{SharedRows, with_scratch};
use super::simd::{Fused, prefetch};
use super::team;

/// Rows of the first factor that are worked on at a time, so that they stay in the second-level
/// cache: at most these times [`DEPTH`] floats.
const ROWS: usize = 72;
/// How much of a row and of a column is multiplied at a time, so that both stay in the second-level
/// cache. A tile's sums are loaded and stored once for each.
const DEPTH: usize = 1536;
/// Pieces of a product for each thread.
const PIECES: usize = 8;
/// Floats of panels that are multiplied with all blocks of rows before others are, so that they stay in
/// the last-level cache: at most 1 MB in the mean; the first pieces have nearly twice as much.
const PIECE: usize = 1 << 18;
/// Floats that are packed at a time: 16 MB.
const RUN: usize = 1 << 22;

/// Several matrices `[K, N]` side by side, with what is added to each column.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    k: usize,
    /// Rows of a tile.
    height: usize,
    /// Columns of a tile and of a panel.
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

    /// Moves the floats to large pages where the system has them (Linux from 6.1 on), since reading
    /// them from beginning to end then needs few translations of addresses.
    fn settle(&self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            const LARGE: usize = 2 << 20;
            let start = self.buffer.as_ptr();
            let skip = start.cast::<u8>().align_offset(LARGE);
            let len = (size_of_val(&*self.buffer).saturating_sub(skip)) / LARGE * LARGE;
            if len > 0 {
                // SAFETY: the range lies in the buffer, and its contents stay what they are.
                unsafe {
                    let start = start.cast::<u8>().add(skip).cast_mut();
                    libc::madvise(start.cast(), len, libc::MADV_COLLAPSE);
                }
            }
        }
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
        let (height, width) = tile_size(arch);
        let mut parts = Vec::new();
        let mut count = 0;
        for (_, bias) in weights {
            let panels = count..count + bias.len().div_ceil(width);
            count = panels.end;
            parts.push(Part { panels, n: bias.len() });
        }
        let panels = Aligned::zeros(count * width * k);
        let mut packed = Self { k, height, width, parts, panels, bias: vec![0.; count * width] };
        let panels = SharedRows::new(packed.panels.floats_mut(), width * k);
        for (part, (weight, bias)) in packed.parts.iter().zip(weights) {
            let start = part.panels.start * width;
            packed.bias[start..start + part.n].copy_from_slice(bias);
            let count = if k > 0 { part.panels.len() } else { 0 };
            team::for_each(count, |i| {
                // SAFETY: each panel is written once.
                let panel = unsafe { panels.part(part.panels.start + i, 0..width * k) };
                let columns = i * width..((i + 1) * width).min(part.n);
                for (j, column) in columns.enumerate() {
                    let values = &weight[column * k..][..k];
                    for (place, value) in panel[j..].iter_mut().step_by(width).zip(values) {
                        *place = *value;
                    }
                }
            });
        }
        packed.panels.settle();
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

impl<'a> Rows<'a> {
    fn part(&self, row: usize, columns: &Range<usize>) -> &'a [f32] {
        let stride = self.data.len() / self.count;
        &self.data[row * stride + columns.start..row * stride + columns.end]
    }
}

/// `activation(x Wᵀ + b)` for some matrices of `matrix`.
///
/// `x`: `[M, K]`; `outs`: `[M, N]` for each of the `parts`, of which every element is written.
pub(crate) fn multiply(
    arch: Arch,
    x: Rows,
    matrix: &PackedMatrix,
    parts: Range<usize>,
    activation: Fused,
    outs: &[SharedRows],
) {
    let parts: Vec<Output> =
        (outs.iter().zip(&matrix.parts[parts])).map(|(&out, part)| Output { part, out }).collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return };
    let panels = first.part.panels.start..last.part.panels.end;
    for rows in runs(x.count, matrix.k) {
        let k = matrix.k;
        let blocks = row_blocks(rows, matrix.height);
        let block = |i: usize| {
            let rows: Range<usize> = blocks[i].clone();
            let at = (rows.start - blocks[0].start) * k..(rows.end - blocks[0].start) * k;
            (Block { x, rows, matrix, parts: &parts, activation }, at)
        };
        with_scratch(blocks.iter().map(Range::len).sum::<usize>() * k, |scratch| {
            let places = SharedRows::new(scratch, 1);
            team::for_each(blocks.len(), |i| {
                let (block, at) = block(i);
                // SAFETY: the blocks' places do not overlap.
                let packed = unsafe { places.cut(at).whole() };
                arch.dispatch(InTiles(Pack { block, packed }));
            });
            let packed = &*scratch;
            let cut = Cut::new(panels.clone(), matrix.width * k, blocks.len());
            team::for_each(cut.pieces() * blocks.len(), |i| {
                // A piece meets all blocks before the next piece.
                let panels = cut.piece(i / blocks.len());
                let (block, at) = block(i % blocks.len());
                let multiply = Multiply { block, packed: &packed[at], panels };
                arch.dispatch(InTiles(multiply));
            });
        });
    }
}

/// Rows of `width` floats that are worked on one after the other, so that what belongs to them stays
/// in the last-level cache.
pub(crate) fn runs(rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    let most = RUN.div_ceil(width.max(1)).next_multiple_of(ROWS);
    let count = rows.div_ceil(most);
    (0..count).map(move |i| i * most..((i + 1) * most).min(rows))
}

/// Panels in pieces, for threads that take them one after the other.
struct Cut {
    panels: Range<usize>,
    /// How many stretches of them threads walk along: one each, or one for all.
    stretches: usize,
    /// Pieces of a stretch.
    count: usize,
}

impl Cut {
    /// Cuts panels of so many floats each, to be multiplied with so many blocks of rows.
    fn new(panels: Range<usize>, floats: usize, blocks: usize) -> Self {
        let threads = rayon::current_num_threads();
        // A single block reads each panel once, and tiles ask for the next panel: the same thread has to
        // read it.
        let stretches = if blocks == 1 { threads } else { 1 };
        let large = (panels.len() * floats).div_ceil(PIECE);
        let pieces = (PIECES * threads).div_ceil(blocks).max(large).min(panels.len());
        Self { panels, stretches, count: pieces.div_ceil(stretches) }
    }

    fn pieces(&self) -> usize {
        self.stretches * self.count
    }

    /// Pieces become smaller and smaller, down to a panel, so that threads end together, even if one of
    /// them is slower.
    fn piece(&self, i: usize) -> Range<usize> {
        let len = self.panels.len();
        let stretch = |i: usize| self.panels.start + i * len / self.stretches;
        let (start, end) = (stretch(i % self.stretches), stretch(i % self.stretches + 1));
        let left = |turn: usize| {
            let (len, turns) = (end - start, self.count - turn);
            let share = (turns as f64 / self.count as f64).powi(2);
            ((len as f64 * share) as usize).max(turns).min(len)
        };
        let turn = i / self.stretches;
        end - left(turn)..end - left(turn + 1)
    }
}

/// Cuts rows into blocks of whole tiles that fit the cache, as high as each other.
fn row_blocks(rows: Range<usize>, height: usize) -> Vec<Range<usize>> {
    let tiles = rows.len().div_ceil(height);
    let blocks = rows.len().div_ceil(ROWS);
    let place = |i: usize| (rows.start + i * tiles / blocks * height).min(rows.end);
    (0..blocks).map(|i| place(i)..place(i + 1)).collect()
}

/// A matrix and where its product goes.
struct Output<'a> {
    part: &'a Part,
    out: SharedRows<'a>,
}

/// A part of a product that one thread computes.
struct Block<'a> {
    x: Rows<'a>,
    rows: Range<usize>,
    matrix: &'a PackedMatrix,
    parts: &'a [Output<'a>],
    activation: Fused,
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

/// Rows and columns of a tile.
pub(crate) fn tile_size(arch: Arch) -> (usize, usize) {
    arch.dispatch(InTiles(TileSize))
}

struct TileSize;

impl Tiled for TileSize {
    type Output = (usize, usize);

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, _: S) -> Self::Output {
        (HEIGHT, S::F32_LANES * WIDTH)
    }
}

/// Writes a block's rows as the innermost loop reads them.
struct Pack<'a, 'b> {
    block: Block<'a>,
    /// `[rows, depth]` for each depth, `[depth, HEIGHT]` for each tile of it.
    packed: &'b mut [f32],
}

impl Tiled for Pack<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, _: S) {
        let Self { block, mut packed } = self;
        for depth in block.depths() {
            for (rows, height) in groups(block.rows.clone(), HEIGHT) {
                let here;
                (here, packed) = packed.split_at_mut(rows.len() * depth.len());
                match height {
                    8 if HEIGHT > 8 => block.pack::<8>(rows, &depth, here),
                    4 => block.pack::<4>(rows, &depth, here),
                    3 => block.pack::<3>(rows, &depth, here),
                    2 => block.pack::<2>(rows, &depth, here),
                    1 => block.pack::<1>(rows, &depth, here),
                    _ => block.pack::<HEIGHT>(rows, &depth, here),
                }
            }
        }
    }
}

/// Multiplies a block's rows with some panels.
struct Multiply<'a, 'b> {
    block: Block<'a>,
    packed: &'b [f32],
    panels: Range<usize>,
}

impl Tiled for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, simd: S) {
        let Self { block, packed: mut left, panels } = self;
        for depth in block.depths() {
            let packed;
            (packed, left) = left.split_at(block.rows.len() * depth.len());
            for panel in panels.clone() {
                let strip = Strip { block: &block, panel, depth: &depth };
                let mut packed = packed;
                for (rows, height) in groups(block.rows.clone(), HEIGHT) {
                    let x;
                    (x, packed) = packed.split_at(rows.len() * depth.len());
                    match height {
                        8 if HEIGHT > 8 => strip.compute::<S, 8, WIDTH>(simd, rows, x),
                        4 => strip.compute::<S, 4, WIDTH>(simd, rows, x),
                        3 => strip.compute::<S, 3, WIDTH>(simd, rows, x),
                        2 => strip.compute::<S, 2, WIDTH>(simd, rows, x),
                        1 => strip.compute::<S, 1, WIDTH>(simd, rows, x),
                        _ => strip.compute::<S, HEIGHT, WIDTH>(simd, rows, x),
                    }
                }
            }
        }
    }
}

/// Rows in groups of tiles of one height: the tallest as long as there are, without leaving one or
/// two rows, which would take as long as three or four.
#[inline(always)]
fn groups(rows: Range<usize>, tallest: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let mut rows = rows;
    std::iter::from_fn(move || {
        let left = rows.len();
        let height = match left {
            0 => return None,
            _ if left == tallest || left >= tallest + 3 => tallest,
            8.. if tallest > 8 => 8,
            5 => 3,
            4.. => 4,
            _ => left,
        };
        let count = match left % tallest {
            // Two of a height are one group.
            _ if left == 2 * height => left,
            _ if height < tallest => height,
            1 | 2 => left - left % tallest - tallest,
            rest => left - rest,
        };
        let group = rows.start..rows.start + count;
        rows.start += count;
        Some((group, height))
    })
}

impl Block<'_> {
    /// What is multiplied at a time: once in any case.
    fn depths(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let k = self.matrix.k;
        (0..k.max(1)).step_by(DEPTH).map(move |from| from..(from + DEPTH).min(k))
    }

    /// Writes rows tile by tile: `[depth, HEIGHT]` for each, as the innermost loop reads them.
    fn pack<const HEIGHT: usize>(
        &self,
        rows: Range<usize>,
        depth: &Range<usize>,
        packed: &mut [f32],
    ) {
        let tiles = packed.as_chunks_mut::<HEIGHT>().0.chunks_exact_mut(depth.len().max(1));
        for (row, tile) in rows.step_by(HEIGHT).zip(tiles) {
            let x: [&[f32]; HEIGHT] =
                std::array::from_fn(|i| &self.x.part(row + i, depth)[..tile.len()]);
            for (j, place) in tile.iter_mut().enumerate() {
                for i in 0..HEIGHT {
                    // SAFETY: each row was cut to the length of the tile, of which `j` is an index.
                    place[i] = unsafe { *x[i].get_unchecked(j) };
                }
            }
        }
    }
}

/// A panel, for a block's rows.
struct Strip<'a> {
    block: &'a Block<'a>,
    panel: usize,
    depth: &'a Range<usize>,
}

impl<'a> Strip<'a> {
    /// Where the panels hold a panel's part: `[depth, width]`.
    #[inline(always)]
    fn place(&self, panel: usize) -> Range<usize> {
        let PackedMatrix { k, width, .. } = self.block.matrix;
        let first = panel * width * k;
        first + self.depth.start * width..first + self.depth.end * width
    }

    /// Adds products to rows, which begin with the bias and end with the activation. `x`: `[depth,
    /// HEIGHT]` for each tile.
    #[inline(always)]
    fn compute<S: Simd, const HEIGHT: usize, const WIDTH: usize>(
        &self,
        simd: S,
        rows: Range<usize>,
        x: &[f32],
    ) {
        let Self { block, panel, depth } = *self;
        let matrix = block.matrix;
        let Some(Output { part, out }) =
            block.parts.iter().find(|output| output.part.panels.contains(&panel))
        else {
            return;
        };
        let start = (panel - part.panels.start) * matrix.width;
        let columns = start..(start + matrix.width).min(part.n);
        let bias = &matrix.bias[panel * matrix.width..][..matrix.width];
        let panels = matrix.panels.floats();
        // The first rows ask for it, where there is a next panel.
        let next = panels.get(self.place(panel + 1)).filter(|_| rows.start == block.rows.start);
        let tiles = Tiles::<S, HEIGHT, WIDTH> {
            simd,
            x: x.as_chunks().0,
            values: S::as_simd_f32s(&panels[self.place(panel)]).0.as_chunks().0,
            bias: if depth.start == 0 { Some(S::as_simd_f32s(bias).0) } else { None },
            next: next.unwrap_or(&[]),
            activation: if depth.end == matrix.k { block.activation } else { Fused::Linear },
            out: *out,
            rows: rows.clone(),
            column: start,
        };
        if columns.len() == matrix.width {
            simd.vectorize(tiles);
            return;
        }
        // The last panel of a matrix: its tiles go through whole ones.
        let mut whole = [0f32; 32 * TALLEST];
        let whole = &mut whole[..HEIGHT * matrix.width];
        for (tile, row) in rows.step_by(HEIGHT).enumerate() {
            // SAFETY: each block has rows and panels of its own, and a thread uses one at a time.
            let rows = || (row..row + HEIGHT).map(|row| unsafe { out.part(row, columns.clone()) });
            if depth.start > 0 {
                for (place, row) in whole.chunks_exact_mut(matrix.width).zip(rows()) {
                    place[..row.len()].copy_from_slice(row);
                }
            }
            {
                let out = SharedRows::new(whole, matrix.width);
                let x = &tiles.x[tile * depth.len()..][..depth.len()];
                let next = if tile == 0 { tiles.next } else { &[] };
                simd.vectorize(Tiles { x, next, out, rows: 0..HEIGHT, column: 0, ..tiles });
            }
            for (place, row) in whole.chunks_exact(matrix.width).zip(rows()) {
                row.copy_from_slice(&place[..row.len()]);
            }
        }
    }
}

/// Tiles below each other, in a function of its own for each instruction set: in a larger one the
/// compiler stops to inline.
struct Tiles<'a, S: Simd, const HEIGHT: usize, const WIDTH: usize> {
    simd: S,
    /// `[depth]` for each tile.
    x: &'a [[f32; HEIGHT]],
    /// `[depth]`.
    values: &'a [[S::f32s; WIDTH]],
    /// What the sums begin with; what `out` holds if absent.
    bias: Option<&'a [S::f32s]>,
    /// What is read after this.
    next: &'a [f32],
    /// What becomes of the sums.
    activation: Fused,
    out: SharedRows<'a>,
    rows: Range<usize>,
    column: usize,
}

impl<S: Simd, const HEIGHT: usize, const WIDTH: usize> pulp::NullaryFnOnce
    for Tiles<'_, S, HEIGHT, WIDTH>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        /// Steps in a row without a jump.
        const STEPS: usize = 16;
        const LINE: usize = 64 / size_of::<f32>();
        let Self { simd, x, values, bias, next, activation, out, rows, column } = self;
        let columns = column..column + S::F32_LANES * WIDTH;
        let (depth, tiles) = (values.len(), rows.len() / HEIGHT);
        // What comes next is asked for little by little: each tile its share.
        let share = next.len().div_ceil(tiles.max(1));
        let lines = share.div_ceil(LINE).div_ceil((depth / STEPS).max(1));
        for tile in 0..tiles {
            let mut next = next.as_ptr().wrapping_add(tile * share);
            let row = rows.start + tile * HEIGHT;
            let mut sums = [[simd.splat_f32s(0.); WIDTH]; HEIGHT];
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: each block has rows and panels of its own, and a thread uses one at a time.
                let out = unsafe { out.part(row + i, columns.clone()) };
                let start = match bias {
                    Some(bias) => {
                        // Written at the end. It may begin in the middle of a line.
                        out.iter().step_by(LINE).for_each(|place| prefetch(place));
                        out.last().into_iter().for_each(|place| prefetch(place));
                        bias
                    }
                    None => S::as_simd_f32s(out).0,
                };
                sums.copy_from_slice(&start[..WIDTH]);
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
                    step(simd, &mut sums, &x[p], &values[p]);
                }
                for p in STEPS / 2..STEPS {
                    step(simd, &mut sums, &x[p], &values[p]);
                }
            }
            for (x, values) in x_rest.iter().zip(rest) {
                step(simd, &mut sums, x, values);
            }
            // A copy, so that the sums stay in registers until here.
            let mut results = sums;
            if activation != Fused::Linear {
                let sums = results.as_flattened_mut();
                simd.vectorize(Activate { simd, activation, sums });
            }
            for (i, results) in results.iter().enumerate() {
                // SAFETY: as above.
                let out = unsafe { out.part(row + i, columns.clone()) };
                S::as_mut_simd_f32s(out).0.copy_from_slice(results);
            }
        }
    }
}

/// Adds the product of a column of `x` and a row of `values` to a tile.
#[inline(always)]
pub(crate) fn step<S: Simd, const HEIGHT: usize, const WIDTH: usize>(
    simd: S,
    sums: &mut [[S::f32s; WIDTH]; HEIGHT],
    x: &[f32; HEIGHT],
    values: &[S::f32s; WIDTH],
) {
    for i in 0..HEIGHT {
        let factor = simd.splat_f32s(x[i]);
        for j in 0..WIDTH {
            sums[i][j] = simd.mul_add_e_f32s(factor, values[j], sums[i][j]);
        }
    }
}

/// An activation of a tile's sums.
struct Activate<'a, S: Simd> {
    simd: S,
    activation: Fused,
    sums: &'a mut [S::f32s],
}

impl<S: Simd> pulp::NullaryFnOnce for Activate<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, activation, sums } = self;
        // Which activation it is, the compiler asks once, before the loop.
        for sum in sums {
            *sum = activation.apply(simd, *sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::simd::tests::{Random, assert_near, numbers};

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
        // A poisoned output shows what is not written.
        let mut out = vec![f32::NAN; m * n];
        let rows = Rows { data: &x, count: m };
        multiply(arch, rows, &packed, 0..1, Fused::Linear, &[SharedRows::new(&mut out, n)]);
        let what = format!("{arch:?} {m}×{n}×{k}");
        let expected = by_hand(&x, &weight, &bias, k);
        assert_near(&what, &out, &expected, tolerance);
        out.fill(f32::NAN);
        multiply(arch, rows, &packed, 0..1, Fused::Relu, &[SharedRows::new(&mut out, n)]);
        let expected: Vec<f64> = expected.iter().map(|x| x.max(0.)).collect();
        assert_near(&what, &out, &expected, tolerance);
        assert_eq!(packed.unpack(0), (weight, bias), "{what}: unpacked");
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
        check(crate::cpu::simd::arch(), [rows, 3, deep], 1, 2e-4);
    }

    #[test]
    fn panels_too_large_for_the_cache_are_right() {
        let [rows, columns, deep] = [300, 800, 2000];
        let (blocks, threads) = (rows / ROWS + 1, 2);
        let by_size = (columns * deep).div_ceil(PIECE);
        assert!(by_size > (PIECES * threads).div_ceil(blocks));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("two threads").install(|| {
            assert_eq!(Cut::new(0..columns / 16, 16 * deep, blocks).pieces(), by_size);
            check(crate::cpu::simd::arch(), [rows, columns, deep], 2, 2e-4);
        });
    }

    #[test]
    fn pieces_hold_each_panel_once() {
        for (panels, stretches, count) in
            [(0..0, 1, 0), (3..4, 1, 1), (0..48, 2, 8), (5..149, 1, 9), (0..7, 3, 3), (0..3, 64, 1)]
        {
            let cut = Cut { panels: panels.clone(), stretches, count };
            let mut all: Vec<usize> = (0..cut.pieces()).flat_map(|i| cut.piece(i)).collect();
            all.sort_unstable();
            assert_eq!(all, Vec::from_iter(panels), "{stretches} stretches of {count} pieces");
            for i in stretches..cut.pieces() {
                let (before, here) = (cut.piece(i - stretches), cut.piece(i));
                assert_eq!(before.end, here.start, "{stretches} stretches of {count} pieces");
            }
        }
    }

    #[test]
    fn a_single_block_has_a_stretch_for_each_thread_and_pieces_that_become_smaller() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        pool.expect("three threads").install(|| {
            for (panels, expected) in [
                (144, vec![12, 9, 9, 6, 6, 3, 2, 1]),
                (30, vec![3, 1, 1, 1, 1, 1, 1, 1]),
                (6, vec![1, 1]),
            ] {
                let cut = Cut::new(0..panels, 1, 1);
                assert_eq!(cut.stretches, 3);
                let first: Vec<usize> =
                    (0..cut.pieces()).step_by(3).map(|i| cut.piece(i).len()).collect();
                assert_eq!(first, expected, "{panels} panels");
            }
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
                multiply(arch, x, &packed, 0..1, Fused::Gelu, &[SharedRows::new(&mut out, n)]);
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
            let shared: Vec<_> =
                outs.iter_mut().zip(&sizes[1..]).map(|(out, n)| SharedRows::new(out, *n)).collect();
            let rows = Rows { data: &x, count: m };
            multiply(arch, rows, &packed, 1..3, Fused::Linear, &shared);
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
        let empty = [SharedRows::new(&mut [], 1), SharedRows::new(&mut [], 0)];
        multiply(arch, none, &packed, 0..2, Fused::Linear, &empty);
        let one = Rows { data: &[1., 1.], count: 1 };
        multiply(arch, one, &packed, 1..2, Fused::Linear, &empty[1..]);
        let deep = PackedMatrix::new(arch, 0, &[(&[], &[3., 4.])]);
        let mut bias = [0.; 4];
        let rows = Rows { data: &[], count: 2 };
        multiply(arch, rows, &deep, 0..1, Fused::Linear, &[SharedRows::new(&mut bias, 2)]);
        assert_eq!(bias, [3., 4., 3., 4.]);
        assert_eq!(deep.unpack(0), (vec![], vec![3., 4.]));
    }
}
