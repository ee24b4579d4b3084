//! Which rows of a packed batch belong together.

use std::ops::{Deref, Range};
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use candle_core::Result;
#[cfg(feature = "cuda")]
use candle_core::{Device, Tensor};

use crate::ids::Ids;

/// The rows of a sequence's queries, and the rows of the keys that they attend to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The rows of its queries.
    pub queries: Range<usize>,
    /// The rows of its keys: at least one.
    pub keys: Range<usize>,
}

/// Sequences of different lengths, one after the other: each sequence's queries begin where those of
/// the sequence before it end.
#[derive(Clone, Debug)]
pub struct Sequences {
    each: Vec<Sequence>,
    #[cfg(feature = "cuda")]
    tiles: OnceLock<(usize, Tensor)>,
}

impl Sequences {
    /// # Errors
    /// When queries leave out rows or overlap, or when a sequence has no keys.
    pub fn new(each: Vec<Sequence>) -> Result<Self> {
        let mut row = 0;
        for Sequence { queries, keys } in &each {
            if queries.start != row || queries.end < row || keys.is_empty() {
                candle_core::bail!("sequences: queries {queries:?} and keys {keys:?} at row {row}");
            }
            row = queries.end;
        }
        Ok(Self {
            each,
            #[cfg(feature = "cuda")]
            tiles: OnceLock::new(),
        })
    }

    /// The number of rows of all queries.
    pub fn rows(&self) -> usize {
        self.last().map_or(0, |last| last.queries.end)
    }

    /// The first row of each sequence, `[1, B]`.
    ///
    /// # Errors
    /// When a sequence has no queries.
    pub fn first_rows(&self) -> Result<Ids> {
        let rows = self.iter().map(|it| it.queries.start as u32).collect();
        Ids::new(rows, (1, self.len()), self.rows())
    }
}

#[cfg(feature = "cuda")]
impl Sequences {
    /// The number of queries of the longest sequence.
    pub(crate) fn most_queries(&self) -> usize {
        self.iter().map(|it| it.queries.len()).max().unwrap_or(0)
    }

    /// The parts of sequences that blocks of a kernel compute, each with at most `queries` queries: `[N, 6]`, U32,
    /// with the fields of `Tile` in cuda/attention.cu. Those with the most keys come first, because the last
    /// blocks should be short. The table is uploaded once, unless another size is asked for.
    ///
    /// # Errors
    /// When the device cannot allocate.
    pub(crate) fn tiles(&self, queries: usize, device: &Device) -> Result<Tensor> {
        let is_it = |(size, tiles): &&(usize, Tensor)| {
            *size == queries && tiles.device().same_device(device)
        };
        if let Some((_, tiles)) = self.tiles.get().filter(is_it) {
            return Ok(tiles.clone());
        }
        let mut tiles: Vec<[u32; 6]> = Vec::new();
        for Sequence { queries: rows, keys } in &self.each {
            for first in rows.clone().step_by(queries) {
                let count = queries.min(rows.end - first);
                let tile = [first, count, keys.start, keys.len(), 0, 0];
                tiles.push(tile.map(|it| it as u32));
            }
        }
        tiles.sort_by_key(|[_, _, _, keys, _, _]| std::cmp::Reverse(*keys));
        let tiles = Tensor::from_slice(tiles.as_flattened(), (tiles.len(), 6), device)?;
        // Not kept if there is one of another size.
        let _ = self.tiles.set((queries, tiles.clone()));
        Ok(tiles)
    }
}

impl Deref for Sequences {
    type Target = [Sequence];

    fn deref(&self) -> &[Sequence] {
        &self.each
    }
}
