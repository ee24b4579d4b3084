//! A batch of tokens, with and without its padding.
//!
//! Everything except attention works on single tokens, and attention is told which of them belong
//! together. A batch can therefore be computed as padded rows or as packed sequences.

use std::sync::Arc;

use bert_kernels::{Ids, Sequence, Sequences, gather_rows};
use candle_core::{Device, Tensor};

use super::layout::Layout;
use super::mask::AttentionMask;
use super::tokens::{Tokens, Words};
use crate::error::Result;

/// Tokens as the caller gave them.
pub(crate) struct Batch {
    pub(crate) tokens: Tokens,
    given: Given,
    /// The states of another encoder.
    pub(crate) encoder: Option<EncoderStates>,
}

enum Given {
    /// `[B, S]`.
    Padded {
        mask: AttentionMask,
        /// Which tokens are padding, row by row; absent if none is.
        padding: Option<Vec<bool>>,
    },
    /// `[1, T]`.
    Packed {
        sequences: Sequences,
        /// Whether a token attends only to itself and the tokens before it.
        causal: bool,
    },
}

/// The states of another encoder, `[B, K, H]`, and the layout of attention to them.
#[derive(Clone, Debug)]
pub(crate) struct EncoderStates {
    pub(crate) states: Tensor,
    pub(crate) layout: Layout,
}

/// A batch as the layers compute it.
pub(crate) struct Arranged {
    pub(crate) tokens: Tokens,
    pub(crate) layout: Layout,
    /// The computed row of each of the caller's rows; absent if they are the same.
    table: Option<Ids>,
    /// Whether the caller's rows are `[T, H]` instead of `[B, S, H]`.
    pub(crate) callers_packed: bool,
}

impl Batch {
    /// Padded rows; `mask` fits them. `pad` is the id of padding, absent where nothing is padding.
    pub(crate) fn padded(tokens: Tokens, mask: AttentionMask, pad: Option<u32>) -> Self {
        let s = tokens.dims.1;
        let padding = match (&tokens.words, mask.tokens(), pad) {
            (Words::Ids(ids), Some(visible), Some(pad)) => {
                let tokens = ids.values().iter().zip(visible).enumerate();
                let is_padding = tokens.map(|(i, (id, seen))| !seen && *id == pad && i % s > 0);
                Some(is_padding.collect::<Vec<_>>()).filter(|padding| padding.contains(&true))
            }
            _ => None,
        };
        Self { tokens, given: Given::Padded { mask, padding }, encoder: None }
    }

    /// Packed sequences.
    pub(crate) fn packed(tokens: Tokens, sequences: Sequences, causal: bool) -> Self {
        Self { tokens, given: Given::Packed { sequences, causal }, encoder: None }
    }

    /// The number of sequences.
    pub(crate) fn sequences(&self) -> usize {
        match &self.given {
            Given::Padded { .. } => self.tokens.dims.0,
            Given::Packed { sequences, .. } => sequences.len(),
        }
    }

    /// Whether the layers can compute packed rows. `zeros` says that nobody needs the states of padding.
    pub(crate) fn can_be_packed(&self, zeros: bool) -> bool {
        match &self.given {
            Given::Packed { .. } => true,
            Given::Padded { padding: None, .. } => false,
            Given::Padded { mask, .. } => {
                // The queries of a row whose tokens are all hidden attend to all of them.
                let mut rows = mask.tokens().unwrap_or_default().chunks(self.tokens.dims.1);
                zeros && rows.all(|row| row.contains(&true))
            }
        }
    }

