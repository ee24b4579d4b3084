//! The inputs of a forward pass.

use bert_kernels::{Sequence, Sequences};
use candle_core::Tensor;

use crate::error::{Error, Result};

/// The arguments of a forward pass, with transformers' names.
///
/// Give either `input_ids` or `inputs_embeds`. Other absent arguments have transformers' defaults.
/// Ids and masks may be on any device: they are checked on the host. Vectors must be on the model's
/// device.
///
/// ```
/// # use candle_core::{Device, Tensor};
/// use bert_core::BertInput;
///
/// # fn main() -> candle_core::Result<()> {
/// let ids = Tensor::new(&[[101u32, 7592, 102, 0]], &Device::Cpu)?;
/// let mask = Tensor::new(&[[1u32, 1, 1, 0]], &Device::Cpu)?;
/// let input = BertInput::from_ids(ids).with_attention_mask(mask);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct BertInput {
    /// Token ids, each below `V`: `[B, S]`, of an integer dtype.
    pub input_ids: Option<Tensor>,
    /// Vectors in place of the word embeddings: `[B, S, H]`, in the model's dtype.
    pub inputs_embeds: Option<Tensor>,
    /// Which tokens are visible; see [`AttentionMask::new`](crate::AttentionMask::new). Default: all.
    pub attention_mask: Option<Tensor>,
    /// The text of a pair that a token belongs to: `[B, S]` or `[1, S]`, of an integer dtype.
    /// Default: 0.
    pub token_type_ids: Option<Tensor>,
    /// Each token's position, below `P`: `[B, S]` or `[1, S]`, of an integer dtype. Default: 0 to
    /// S − 1, after any cached tokens.
    pub position_ids: Option<Tensor>,
    /// The id of padding, which a tokenizer knows; see [`PaddingStates`](crate::PaddingStates).
    /// Default: the config's `pad_token_id`.
    pub pad_token_id: Option<u32>,
    /// The states of another encoder to attend to: `[B, K, H]`, in the model's dtype. For decoders
    /// with cross-attention only.
    pub encoder_hidden_states: Option<Tensor>,
    /// Which of those states are visible: `[B, K]`, or as
    /// [`AttentionMask::new`](crate::AttentionMask::new) says. Default: all.
    pub encoder_attention_mask: Option<Tensor>,
}

impl BertInput {
    /// Input given as token ids: `[B, S]`.
    pub fn from_ids(input_ids: Tensor) -> Self {
        Self { input_ids: Some(input_ids), ..Self::default() }
    }

    /// Input given as vectors: `[B, S, H]`.
    pub fn from_embeds(inputs_embeds: Tensor) -> Self {
        Self { inputs_embeds: Some(inputs_embeds), ..Self::default() }
    }

    /// Sets [`BertInput::attention_mask`].
    pub fn with_attention_mask(self, mask: Tensor) -> Self {
        Self { attention_mask: Some(mask), ..self }
    }

    /// Sets [`BertInput::token_type_ids`].
    pub fn with_token_type_ids(self, token_type_ids: Tensor) -> Self {
        Self { token_type_ids: Some(token_type_ids), ..self }
    }

    /// Sets [`BertInput::pad_token_id`].
    pub fn with_pad_token_id(self, id: u32) -> Self {
        Self { pad_token_id: Some(id), ..self }
    }

    /// Sets [`BertInput::encoder_hidden_states`].
    pub fn with_encoder_hidden_states(self, states: Tensor) -> Self {
        Self { encoder_hidden_states: Some(states), ..self }
    }

    /// Sets [`BertInput::encoder_attention_mask`].
    pub fn with_encoder_attention_mask(self, mask: Tensor) -> Self {
        Self { encoder_attention_mask: Some(mask), ..self }
    }

    /// Sets [`BertInput::position_ids`].
    pub fn with_position_ids(self, position_ids: Tensor) -> Self {
        Self { position_ids: Some(position_ids), ..self }
    }

