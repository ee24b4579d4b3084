//! How a matrix multiplication is divided into cache-sized parts and among threads.

use std::ops::Range;

/// About the most rows of a block of `x`, so that `MC × KC` floats fit into the L2 cache.
pub(super) const MC: usize = 72;
/// The most elements of a slice of K, so that slices of a block and of a panel fit into the L2 cache.
/// The sums of a tile are stored and loaded again once for each slice.
const KC: usize = 1536;
/// Chunks of panels for each thread, so that threads end at about the same time.
pub(super) const CHUNKS_PER_THREAD: usize = 8;
/// The target size of a chunk of panels, in floats: 1 MB on average, so that a chunk stays in the L3
/// cache while all blocks of rows use it. The first chunks have almost 2 MB.
pub(super) const CHUNK_FLOATS: usize = 1 << 18;
/// The most floats of `x` that are packed at a time: 16 MB.
const RUN_FLOATS: usize = 1 << 22;

/// Divides rows of `width` floats into runs whose intermediate results fit into the L3 cache.
pub(crate) fn runs(rows: usize, width: usize) -> impl Iterator<Item = Range<usize>> {
    let most = RUN_FLOATS.div_ceil(width.max(1)).next_multiple_of(MC);
    let count = rows.div_ceil(most);
    (0..count).map(move |i| i * most..((i + 1) * most).min(rows))
}

/// Divides rows into blocks of about the same number of whole tiles, about [`MC`] rows at most.
pub(super) fn row_blocks(rows: Range<usize>, mr: usize) -> Vec<Range<usize>> {
    let tiles = rows.len().div_ceil(mr);
    let blocks = rows.len().div_ceil(MC);
    let start = |i: usize| (rows.start + i * tiles / blocks * mr).min(rows.end);
    (0..blocks).map(|i| start(i)..start(i + 1)).collect()
}

/// The slices of K, at most [`KC`] elements each. There is at least one, even for K = 0, so that the
/// bias is written.
pub(super) fn slices(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k.max(1)).step_by(KC).map(move |from| from..(from + KC).min(k))
}

/// Chunks of panels (NC columns) in the order in which threads take them.
pub(super) struct Schedule {
    pub(super) panels: Range<usize>,
    /// The number of panels that threads start from: one for each thread, or one for all.
    pub(super) lanes: usize,
    /// Chunks of a lane.
    pub(super) per_lane: usize,
}

impl Schedule {
    /// Divides panels of `floats` each, which `blocks` blocks of rows are multiplied by.
    pub(super) fn new(panels: Range<usize>, floats: usize, blocks: usize) -> Self {
        let threads = rayon::current_num_threads();
        // A single block reads each panel once. A tile prefetches the next panel, which only helps if
        // the same thread reads that panel.
        let lanes = if blocks == 1 { threads } else { 1 };
        let by_size = (panels.len() * floats).div_ceil(CHUNK_FLOATS);
        let chunks = (CHUNKS_PER_THREAD * threads).div_ceil(blocks).max(by_size).min(panels.len());
        Self { panels, lanes, per_lane: chunks.div_ceil(lanes) }
    }

    pub(super) fn chunks(&self) -> usize {
        self.lanes * self.per_lane
    }

    /// Chunks shrink toward the end of a lane, down to one panel, so that threads end at about the
    /// same time even if one of them is slower.
    pub(super) fn chunk(&self, i: usize) -> Range<usize> {
        let len = self.panels.len();
        let lane = |i: usize| self.panels.start + i * len / self.lanes;
        let (start, end) = (lane(i % self.lanes), lane(i % self.lanes + 1));
        let left = |turn: usize| {
            let (len, turns) = (end - start, self.per_lane - turn);
            let share = (turns as f64 / self.per_lane as f64).powi(2);
            ((len as f64 * share) as usize).max(turns).min(len)
        };
        let turn = i / self.lanes;
        end - left(turn)..end - left(turn + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_each_panel_once() {
        for (panels, lanes, count) in
            [(0..0, 1, 0), (3..4, 1, 1), (0..48, 2, 8), (5..149, 1, 9), (0..7, 3, 3), (0..3, 64, 1)]
        {
            let schedule = Schedule { panels: panels.clone(), lanes, per_lane: count };
            let mut all: Vec<usize> =
                (0..schedule.chunks()).flat_map(|i| schedule.chunk(i)).collect();
            all.sort_unstable();
            assert_eq!(all, Vec::from_iter(panels), "{lanes} lanes of {count} chunks");
            for i in lanes..schedule.chunks() {
                let (before, here) = (schedule.chunk(i - lanes), schedule.chunk(i));
                assert_eq!(before.end, here.start, "{lanes} lanes of {count} chunks");
            }
        }
    }

    #[test]
    fn a_single_block_has_a_lane_for_each_thread_and_chunks_that_become_smaller() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build();
        pool.expect("three threads").install(|| {
            for (panels, expected) in [
                (144, vec![12, 9, 9, 6, 6, 3, 2, 1]),
                (30, vec![3, 1, 1, 1, 1, 1, 1, 1]),
                (6, vec![1, 1]),
            ] {
                let schedule = Schedule::new(0..panels, 1, 1);
                assert_eq!(schedule.lanes, 3);
                let first: Vec<usize> =
                    (0..schedule.chunks()).step_by(3).map(|i| schedule.chunk(i).len()).collect();
                assert_eq!(first, expected, "{panels} panels");
            }
        });
    }
}
