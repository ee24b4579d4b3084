//! Matrices in the order in which the innermost loop reads them.

use std::ops::Range;

use candle_core::{Result, Tensor};
use pulp::Arch;

use super::tile::tile_size;
use crate::cpu::rows::SharedRows;
use crate::cpu::simd::arch;
use crate::cpu::slices::try_cpu_slice;
use crate::cpu::team;

/// Several matrices `[K, N]` side by side, each with a bias for its columns.
pub(crate) struct PackedMatrix {
    pub(crate) k: usize,
    /// Rows of a tile.
    pub(super) mr: usize,
    /// Columns of a tile, and of a micro-panel.
    pub(super) nr: usize,
    pub(crate) parts: Vec<Part>,
    /// Micro-panels, one after the other: `[K, NR]` each, with zeros beyond a matrix's last column.
    panels: AlignedFloats,
    /// `[NR]` for each panel.
    pub(super) bias: Vec<f32>,
}

/// One of the matrices.
pub(crate) struct Part {
    pub(super) panels: Range<usize>,
    pub(crate) n: usize,
}

impl PackedMatrix {
    /// Packs the projections of one input, `W` `[O, I]` and `b` `[O]` each. `None` unless they are on the
    /// CPU in F32 and need no gradient; with the feature `accelerate`, Apple's BLAS multiplies unpacked
    /// weights.
    pub(crate) fn pack(projections: &[[Tensor; 2]]) -> Result<Option<Self>> {
        if cfg!(feature = "accelerate") {
            return Ok(None);
        }
        let i = projections[0][0].dims().last().copied().unwrap_or(0);
        for [weight, bias] in projections {
            let (w, b) = (weight.dims(), bias.dims());
            if w != [bias.elem_count(), i] {
                candle_core::bail!(
                    "linear: W has shape {w:?} and b {b:?}, expected [O, {i}] and [O]"
                );
            }
        }
        let tensors = projections.as_flattened().iter().map(Tensor::contiguous);
        let tensors = tensors.collect::<Result<Vec<_>>>()?;
        let slices: Option<Vec<_>> = tensors.iter().map(try_cpu_slice).collect();
        let Some(slices) = slices else { return Ok(None) };
        let pairs = slices.as_chunks().0.iter();
        let weights: Vec<_> = pairs.map(|[weight, bias]| (&**weight, &**bias)).collect();
        Ok(Some(Self::new(arch(), i, &weights)))
    }

    /// Packs the transposes of `weights`, `[N, K]` each, with their biases, `[N]` each.
    pub(crate) fn new(arch: Arch, k: usize, weights: &[(&[f32], &[f32])]) -> Self {
        let (mr, nr) = tile_size(arch);
        let (mut parts, mut biases) = (Vec::new(), Vec::new());
        for (weight, bias) in weights {
            assert_eq!(weight.len(), bias.len() * k, "a weight has N · K elements");
            let first = biases.len() / nr;
            biases.extend_from_slice(bias);
            biases.resize(biases.len().next_multiple_of(nr), 0.);
            parts.push(Part { panels: first..biases.len() / nr, n: bias.len() });
        }
        let mut panels = AlignedFloats::zeros(biases.len() * k);
        let rows = SharedRows::new(&mut panels.buffer[panels.range.clone()], nr * k);
        for (part, (weight, _)) in parts.iter().zip(weights) {
            let count = if k > 0 { part.panels.len() } else { 0 };
            team::for_each(count, |i| {
                // SAFETY: each index is another panel, and floats are written.
                let panel = unsafe { rows.part(part.panels.start + i, 0..nr * k) };
                let columns = i * nr..((i + 1) * nr).min(part.n);
                for (j, column) in columns.enumerate() {
                    let values = &weight[column * k..][..k];
                    for (slot, value) in panel[j..].iter_mut().step_by(nr).zip(values) {
                        slot.write(*value);
                    }
                }
            });
        }
        panels.use_huge_pages();
        Self { k, mr, nr, parts, panels, bias: biases }
    }

    /// The bias of a matrix: `[N]`.
    pub(crate) fn bias(&self, part: usize) -> &[f32] {
        let Part { panels, n } = &self.parts[part];
        &self.bias[panels.start * self.nr..][..*n]
    }

    /// The weight of a matrix: `[N, K]`.
    pub(crate) fn unpack_weight(&self, part: usize) -> Vec<f32> {
        let Part { panels, n } = &self.parts[part];
        let (k, nr, first) = (self.k, self.nr, panels.start * self.nr);
        let mut weight = Vec::with_capacity(n * k);
        for column in (first..first + n).filter(|_| k > 0) {
            let panel = &self.panels.floats()[column / nr * nr * k..][..nr * k];
            weight.extend(panel[column % nr..].iter().step_by(nr));
        }
        weight
    }

    /// A slice of a panel's rows, `[slice, NR]`; `None` beyond the last panel.
    #[inline(always)]
    pub(super) fn panel(&self, panel: usize, slice: &Range<usize>) -> Option<&[f32]> {
        let start = panel * self.nr * self.k;
        self.panels.floats().get(start + slice.start * self.nr..start + slice.end * self.nr)
    }
}

/// Floats that begin at a cache line, so that no vector crosses one.
struct AlignedFloats {
    buffer: Vec<f32>,
    range: Range<usize>,
}

impl AlignedFloats {
    fn zeros(len: usize) -> Self {
        const LINE: usize = 64;
        let buffer = vec![0.; len + LINE / size_of::<f32>()];
        let start = buffer.as_ptr().align_offset(LINE).min(buffer.len() - len);
        Self { buffer, range: start..start + len }
    }

    /// Asks Linux (6.1 or newer) to back the floats with huge pages: a pass reads all of them, and
    /// needs fewer address translations then.
    fn use_huge_pages(&self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            const HUGE_PAGE: usize = 2 << 20;
            let start = self.buffer.as_ptr().cast::<u8>();
            let skip = start.align_offset(HUGE_PAGE);
            let len = (size_of_val(&*self.buffer).saturating_sub(skip)) / HUGE_PAGE * HUGE_PAGE;
            if len > 0 {
                // SAFETY: `skip` and `len` stay within the buffer. The call moves the pages and leaves
                // their contents as they are.
                unsafe {
                    libc::madvise(start.add(skip).cast_mut().cast(), len, libc::MADV_COLLAPSE)
                };
            }
        }
    }

    fn floats(&self) -> &[f32] {
        &self.buffer[self.range.clone()]
    }
}
