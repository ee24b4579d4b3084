//! Which rows of a packed batch belong together.

use std::ops::{Deref, Range};
use std::sync::OnceLock;

use candle_core::Result;

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
    first_rows: OnceLock<Ids>,
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
        Ok(Self { each, first_rows: OnceLock::new() })
    }

    /// The number of rows of all queries.
    pub fn rows(&self) -> usize {
        self.each.last().map_or(0, |last| last.queries.end)
    }

    /// The first row of each sequence, `[1, B]`.
    ///
    /// # Errors
    /// When a sequence has no queries.
    pub fn first_rows(&self) -> Result<&Ids> {
        if let Some(rows) = self.first_rows.get() {
            return Ok(rows);
        }
        let rows: Vec<u32> = self.each.iter().map(|it| it.queries.start as u32).collect();
        let rows = Ids::new(rows, (1, self.each.len()), self.rows())?;
        Ok(self.first_rows.get_or_init(|| rows))
    }
}

impl Deref for Sequences {
    type Target = [Sequence];

    fn deref(&self) -> &[Sequence] {
        &self.each
    }
}
