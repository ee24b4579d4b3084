//! Which tokens see which.

use std::ops::Range;
use std::sync::Arc;

use bert_kernels::{MASKED, Sequence};
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Which keys each query may attend to, ready to be added to attention scores.
///
/// Hidden keys get [`MASKED`], which is finite in every dtype the scores are computed in: a query
/// that sees no key attends to all keys equally, as in transformers' eager attention.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// The shape the caller gave; empty where it fits every input.
    dims: Vec<usize>,
    /// F32, `[B or 1, N or 1, Q or 1, K]`; absent where every key is visible.
    bias: Option<Tensor>,
    /// Which tokens all queries of their sequence see, `[B, S]`, where some are hidden.
    tokens: Option<Arc<[bool]>>,
    /// The sequences, where they lie one after the other without padding.
    sequences: Option<Arc<[Sequence]>>,
}

impl AttentionMask {
    /// Every query sees every key.
    pub fn all_visible() -> Self {
        Self { dims: Vec::new(), bias: None, tokens: None, sequences: None }
    }

    /// Sequences that lie one after the other, without padding: `x` is `[1, T, H]`.
    pub(crate) fn packed(sequences: Arc<[Sequence]>) -> Self {
        Self { sequences: Some(sequences), ..Self::all_visible() }
    }

    /// The mask that a caller passes as `attention_mask`:
    ///
    /// * `[B, K]` or `[B, Q, K]` of any dtype: 1 where a key is visible, 0 where it is hidden.
    /// * `[B, 1 or N, 1 or Q, K]` of an integer dtype: the same.
    /// * `[B, 1 or N, 1 or Q, K]` of a floating dtype: added to the scores. −∞ counts as [`MASKED`].
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank, [`Error::MaskValue`] for a value other than 0 and 1, or
    /// for NaN or +∞ in an additive mask.
    pub fn new(mask: &Tensor) -> Result<Self> {
        let dims = mask.dims();
        let mut tokens = None;
        let bias = match *dims {
            [b, k] => {
                let visible = visibility(mask)?;
                let bias = bias(&visible, [b, 1, 1, k], mask.device())?;
                tokens = bias.is_some().then(|| visible.into());
                bias
            }
            [b, q, k] => bias(&visibility(mask)?, [b, 1, q, k], mask.device())?,
            [_, _, _, _] if mask.dtype().is_float() => Some(additive(mask)?),
            [b, n, q, k] => bias(&visibility(mask)?, [b, n, q, k], mask.device())?,
            _ => {
                let expected = "[B, S], [B, S, S] or [B, 1, S, S]".to_owned();
                return Err(Error::Shape { name: "attention_mask", got: dims.into(), expected });
            }
        };
        Ok(Self { dims: dims.into(), bias, tokens, sequences: None })
    }

    /// A decoder's mask for `queries` new tokens of each of `batch` sequences: each sees itself and
    /// what comes before it, the `past` tokens of the cache included, except for what `mask`
    /// (`[B, K]`, K = past + queries) hides.
    ///
    /// A `mask` of three or four dimensions stands as it is, without a causal part.
    ///
    /// # Errors
    /// As [`AttentionMask::new`]; [`Error::Shape`] when `mask` is not `[B, K]`, and
    /// [`Error::EmptyInput`] when there are no sequences or no new tokens.
    pub fn causal(
        mask: Option<&Tensor>,
        past: usize,
        (batch, queries): (usize, usize),
        device: &Device,
    ) -> Result<Self> {
        if batch == 0 || queries == 0 {
            return Err(Error::EmptyInput { name: "attention_mask", got: vec![batch, queries] });
        }
        let keys = past.saturating_add(queries);
        let visible = match mask {
            Some(mask) if mask.rank() != 2 => return Self::new(mask),
            Some(mask) if mask.dims() != [batch, keys] => {
                let expected = format!("[{batch}, {keys}], cached and new tokens");
                return Err(Error::Shape {
                    name: "attention_mask",
                    got: mask.dims().into(),
                    expected,
                });
            }
            Some(mask) => visibility(mask)?,
            None => vec![true; keys],
        };
        let causal: Vec<bool> = visible
            .chunks(keys)
            .flat_map(|row| {
                (0..queries).flat_map(move |q| (0..keys).map(move |k| row[k] && k <= past + q))
            })
            .collect();
        let b = causal.len() / (queries * keys);
        Ok(Self {
            dims: mask.map_or(vec![1, 1, queries, keys], |mask| mask.dims().into()),
            bias: bias(&causal, [b, 1, queries, keys], device)?,
            ..Self::all_visible()
        })
    }

    /// The first token's state of each sequence, and its mask: `[B, S, H]` → `[B, 1, H]`, or
    /// `[1, T, H]` → `[1, B, H]`.
    pub(crate) fn first_tokens(&self, x: &Tensor) -> Result<(Tensor, Self)> {
        if let Some(sequences) = &self.sequences {
            let rows: Vec<u32> = sequences.iter().map(|it| it.queries.start as u32).collect();
            let first = x.index_select(&Tensor::new(rows, x.device())?, 1)?;
            let alone = sequences.iter().enumerate();
            let alone = alone.map(|(i, it)| Sequence { queries: i..i + 1, keys: it.keys.clone() });
            return Ok((first, Self::packed(alone.collect())));
        }
        let bias = match &self.bias {
            Some(bias) => Some(bias.narrow(2, 0, 1)?),
            None => None,
        };
        Ok((x.narrow(1, 0, 1)?, Self { bias, ..self.clone() }))
    }

