//! What layers need besides hidden states, and what a pass records.

use candle_core::{Device, Tensor};

use super::batch::EncoderStates;
use super::cache::{KeyValueCache, KeysAndValues, LayerCache};
use super::dropout::Dropout;
use super::layout::Layout;
use super::options::{ForwardOptions, Layers};
use crate::error::{Error, Result};
use crate::outputs::LayerOutputs;

/// What a pass returns unless its options say otherwise, and the sizes that options must fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassDefaults {
    pub(crate) hidden_states: bool,
    pub(crate) attentions: bool,
    pub(crate) cache: bool,
    /// `N`, before pruning.
    pub(crate) heads: usize,
}

/// The state of one pass.
pub(crate) struct PassState {
    pub(crate) dropout: Dropout,
    head_mask: Option<Tensor>,
    encoder: Option<(Tensor, Layout)>,
    cache: Option<KeyValueCache>,
    hidden_states: Option<LayerOutputs>,
    attentions: Option<LayerOutputs>,
    cross_attentions: Option<LayerOutputs>,
}

/// What a pass recorded.
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
    pub(crate) cross_attention: Option<CrossPass<'a>>,
}

/// One attention's share of a pass.
pub(crate) struct AttentionPass<'a> {
    pub(crate) dropout: &'a Dropout,
    /// Factors of the weights of the layer's heads, before pruning: `[N]`.
    pub(crate) head_mask: Option<Tensor>,
    /// Where the attention weights go, if they are wanted.
    pub(crate) weights: Option<&'a mut Option<Tensor>>,
    /// Its keys and values, if they are cached.
    cache: Option<&'a mut Option<KeysAndValues>>,
}

/// What cross-attention attends to.
pub(crate) struct CrossPass<'a> {
    pub(crate) states: &'a Tensor,
    pub(crate) layout: &'a Layout,
    pub(crate) attention: AttentionPass<'a>,
}

impl PassState {
    /// For `batch` sequences through layers whose keys have these `widths`.
    pub(crate) fn new(
        options: &ForwardOptions,
        batch: usize,
        widths: &[usize],
        encoder: Option<&EncoderStates>,
        defaults: PassDefaults,
        device: &Device,
    ) -> Result<Self> {
        let (layers, n) = (widths.len(), defaults.heads);
        let wanted = |asked: &Option<Layers>, by_default: bool| match asked {
            Some(layers) => layers.clone(),
            None if by_default => Layers::All,
            None => Layers::None,
        };
        let hidden_states = wanted(&options.hidden_states, defaults.hidden_states);
        let attentions = wanted(&options.attentions, defaults.attentions);
        if let Some(cache) = &options.cache {
            cache.check(batch, widths, encoder.map(|it| &it.states))?;
        }
        if let Some(mask) = &options.head_mask {
            if mask.dims() != [n] && mask.dims() != [layers, n] {
                return Err(Error::shape("head_mask", mask, format!("[{n}] or [{layers}, {n}]")));
            }
            Error::check_device("head_mask", mask, device)?;
        }
        Ok(Self {
            dropout: options.dropout.clone(),
            head_mask: options.head_mask.clone(),
            cache: options.cache.clone().or_else(|| defaults.cache.then(KeyValueCache::new)),
            hidden_states: slots(&hidden_states, "hidden_states", layers + 1)?,
            attentions: slots(&attentions, "attentions", layers)?,
            cross_attentions: match encoder {
                Some(_) => slots(&attentions, "cross_attentions", layers)?,
                None => None,
            },
            encoder: match encoder {
                Some(EncoderStates { states, mask }) => {
                    Some((states.clone(), Layout::Padded(mask.bias(device)?)))
                }
                None => None,
            },
        })
    }

