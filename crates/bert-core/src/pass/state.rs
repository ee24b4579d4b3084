//! What layers need besides hidden states, and what a pass records.

use candle_core::{Device, Tensor};

use super::batch::EncoderStates;
use super::cache::{KeyValueCache, KeysAndValues, LayerCache};
use super::dropout::Dropout;
use super::options::{ForwardOptions, Layers};
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::outputs::LayerOutputs;

/// The state of one pass.
#[derive(Default)]
pub(crate) struct PassState {
    pub(crate) dropout: Dropout,
    pub(crate) head_mask: Option<Tensor>,
    pub(crate) encoder: Option<EncoderStates>,
    pub(crate) recorded: Recorded,
}

/// What a pass records.
#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) past_key_values: Option<KeyValueCache>,
    pub(crate) hidden_states: Option<LayerOutputs>,
    pub(crate) attentions: Option<LayerOutputs>,
    pub(crate) cross_attentions: Option<LayerOutputs>,
}

/// One layer's share of a pass.
pub(crate) struct LayerPass<'a> {
    pub(crate) dropout: &'a Dropout,
    pub(crate) self_attention: AttentionPass<'a>,
    /// The states of another encoder, and the share of the attention to them.
    pub(crate) cross_attention: Option<(&'a EncoderStates, AttentionPass<'a>)>,
}

/// One attention's share of a pass.
pub(crate) struct AttentionPass<'a> {
    pub(crate) dropout: &'a Dropout,
    /// Factors of the weights of the layer's heads, before pruning: `[N]`.
    head_mask: Option<Tensor>,
    /// Where the attention weights go, if they are wanted.
    pub(crate) weights: Option<&'a mut Option<Tensor>>,
    /// Its keys and values, if they are cached.
    cache: Option<&'a mut Option<KeysAndValues>>,
}

impl PassState {
    /// For `batch` sequences through layers whose keys have these `widths`.
    pub(crate) fn new(
        options: &ForwardOptions,
        batch: usize,
        widths: &[usize],
        encoder: Option<EncoderStates>,
        config: &BertConfig,
        device: &Device,
    ) -> Result<Self> {
        let (layers, n) = (widths.len(), config.num_attention_heads);
        if let Some(cache) = &options.cache {
            cache.check(batch, widths, encoder.as_ref().map(|it| &it.states))?;
        }
        if let Some(mask) = &options.head_mask {
            if mask.dims() != [n] && mask.dims() != [layers, n] {
                return Err(Error::shape("head_mask", mask, format!("[{n}] or [{layers}, {n}]")));
            }
            Error::check_device("head_mask", mask, device)?;
        }
        let cache = || (config.is_decoder && config.use_cache).then(KeyValueCache::new);
        let attentions = |name| slots(&options.attentions, config.output_attentions, name, layers);
        let by_default = config.output_hidden_states;
        let recorded = Recorded {
            past_key_values: options.cache.clone().or_else(cache),
            hidden_states: slots(&options.hidden_states, by_default, "hidden_states", layers + 1)?,
            attentions: attentions("attentions")?,
            cross_attentions: match encoder {
                Some(_) => attentions("cross_attentions")?,
                None => None,
            },
        };
        let (dropout, head_mask) = (options.dropout.clone(), options.head_mask.clone());
        Ok(Self { dropout, head_mask, encoder, recorded })
    }

    /// The share of a layer.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<LayerPass<'_>> {
        let head_mask = match &self.head_mask {
            Some(mask) if mask.rank() == 2 => Some(mask.get(layer)?),
            mask => mask.clone(),
        };
        let recorded = &mut self.recorded;
        let cache = recorded.past_key_values.as_mut().map(|cache| cache.layer(layer));
        let (own, cross) = cache.map(|LayerCache { own, cross }| (own, cross)).unzip();
        let dropout = &self.dropout;
        let pass = |weights, cache| AttentionPass {
            dropout,
            head_mask: head_mask.clone(),
            weights,
            cache,
        };
        let cross = pass(slot(&mut recorded.cross_attentions, layer), cross);
        Ok(LayerPass {
            dropout,
            self_attention: pass(slot(&mut recorded.attentions, layer), own),
            cross_attention: self.encoder.as_ref().map(|encoder| (encoder, cross)),
        })
    }

    /// Records a hidden state if it is wanted: 0 is the embeddings' output.
    pub(crate) fn record(&mut self, index: usize, x: &Tensor) {
        if let Some(slot) = slot(&mut self.recorded.hidden_states, index) {
            *slot = Some(x.clone());
        }
    }
}

impl AttentionPass<'_> {
    /// The keys and values of all tokens so far, after adding those of new ones, `[B, Q, H]` each.
    pub(crate) fn extend_cache(&mut self, new: KeysAndValues) -> Result<KeysAndValues> {
        let Some(cache) = &mut self.cache else { return Ok(new) };
        // Views of joined projections would keep the queries in memory.
        let new = [new[0].contiguous()?, new[1].contiguous()?];
        let all = match cache.take() {
            Some([keys, values]) => {
                [Tensor::cat(&[&keys, &new[0]], 1)?, Tensor::cat(&[&values, &new[1]], 1)?]
            }
            None => new,
        };
        Ok(cache.insert(all).clone())
    }

    /// The cached keys and values, or else new ones, which are cached.
    pub(crate) fn cached_or(
        &mut self,
        make: impl FnOnce() -> Result<KeysAndValues>,
    ) -> Result<KeysAndValues> {
        match &mut self.cache {
            Some(Some(cached)) => Ok(cached.clone()),
            Some(cache) => Ok(cache.insert(make()?).clone()),
            None => make(),
        }
    }

    /// What the weights of these heads are multiplied by: `[1, N', 1, 1]`.
    pub(crate) fn head_factors(&self, heads: &[u32]) -> Result<Option<Tensor>> {
        let Some(mask) = &self.head_mask else { return Ok(None) };
        let heads = Tensor::new(heads, mask.device())?;
        Ok(Some(mask.contiguous()?.index_select(&heads, 0)?.reshape((1, (), 1, 1))?))
    }
}

/// Where the tensor of a layer goes, if it is wanted.
fn slot(outputs: &mut Option<LayerOutputs>, layer: usize) -> Option<&mut Option<Tensor>> {
    outputs.as_mut()?.slot(layer)
}

/// An empty slot for each wanted one of `count` outputs; `None` if none is wanted.
fn slots(
    asked: &Option<Layers>,
    by_default: bool,
    name: &'static str,
    count: usize,
) -> Result<Option<LayerOutputs>> {
    let wanted: Vec<usize> = match asked {
        Some(Layers::Only(indices)) => {
            let resolved = indices.iter().map(|&got| {
                let index = if got < 0 { got + count as i64 } else { got };
                let index = usize::try_from(index).ok().filter(|index| *index < count);
                index.ok_or(Error::NoSuchLayer { name, got, count })
            });
            resolved.collect::<Result<_>>()?
        }
        Some(Layers::All) => (0..count).collect(),
        None if by_default => (0..count).collect(),
        Some(Layers::None) | None => return Ok(None),
    };
    Ok(Some(LayerOutputs::with_slots(count, wanted)))
}
