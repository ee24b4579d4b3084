//! How the rows of hidden states belong together.

use std::ops::Range;
use std::sync::Arc;

use bert_kernels::{Sequence, Sequences, gather_rows};
use candle_core::Tensor;

use crate::error::Result;

/// The layout of `x`, as attention needs it.
#[derive(Clone, Debug)]
pub(crate) enum Layout {
    /// `x`: `[B, S, H]`, with what is added to the scores: F32, broadcastable to `[B, N, Q, K]`;
    /// absent where every key is visible.
    Padded(Option<Tensor>),
    /// `x`: `[1, T, H]`.
    Packed(Arc<Sequences>),
}

impl Layout {
    /// The first token's state of each sequence, and their layout: `[B, S, H]` → `[B, 1, H]`, or
    /// `[1, T, H]` → `[1, B, H]`.
    pub(crate) fn first_tokens(&self, x: &Tensor) -> Result<(Tensor, Self)> {
        Ok(match self {
            Self::Packed(sequences) => {
                let first = gather_rows(&x.squeeze(0)?, &sequences.first_rows()?)?;
                let alone = |(i, it): (usize, &Sequence)| Sequence {
                    queries: i..i + 1,
                    keys: it.keys.clone(),
                };
                let alone = Sequences::new(sequences.iter().enumerate().map(alone).collect())?;
                (first, Self::Packed(Arc::new(alone)))
            }
            Self::Padded(bias) => {
                let bias = bias.as_ref().map(|bias| bias.narrow(2, 0, 1)).transpose()?;
                (x.narrow(1, 0, 1)?, Self::Padded(bias))
            }
        })
    }

    /// The dimension of `x` along which sequences lie.
    pub(crate) fn axis(&self) -> usize {
        match self {
            Self::Padded(_) => 0,
            Self::Packed(_) => 1,
        }
    }

    /// Splits `x` at the boundaries of sequences into parts of about `tokens` tokens each.
    pub(crate) fn parts(&self, x: &Tensor, tokens: usize) -> Result<Vec<(Tensor, Self)>> {
        let (b, s, _) = x.dims3()?;
        let count = (b * s).div_ceil(tokens.max(1));
        if count <= 1 {
            return Ok(vec![(x.clone(), self.clone())]);
        }
        let rows: Vec<_> = match self {
            Self::Packed(sequences) => sequences.iter().map(|it| it.queries.clone()).collect(),
            Self::Padded(_) => (0..b).map(|i| i * s..(i + 1) * s).collect(),
        };
        let part = |i: usize| usize::midpoint(rows[i].start, rows[i].end) * count / (b * s);
        let all: Vec<usize> = (0..rows.len()).collect();
        let groups = all.chunk_by(|i, j| part(*i) == part(*j));
        groups.map(|group| self.narrow(x, group[0]..group[0] + group.len())).collect()
    }

    /// Some of the sequences, alone.
    fn narrow(&self, x: &Tensor, which: Range<usize>) -> Result<(Tensor, Self)> {
        Ok(match self {
            Self::Packed(sequences) => {
                let sequences = &sequences[which];
                let start = sequences.first().map_or(0, |it| it.queries.start);
                let moved = |rows: &Range<usize>| rows.start - start..rows.end - start;
                let moved = sequences
                    .iter()
                    .map(|it| Sequence { queries: moved(&it.queries), keys: moved(&it.keys) });
                let moved = Sequences::new(moved.collect())?;
                (x.narrow(1, start, moved.rows())?, Self::Packed(Arc::new(moved)))
            }
            Self::Padded(bias) => {
                let narrow = |tensor: &Tensor| tensor.narrow(0, which.start, which.len());
                let bias = match bias {
                    Some(bias) if bias.dim(0)? > 1 => Some(narrow(bias)?),
                    bias => bias.clone(),
                };
                (narrow(x)?, Self::Padded(bias))
            }
        })
    }
}
