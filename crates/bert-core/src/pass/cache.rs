//! Keys and values of the tokens a decoder has already seen.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};
use crate::pass::mask::check_device;

/// Keys and values per layer, so that a decoder computes each token once.
///
/// Comes out of one call as `past_key_values` and goes into the next through
/// [`ForwardContext::with_cache`](crate::ForwardContext::with_cache). Hugging Face: `DynamicCache`.
/// Cloning is cheap: tensors are shared. Keys and values of another encoder's states are kept too and
/// used again, so later calls must bring the same states.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    layers: Vec<KeysAndValues>,
    /// Those of another encoder's states, which never grow.
    cross: Vec<KeysAndValues>,
}

#[derive(Clone, Debug)]
struct KeysAndValues {
    keys: Tensor,
    values: Tensor,
}

impl KeyValueCache {
    /// A cache of no tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of tokens per sequence whose keys and values are here.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.keys.dims()[1])
    }

    /// Whether no token is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys of a layer: `[B, K, H]`, heads side by side; narrower where heads are pruned.
    pub fn keys(&self, layer: usize) -> Option<&Tensor> {
        self.layers.get(layer).map(|layer| &layer.keys)
    }

    /// The values of a layer: `[B, K, H]`, heads side by side; narrower where heads are pruned.
    pub fn values(&self, layer: usize) -> Option<&Tensor> {
        self.layers.get(layer).map(|layer| &layer.values)
    }

    /// Appends the keys and values of new tokens (`[B, Q, H]` each) to those of `layer`, and returns
    /// all of them (`[B, K, H]` each).
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: Tensor,
        values: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match self.layers.get_mut(layer) {
            Some(past) => {
                past.keys = Tensor::cat(&[&past.keys, &keys], 1)?;
                past.values = Tensor::cat(&[&past.values, &values], 1)?;
                Ok((past.keys.clone(), past.values.clone()))
            }
            None => {
                self.layers.push(KeysAndValues { keys: keys.clone(), values: values.clone() });
                Ok((keys, values))
            }
        }
    }

    /// The keys and values of another encoder's states for `layer`, `[B, K, H]` each.
    pub(crate) fn states(&self, layer: usize) -> Option<(Tensor, Tensor)> {
        self.cross.get(layer).map(|cross| (cross.keys.clone(), cross.values.clone()))
    }

    /// Keeps the keys and values of another encoder's states for the next layer in turn.
    pub(crate) fn push_states(&mut self, keys: Tensor, values: Tensor) {
        self.cross.push(KeysAndValues { keys, values });
    }

    /// Checks that a model with layers of these `widths` could have filled this cache for
    /// `batch` sequences. An empty cache fits every model.
    pub(crate) fn check(
        &self,
        batch: usize,
        widths: &[usize],
        states: Option<&Tensor>,
    ) -> Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        let mismatch = |what, got, expected| Err(Error::CacheMismatch { what, got, expected });
        if self.layers.len() != widths.len() {
            return mismatch("layers", self.layers.len(), widths.len());
        }
        for (layer, &width) in self.layers.iter().zip(widths) {
            let (b, _, h) = layer.keys.dims3()?;
            if b != batch {
                return mismatch("batch size", b, batch);
            }
            if h != width {
                return mismatch("hidden size", h, width);
            }
        }
        match (self.cross.first(), states) {
            (Some(cross), Some(states)) if cross.keys.dim(1)? != states.dim(1)? => {
                mismatch("encoder states", cross.keys.dim(1)?, states.dim(1)?)
            }
            _ => Ok(()),
        }
    }

    /// Checks that the cache was filled in this dtype on this device.
    pub(crate) fn check_place(&self, dtype: DType, device: &Device) -> Result<()> {
        const NAME: &str = "past_key_values";
        let Some(first) = self.layers.first() else { return Ok(()) };
        if first.keys.dtype() != dtype {
            let (got, expected) = (first.keys.dtype(), format!("{dtype:?}"));
            return Err(Error::DType { name: NAME, got, expected });
        }
        check_device(NAME, &first.keys, device)
    }
}
