//! The whole model.

use bert_kernels::{PassPolicy, with_thread_team};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::embeddings::BertEmbeddings;
use crate::encoder::BertEncoder;
use crate::error::{Error, Result};
use crate::init;
use crate::named;
use crate::outputs::{BaseModelOutputWithPoolingAndCrossAttentions, LayerOutputs, PooledOutput};
use crate::pass::batch::{Arranged, Batch, EncoderStates};
use crate::pass::input::{BertInput, Input, PackedInput};
use crate::pass::layout::Layout;
use crate::pass::mask::AttentionMask;
use crate::pass::options::{ForwardOptions, PaddingStates};
use crate::pass::plan::{Plan, Rows};
use crate::pass::state::Recorded;
use crate::pass::tokens::Words;
use crate::pooler::BertPooler;

/// BERT without a head: embeddings, encoder and, unless left out, pooler.
///
/// Devlin et al. 2018, Figure 1. Hugging Face: `BertModel`. The parts are public. Called one after
/// the other they give the same bits as the model, except for the states of padding
/// ([`PaddingStates`]):
///
/// ```
/// # use bert_core::{AttentionMask, BertConfig, BertInput, BertModel};
/// # use candle_core::{DType, Device, Tensor};
/// # use candle_nn::{VarBuilder, VarMap};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let config = BertConfig::from_json(
/// #     r#"{"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16,
/// #         "num_hidden_layers": 2, "max_position_embeddings": 4}"#)?;
/// # let vars = VarMap::new();
/// # let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
/// let model = BertModel::load(vb, &config)?;
/// let ids = Tensor::new(&[[1u32, 4, 2, 0]], &Device::Cpu)?;
/// let attention_mask = Tensor::new(&[[1u32, 1, 1, 0]], &Device::Cpu)?;
/// let input = BertInput::from_ids(ids).with_attention_mask(attention_mask.clone());
///
/// let embedding_output = model.embeddings.forward(&input)?;
/// let mask = AttentionMask::new(&attention_mask)?;
/// let encoder_outputs = model.encoder.forward(&embedding_output, &mask)?;
/// let pooled_output = model.pooler.as_ref().unwrap().forward(&encoder_outputs.last_hidden_state)?;
///
/// let output = model.forward(&input)?;
/// assert_eq!(output.pooler_output.unwrap().to_vec2::<f32>()?, pooled_output.to_vec2::<f32>()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct BertModel {
    /// Words, token types and positions to vectors.
    pub embeddings: BertEmbeddings,
    /// The layers.
    pub encoder: BertEncoder,
    /// From the first token's state to a vector for the sequence.
    pub pooler: Option<BertPooler>,
    config: BertConfig,
}

