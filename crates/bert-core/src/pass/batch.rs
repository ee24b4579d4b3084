//! Sequences one after the other, without the padding between them.
//!
//! Everything but attention works on tokens, and attention is told which belong together, so the
//! layers need no second form for it. Padding then costs nothing.

use std::sync::Arc;

use bert_kernels::Sequence;
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::pass::input::{BertInput, CheckedInput, Words};
use crate::pass::mask::AttentionMask;

/// Where the tokens of a padded batch lie when they are packed.
///
/// The first token of each sequence stays, hidden or not: the pooler reads it.
pub(crate) struct Packing {
    batch: usize,
    sequence: usize,
    /// The places in `[B·S]` of the T tokens that stay.
    places: Vec<u32>,
    sequences: Arc<[Sequence]>,
}

impl Packing {
    /// That of a batch `[B, S]`; none where no token is hidden, or all of a sequence are, whose
    /// queries see them all.
    pub(crate) fn of(mask: &AttentionMask, sequence: usize) -> Option<Self> {
        let visible = mask.tokens()?;
        let (mut places, mut sequences) = (Vec::new(), Vec::new());
        for (row, tokens) in visible.chunks_exact(sequence).enumerate() {
            let start = places.len();
            let stay = |i: &usize| tokens[*i] || *i == 0;
            places.extend((0..sequence).filter(stay).map(|i| (row * sequence + i) as u32));
            let keys = start + usize::from(!tokens[0])..places.len();
            if keys.is_empty() {
                return None;
            }
            sequences.push(Sequence { queries: start..places.len(), keys });
        }
        Some(Self { batch: sequences.len(), sequence, places, sequences: sequences.into() })
    }

    /// What attention is told.
    pub(crate) fn mask(&self) -> AttentionMask {
        AttentionMask::packed(self.sequences.clone())
    }

    /// `[B, S]` → `[1, T]`.
    pub(crate) fn pack(&self, input: &CheckedInput) -> Result<CheckedInput> {
        let ids = |ids: &Tensor| {
            self.select(&ids.broadcast_as((self.batch, self.sequence))?.contiguous()?)
        };
        Ok(CheckedInput {
            words: match &input.words {
                Words::Ids(words) => Words::Ids(ids(words)?),
                Words::Embeds(embeds) => Words::Embeds(self.select(embeds)?),
            },
            token_type_ids: ids(&input.token_type_ids)?,
            position_ids: ids(&input.position_ids)?,
            batch: 1,
            sequence: self.places.len(),
        })
    }

    /// `[B, S, …]` → `[1, T, …]`.
    pub(crate) fn select(&self, x: &Tensor) -> Result<Tensor> {
        let places = Tensor::new(&*self.places, x.device())?;
        Ok(x.flatten(0, 1)?.index_select(&places, 0)?.unsqueeze(0)?)
    }

    /// `[1, T, H]` → `[B, S, H]`, zero where a token was left out.
    pub(crate) fn unpack(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, h) = x.dims3()?;
        let places = Tensor::new(&*self.places, x.device())?;
        let padded = Tensor::zeros((self.batch * self.sequence, h), x.dtype(), x.device())?;
        let padded = padded.index_add(&places, &x.squeeze(0)?, 0)?;
        Ok(padded.reshape((self.batch, self.sequence, h))?)
    }
}

/// Sequences of different lengths, one after the other: what
/// [`BertModel::forward_packed`](crate::BertModel::forward_packed) takes.
///
/// ```
/// # use bert_core::PackedInput;
/// # use candle_core::{Device, Tensor};
/// # fn main() -> candle_core::Result<()> {
/// // Two sequences of 3 and 4 tokens.
/// let ids = Tensor::new(&[101u32, 7592, 102, 101, 2026, 3899, 102], &Device::Cpu)?;
/// let input = PackedInput::new(ids, vec![0, 3, 7]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct PackedInput {
    /// Token ids, each below `V`: `[T]`, of an integer dtype.
    pub input_ids: Tensor,
    /// Where each sequence begins, and T: `B + 1` numbers, the first of them 0. What flash attention
    /// calls `cu_seqlens`.
    pub cumulative_lengths: Vec<usize>,
    /// Which text of a pair a token belongs to: `[T]`. Default: 0.
    pub token_type_ids: Option<Tensor>,
    /// Each token's position, below `P`: `[T]`. Default: from 0 on in each sequence.
    pub position_ids: Option<Tensor>,
}

