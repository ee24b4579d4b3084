//! Which tokens see which.

use std::sync::Arc;

use bert_kernels::MASKED;
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Which keys each query may attend to.
///
/// The scores of hidden keys get a number added ([`MASKED`]) that is finite in every dtype in which
/// scores are computed: a query that sees no key attends to all keys equally, as in transformers'
/// eager attention.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// The shape that the caller gave; empty if the mask fits every input.
    dims: Vec<usize>,
    visible: Visible,
}

/// Everything is on the host: a pass makes a tensor of it once.
#[derive(Clone, Debug)]
enum Visible {
    All,
    /// Each query sees the same tokens of its sequence, `[B, K]`, and some are hidden.
    Tokens(Arc<[bool]>, [usize; 2]),
    /// Added to the scores: `[B or 1, N or 1, Q or 1, K]`.
    Bias(Arc<[f32]>, [usize; 4]),
}

/// The argument that masks are made of.
const ATTENTION_MASK: &str = "attention_mask";

impl AttentionMask {
    /// Every query sees every key.
    pub fn all_visible() -> Self {
        Self { dims: Vec::new(), visible: Visible::All }
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
        Self::named(ATTENTION_MASK, mask)
    }

    /// [`AttentionMask::new`] of the argument `name`.
    pub(crate) fn named(name: &'static str, mask: &Tensor) -> Result<Self> {
        let dims = mask.dims();
        let visible = match *dims {
            [b, k] => Visible::of_tokens(visibility(name, mask)?, [b, k]),
            [b, q, k] => Visible::of_pairs(&visibility(name, mask)?, [b, 1, q, k]),
            [b, n, q, k] if mask.dtype().is_float() => {
                Visible::Bias(additive(name, mask)?.into(), [b, n, q, k])
            }
            [b, n, q, k] => Visible::of_pairs(&visibility(name, mask)?, [b, n, q, k]),
            _ => {
                return Err(Error::shape(
                    ATTENTION_MASK,
                    mask,
                    "[B, K], [B, Q, K] or [B, 1 or N, 1 or Q, K]",
                ));
            }
        };
        Ok(Self { dims: dims.into(), visible })
    }

    /// A decoder's mask for `queries` new tokens in each of `batch` sequences. A token sees itself and
    /// the tokens before it, including `past` cached ones, except those that `mask` hides (`[B, K]`,
    /// K = past + queries).
    ///
    /// A `mask` with three or four dimensions is used as it is, without a causal part.
    ///
    /// # Errors
    /// As [`AttentionMask::new`]; [`Error::Shape`] when `mask` is not `[B, K]`, and
    /// [`Error::EmptyInput`] when there are no sequences or no new tokens.
    pub fn causal(
        mask: Option<&Tensor>,
        past: usize,
        (batch, queries): (usize, usize),
    ) -> Result<Self> {
        if batch == 0 || queries == 0 {
            return Err(Error::EmptyInput { name: ATTENTION_MASK, got: vec![batch, queries] });
        }
        let keys = past.saturating_add(queries);
        let visible = match mask {
            Some(mask) if mask.rank() != 2 => return Self::new(mask),
            Some(mask) if mask.dims() != [batch, keys] => {
                let expected = format!("[{batch}, {keys}], cached and new tokens");
                return Err(Error::shape(ATTENTION_MASK, mask, expected));
            }
            Some(mask) => visibility(ATTENTION_MASK, mask)?,
            None => vec![true; keys],
        };
        let dims = mask.map_or(vec![1, 1, queries, keys], |mask| mask.dims().into());
        Ok(Self { dims, visible: Visible::causal(&visible, queries, keys) })
    }

    /// The mask of `[B, S]` tokens, causal or not.
    pub(crate) fn of_tokens(visible: Vec<bool>, (b, s): (usize, usize), causal: bool) -> Self {
        let visible = match causal {
            true => Visible::causal(&visible, s, s),
            false => Visible::of_tokens(visible, [b, s]),
        };
        Self { dims: vec![b, s], visible }
    }

    /// Which tokens are visible, row by row of `[B, S]`, if that is the same for every query of a
    /// sequence and some token is hidden.
    pub(crate) fn tokens(&self) -> Option<&[bool]> {
        match &self.visible {
            Visible::Tokens(tokens, _) => Some(tokens),
            _ => None,
        }
    }

    /// What is added to the scores: F32, broadcastable to `[B, N, Q, K]`. `None` if every key is
    /// visible.
    pub(crate) fn bias(&self, device: &Device) -> Result<Option<Tensor>> {
        Ok(match &self.visible {
            Visible::All => None,
            Visible::Tokens(tokens, [b, k]) => {
                Some(Tensor::from_vec(bias(tokens), (*b, 1, 1, *k), device)?)
            }
            Visible::Bias(values, dims) => Some(Tensor::from_slice(values, &dims[..], device)?),
        })
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

impl Visible {
    fn of_tokens(visible: Vec<bool>, dims: [usize; 2]) -> Self {
        match visible.contains(&false) {
            true => Self::Tokens(visible.into(), dims),
            false => Self::All,
        }
    }

    fn of_pairs(visible: &[bool], dims: [usize; 4]) -> Self {
        match visible.contains(&false) {
            true => Self::Bias(bias(visible).into(), dims),
            false => Self::All,
        }
    }

    /// `visible`: which of the `keys` tokens of each sequence are visible at all. The queries are the
    /// last tokens.
    fn causal(visible: &[bool], queries: usize, keys: usize) -> Self {
        let past = keys - queries;
        let pairs: Vec<bool> = visible
            .chunks(keys)
            .flat_map(|row| {
                (0..queries).flat_map(move |q| (0..keys).map(move |k| row[k] && k <= past + q))
            })
            .collect();
        Self::of_pairs(&pairs, [visible.len() / keys, 1, queries, keys])
    }
}

fn bias(visible: &[bool]) -> Vec<f32> {
    visible.iter().map(|visible| if *visible { 0. } else { MASKED as f32 }).collect()
}

/// The elements of an additive mask. −∞ becomes [`MASKED`], and so does the lowest number of the
/// mask's dtype, which callers use for −∞.
fn additive(name: &'static str, mask: &Tensor) -> Result<Vec<f32>> {
    let lowest = match mask.dtype() {
        DType::F16 => -65504.,
        DType::BF16 => f32::from_bits(0xff7f_0000),
        _ => f32::MIN,
    };
    let values = mask.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?;
    values
        .to_vec1::<f32>()?
        .into_iter()
        .map(|value| match value {
            value if value.is_nan() || value == f32::INFINITY => {
                let expected = "finite numbers or −∞ to add to scores";
                Err(mask_value(name, mask, f64::from(value), expected))
            }
            value if value <= lowest => Ok(MASKED as f32),
            value => Ok(value),
        })
        .collect()
}

/// The elements of a mask of zeros and ones.
fn visibility(name: &'static str, mask: &Tensor) -> Result<Vec<bool>> {
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
                Err(mask_value(name, mask, got, expected))
            }
        })
        .collect()
}

fn mask_value(name: &'static str, mask: &Tensor, got: f64, expected: &'static str) -> Error {
    Error::MaskValue { name, shape: mask.dims().to_vec(), got, expected }
}
