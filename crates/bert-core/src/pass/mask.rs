//! Which tokens see which.

use std::sync::Arc;

use bert_kernels::MASKED;
use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// The most pairs of a query and a key, of all sequences, that a mask can have.
const MOST_PAIRS: usize = 1 << 31;

/// Which keys each query may attend to.
///
/// The scores of hidden keys get a number added ([`MASKED`]) that is finite in every dtype in which
/// scores are computed: a query that sees no key attends to all keys equally, as in transformers'
/// eager attention.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    /// The shape that the caller gave; empty if the mask fits every input.
    dims: Vec<usize>,
    /// `[B or 1, N or 1, Q or 1, K]`.
    shape: [usize; 4],
    keys: Keys,
}

/// Everything is on the host: a pass makes a tensor of it once.
#[derive(Clone, Debug)]
enum Keys {
    /// Whether a query sees a key.
    Visible(Arc<[bool]>),
    /// Added to the scores.
    Bias(Arc<[f32]>),
}

/// The argument that masks are made of.
const ATTENTION_MASK: &str = "attention_mask";

impl AttentionMask {
    /// Every query sees every key.
    pub fn all_visible() -> Self {
        Self { dims: Vec::new(), shape: [1; 4], keys: Keys::Visible([true].into()) }
    }

    /// The mask that a caller passes as `attention_mask`:
    ///
    /// * `[B, K]` or `[B, Q, K]` of any dtype: 1 where a key is visible, 0 where it is hidden.
    /// * `[B, 1 or N, 1 or Q, K]` of an integer dtype: the same.
    /// * `[B, 1 or N, 1 or Q, K]` of a floating dtype: added to the scores, in F32. −∞ counts as
    ///   [`MASKED`].
    ///
    /// # Errors
    /// [`Error::Shape`] for another rank, [`Error::MaskValue`] for a value other than 0 and 1, or
    /// for NaN or +∞ in an additive mask, [`Error::MaskGradient`] for a mask that is to be learned.
    pub fn new(mask: &Tensor) -> Result<Self> {
        Self::of_argument(ATTENTION_MASK, Some(mask))
    }

    /// [`AttentionMask::new`] of the argument `name`; without it, every key is visible.
    pub(crate) fn of_argument(name: &'static str, mask: Option<&Tensor>) -> Result<Self> {
        let Some(mask) = mask else { return Ok(Self::all_visible()) };
        let shape = match *mask.dims() {
            [b, k] => [b, 1, 1, k],
            [b, q, k] => [b, 1, q, k],
            [b, n, q, k] => [b, n, q, k],
            _ => {
                let expected = "[B, K], [B, Q, K] or [B, 1 or N, 1 or Q, K]";
                return Err(Error::shape(name, mask, expected));
            }
        };
        let keys = match mask.rank() == 4 && mask.dtype().is_float() {
            true => Keys::Bias(additive(name, mask)?),
            false => Keys::Visible(visibility(name, mask)?),
        };
        Ok(Self { dims: mask.dims().into(), shape, keys })
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
        let pairs = keys.checked_mul(queries).and_then(|pairs| pairs.checked_mul(batch));
        if pairs.is_none_or(|pairs| pairs > MOST_PAIRS) {
            let got = vec![batch, queries, keys];
            let expected = format!("at most {MOST_PAIRS} pairs of tokens");
            return Err(Error::Shape { name: ATTENTION_MASK, got, expected });
        }
        let visible = match mask {
            Some(mask) if mask.rank() != 2 => return Self::new(mask),
            Some(mask) if mask.dims() != [batch, keys] => {
                let expected = format!("[{batch}, {keys}], cached and new tokens");
                return Err(Error::shape(ATTENTION_MASK, mask, expected));
            }
            Some(mask) => visibility(ATTENTION_MASK, mask)?,
            None => vec![true; keys].into(),
        };
        let dims = mask.map_or(vec![1, 1, queries, keys], |mask| mask.dims().into());
        let pairs = visible.chunks(keys).flat_map(|row| {
            (0..queries).flat_map(move |q| (0..keys).map(move |k| row[k] && k <= past + q))
        });
        let shape = [visible.len() / keys, 1, queries, keys];
        Ok(Self { dims, shape, keys: Keys::Visible(pairs.collect()) })
    }

    /// Which tokens are visible, row by row of `[B, S]`, if the caller's mask was `[B, S]` and the same
    /// for every query of a sequence.
    pub(crate) fn tokens(&self) -> Option<&[bool]> {
        match &self.keys {
            Keys::Visible(visible) if self.dims.len() == 2 && self.shape[2] == 1 => Some(visible),
            _ => None,
        }
    }

    /// What is added to the scores: F32, broadcastable to `[B, N, Q, K]`. `None` if every key is
    /// visible.
    pub(crate) fn bias(&self, device: &Device) -> Result<Option<Tensor>> {
        let bias = match &self.keys {
            Keys::Visible(visible) if !visible.contains(&false) => return Ok(None),
            Keys::Visible(visible) => {
                visible.iter().map(|visible| if *visible { 0. } else { MASKED as f32 }).collect()
            }
            Keys::Bias(bias) => bias.to_vec(),
        };
        Ok(Some(Tensor::from_vec(bias, &self.shape, device)?))
    }

    /// Checks that the mask fits scores of a layer alone, whose `heads` remain of an unknown number.
    pub(crate) fn check_layer(&self, [b, q, k]: [usize; 3], heads: &[u32]) -> Result<()> {
        let last = heads.last().map_or(0, |head| *head as usize);
        let n = if self.shape[1] > last { self.shape[1] } else { heads.len() };
        self.check("mask", [b, n, q, k])
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

/// The elements of an additive mask. −∞ becomes [`MASKED`], and so does the lowest number of the
/// mask's dtype, which callers use for −∞.
fn additive(name: &'static str, mask: &Tensor) -> Result<Arc<[f32]>> {
    let lowest = match mask.dtype() {
        DType::F16 => -65504.,
        DType::BF16 => f32::from_bits(0xff7f_0000),
        _ => f32::MIN,
    };
    let values = mask.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    read(name, &values, "finite numbers or −∞ to add to scores", |value| match value as f32 {
        value if value.is_nan() || value == f32::INFINITY => None,
        value if value <= lowest => Some(MASKED as f32),
        value => Some(value),
    })
}

/// The elements of a mask of zeros and ones.
fn visibility(name: &'static str, mask: &Tensor) -> Result<Arc<[bool]>> {
    let expected = "1 for visible and 0 for hidden; \
                    an additive mask has four dimensions, [B, 1, S, S]";
    read(name, mask, expected, |value| match value {
        0. => Some(false),
        1. => Some(true),
        _ => None,
    })
}

/// What `meaning` makes of the elements of a mask, each of which must have one.
fn read<T>(
    name: &'static str,
    mask: &Tensor,
    expected: &'static str,
    meaning: impl Fn(f64) -> Option<T>,
) -> Result<Arc<[T]>> {
    // What is compared has no gradient.
    if mask.dtype().is_float() && mask.track_op() {
        return Err(Error::MaskGradient { name });
    }
    let values = mask.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?;
    let read = |got| {
        let shape = || mask.dims().to_vec();
        meaning(got).ok_or_else(|| Error::MaskValue { name, shape: shape(), got, expected })
    };
    values.to_vec1()?.into_iter().map(read).collect()
}
