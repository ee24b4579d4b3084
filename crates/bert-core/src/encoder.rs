//! The stack of layers.

use bert_kernels::tokens_at_a_time;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::context::{EncoderStates, ForwardContext, Pass};
use crate::error::{Error, Result};
use crate::layer::BertLayer;
use crate::mask::AttentionMask;
use crate::outputs::BaseModelOutputWithPastAndCrossAttentions;
use crate::parameters::named;

/// `L` layers, each taking the output of the one before.
///
/// Devlin et al. 2018, §3. Hugging Face: `BertEncoder`.
#[derive(Clone, Debug)]
pub struct BertEncoder {
    /// The layers, the one nearest to the embeddings first.
    pub layer: Vec<BertLayer>,
    config: BertConfig,
}

impl BertEncoder {
    /// Loads `layer.0`, `layer.1`, …
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let vb = vb.pp("layer");
        let layer = (0..config.num_hidden_layers)
            .map(|l| BertLayer::load(vb.pp(l), l, config))
            .collect::<Result<_>>()?;
        Ok(Self { layer, config: config.clone() })
    }

    /// `x`, the embeddings' output: `[B, S, H]` → `last_hidden_state` `[B, S, H]`, and the hidden
    /// states and attentions that the config asks for.
    ///
    /// A decoder's layers see what `mask` lets them see: give it [`AttentionMask::causal`]. Another
    /// encoder's states reach the layers through [`BertModel`](crate::BertModel) only.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` has another width or `mask` does not fit `x`.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
    ) -> Result<BaseModelOutputWithPastAndCrossAttentions> {
        self.forward_with(x, mask, &mut ForwardContext::new())
    }

    /// [`BertEncoder::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertEncoder::forward`]; [`Error::NoSuchLayer`] and [`Error::CacheMismatch`] when the
    /// context asks for, or brings, what another model has.
    pub fn forward_with(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPastAndCrossAttentions> {
        let h = self.config.hidden_size;
        let (b, s) = match *x.dims() {
            [b, s, width] if width == h => (b, s),
            ref got => {
                let expected = format!("[B, S, {h}]");
                return Err(Error::Shape { name: "hidden_states", got: got.to_vec(), expected });
            }
        };
        self.begin((b, s), mask, None, x.device(), context)?;
        self.encode(x, mask, context)
    }

    /// Checks mask and context against `B` sequences of `S` tokens and begins a pass.
    pub(crate) fn begin(
        &self,
        (b, s): (usize, usize),
        mask: &AttentionMask,
        encoder: Option<EncoderStates>,
        device: &Device,
        context: &mut ForwardContext,
    ) -> Result<()> {
        let config = &self.config;
        mask.check("attention_mask", [b, config.num_attention_heads, s, context.past() + s])?;
        let head_size = config.hidden_size / config.num_attention_heads;
        let widths = self.layer.iter().map(|layer| layer.heads().len() * head_size).collect();
        context.begin(Pass { batch: b, widths, encoder }, device, config)
    }

    /// The layers, after [`BertEncoder::begin`].
    pub(crate) fn encode(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<BaseModelOutputWithPastAndCrossAttentions> {
        let last_hidden_state = in_parts(x, mask, context, |x, mask, context| {
            let mut x = x.clone();
            context.keep_hidden_state(0, &x);
            for (l, layer) in self.layer.iter().enumerate() {
                context.enter_layer(l);
                x = layer.forward(&x, mask, context)?;
                context.keep_hidden_state(l + 1, &x);
            }
            Ok(x)
        })?;
        let kept = context.finish();
        Ok(BaseModelOutputWithPastAndCrossAttentions {
            last_hidden_state,
            past_key_values: kept.past_key_values,
            hidden_states: kept.hidden_states,
            attentions: kept.attentions,
            cross_attentions: kept.cross_attentions,
        })
    }

    /// [`BertEncoder::encode`] for the first tokens' states only: `[B, 1, H]`, or `[1, B, H]` of
    /// packed sequences.
    pub(crate) fn encode_first(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        in_parts(x, mask, context, |x, mask, context| {
            let Some((last, others)) = self.layer.split_last() else {
                return Ok(mask.first_tokens(x)?.0);
            };
            let mut x = x.clone();
            for (l, layer) in others.iter().enumerate() {
                context.enter_layer(l);
                x = layer.forward(&x, mask, context)?;
            }
            context.enter_layer(others.len());
            last.forward_first(&x, mask, context)
        })
    }
}

/// What `layers` make of `x`, some sequences after the others where a batch is large and nothing but
/// the result is kept: sequences do not see each other.
fn in_parts(
    x: &Tensor,
    mask: &AttentionMask,
    context: &mut ForwardContext,
    layers: impl Fn(&Tensor, &AttentionMask, &mut ForwardContext) -> Result<Tensor>,
) -> Result<Tensor> {
    let parts = match context.keeps_nothing() {
        true => mask.parts(x, tokens_at_a_time(x))?,
        false => Vec::new(),
    };
    if parts.len() <= 1 {
        return layers(x, mask, context);
    }
    let states = parts.iter().map(|(x, mask)| layers(x, mask, context));
    Ok(Tensor::cat(&states.collect::<Result<Vec<_>>>()?, mask.axis())?)
}

named!(BertEncoder { "layer" => layer });