    /// The share of a layer.
    pub(crate) fn layer(&mut self, layer: usize) -> Result<LayerPass<'_>> {
        let head_mask = match &self.head_mask {
            Some(mask) if mask.rank() == 2 => Some(mask.get(layer)?),
            mask => mask.clone(),
        };
        let (own_cache, cross_cache) = match self.cache.as_mut().map(|cache| cache.layer(layer)) {
            Some(LayerCache { own, cross }) => (Some(own), Some(cross)),
            None => (None, None),
        };
        Ok(LayerPass {
            dropout: &self.dropout,
            cross_attention: self.encoder.as_ref().map(|(states, layout)| CrossPass {
                states,
                layout,
                attention: AttentionPass {
                    dropout: &self.dropout,
                    head_mask: head_mask.clone(),
                    weights: slot(&mut self.cross_attentions, layer),
                    cache: cross_cache,
                },
            }),
            self_attention: AttentionPass {
                dropout: &self.dropout,
                head_mask,
                weights: slot(&mut self.attentions, layer),
                cache: own_cache,
            },
        })
    }

    /// Records a hidden state if it is wanted: 0 is the embeddings' output.
    pub(crate) fn record(&mut self, index: usize, x: &Tensor) {
        if let Some(slot) = slot(&mut self.hidden_states, index) {
            *slot = Some(x.clone());
        }
    }

    /// Ends the pass.
    pub(crate) fn finish(self) -> Recorded {
        Recorded {
            past_key_values: self.cache,
            hidden_states: self.hidden_states,
            attentions: self.attentions,
            cross_attentions: self.cross_attentions,
        }
    }

    pub(crate) fn keeps_hidden_states(&self) -> bool {
        self.hidden_states.is_some()
    }

    pub(crate) fn keeps_no_attentions(&self) -> bool {
        self.attentions.is_none() && self.cross_attentions.is_none()
    }

    pub(crate) fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    pub(crate) fn has_encoder_states(&self) -> bool {
        self.encoder.is_some()
    }

    pub(crate) fn has_head_mask(&self) -> bool {
        self.head_mask.is_some()
    }
}

impl<'a> LayerPass<'a> {
    /// The share of a layer that is called alone: nothing is dropped, cached or recorded.
    pub(crate) fn alone(dropout: &'a Dropout) -> Self {
        let attention = AttentionPass { dropout, head_mask: None, weights: None, cache: None };
        Self { dropout, self_attention: attention, cross_attention: None }
    }
}

impl AttentionPass<'_> {
    /// The keys and values of all tokens so far, after adding those of new ones, `[B, Q, H]` each.
    pub(crate) fn extend_cache(&mut self, new: KeysAndValues) -> Result<KeysAndValues> {
        let Some(cache) = &mut self.cache else { return Ok(new) };
        let all = match cache.take() {
            Some(past) => KeysAndValues {
                keys: Tensor::cat(&[&past.keys, &new.keys], 1)?,
                values: Tensor::cat(&[&past.values, &new.values], 1)?,
            },
            None => new,
        };
        **cache = Some(all.clone());
        Ok(all)
    }

    /// The cached keys and values, or else new ones, which are cached.
    pub(crate) fn cached_or(
        &mut self,
        make: impl FnOnce() -> Result<KeysAndValues>,
    ) -> Result<KeysAndValues> {
        match &mut self.cache {
            Some(cache) => match &**cache {
                Some(cached) => Ok(cached.clone()),
                None => Ok(cache.insert(make()?).clone()),
            },
            None => make(),
        }
    }

    /// What the weights of these heads are multiplied by: `[1, N', 1, 1]`.
    pub(crate) fn head_factors(&self, heads: &[u32]) -> Result<Option<Tensor>> {
        let Some(mask) = &self.head_mask else { return Ok(None) };
        let heads = Tensor::new(heads, mask.device())?;
        Ok(Some(mask.index_select(&heads, 0)?.reshape((1, (), 1, 1))?))
    }
}

/// Where the tensor of a layer goes, if it is wanted.
fn slot(outputs: &mut Option<LayerOutputs>, layer: usize) -> Option<&mut Option<Tensor>> {
    outputs.as_mut()?.slot(layer)
}

/// An empty slot for each wanted one of `count` outputs; `None` if none is wanted.
fn slots(wanted: &Layers, name: &'static str, count: usize) -> Result<Option<LayerOutputs>> {
    match wanted {
        Layers::None => Ok(None),
        Layers::All => Ok(Some(LayerOutputs::with_slots(count, 0..count))),
        Layers::Only(indices) => {
            let resolved = indices.iter().map(|&got| {
                let index = if got < 0 { got + count as i64 } else { got };
                let index = usize::try_from(index).ok().filter(|index| *index < count);
                index.ok_or(Error::NoSuchLayer { name, got, count })
            });
            Ok(Some(LayerOutputs::with_slots(count, resolved.collect::<Result<Vec<_>>>()?)))
        }
    }
}
