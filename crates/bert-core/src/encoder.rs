//! The stack of layers.

use bert_kernels::PassPolicy;
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::layer::BertLayer;
use crate::named;
use crate::outputs::BaseModelOutputWithPastAndCrossAttentions;
use crate::pass::batch::EncoderStates;
use crate::pass::layout::Layout;
use crate::pass::mask::AttentionMask;
use crate::pass::options::ForwardOptions;
use crate::pass::plan::{Plan, Rows};
use crate::pass::state::PassState;

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
    /// For a decoder, pass [`AttentionMask::causal`]. To attend to another encoder's states, call
    /// [`BertModel`](crate::BertModel). The encoder does not know which tokens are padding: it
    /// computes all of them.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` has another width or `mask` does not fit `x`.
    pub fn forward(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
    ) -> Result<BaseModelOutputWithPastAndCrossAttentions> {
        self.forward_with(x, mask, &ForwardOptions::new())
    }

    /// [`BertEncoder::forward`] with options.
    ///
    /// # Errors
    /// As [`BertEncoder::forward`]; [`Error::NoSuchLayer`] and [`Error::CacheMismatch`] when the
    /// options do not fit the model.
    pub fn forward_with(
        &self,
        x: &Tensor,
        mask: &AttentionMask,
        options: &ForwardOptions,
    ) -> Result<BaseModelOutputWithPastAndCrossAttentions> {
        let (h, n) = (self.config.hidden_size, self.config.num_attention_heads);
        let (b, s) = match *x.dims() {
            [b, s, width] if width == h => (b, s),
            _ => return Err(Error::shape("hidden_states", x, format!("[B, S, {h}]"))),
        };
        mask.check("attention_mask", [b, n, s, options.past() + s])?;
        let mut state = self.begin(b, None, x.device(), options)?;
        let plan = Plan::new(Rows::All, PassPolicy::of(x), &self.config, &state, || false);
        let layout = Layout::Padded(mask.bias(x.device())?);
        let last_hidden_state = self.encode(x, &layout, plan, &mut state)?;
        let recorded = state.recorded;
        Ok(BaseModelOutputWithPastAndCrossAttentions {
            last_hidden_state,
            past_key_values: recorded.past_key_values,
            hidden_states: recorded.hidden_states,
            attentions: recorded.attentions,
            cross_attentions: recorded.cross_attentions,
        })
    }

    /// The state of a pass of `batch` sequences.
    pub(crate) fn begin(
        &self,
        batch: usize,
        encoder: Option<EncoderStates>,
        device: &Device,
        options: &ForwardOptions,
    ) -> Result<PassState> {
        let head_size = self.config.hidden_size / self.config.num_attention_heads;
        let widths: Vec<usize> =
            self.layer.iter().map(|layer| layer.heads().len() * head_size).collect();
        PassState::new(options, batch, &widths, encoder, &self.config, device)
    }

    /// All layers: `[B, S, H]` → `[B, S, H]`, or `[B, 1, H]` for the first tokens; packed, `[1, T, H]`
    /// → `[1, T, H]` or `[1, B, H]`. Parts of a large batch go through all layers one after the other:
    /// sequences do not depend on each other.
    pub(crate) fn encode(
        &self,
        x: &Tensor,
        layout: &Layout,
        plan: Plan,
        state: &mut PassState,
    ) -> Result<Tensor> {
        let mut states = Vec::new();
        for (mut x, layout) in layout.parts(x, plan.tokens_at_a_time)? {
            state.record(0, &x);
            for (l, layer) in self.layer.iter().enumerate() {
                let rows = if l + 1 == self.layer.len() { plan.rows } else { Rows::All };
                x = layer.forward_rows(&x, &layout, rows, state.layer(l)?)?;
                state.record(l + 1, &x);
            }
            states.push(match plan.rows {
                Rows::First if self.layer.is_empty() => layout.first_tokens(&x)?.0,
                _ => x,
            });
        }
        Ok(Tensor::cat(&states, layout.axis())?)
    }
}

named!(BertEncoder { "layer" => layer });

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bert_kernels::{Sequence, Sequences};
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
        layout: &Layout,
        tokens: usize,
    ) -> Result<(Vec<[Tensor; 2]>, usize)> {
        let encoder = encoder()?;
        let mut results = Vec::new();
        for rows in [Rows::All, Rows::First] {
            let encode = |tokens_at_a_time| {
                let mut state = encoder.begin(1, None, x.device(), &ForwardOptions::new())?;
                let plan = Plan { packed: false, rows, tokens_at_a_time };
                encoder.encode(x, layout, plan, &mut state)
            };
            results.push([encode(usize::MAX)?, encode(tokens)?]);
        }
        Ok((results, layout.parts(x, tokens)?.len()))
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
            ("causal", AttentionMask::causal(None, 0, (b, s))?),
        ];
        for (what, mask) in masks {
            let layout = Layout::Padded(mask.bias(&Device::Cpu)?);
            let (results, parts) = whole_and_cut(&x, &layout, 8)?;
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
            let sequences: Vec<Sequence> = lengths
                .iter()
                .map(|length| {
                    let rows = start..start + length;
                    start = rows.end;
                    Sequence { queries: rows.clone(), keys: rows }
                })
                .collect();
            let x = Tensor::randn(0f32, 1., (1, start, WIDTH), &Device::Cpu)?;
            let layout = Layout::Packed(Arc::new(Sequences::new(sequences)?));
            let cut = layout.parts(&x, tokens)?;
            let got: Vec<usize> =
                cut.iter().map(|(x, _)| x.dim(1)).collect::<candle_core::Result<_>>()?;
            assert_eq!(got, parts, "{lengths:?}");
            let first = cut[0].0.i((0, 0))?.to_vec1::<f32>()?;
            assert_eq!(first, x.i((0, 0))?.to_vec1::<f32>()?);
            assert_equal(&format!("{lengths:?}"), &whole_and_cut(&x, &layout, tokens)?.0)?;
        }
        Ok(())
    }
}