impl BertModel {
    /// Loads the model with its pooler, from names with or without the prefix `bert.`.
    ///
    /// Names that a `VarMap` does not have yet are created, without the prefix and with
    /// `initializer_range`.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible config, [`Error::Candle`] for a tensor that is missing or
    /// has another shape.
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Self::load_at(init::base_model(&vb), config, true)
    }

    /// Loads the model without a pooler. Hugging Face: `add_pooling_layer=False`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load_without_pooler(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Self::load_at(init::base_model(&vb), config, false)
    }

    /// Loads the model that lies below a head.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load_below_head(vb: &VarBuilder, config: &BertConfig, pooler: bool) -> Result<Self> {
        Self::load_at(init::base_below_head(vb), config, pooler)
    }

    fn load_at(vb: VarBuilder, config: &BertConfig, pooler: bool) -> Result<Self> {
        Ok(Self {
            embeddings: BertEmbeddings::load(vb.pp("embeddings"), config)?,
            encoder: BertEncoder::load(vb.pp("encoder"), config)?,
            pooler: pooler.then(|| BertPooler::load(vb.pp("pooler"), config)).transpose()?,
            config: config.clone(),
        })
    }

    /// `input`: B sequences of S tokens → `last_hidden_state` `[B, S, H]` and `pooler_output`
    /// `[B, H]`, and the hidden states and attentions that the config asks for. The states of padding
    /// are zeros; see [`PaddingStates`].
    ///
    /// **Padding takes no time** when all of this holds:
    ///
    /// * the model is on the CPU in F32, or on CUDA with this library's kernels in use, and none of its
    ///   parameters is trained;
    /// * it is an encoder with absolute positions, and `chunk_size_feed_forward` is 0;
    /// * the mask is `[B, S]`, and no row of it hides every token;
    /// * attentions, [`PaddingStates::Kept`], a head mask, dropout or a cache are not asked for.
    ///
    /// **Otherwise** every token is computed. Either way, the numbers of all other tokens are the
    /// same up to rounding.
    ///
    /// # Errors
    /// When the inputs do not fit each other or the model ([`Error::NoCrossAttention`] and
    /// [`Error::NoEncoderStates`] for encoder states); see [`Error`].
    pub fn forward(
        &self,
        input: &BertInput,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.forward_with(input, &ForwardOptions::new())
    }

    /// [`BertModel::forward`] with options.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoSuchLayer`], [`Error::CacheMismatch`] and, for a head
    /// mask, [`Error::Shape`] when the options do not fit the model.
    pub fn forward_with(
        &self,
        input: &BertInput,
        options: &ForwardOptions,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.states(Input::Padded(input), options, false)
    }

    /// Sequences one after the other, T tokens in all → `last_hidden_state` `[T, H]`,
    /// `pooler_output` `[B, H]` and, on request, hidden states `[T, H]`. The numbers are those of
    /// [`BertModel::forward`] up to rounding.
    ///
    /// Where [`BertModel::forward`] computes padding, this pads the batch as well.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::CumulativeLengths`] when the lengths do not fit.
    pub fn forward_packed(
        &self,
        input: &PackedInput,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.forward_packed_with(input, &ForwardOptions::new())
    }

    /// [`BertModel::forward_packed`] with options. Attentions are those of the padded batch.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`]; [`Error::PackedCache`] for a cache with tokens.
    pub fn forward_packed_with(
        &self,
        input: &PackedInput,
        options: &ForwardOptions,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.states(Input::Packed(input), options, false)
    }

    /// The pooled output alone: `[B, H]`, with the numbers of [`BertModel::forward`]. The last layer
    /// is computed for the first tokens only, unless the config needs the others.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoPooler`] without a pooler.
    pub fn pooled(&self, input: &BertInput) -> Result<Tensor> {
        Ok(self.pooled_with(Input::Padded(input), &ForwardOptions::result_only())?.pooler_output)
    }

    /// [`BertModel::pooled`] of packed sequences.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`]; [`Error::NoPooler`] without a pooler.
    pub fn pooled_packed(&self, input: &PackedInput) -> Result<Tensor> {
        Ok(self.pooled_with(Input::Packed(input), &ForwardOptions::result_only())?.pooler_output)
    }

    /// The last hidden states of the sequences' first tokens alone: `[B, H]`. As with
    /// [`BertModel::pooled`], the last layer is computed for these only.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`].
    pub fn first_tokens_packed(&self, input: &PackedInput) -> Result<Tensor> {
        let options = ForwardOptions::result_only();
        let batch = self.batch(Input::Packed(input), &options)?;
        with_thread_team(|| {
            let first = self.run(batch, &options, Rows::First, false)?.first_tokens()?;
            Ok(first.squeeze(1)?)
        })
    }

    /// The pooled output, and the hidden states and attentions that the options ask for.
    pub(crate) fn pooled_with(
        &self,
        input: Input,
        options: &ForwardOptions,
    ) -> Result<PooledOutput> {
        let pooler = self.pooler.as_ref().ok_or(Error::NoPooler)?;
        let batch = self.batch(input, options)?;
        with_thread_team(|| {
            let encoded = self.run(batch, options, Rows::First, false)?;
            let pooler_output = pooler.forward(&encoded.first_tokens()?)?;
            let hidden_states = encoded.hidden_states()?;
            let attentions = encoded.recorded.attentions;
            Ok(PooledOutput { pooler_output, hidden_states, attentions })
        })
    }

    /// [`BertModel::forward_with`], where `reads_padding` says that a loss or scores depend on the
    /// states of padding: `last_hidden_state` then has them as they were computed.
    pub(crate) fn states(
        &self,
        input: Input,
        options: &ForwardOptions,
        reads_padding: bool,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        let reads_padding = reads_padding && matches!(input, Input::Padded(_));
        let batch = self.batch(input, options)?;
        with_thread_team(|| {
            self.run(batch, options, Rows::All, reads_padding)?.into_output(self, reads_padding)
        })
    }

    /// One pass through embeddings and encoder.
    fn run(
        &self,
        mut batch: Batch,
        options: &ForwardOptions,
        rows: Rows,
        reads_padding: bool,
    ) -> Result<Encoded> {
        let device = self.device();
        let encoder = batch.encoder.take();
        let mut state = self.encoder.begin(batch.sequences(), encoder, device, options)?;
        let policy = PassPolicy::of(match &batch.tokens.words {
            Words::Embeds(vectors) => vectors,
            Words::Ids(_) => self.embeddings.word_embeddings(),
        });
        let zeros = options.padding == PaddingStates::Zeros;
        let plan = Plan::new(rows, policy, &self.config, &state, || {
            batch.can_be_packed(zeros && !reads_padding) && !named::is_trained(self)
        });
        let batch = batch.arrange(plan.packed, zeros, device)?;
        let x = self.embeddings.embed(&batch.tokens, &state.dropout)?;
        let states = self.encoder.encode(&x, &batch.layout, plan, &mut state)?;
        Ok(Encoded { states, rows: plan.rows, batch, recorded: state.recorded })
    }

    /// The batch of an input, after checking it.
    fn batch(&self, input: Input, options: &ForwardOptions) -> Result<Batch> {
        match input {
            Input::Padded(input) => self.padded_batch(input, options),
            Input::Packed(input) => self.packed_batch(input, options),
        }
    }

    fn packed_batch(&self, input: &PackedInput, options: &ForwardOptions) -> Result<Batch> {
        if let past @ 1.. = options.past() {
            return Err(Error::PackedCache { past });
        }
        let sequences = input.sequences(self.config.max_position_embeddings)?;
        let tokens = self.embeddings.check(&input.in_one_row(&sequences)?, 0)?;
        Ok(Batch::packed(tokens, sequences, self.config.is_decoder))
    }

    fn padded_batch(&self, input: &BertInput, options: &ForwardOptions) -> Result<Batch> {
        if let Some(cache) = &options.cache {
            cache.check_dtype_and_device(self.dtype(), self.device())?;
        }
        let (past, n) = (options.past(), self.config.num_attention_heads);
        let tokens = self.embeddings.check(input, past)?;
        let (b, s) = tokens.dims;
        let mask = input.attention_mask.as_ref();
        let mask = match self.config.is_decoder {
            true => AttentionMask::causal(mask, past, (b, s))?,
            false => AttentionMask::of_argument("attention_mask", mask)?,
        };
        mask.check("attention_mask", [b, n, s, past + s])?;
        // With a cache, the mask is not that of these tokens alone.
        let pad = input.pad_token_id.or(self.config.padding_row()).filter(|_| past == 0);
        let mut batch = Batch::padded(tokens, mask, pad);
        batch.encoder = self.encoder_states(input, (b, s))?;
        Ok(batch)
    }

    /// Checks the states of another encoder and their mask.
    fn encoder_states(
        &self,
        input: &BertInput,
        (b, s): (usize, usize),
    ) -> Result<Option<EncoderStates>> {
        const NAME: &str = "encoder_hidden_states";
        const MASK: &str = "encoder_attention_mask";
        let (states, mask) = match (&input.encoder_hidden_states, &input.encoder_attention_mask) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(Error::NoEncoderStates),
            (Some(states), mask) => (states, mask),
        };
        if !self.config.add_cross_attention {
            return Err(Error::NoCrossAttention);
        }
        let (h, n) = (self.config.hidden_size, self.config.num_attention_heads);
        let keys = match *states.dims() {
            [sb, k, sh] if sb == b && sh == h && k > 0 => k,
            _ => return Err(Error::shape(NAME, states, format!("[{b}, K, {h}]"))),
        };
        Error::check_tensor(NAME, states, self.dtype(), self.device())?;
        let mask = AttentionMask::of_argument(MASK, mask.as_ref())?;
        mask.check(MASK, [b, n, s, keys])?;
        let layout = Layout::Padded(mask.bias(self.device())?);
        Ok(Some(EncoderStates { states: states.clone(), layout }))
    }

    /// The model's configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The dtype of the parameters and of every output.
    pub fn dtype(&self) -> DType {
        self.embeddings.word_embeddings().dtype()
    }

    /// The device of the parameters.
    pub fn device(&self) -> &Device {
        self.embeddings.word_embeddings().device()
    }

    pub(crate) fn config_mut(&mut self) -> &mut BertConfig {
        &mut self.config
    }
}

