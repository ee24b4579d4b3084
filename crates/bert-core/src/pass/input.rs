//! What goes into a model, and the checks it passes before any arithmetic.

use candle_core::{DType, Device, Tensor};

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::pass::mask::check_device;

/// The arguments of a forward pass, under transformers' names.
///
/// Exactly one of `input_ids` and `inputs_embeds` is needed; what else is absent gets transformers'
/// default.
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
    /// Which tokens may be seen; see [`AttentionMask::new`](crate::AttentionMask::new). Default: all.
    pub attention_mask: Option<Tensor>,
    /// Which text of a pair a token belongs to: `[B, S]` or `[1, S]`, of an integer dtype.
    /// Default: 0.
    pub token_type_ids: Option<Tensor>,
    /// Each token's position, below `P`: `[B, S]` or `[1, S]`, of an integer dtype. Default: 0 to
    /// S − 1, after the cached tokens if there are any.
    pub position_ids: Option<Tensor>,
    /// The states of another encoder to attend to: `[B, K, H]`, in the model's dtype. Decoders with
    /// cross-attention only.
    pub encoder_hidden_states: Option<Tensor>,
    /// Which of those states may be seen: `[B, K]`, or as
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
    pub fn with_attention_mask(mut self, mask: Tensor) -> Self {
        self.attention_mask = Some(mask);
        self
    }

    /// Sets [`BertInput::token_type_ids`].
    pub fn with_token_type_ids(mut self, token_type_ids: Tensor) -> Self {
        self.token_type_ids = Some(token_type_ids);
        self
    }

    /// Sets [`BertInput::encoder_hidden_states`].
    pub fn with_encoder_hidden_states(mut self, states: Tensor) -> Self {
        self.encoder_hidden_states = Some(states);
        self
    }

    /// Sets [`BertInput::encoder_attention_mask`].
    pub fn with_encoder_attention_mask(mut self, mask: Tensor) -> Self {
        self.encoder_attention_mask = Some(mask);
        self
    }

    /// Sets [`BertInput::position_ids`].
    pub fn with_position_ids(mut self, position_ids: Tensor) -> Self {
        self.position_ids = Some(position_ids);
        self
    }

    /// Questions and choices in one batch: `[B, C, …]` → `[B·C, …]`, with B and C.
    pub(crate) fn flatten_choices(&self) -> Result<(usize, usize, Self)> {
        let flatten = |name, tensor: &Option<Tensor>, rank| match tensor {
            Some(tensor) if tensor.rank() == rank => Ok(Some(tensor.flatten(0, 1)?)),
            Some(tensor) => {
                let expected = if rank == 3 { "[B, C, S]" } else { "[B, C, S, H]" }.to_owned();
                Err(Error::Shape { name, got: tensor.dims().to_vec(), expected })
            }
            None => Ok(None),
        };
        let flat = Self {
            input_ids: flatten("input_ids", &self.input_ids, 3)?,
            inputs_embeds: flatten("inputs_embeds", &self.inputs_embeds, 4)?,
            attention_mask: flatten("attention_mask", &self.attention_mask, 3)?,
            token_type_ids: flatten("token_type_ids", &self.token_type_ids, 3)?,
            position_ids: flatten("position_ids", &self.position_ids, 3)?,
            encoder_hidden_states: self.encoder_hidden_states.clone(),
            encoder_attention_mask: self.encoder_attention_mask.clone(),
        };
        let choices =
            self.input_ids.as_ref().or(self.inputs_embeds.as_ref()).ok_or(Error::NoInput)?;
        let (b, c) = (choices.dims()[0], choices.dims()[1]);
        // Flat, [C, B, S] could not be told from [B, C, S].
        for (name, tensor) in [
            ("attention_mask", &self.attention_mask),
            ("token_type_ids", &self.token_type_ids),
            ("position_ids", &self.position_ids),
        ] {
            if let Some(got) = tensor.as_ref().map(Tensor::dims).filter(|dims| dims[..2] != [b, c])
            {
                let expected = format!("[{b}, {c}, S]");
                return Err(Error::Shape { name, got: got.to_vec(), expected });
            }
        }
        Ok((b, c, flat))
    }
}

/// What is embedded: ids, or vectors that stand for them.
pub(crate) enum Words {
    /// U32: `[B, S]`.
    Ids(Tensor),
    /// `[B, S, H]`.
    Embeds(Tensor),
}