    /// Questions and choices in one batch: `[B, C, …]` → `[B·C, …]`, with B and C.
    pub(crate) fn flatten_choices(&self) -> Result<(usize, usize, Self)> {
        let mut flat = self.clone();
        for (name, tensor, rank) in [
            ("input_ids", &mut flat.input_ids, 3),
            ("inputs_embeds", &mut flat.inputs_embeds, 4),
            ("attention_mask", &mut flat.attention_mask, 3),
            ("token_type_ids", &mut flat.token_type_ids, 3),
            ("position_ids", &mut flat.position_ids, 3),
        ] {
            let Some(tensor) = tensor else { continue };
            if tensor.rank() != rank {
                let expected = if rank == 3 { "[B, C, S]" } else { "[B, C, S, H]" };
                return Err(Error::shape(name, tensor, expected));
            }
            *tensor = tensor.flatten(0, 1)?;
        }
        let choices =
            self.input_ids.as_ref().or(self.inputs_embeds.as_ref()).ok_or(Error::NoInput)?;
        let (b, c) = (choices.dims()[0], choices.dims()[1]);
        // After flattening, [C, B, S] looks like [B, C, S].
        for (name, tensor) in [
            ("attention_mask", &self.attention_mask),
            ("token_type_ids", &self.token_type_ids),
            ("position_ids", &self.position_ids),
        ] {
            if let Some(tensor) = tensor.as_ref().filter(|tensor| tensor.dims()[..2] != [b, c]) {
                return Err(Error::shape(name, tensor, format!("[{b}, {c}, S]")));
            }
        }
        Ok((b, c, flat))
    }
}

/// Sequences of different lengths, one after the other, without padding: the input of
/// [`BertModel::forward_packed`](crate::BertModel::forward_packed).
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
    /// The start of each sequence, and T: `B + 1` numbers, the first of them 0. FlashAttention:
    /// `cu_seqlens`.
    pub cumulative_lengths: Vec<usize>,
    /// The text of a pair that a token belongs to: `[T]`. Default: 0.
    pub token_type_ids: Option<Tensor>,
    /// Each token's position, below `P`: `[T]`. Default: counted from 0 in each sequence.
    pub position_ids: Option<Tensor>,
}

/// One of the two inputs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input<'a> {
    Padded(&'a BertInput),
    Packed(&'a PackedInput),
}

impl PackedInput {
    /// Ids, `[T]`, and the starts of their sequences followed by T.
    pub fn new(input_ids: Tensor, cumulative_lengths: Vec<usize>) -> Self {
        Self { input_ids, cumulative_lengths, token_type_ids: None, position_ids: None }
    }

    /// Sets [`PackedInput::token_type_ids`].
    pub fn with_token_type_ids(self, token_type_ids: Tensor) -> Self {
        Self { token_type_ids: Some(token_type_ids), ..self }
    }

    /// Sets [`PackedInput::position_ids`].
    pub fn with_position_ids(self, position_ids: Tensor) -> Self {
        Self { position_ids: Some(position_ids), ..self }
    }

    /// The sequences, after checking that each has at least one token and all together have T.
    pub(crate) fn sequences(&self, positions: usize) -> Result<Sequences> {
        let lengths = &self.cumulative_lengths;
        let rows = match *self.input_ids.dims() {
            [0] => return Err(Error::EmptyInput { name: "input_ids", got: vec![0] }),
            [rows] => rows,
            _ => return Err(Error::shape("input_ids", &self.input_ids, "[T]")),
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
        let each = each.map(|rows| Sequence { queries: rows.clone(), keys: rows });
        Ok(Sequences::new(each.collect())?)
    }

    /// All tokens as one row, `[1, T]`, with their positions.
    pub(crate) fn in_one_row(&self, sequences: &[Sequence]) -> Result<BertInput> {
        let row = |name, ids: &Tensor| match ids.dims() == self.input_ids.dims() {
            true => Ok(ids.unsqueeze(0)?),
            false => Err(Error::shape(name, ids, format!("{:?}", self.input_ids.dims()))),
        };
        let positions = match &self.position_ids {
            Some(ids) => row("position_ids", ids)?,
            None => {
                let positions = sequences.iter().flat_map(|it| 0..it.queries.len() as u32);
                Tensor::from_iter(positions, self.input_ids.device())?.unsqueeze(0)?
            }
        };
        let types = self.token_type_ids.as_ref();
        Ok(BertInput {
            token_type_ids: types.map(|ids| row("token_type_ids", ids)).transpose()?,
            position_ids: Some(positions),
            ..BertInput::from_ids(self.input_ids.unsqueeze(0)?)
        })
    }
}