/// Hidden states in the rows in which the layers computed them.
struct Encoded {
    states: Tensor,
    rows: Rows,
    batch: Arranged,
    recorded: Recorded,
}

impl Encoded {
    /// The first tokens' states: `[B, 1, H]`.
    fn first_tokens(&self) -> Result<Tensor> {
        let first = match self.rows {
            Rows::First => self.states.clone(),
            Rows::All => self.batch.layout.first_tokens(&self.states)?.0,
        };
        Ok(if self.batch.layout.axis() == 1 { first.transpose(0, 1)? } else { first })
    }

    /// The recorded hidden states in the caller's rows.
    fn hidden_states(&self) -> Result<Option<LayerOutputs>> {
        let states = self.recorded.hidden_states.clone();
        states.map(|states| states.map(|x| self.batch.callers_rows(x))).transpose()
    }

    fn into_output(
        self,
        model: &BertModel,
        with_padding: bool,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        let pooled = |pooler: &BertPooler| pooler.forward(&self.first_tokens()?);
        let pooler_output = model.pooler.as_ref().map(pooled).transpose()?;
        let hidden_states = self.hidden_states()?;
        let last_hidden_state = match with_padding {
            // Such a pass is never packed.
            true => self.states,
            false => self.batch.callers_rows(&self.states)?,
        };
        let Recorded { past_key_values, attentions, cross_attentions, .. } = self.recorded;
        Ok(BaseModelOutputWithPoolingAndCrossAttentions {
            last_hidden_state,
            pooler_output,
            hidden_states,
            // Packed sequences cannot be continued.
            past_key_values: past_key_values.filter(|_| !self.batch.callers_packed),
            attentions,
            cross_attentions,
        })
    }
}

named!(BertModel {
    "embeddings" => embeddings,
    "encoder" => encoder,
    "pooler" => pooler,
});
