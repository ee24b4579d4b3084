//! Keys and values of the tokens that a decoder has already seen.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Keys and values per layer, so that a decoder computes each token once.
///
/// A pass returns it as `past_key_values`, and the next pass takes it through
/// [`ForwardOptions::with_cache`](crate::ForwardOptions::with_cache). Hugging Face: `DynamicCache`.
/// Clones share their tensors. The keys and values of another encoder's states are kept as well, so
/// later passes must bring the same states.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<LayerCache>,
}

/// The keys and values of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerCache {
    /// Of the tokens so far.
    pub(crate) own: Option<KeysAndValues>,
    /// Of another encoder's states.
    pub(crate) cross: Option<KeysAndValues>,
}

/// Keys and values: `[B, K, H]` each, heads side by side.
pub(crate) type KeysAndValues = [Tensor; 2];

impl KeyValueCache {
    /// A cache without tokens.
    pub fn new() -> Self {
        Self::default()
    }

    fn own(&self, layer: usize) -> Option<&KeysAndValues> {
        self.layers.get(layer)?.own.as_ref()
    }

    /// The number of tokens per sequence.
    pub fn len(&self) -> usize {
        self.own(0).map_or(0, |[keys, _]| keys.dims()[1])
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of a layer: `[B, K, H]`, heads side by side; narrower where heads are pruned.
    pub fn keys(&self, layer: usize) -> Option<&Tensor> {
        self.own(layer).map(|[keys, _]| keys)
    }

    /// The values of a layer: `[B, K, H]`, heads side by side; narrower where heads are pruned.
    pub fn values(&self, layer: usize) -> Option<&Tensor> {
        self.own(layer).map(|[_, values]| values)
    }

    /// The entry of a layer, made if it does not exist.
    pub(crate) fn layer(&mut self, layer: usize) -> &mut LayerCache {
        if self.layers.len() <= layer {
            self.layers.resize_with(layer + 1, LayerCache::default);
        }
        &mut self.layers[layer]
    }

    /// Checks that a model with layers of these `widths` can have filled this cache for `batch`
    /// sequences. An empty cache fits every model.
    pub(crate) fn check(
        &self,
        batch: usize,
        widths: &[usize],
        states: Option<&Tensor>,
    ) -> Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        let check = |what, got, expected| match got == expected {
            true => Ok(()),
            false => Err(Error::CacheMismatch { what, got, expected }),
        };
        check("layers", self.layers.len(), widths.len())?;
        for (layer, width) in self.layers.iter().zip(widths) {
            let Some([keys, _]) = &layer.own else { continue };
            let (b, _, h) = keys.dims3()?;
            check("batch size", b, batch)?;
            check("hidden size", h, *width)?;
        }
        match (&self.layers[0].cross, states) {
            (Some([keys, _]), Some(states)) => {
                check("encoder states", keys.dim(1)?, states.dim(1)?)
            }
            _ => Ok(()),
        }
    }

    /// Checks that the cache was filled in this dtype on this device.
    pub(crate) fn check_dtype_and_device(&self, dtype: DType, device: &Device) -> Result<()> {
        match self.own(0) {
            Some([keys, _]) => Error::check_tensor("past_key_values", keys, dtype, device),
            None => Ok(()),
        }
    }
}