/// An input whose every index is known to be in range. Ids are U32.
pub(crate) struct CheckedInput {
    pub(crate) words: Words,
    /// `[B or 1, S]`.
    pub(crate) token_type_ids: Tensor,
    /// `[B or 1, S]`.
    pub(crate) position_ids: Tensor,
    pub(crate) batch: usize,
    pub(crate) sequence: usize,
}

/// The tables that ids are looked up in: what an input is checked against.
pub(crate) struct Tables<'a> {
    pub(crate) config: &'a BertConfig,
    pub(crate) dtype: DType,
    pub(crate) device: &'a Device,
    /// Tokens before the first one of the input.
    pub(crate) past: usize,
}

impl Tables<'_> {
    /// Checks everything about `input` but its mask, and fills in the defaults.
    pub(crate) fn check(&self, input: &BertInput) -> Result<CheckedInput> {
        let config = self.config;
        let (words, batch, sequence) = match (&input.input_ids, &input.inputs_embeds) {
            (None, None) => return Err(Error::NoInput),
            (Some(_), Some(_)) => return Err(Error::TwoInputs),
            (Some(ids), None) => {
                let (b, s) = tokens("input_ids", ids, &[])?;
                (Words::Ids(self.ids("input_ids", ids, config.vocab_size, "vocab_size")?), b, s)
            }
            (None, Some(embeds)) => {
                let (b, s) = tokens("inputs_embeds", embeds, &[config.hidden_size])?;
                if embeds.dtype() != self.dtype {
                    let (got, expected) = (embeds.dtype(), format!("{:?}", self.dtype));
                    return Err(Error::DType { name: "inputs_embeds", got, expected });
                }
                check_device("inputs_embeds", embeds, self.device)?;
                (Words::Embeds(embeds.clone()), b, s)
            }
        };
        let per_token = |name: &'static str, ids: &Tensor| match *ids.dims() {
            [b, s] if s == sequence && (b == batch || b == 1) => Ok(()),
            ref got => {
                let expected = format!("[{batch}, {sequence}] or [1, {sequence}]");
                Err(Error::Shape { name, got: got.to_vec(), expected })
            }
        };
        let token_type_ids = match &input.token_type_ids {
            Some(ids) => {
                per_token("token_type_ids", ids)?;
                self.ids("token_type_ids", ids, config.type_vocab_size, "type_vocab_size")?
            }
            None => Tensor::zeros((1, sequence), DType::U32, self.device)?,
        };
        let positions = config.max_position_embeddings;
        let position_ids = match &input.position_ids {
            Some(ids) => {
                per_token("position_ids", ids)?;
                self.ids("position_ids", ids, positions, "max_position_embeddings")?
            }
            None if self.past + sequence > positions => {
                return Err(Error::TooLong { got: sequence, past: self.past, positions });
            }
            None => {
                let (first, end) = (self.past as u32, (self.past + sequence) as u32);
                Tensor::arange(first, end, self.device)?.unsqueeze(0)?
            }
        };
        Ok(CheckedInput { words, token_type_ids, position_ids, batch, sequence })
    }

    /// `ids` as U32, after checking that each is below `size`. Reads them to the host.
    fn ids(
        &self,
        name: &'static str,
        ids: &Tensor,
        size: usize,
        field: &'static str,
    ) -> Result<Tensor> {
        if !ids.dtype().is_int() {
            return Err(Error::DType { name, got: ids.dtype(), expected: "U32 or I64".to_owned() });
        }
        check_device(name, ids, self.device)?;
        let columns = ids.dims2()?.1;
        let values = ids.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.flatten_all()?;
        let checked = values
            .to_vec1::<i64>()?
            .into_iter()
            .enumerate()
            .map(|(i, got)| match u32::try_from(got) {
                Ok(id) if (id as usize) < size => Ok(id),
                _ => {
                    let at = (i / columns, i % columns);
                    Err(Error::IdOutOfRange { name, got, at, size, field })
                }
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tensor::from_vec(checked, ids.shape(), self.device)?)
    }
}

/// `(B, S)` of a tensor `[B, S, tail…]` that holds at least one token.
fn tokens(name: &'static str, tensor: &Tensor, tail: &[usize]) -> Result<(usize, usize)> {
    match *tensor.dims() {
        [b, s, ref rest @ ..] if rest == tail => match b * s {
            0 => Err(Error::EmptyInput { name, got: tensor.dims().to_vec() }),
            _ => Ok((b, s)),
        },
        ref got => {
            let h = tail.iter().map(|h| format!(", {h}")).collect::<String>();
            Err(Error::Shape { name, got: got.to_vec(), expected: format!("[B, S{h}]") })
        }
    }
}
