//! The whole model.

use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::context::ForwardContext;
use crate::embeddings::BertEmbeddings;
use crate::encoder::BertEncoder;
use crate::error::Result;
use crate::input::{BertInput, CheckedInput};
use crate::mask::{AttentionMask, check_device};
use crate::names;
use crate::outputs::BaseModelOutputWithPoolingAndCrossAttentions;
use crate::pooler::BertPooler;

/// BERT without a head: embeddings, encoder and, unless left out, pooler.
///
/// Devlin et al. 2018, Figure 1. Hugging Face: `BertModel`. The parts are public; called one after
/// the other they give the same bits as the model:
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
    /// [`Error::Config`](crate::Error::Config) for an impossible config, [`Error::Unsupported`](crate::Error::Unsupported) for one that this version
    /// does not compute, [`Error::Candle`](crate::Error::Candle) for a tensor that is missing or has another shape.
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Self::load_base(names::base_model(&vb), config)
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
        Self::load_base_without_pooler(names::base_model(&vb), config)
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
    /// # Errors
    /// Before any arithmetic, when the input does not fit itself or the model; see [`Error`](crate::Error).
    pub fn forward(
        &self,
        input: &BertInput,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertModel::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoSuchLayer`](crate::Error::NoSuchLayer) and [`Error::CacheMismatch`](crate::Error::CacheMismatch) when the
    /// context asks for, or brings, what another model has.
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        let checked = self.embeddings.check(input, context.past())?;
        let mask = self.attention_mask(input, &checked, context.past())?;
        self.encoder.begin((checked.batch, checked.sequence), &mask, context)?;

        let embedding_output = self.embeddings.embed(&checked, context)?;
        let encoded = self.encoder.encode(&embedding_output, &mask, context)?;
        let pooler_output = match &self.pooler {
            Some(pooler) => Some(pooler.forward(&encoded.last_hidden_state)?),
            None => None,
        };
        Ok(BaseModelOutputWithPoolingAndCrossAttentions {
            last_hidden_state: encoded.last_hidden_state,
            pooler_output,
            hidden_states: encoded.hidden_states,
            past_key_values: encoded.past_key_values,
            attentions: encoded.attentions,
            cross_attentions: encoded.cross_attentions,
        })
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
