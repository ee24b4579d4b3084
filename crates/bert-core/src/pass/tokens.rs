//! Tokens whose every id is known to be in range.

use bert_kernels::{Ids, gather_rows};
use candle_core::{DType, Device, Tensor};

use super::input::BertInput;
use crate::error::{Error, Result};

/// Ids of words, or vectors that replace their embeddings.
pub(crate) enum Words {
    /// `[B, S]`.
    Ids(Ids),
    /// `[B, S, H]`.
    Embeds(Tensor),
}

/// What the embeddings are computed from. `[1, S]` stands for equal rows.
pub(crate) struct Tokens {
    pub(crate) words: Words,
    /// `[B or 1, S]`.
    pub(crate) token_type_ids: Ids,
    /// `[B or 1, S]`.
    pub(crate) position_ids: Ids,
    /// `(B, S)`.
    pub(crate) dims: (usize, usize),
}

impl Tokens {
    /// The tokens at some rows of `[B·S]`, in that order: `[B', S']` as `rows`.
    pub(crate) fn select(&self, rows: &Ids) -> Result<Self> {
        let s = self.dims.1;
        let ids = |ids: &Ids| {
            let equal_rows = ids.dims().0 == 1;
            let at = |row: &u32| {
                let row = *row as usize;
                ids.values()[if equal_rows { row % s } else { row }]
            };
            Ids::new(rows.values().iter().map(at).collect(), rows.dims(), ids.bound())
        };
        Ok(Self {
            words: match &self.words {
                Words::Ids(words) => Words::Ids(ids(words)?),
                Words::Embeds(embeds) => Words::Embeds(gather_rows(&embeds.flatten(0, 1)?, rows)?),
            },
            token_type_ids: ids(&self.token_type_ids)?,
            position_ids: ids(&self.position_ids)?,
            dims: rows.dims(),
        })
    }
}

/// The embedding tables that ids belong to.
pub(crate) struct Tables<'a> {
    /// `V`.
    pub(crate) words: usize,
    pub(crate) token_types: usize,
    /// `P`.
    pub(crate) positions: usize,
    /// `H`.
    pub(crate) width: usize,
    pub(crate) dtype: DType,
    pub(crate) device: &'a Device,
}

impl Tables<'_> {
    /// Checks everything in `input` except masks and encoder states, and fills in the defaults. `past`
    /// tokens per sequence are cached.
    pub(crate) fn check(&self, input: &BertInput, past: usize) -> Result<Tokens> {
        let (words, dims) = match (&input.input_ids, &input.inputs_embeds) {
            (None, None) => return Err(Error::NoInput),
            (Some(_), Some(_)) => return Err(Error::TwoInputs),
            (Some(ids), None) => {
                let dims = batch_and_sequence("input_ids", ids, &[])?;
                (Words::Ids(read_ids("input_ids", ids, self.words, "vocab_size")?), dims)
            }
            (None, Some(embeds)) => {
                const NAME: &str = "inputs_embeds";
                let dims = batch_and_sequence(NAME, embeds, &[self.width])?;
                Error::check_tensor(NAME, embeds, self.dtype, self.device)?;
                (Words::Embeds(embeds.clone()), dims)
            }
        };
        let (batch, sequence) = dims;
        let per_token = |name: &'static str, ids: &Tensor| match *ids.dims() {
            [b, s] if s == sequence && (b == batch || b == 1) => Ok(()),
            _ => Err(Error::shape(name, ids, format!("[{batch}, {sequence}] or [1, {sequence}]"))),
        };
        let token_type_ids = match &input.token_type_ids {
            Some(ids) => {
                per_token("token_type_ids", ids)?;
                read_ids("token_type_ids", ids, self.token_types, "type_vocab_size")?
            }
            None => Ids::new(vec![0; sequence], (1, sequence), self.token_types)?,
        };
        let positions = self.positions;
        let position_ids = match &input.position_ids {
            Some(ids) => {
                per_token("position_ids", ids)?;
                read_ids("position_ids", ids, positions, "max_position_embeddings")?
            }
            None if past + sequence > positions => {
                return Err(Error::TooLong { got: sequence, past, positions });
            }
            None => {
                let ids = (past as u32..).take(sequence).collect();
                Ids::new(ids, (1, sequence), positions)?
            }
        };
        Ok(Tokens { words, token_type_ids, position_ids, dims })
    }
}

/// `ids` on the host, after checking that each is below `size`, the config's `field`.
fn read_ids(name: &'static str, ids: &Tensor, size: usize, field: &'static str) -> Result<Ids> {
    if !ids.dtype().is_int() {
        return Err(Error::dtype(name, ids, "an integer dtype, like U32 or I64"));
    }
    let dims = ids.dims2()?;
    let values = ids.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?;
    let values = values.to_vec1::<i64>()?.into_iter().enumerate();
    let checked = values.map(|(i, got)| match u32::try_from(got) {
        Ok(id) if (id as usize) < size => Ok(id),
        _ => Err(Error::IdOutOfRange { name, got, at: (i / dims.1, i % dims.1), size, field }),
    });
    Ok(Ids::new(checked.collect::<Result<_>>()?, dims, size)?)
}

/// `(B, S)` of a tensor `[B, S, tail…]` that holds at least one token.
fn batch_and_sequence(
    name: &'static str,
    tensor: &Tensor,
    tail: &[usize],
) -> Result<(usize, usize)> {
    match *tensor.dims() {
        [b, s, ref rest @ ..] if rest == tail => match b * s {
            0 => Err(Error::EmptyInput { name, got: tensor.dims().to_vec() }),
            _ => Ok((b, s)),
        },
        _ => {
            let h = tail.iter().map(|h| format!(", {h}")).collect::<String>();
            Err(Error::shape(name, tensor, format!("[B, S{h}]")))
        }
    }
}