    /// The dimension along which sequences lie.
    pub(crate) fn axis(&self) -> usize {
        usize::from(self.sequences.is_some())
    }

    /// A batch cut between sequences into as few parts as hold about `tokens` each, with their masks.
    pub(crate) fn parts(&self, x: &Tensor, tokens: usize) -> Result<Vec<(Tensor, Self)>> {
        let (b, s, _) = x.dims3()?;
        let count = (b * s).div_ceil(tokens.max(1));
        if count <= 1 {
            return Ok(vec![(x.clone(), self.clone())]);
        }
        let rows = |i: usize| match &self.sequences {
            Some(sequences) => sequences[i].queries.clone(),
            None => i * s..(i + 1) * s,
        };
        let middle = |i: usize| usize::midpoint(rows(i).start, rows(i).end);
        let part = |i: usize| middle(i) * count / (b * s);
        let all: Vec<usize> = (0..self.sequences.as_ref().map_or(b, |it| it.len())).collect();
        let groups = all.chunk_by(|i, j| part(*i) == part(*j));
        let cut = groups.map(|group| {
            let (first, len) = (group[0], group.len());
            if let Some(sequences) = &self.sequences {
                let start = rows(first).start;
                let here = |rows: &Range<usize>| rows.start - start..rows.end - start;
                let moved = sequences[first..first + len]
                    .iter()
                    .map(|it| Sequence { queries: here(&it.queries), keys: here(&it.keys) });
                let x = x.narrow(1, start, rows(first + len - 1).end - start)?;
                return Ok((x, Self::packed(moved.collect())));
            }
            let bias = match &self.bias {
                Some(bias) if bias.dim(0)? > 1 => Some(bias.narrow(0, first, len)?),
                bias => bias.clone(),
            };
            Ok((x.narrow(0, first, len)?, Self { bias, ..Self::all_visible() }))
        });
        cut.collect()
    }

    /// Which tokens are seen, row by row of `[B, S]`, if the same by every query of their sequence
    /// and not all.
    pub(crate) fn tokens(&self) -> Option<&[bool]> {
        self.tokens.as_deref()
    }

    /// The sequences, where they lie one after the other without padding.
    pub(crate) fn sequences(&self) -> Option<&[Sequence]> {
        self.sequences.as_deref()
    }

    /// F32, broadcastable to `[B, N, Q, K]`, to be added to the scores.
    pub(crate) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Checks that the mask fits scores of shape `[B, N, Q, K]`.
    pub(crate) fn check(&self, name: &'static str, [b, n, q, k]: [usize; 4]) -> Result<()> {
        let fits = match *self.dims {
            [] => true,
            [mb, mk] => mb == b && mk == k,
            [mb, mq, mk] => mb == b && mq == q && mk == k,
            [mb, mn, mq, mk] => {
                (mb == b || mb == 1) && (mn == n || mn == 1) && (mq == q || mq == 1) && mk == k
            }
            _ => false,
        };
        if fits {
            return Ok(());
        }
        let expected = format!("[{b}, {k}], [{b}, {q}, {k}] or [{b}, 1 or {n}, {q}, {k}]");
        Err(Error::Shape { name, got: self.dims.clone(), expected })
    }
}

/// What is added to the scores for these keys, or nothing where all are visible.
fn bias(visible: &[bool], shape: [usize; 4], device: &Device) -> Result<Option<Tensor>> {
    if visible.iter().all(|visible| *visible) {
        return Ok(None);
    }
    let bias: Vec<f32> =
        visible.iter().map(|visible| if *visible { 0. } else { MASKED as f32 }).collect();
    Ok(Some(Tensor::from_vec(bias, &shape, device)?))
}

/// An additive mask in F32 and without infinities. The lowest number of the mask's own dtype, which
/// callers use for −∞, becomes [`MASKED`] as well.
fn additive(mask: &Tensor) -> Result<Tensor> {
    let lowest = match mask.dtype() {
        DType::F16 => -65504.,
        DType::BF16 => f32::from_bits(0xff7f_0000),
        _ => f32::MIN,
    };
    let values = mask.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
    let bias = values
        .to_vec1::<f32>()?
        .into_iter()
        .map(|value| match value {
            value if value.is_nan() || value == f32::INFINITY => {
                let expected = "finite numbers or −∞ to add to scores";
                Err(mask_value(mask, f64::from(value), expected))
            }
            value if value <= lowest => Ok(MASKED as f32),
            value => Ok(value),
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::from_vec(bias, mask.shape(), mask.device())?)
}

/// The elements of a mask of zeros and ones.
fn visibility(mask: &Tensor) -> Result<Vec<bool>> {
    let values = mask.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?;
    values
        .to_vec1::<f64>()?
        .into_iter()
        .map(|value| match value {
            0. => Ok(false),
            1. => Ok(true),
            got => {
                let expected = "1 for visible and 0 for hidden; \
                                an additive mask has four dimensions, [B, 1, S, S]";
                Err(mask_value(mask, got, expected))
            }
        })
        .collect()
}

fn mask_value(mask: &Tensor, got: f64, expected: &'static str) -> Error {
    Error::MaskValue { shape: mask.dims().to_vec(), got, expected }
}

/// Checks that a tensor is where the model is.
pub(crate) fn check_device(name: &'static str, tensor: &Tensor, device: &Device) -> Result<()> {
    if tensor.device().same_device(device) {
        return Ok(());
    }
    let (got, expected) = (tensor.device().location(), device.location());
    Err(Error::Device { name, got, expected })
}
