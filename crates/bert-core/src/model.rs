//! The whole model.

use std::collections::BTreeMap;

use bert_kernels::{prefers_sequences, together};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::embeddings::BertEmbeddings;
use crate::encoder::BertEncoder;
use crate::error::{Error, Result};
use crate::init;
use crate::outputs::{
    BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPoolingAndCrossAttentions,
    LayerOutputs,
};
use crate::pass::batch::{PackedInput, Packing};
use crate::pass::input::{BertInput, CheckedInput, Words};
use crate::pass::mask::{AttentionMask, check_device};
use crate::pass::options::{EncoderStates, ForwardContext, Layers};
use crate::pooler::BertPooler;
use crate::surgery::{Model, Parameters, named, refuse_trainable};

/// BERT without a head: embeddings, encoder and, unless left out, pooler.
///
/// Devlin et al. 2018, Figure 1. Hugging Face: `BertModel`. The parts are public; called one after
/// the other they give the same bits as the model, but for the states of padding
/// ([`PaddingStates`](crate::PaddingStates)):
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
    /// Names that a `VarMap` does not have yet are made, without the prefix and with
    /// `initializer_range`.
    ///
    /// # Errors
    /// [`Error::Config`] for an impossible config, [`Error::Candle`] for a tensor that is missing or has another shape.
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Self::load_base(init::base_model(&vb), config)
    }

    /// [`BertModel::load`] where `vb` is known to be at the model's own names.
    pub(crate) fn load_base(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let bare = Self::load_base_without_pooler(vb.clone(), config)?;
        Ok(Self { pooler: Some(BertPooler::load(vb.pp("pooler"), config)?), ..bare })
    }

    /// Loads the model without a pooler; Hugging Face's `add_pooling_layer=False`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load_without_pooler(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Self::load_base_without_pooler(init::base_model(&vb), config)
    }

    /// [`BertModel::load_without_pooler`] where `vb` is known to be at the model's own names.
    pub(crate) fn load_base_without_pooler(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            embeddings: BertEmbeddings::load(vb.pp("embeddings"), config)?,
            encoder: BertEncoder::load(vb.pp("encoder"), config)?,
            pooler: None,
            config: config.clone(),
        })
    }

    /// `input`: B sequences of S tokens → `last_hidden_state` `[B, S, H]` and `pooler_output`
    /// `[B, H]`, and the hidden states and attentions that the config asks for.
    ///
    /// What is computed on the CPU in F32, where nothing is trained:
    ///
    /// | pass | rows | attention |
    /// |---|---|---|
    /// | encoder, mask `[B, S]` or none | what the mask shows, and first tokens | each sequence with itself |
    /// | other masks, [`PaddingStates::Kept`](crate::PaddingStates), a sequence all hidden, decoders with or without a cache, chunked feed-forward | all | under masks |
    /// | relative positions, head masks, dropout, layers whose attentions are asked for | all | `[B, N, Q, K]` is stored |
    ///
    /// Where something is trained all rows are computed, and attention is stored where a gradient passes
    /// through it; on other devices and in other dtypes always.
    ///
    /// # Errors
    /// Before any arithmetic, when the input does not fit itself or the model, encoder states
    /// included ([`Error::NoCrossAttention`], [`Error::NoEncoderStates`]); see [`Error`].
    pub fn forward(
        &self,
        input: &BertInput,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertModel::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoSuchLayer`], [`Error::CacheMismatch`] and, for a head
    /// mask, [`Error::Shape`] when the context asks for, or brings, what another model has.
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        together(|| {
            let begun = self.begin(input, context)?;
            self.run(begun, context)
        })
    }

    /// The pass that was begun.
    fn run(
        &self,
        Begun { checked, mask, packing }: Begun,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        let embedding_output = self.embeddings.embed(&checked, context)?;
        let mut encoded = self.encoder.encode(&embedding_output, &mask, context)?;
        if let Some(packing) = packing {
            encoded = encoded.map_states(|x| packing.unpack(x))?;
        }
        let pooler_output = match &self.pooler {
            Some(pooler) => Some(pooler.forward(&encoded.last_hidden_state)?),
            None => None,
        };
        Ok(output(encoded, pooler_output))
    }

    /// Sequences one after the other, T tokens in all → `last_hidden_state` `[T, H]`,
    /// `pooler_output` `[B, H]` and, on request, hidden states `[T, H]`. The numbers are those of
    /// [`BertModel::forward`], up to rounding.
    ///
    /// Where [`BertModel::forward`] computes all rows, this pads the batch and does the same.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::CumulativeLengths`] when the lengths do not fit.
    pub fn forward_packed(
        &self,
        input: &PackedInput,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.forward_packed_with(input, &mut ForwardContext::new())
    }

    /// [`BertModel::forward_packed`] in a context, whose attentions are those of the padded batch.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`]; [`Error::PackedCache`] for a context with a cache.
    pub fn forward_packed_with(
        &self,
        input: &PackedInput,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        let sequences = input.sequences(self.config.max_position_embeddings)?;
        if let past @ 1.. = context.past() {
            return Err(Error::PackedCache { past });
        }
        together(|| {
            let one_row = input.in_one_row(&sequences)?;
            let checked = self.embeddings.check(&one_row, 0)?;
            let mask = AttentionMask::packed(sequences.clone());
            self.encoder.begin((1, checked.sequence), &mask, None, self.device(), context)?;
            if !self.can_pack(&checked.words, context) {
                let (padded, packing) = input.padded(&sequences)?;
                let mut padded = context.with_all_states(|it| self.forward_with(&padded, it))?;
                let select = |x: &Tensor| Ok::<_, Error>(packing.select(x)?.squeeze(0)?);
                padded.last_hidden_state = select(&padded.last_hidden_state)?;
                let states = padded.hidden_states;
                padded.hidden_states = states.map(|kept| kept.map(select)).transpose()?;
                padded.past_key_values = None;
                return Ok(padded);
            }
            let embedding_output = self.embeddings.embed(&checked, context)?;
            let encoded = self.encoder.encode(&embedding_output, &mask, context)?;
            let pooler_output = match &self.pooler {
                Some(pooler) => {
                    let (first, _) = mask.first_tokens(&encoded.last_hidden_state)?; // [1, B, H]
                    Some(pooler.forward(&first.transpose(0, 1)?)?)
                }
                None => None,
            };
            Ok(output(encoded.map_states(|x| x.squeeze(0))?, pooler_output))
        })
    }

    /// The pooled output alone: `[B, H]`, the numbers of [`BertModel::forward`]. The last layer is
    /// computed for the first token only, where nothing in the config needs the others.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoPooler`] without a pooler.
    pub fn pooled(&self, input: &BertInput) -> Result<Tensor> {
        let mut nothing =
            ForwardContext::new().with_hidden_states(Layers::None).with_attentions(Layers::None);
        Ok(self.pooled_with(input, &mut nothing)?.pooler_output)
    }

    /// The pooled output and what the context asks for: of the last layer the first token only, where
    /// nothing needs the others.
    pub(crate) fn pooled_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<Pooled> {
        let pooler = self.pooler.as_ref().ok_or(Error::NoPooler)?;
        together(|| {
            let begun = self.begin(input, context)?;
            if !self.is_plain() || !context.wants_result_only() {
                let output = self.run(begun, context)?;
                let pooler_output = output.pooler_output.ok_or(Error::NoPooler)?;
                let (hidden_states, attentions) = (output.hidden_states, output.attentions);
                return Ok(Pooled { pooler_output, hidden_states, attentions });
            }
            let Begun { checked, mask, packing } = begun;
            let embedding_output = self.embeddings.embed(&checked, context)?;
            let first = self.encoder.encode_first(&embedding_output, &mask, context)?;
            let first = if packing.is_some() { first.transpose(0, 1)? } else { first }; // [B, 1, H]
            let pooler_output = pooler.forward(&first)?;
            Ok(Pooled { pooler_output, hidden_states: None, attentions: None })
        })
    }

    /// Checks input and context and begins a pass, without padding where that can be.
    fn begin(&self, input: &BertInput, context: &mut ForwardContext) -> Result<Begun> {
        context.check_cache(self.dtype(), self.device())?;
        let checked = self.embeddings.check(input, context.past())?;
        let mask = self.attention_mask(input, &checked, context.past())?;
        let encoder = self.encoder_states(input, &checked)?;
        let rows = (checked.batch, checked.sequence);
        self.encoder.begin(rows, &mask, encoder, self.device(), context)?;
        let packing = Packing::of(&mask, checked.sequence);
        match packing.filter(|_| self.can_pack(&checked.words, context)) {
            Some(packing) => Ok(Begun {
                checked: packing.pack(&checked)?,
                mask: packing.mask(),
                packing: Some(packing),
            }),
            None => Ok(Begun { checked, mask, packing: None }),
        }
    }

    /// Whether a pass that was begun can, and had better, do without padding.
    fn can_pack(&self, words: &Words, context: &ForwardContext) -> bool {
        let pays = prefers_sequences(match words {
            Words::Embeds(vectors) => vectors,
            Words::Ids(_) => self.embeddings.word_embeddings(),
        });
        self.is_plain() && pays && context.can_pack() && self.num_trainable_parameters() == 0
    }

    /// Whether a token's place among the others matters to its position embedding only.
    fn is_plain(&self) -> bool {
        let config = &self.config;
        let absolute = config.position_embedding_type == PositionEmbeddingType::Absolute;
        absolute && config.chunk_size_feed_forward == 0 && !config.is_decoder
    }

    /// The configuration the model was loaded with.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The dtype of the parameters and of every output.
    pub fn dtype(&self) -> DType {
        self.embeddings.word_embeddings().dtype()
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        self.embeddings.word_embeddings().device()
    }

    /// Removes heads of self-attention: by layer, the numbers of the heads to remove. What is left
    /// computes what silencing them would, in less time; cross-attention keeps all of its heads. Heads that are gone already
    /// may be named again. Hugging Face: `prune_heads`, until version 4.
    ///
    /// # Errors
    /// [`Error::Prune`] for a layer or head that does not exist, or when no head of a layer would be
    /// left, and [`Error::Trainable`] while the model trains; the model is then as it was.
    pub fn prune_heads(&mut self, heads: &BTreeMap<usize, Vec<usize>>) -> Result<()> {
        refuse_trainable(self, "prune_heads")?;
        let n = self.config.num_attention_heads;
        let mut kept = Vec::new();
        for (&layer, pruned) in heads {
            let refuse = |reason| Err(Error::Prune { layer, heads: pruned.clone(), reason });
            let Some(present) = self.encoder.layer.get(layer).map(|layer| layer.heads()) else {
                return refuse(format!("the model has {} layers", self.encoder.layer.len()));
            };
            if pruned.iter().any(|head| *head >= n) {
                return refuse(format!("a layer has {n} heads"));
            }
            let left = present.iter().copied().filter(|head| !pruned.contains(&(*head as usize)));
            let left: Vec<u32> = left.collect();
            if left.is_empty() {
                return refuse("no head would be left".to_owned());
            }
            kept.push((layer, left));
        }
        for (layer, left) in kept {
            self.encoder.layer[layer].keep_heads(&left)?;
            let gone = (0..n).filter(|head| !left.contains(&(*head as u32))).collect();
            self.config.pruned_heads.insert(layer, gone);
        }
        Ok(())
    }

    pub(crate) fn config_mut(&mut self) -> &mut BertConfig {
        &mut self.config
    }

    /// Puts another table in the place of the words': `[V, H]`, where V may be another one.
    pub(crate) fn set_word_embeddings(&mut self, table: Tensor) -> Result<()> {
        self.config.vocab_size = table.dim(0)?;
        self.embeddings.set_word_embeddings(table, &self.config);
        Ok(())
    }

    /// Checks the states of another encoder and their mask.
    fn encoder_states(
        &self,
        input: &BertInput,
        checked: &CheckedInput,
    ) -> Result<Option<EncoderStates>> {
        const NAME: &str = "encoder_hidden_states";
        let (states, mask) = match (&input.encoder_hidden_states, &input.encoder_attention_mask) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(Error::NoEncoderStates),
            (Some(states), mask) => (states, mask),
        };
        if !self.config.add_cross_attention {
            return Err(Error::NoCrossAttention);
        }
        let (b, h) = (checked.batch, self.config.hidden_size);
        let keys = match *states.dims() {
            [sb, k, sh] if sb == b && sh == h && k > 0 => k,
            ref got => {
                let expected = format!("[{b}, K, {h}]");
                return Err(Error::Shape { name: NAME, got: got.to_vec(), expected });
            }
        };
        if states.dtype() != self.dtype() {
            let (got, expected) = (states.dtype(), format!("{:?}", self.dtype()));
            return Err(Error::DType { name: NAME, got, expected });
        }
        check_device(NAME, states, self.device())?;
        let mask = match mask {
            Some(mask) => {
                check_device("encoder_attention_mask", mask, self.device())?;
                AttentionMask::new(mask)?
            }
            None => AttentionMask::all_visible(),
        };
        mask.check(
            "encoder_attention_mask",
            [b, self.config.num_attention_heads, checked.sequence, keys],
        )?;
        Ok(Some(EncoderStates { states: states.clone(), mask }))
    }

    fn attention_mask(
        &self,
        input: &BertInput,
        checked: &CheckedInput,
        past: usize,
    ) -> Result<AttentionMask> {
        let mask = input.attention_mask.as_ref();
        if let Some(mask) = mask {
            check_device("attention_mask", mask, self.device())?;
        }
        match mask {
            _ if self.config.is_decoder => {
                let new = (checked.batch, checked.sequence);
                AttentionMask::causal(mask, past, new, self.device())
            }
            Some(mask) => AttentionMask::new(mask),
            None => Ok(AttentionMask::all_visible()),
        }
    }
}

/// What heads read that look at the first token only.
pub(crate) struct Pooled {
    /// `[B, H]`.
    pub(crate) pooler_output: Tensor,
    pub(crate) hidden_states: Option<LayerOutputs>,
    pub(crate) attentions: Option<LayerOutputs>,
}

/// A pass that can go through the layers.
struct Begun {
    checked: CheckedInput,
    mask: AttentionMask,
    packing: Option<Packing>,
}

fn output(
    encoded: BaseModelOutputWithPastAndCrossAttentions,
    pooler_output: Option<Tensor>,
) -> BaseModelOutputWithPoolingAndCrossAttentions {
    BaseModelOutputWithPoolingAndCrossAttentions {
        last_hidden_state: encoded.last_hidden_state,
        pooler_output,
        hidden_states: encoded.hidden_states,
        past_key_values: encoded.past_key_values,
        attentions: encoded.attentions,
        cross_attentions: encoded.cross_attentions,
    }
}

named!(BertModel {
    "embeddings" => embeddings,
    "encoder" => encoder,
    "pooler" => pooler,
});

impl Model for BertModel {
    fn base(&self) -> &BertModel {
        self
    }

    fn base_mut(&mut self) -> &mut BertModel {
        self
    }
}