impl PackedInput {
    /// Ids, `[T]`, and where their sequences begin and the last one ends.
    pub fn new(input_ids: Tensor, cumulative_lengths: Vec<usize>) -> Self {
        Self { input_ids, cumulative_lengths, token_type_ids: None, position_ids: None }
    }

    /// Sets [`PackedInput::token_type_ids`].
    pub fn with_token_type_ids(mut self, token_type_ids: Tensor) -> Self {
        self.token_type_ids = Some(token_type_ids);
        self
    }

    /// Checks the lengths: at least one sequence, at least one token in each, T in all.
    pub(crate) fn sequences(&self, positions: usize) -> Result<Arc<[Sequence]>> {
        let lengths = &self.cumulative_lengths;
        let rows = match *self.input_ids.dims() {
            [0] => return Err(Error::EmptyInput { name: "input_ids", got: vec![0] }),
            [rows] => rows,
            ref got => {
                let expected = "[T]".to_owned();
                return Err(Error::Shape { name: "input_ids", got: got.to_vec(), expected });
            }
        };
        let rising = lengths.windows(2).all(|pair| pair[0] < pair[1]);
        if lengths.first() != Some(&0) || lengths.last() != Some(&rows) || !rising {
            return Err(Error::CumulativeLengths { got: lengths.clone(), tokens: rows });
        }
        let each = lengths.windows(2).map(|pair| pair[0]..pair[1]);
        if self.position_ids.is_none()
            && let Some(got) = each.clone().map(|rows| rows.len()).find(|got| *got > positions)
        {
            return Err(Error::TooLong { got, past: 0, positions });
        }
        Ok(each.map(|rows| Sequence { queries: rows.clone(), keys: rows }).collect())
    }

    /// One row of all tokens, `[1, T]`, with their positions.
    pub(crate) fn in_one_row(&self, sequences: &[Sequence]) -> Result<BertInput> {
        let row = |name, ids: &Tensor| match ids.dims() == self.input_ids.dims() {
            true => Ok(ids.unsqueeze(0)?),
            false => {
                let (got, expected) = (ids.dims().to_vec(), format!("{:?}", self.input_ids.dims()));
                Err(Error::Shape { name, got, expected })
            }
        };
        let positions = match &self.position_ids {
            Some(ids) => row("position_ids", ids)?,
            None => {
                let positions = sequences.iter().flat_map(|it| 0..it.queries.len() as u32);
                let positions: Vec<u32> = positions.collect();
                Tensor::new(positions, self.input_ids.device())?.unsqueeze(0)?
            }
        };
        Ok(BertInput {
            token_type_ids: match &self.token_type_ids {
                Some(ids) => Some(row("token_type_ids", ids)?),
                None => None,
            },
            position_ids: Some(positions),
            ..BertInput::from_ids(self.input_ids.unsqueeze(0)?)
        })
    }

    /// The same as a padded batch, `[B, S]`, with its mask, and where the tokens are in it.
    pub(crate) fn padded(&self, sequences: &[Sequence]) -> Result<(BertInput, Packing)> {
        let device = self.input_ids.device();
        let row = self.in_one_row(sequences)?;
        let (b, s) =
            (sequences.len(), sequences.iter().map(|it| it.queries.len()).max().unwrap_or(0));
        // Where each place of the batch finds its token: behind a sequence's end its first one.
        let from: Vec<u32> = (sequences.iter())
            .flat_map(|it| {
                let rows = it.queries.clone();
                (0..s).map(move |i| (rows.start + if i < rows.len() { i } else { 0 }) as u32)
            })
            .collect();
        let visible: Vec<u32> = (sequences.iter())
            .flat_map(|it| (0..s).map(|i| u32::from(i < it.queries.len())))
            .collect();
        let places = (0..(b * s) as u32).filter(|i| visible[*i as usize] == 1).collect();
        let from = Tensor::new(from, &Device::Cpu)?;
        let spread = |ids: &Option<Tensor>| match ids {
            Some(ids) => {
                let ids = ids.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.squeeze(0)?;
                Ok(Some(ids.index_select(&from, 0)?.reshape((b, s))?.to_device(device)?))
            }
            None => Ok::<_, Error>(None),
        };
        let input = BertInput {
            input_ids: spread(&row.input_ids)?,
            token_type_ids: spread(&row.token_type_ids)?,
            position_ids: spread(&row.position_ids)?,
            attention_mask: Some(Tensor::from_vec(visible, (b, s), device)?),
            ..BertInput::default()
        };
        let sequences = sequences.into();
        Ok((input, Packing { batch: b, sequence: s, places, sequences }))
    }
}
