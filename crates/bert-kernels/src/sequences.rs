//! Which rows of a packed batch belong together.

use std::ops::{Deref, Range};

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
pub struct Sequences(Vec<Sequence>);

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
        Ok(Self(each))
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

impl Deref for Sequences {
    type Target = [Sequence];

    fn deref(&self) -> &[Sequence] {
        &self.0
    }
}
