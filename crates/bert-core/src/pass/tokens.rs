//! Tokens whose every id is known to be in range.

use bert_kernels::{Ids, gather_rows};
use candle_core::{DType, Device, Tensor};

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

/// `ids` on the host, after checking that each is below `size`, the config's `field`.
pub(crate) fn read_ids(
    name: &'static str,
    ids: &Tensor,
    size: usize,
    field: &'static str,
) -> Result<Ids> {
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
pub(crate) fn batch_and_sequence(
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