    /// The batch as packed sequences or as padded rows; in the latter, the states of padding become
    /// zeros for the caller if `zeros` says so.
    pub(crate) fn arrange(self, packed: bool, zeros: bool, device: &Device) -> Result<Arranged> {
        let Self { tokens, given, .. } = self;
        match given {
            Given::Packed { sequences, causal } if !packed => {
                pad(&tokens, &sequences, causal, device)
            }
            Given::Packed { sequences, .. } => {
                let layout = Layout::Packed(Arc::new(sequences));
                Ok(Arranged { tokens, layout, table: None, callers_packed: true })
            }
            Given::Padded { mask, padding: Some(padding) } if packed => {
                pack(&tokens, mask.tokens().unwrap_or_default(), &padding)
            }
            Given::Padded { mask, padding } => {
                let zeroed = |padding: Vec<bool>| {
                    let row = |i| if padding[i] { Ids::ABSENT } else { i as u32 };
                    Ids::new((0..padding.len()).map(row).collect(), tokens.dims, padding.len())
                };
                let table = padding.filter(|_| zeros).map(zeroed).transpose()?;
                let layout = Layout::Padded(mask.bias(device)?);
                Ok(Arranged { tokens, layout, table, callers_packed: false })
            }
        }
    }
}

impl Arranged {
    /// Hidden states in the caller's rows: `[B, S, H]` or `[T, H]`.
    pub(crate) fn callers_rows(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.table {
            Some(table) => gather_rows(&x.flatten(0, 1)?, table)?,
            None => x.clone(),
        };
        Ok(if self.callers_packed { x.squeeze(0)? } else { x })
    }
}

/// The batch without its padding.
///
/// Each sequence has its first token first, which the pooler reads, then its visible tokens, then
/// hidden ones that are no padding: its keys, the visible tokens, are one range.
fn pack(tokens: &Tokens, visible: &[bool], padding: &[bool]) -> Result<Arranged> {
    let (b, s) = tokens.dims;
    let mut rows: Vec<u32> = Vec::new();
    let mut sequences = Vec::new();
    for first in (0..b).map(|row| row * s) {
        let start = rows.len();
        let tokens = first..first + s;
        rows.extend((!visible[first]).then_some(first as u32));
        let keys = rows.len();
        rows.extend(tokens.clone().filter(|i| visible[*i]).map(|i| i as u32));
        let keys = keys..rows.len();
        let is_other = |i: &usize| !visible[*i] && !padding[*i] && *i > first;
        rows.extend(tokens.filter(is_other).map(|i| i as u32));
        sequences.push(Sequence { queries: start..rows.len(), keys });
    }
    let mut table = vec![Ids::ABSENT; b * s];
    for (packed, row) in rows.iter().enumerate() {
        table[*row as usize] = packed as u32;
    }
    let count = rows.len();
    Ok(Arranged {
        tokens: tokens.select(&Ids::new(rows, (1, count), b * s)?)?,
        layout: Layout::Packed(Arc::new(Sequences::new(sequences)?)),
        table: Some(Ids::new(table, (b, s), count)?),
        callers_packed: false,
    })
}

/// Packed sequences as padded rows. Padding repeats the first token of its sequence.
fn pad(tokens: &Tokens, sequences: &Sequences, causal: bool, device: &Device) -> Result<Arranged> {
    let longest = sequences.iter().map(|it| it.queries.len()).max();
    let dims @ (b, s) = (sequences.len(), longest.unwrap_or(0));
    let t = sequences.rows();
    let (mut rows, mut visible, mut positions) = (Vec::new(), Vec::new(), Vec::new());
    for (row, Sequence { queries, .. }) in sequences.iter().enumerate() {
        positions.extend((0..queries.len()).map(|i| (row * s + i) as u32));
        visible.extend((0..s).map(|i| u8::from(i < queries.len())));
        let token = |i| queries.start + if i < queries.len() { i } else { 0 };
        rows.extend((0..s).map(|i| token(i) as u32));
    }
    let visible = Tensor::from_vec(visible, dims, &Device::Cpu)?;
    let mask = match causal {
        true => AttentionMask::causal(Some(&visible), 0, dims)?,
        false => AttentionMask::new(&visible)?,
    };
    Ok(Arranged {
        tokens: tokens.select(&Ids::new(rows, dims, t)?)?,
        layout: Layout::Padded(mask.bias(device)?),
        table: Some(Ids::new(positions, (1, t), b * s)?),
        callers_packed: true,
    })
}
