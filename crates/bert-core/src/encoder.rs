//! The stack of layers.

use bert_kernels::tokens_at_a_time;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::{Error, Result};
use crate::layer::BertLayer;
use crate::outputs::BaseModelOutputWithPastAndCrossAttentions;
use crate::pass::mask::AttentionMask;
use crate::pass::options::{EncoderStates, ForwardContext, Pass};
use crate::surgery::named;

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
        let tokens = self.tokens_at_a_time(x, context);
        let last_hidden_state = in_parts(x, mask, tokens, |x, mask| {
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
        let tokens = self.tokens_at_a_time(x, context);
        in_parts(x, mask, tokens, |x, mask| {
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

    /// Of a large batch, how many tokens go through all layers before others do. Relative positions
    /// are looked up once for a whole batch.
    fn tokens_at_a_time(&self, x: &Tensor, context: &ForwardContext) -> usize {
        let absolute = self.config.position_embedding_type == PositionEmbeddingType::Absolute;
        match absolute && context.wants_result_only() {
            true => tokens_at_a_time(x),
            false => usize::MAX,
        }
    }
}

/// What `layers` make of `x`, part by part of about so many tokens: sequences do not see each other.
fn in_parts(
    x: &Tensor,
    mask: &AttentionMask,
    tokens: usize,
    mut layers: impl FnMut(&Tensor, &AttentionMask) -> Result<Tensor>,
) -> Result<Tensor> {
    let parts = mask.parts(x, tokens)?;
    if let [(x, mask)] = &parts[..] {
        return layers(x, mask);
    }
    let states = parts.iter().map(|(x, mask)| layers(x, mask)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&states, mask.axis())?)
}

named!(BertEncoder { "layer" => layer });

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bert_kernels::Sequence;
    use candle_core::{DType, IndexOp};

    use super::*;

    const HEADS: usize = 2;
    const WIDTH: usize = 8;

    fn encoder() -> Result<BertEncoder> {
        let config = BertConfig::from_json(
            r#"{"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16,
                "num_attention_heads": 2, "max_position_embeddings": 16}"#,
        )?;
        let vars = candle_nn::VarMap::new();
        BertEncoder::load(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu), &config)
    }

    /// What the layers make of `x` whole and in parts of about `tokens`: all states, then the first
    /// ones; and how many parts there were.
    fn whole_and_cut(
        x: &Tensor,
        mask: &AttentionMask,
        tokens: usize,
    ) -> Result<(Vec<[Tensor; 2]>, usize)> {
        let encoder = encoder()?;
        let mut context = ForwardContext::new();
        let (b, s, _) = x.dims3()?;
        encoder.begin((b, s), mask, None, x.device(), &mut context)?;
        let mut results = Vec::new();
        for first in [false, true] {
            let mut layers = |x: &Tensor, mask: &AttentionMask| {
                let x = encoder.layer[0].forward(x, mask, &mut context)?;
                match first {
                    true => encoder.layer[1].forward_first(&x, mask, &mut context),
                    false => encoder.layer[1].forward(&x, mask, &mut context),
                }
            };
            let whole = in_parts(x, mask, usize::MAX, &mut layers)?;
            results.push([whole, in_parts(x, mask, tokens, &mut layers)?]);
        }
        Ok((results, mask.parts(x, tokens)?.len()))
    }

    fn assert_equal(what: &str, results: &[[Tensor; 2]]) -> Result<()> {
        for [whole, cut] in results {
            assert_eq!(whole.dims(), cut.dims(), "{what}");
            let difference = (whole - cut)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            assert!(difference < 1e-6, "{what}: {difference}");
        }
        Ok(())
    }

    #[test]
    fn parts_of_a_batch_have_the_numbers_of_the_whole_under_every_mask() -> Result<()> {
        let (b, s) = (5, 4);
        let x = Tensor::randn(0f32, 1., (b, s, WIDTH), &Device::Cpu)?;
        let ones = |dims: &[usize]| {
            let seen = (0..dims.iter().product()).map(|i: usize| u32::from(i % 3 != 1));
            AttentionMask::new(&Tensor::from_vec(seen.collect::<Vec<_>>(), dims, &Device::Cpu)?)
        };
        let masks = [
            ("none", AttentionMask::all_visible()),
            ("[B, S]", ones(&[b, s])?),
            ("[B, S, S]", ones(&[b, s, s])?),
            ("[1, 1, 1, S]", ones(&[1, 1, 1, s])?),
            ("[B, N, S, S]", ones(&[b, HEADS, s, s])?),
            ("causal", AttentionMask::causal(None, 0, (b, s), &Device::Cpu)?),
        ];
        for (what, mask) in masks {
            let (results, parts) = whole_and_cut(&x, &mask, 8)?;
            assert_eq!(parts, 3, "{what}");
            assert_equal(what, &results)?;
        }
        Ok(())
    }

    #[test]
    fn parts_of_packed_sequences_are_about_as_large_as_each_other() -> Result<()> {
        for (lengths, tokens, parts) in [
            (vec![3, 1, 2, 5, 1, 4], 6, vec![6, 5, 5]),
            (vec![4, 4, 1], 8, vec![4, 5]),
            (vec![1, 9, 1], 4, vec![1, 9, 1]),
        ] {
            let mut start = 0;
            let sequences: Arc<[Sequence]> = lengths
                .iter()
                .map(|length| {
                    let rows = start..start + length;
                    start = rows.end;
                    Sequence { queries: rows.clone(), keys: rows }
                })
                .collect();
            let x = Tensor::randn(0f32, 1., (1, start, WIDTH), &Device::Cpu)?;
            let mask = AttentionMask::packed(sequences);
            let cut = mask.parts(&x, tokens)?;
            let got: Vec<usize> =
                cut.iter().map(|(x, _)| x.dim(1)).collect::<candle_core::Result<_>>()?;
            assert_eq!(got, parts, "{lengths:?}");
            let first = cut[0].0.i((0, 0))?.to_vec1::<f32>()?;
            assert_eq!(first, x.i((0, 0))?.to_vec1::<f32>()?);
            assert_equal(&format!("{lengths:?}"), &whole_and_cut(&x, &mask, tokens)?.0)?;
        }
        Ok(())
    }
}
