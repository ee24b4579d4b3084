//! What a forward pass is asked for besides its result.

use candle_core::{DType, Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::outputs::LayerOutputs;
use crate::pass::cache::KeyValueCache;
use crate::pass::mask::{AttentionMask, check_device};

/// Which of a model's per-layer tensors to return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those with these indices; −1 is the last.
    Only(Vec<i64>),
}

/// What the states of padding are: of tokens that the attention mask hides, but for the first of a
/// sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingStates {
    /// Zeros, where leaving the tokens out saves time. No other state depends on it.
    Zeros,
    /// What transformers computes for them.
    Kept,
}

/// What a forward pass keeps, whether it trains, and what it remembers of earlier calls.
///
/// Every module passes the same context on. By default nothing is kept and nothing is dropped:
///
/// ```
/// use bert_core::{ForwardContext, Layers};
///
/// let mut context = ForwardContext::new()
///     .with_hidden_states(Layers::All)
///     .with_attentions(Layers::Only(vec![-1]));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ForwardContext {
    hidden_states: Option<Layers>,
    attentions: Option<Layers>,
    dropout: Option<ChaCha8Rng>,
    cache: Option<KeyValueCache>,
    head_mask: Option<Tensor>,
    padding: Option<PaddingStates>,
    /// The layer that is running.
    layer: usize,
    kept: Kept,
}

/// What the current pass works with and keeps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) past_key_values: Option<KeyValueCache>,
    pub(crate) hidden_states: Option<LayerOutputs>,
    pub(crate) attentions: Option<LayerOutputs>,
    pub(crate) cross_attentions: Option<LayerOutputs>,
    encoder: Option<EncoderStates>,
}

/// What a layer attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttentionKind {
    Itself,
    /// The states of another encoder.
    Cross,
}

/// The states of another encoder, `[B, K, H]`, and which of them may be seen.
#[derive(Clone, Debug)]
pub(crate) struct EncoderStates {
    pub(crate) states: Tensor,
    pub(crate) mask: AttentionMask,
}

/// What a pass goes through.
pub(crate) struct Pass {
    pub(crate) batch: usize,
    /// The width of each layer's keys: H, or less where heads are pruned.
    pub(crate) widths: Vec<usize>,
    pub(crate) encoder: Option<EncoderStates>,
}

impl ForwardContext {
    /// Evaluation: no dropout. Hidden states and attentions as the config says, which is none
    /// unless it has `output_hidden_states` or `output_attentions`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Training: dropout with the config's probabilities, drawn from a generator of this seed.
    pub fn training(seed: u64) -> Self {
        Self { dropout: Some(ChaCha8Rng::seed_from_u64(seed)), ..Self::default() }
    }

    /// Asks for hidden states: index 0 is the embeddings' output, `l` the output of layer `l`.
    pub fn with_hidden_states(mut self, layers: Layers) -> Self {
        self.hidden_states = Some(layers);
        self
    }

    /// Asks for attention weights, `[B, N, Q, K]` per layer; in training, those after dropout.
    pub fn with_attentions(mut self, layers: Layers) -> Self {
        self.attentions = Some(layers);
        self
    }

    /// Continues after the tokens whose keys and values `cache` holds. One pass takes the cache
    /// and returns it, longer, as `past_key_values`.
    pub fn with_cache(mut self, cache: KeyValueCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Multiplies the weights of each head, of cross-attention too: `[N]` for all layers or `[L, N]`,
    /// 1 to keep a head and 0 to silence it. transformers had this until version 4.
    pub fn with_head_mask(mut self, mask: Tensor) -> Self {
        self.head_mask = Some(mask);
        self
    }

    /// Says what the states of padding are. Default: [`PaddingStates::Zeros`]; [`PaddingStates::Kept`] where a head
    /// compares all tokens of a sequence (question answering), and always where labels do.
    pub fn with_padding_states(mut self, padding: PaddingStates) -> Self {
        self.padding = Some(padding);
        self
    }

    /// Runs `pass` with [`PaddingStates::Kept`], whatever was asked for.
    pub(crate) fn with_all_states<R>(&mut self, pass: impl FnOnce(&mut Self) -> R) -> R {
        let asked = self.padding.replace(PaddingStates::Kept);
        let result = pass(self);
        self.padding = asked;
        result
    }

    /// Runs `pass` with [`PaddingStates::Kept`] where nothing was asked for.
    pub(crate) fn preferring_all_states<R>(&mut self, pass: impl FnOnce(&mut Self) -> R) -> R {
        match self.padding {
            Some(_) => pass(self),
            None => {
                let result = self.with_all_states(pass);
                self.padding = None;
                result
            }
        }
    }

    /// Whether the pass that was begun is asked for its result only, draws nothing and sees no other
    /// encoder's states.
    pub(crate) fn wants_result_only(&self) -> bool {
        self.sees_batch_only() && self.kept.hidden_states.is_none()
    }

    /// Whether the pass that was begun can do without padding.
    pub(crate) fn can_pack(&self) -> bool {
        let zeros_will_do = self.padding != Some(PaddingStates::Kept);
        self.sees_batch_only() && self.head_mask.is_none() && zeros_will_do
    }

    /// Whether the pass that was begun keeps no attentions, draws nothing and sees nothing but the
    /// batch.
    fn sees_batch_only(&self) -> bool {
        let Kept { past_key_values, attentions, cross_attentions, encoder, .. } = &self.kept;
        let unseen = attentions.is_none() && cross_attentions.is_none();
        unseen && past_key_values.is_none() && encoder.is_none() && self.dropout.is_none()
    }

    pub(crate) fn check_cache(&self, dtype: DType, device: &Device) -> Result<()> {
        self.cache.as_ref().map_or(Ok(()), |cache| cache.check_place(dtype, device))
    }

    /// Tokens already seen.
    pub(crate) fn past(&self) -> usize {
        self.cache.as_ref().map_or(0, KeyValueCache::len)
    }

    /// Begins a pass: forgets what an earlier one kept and resolves what is wanted.
    pub(crate) fn begin(&mut self, pass: Pass, device: &Device, config: &BertConfig) -> Result<()> {
        let layers = pass.widths.len();
        let wanted = |asked: &Option<Layers>, by_default: bool| match asked {
            Some(layers) => layers.clone(),
            None if by_default => Layers::All,
            None => Layers::None,
        };
        let hidden_states = wanted(&self.hidden_states, config.output_hidden_states);
        let attentions = wanted(&self.attentions, config.output_attentions);
        // The pass works on a copy (tensors are shared), so that one that fails can be repeated.
        let cache = match &self.cache {
            Some(cache) => {
                cache.check(
                    pass.batch,
                    &pass.widths,
                    pass.encoder.as_ref().map(|it| &it.states),
                )?;
                Some(cache.clone())
            }
            None => (config.is_decoder && config.use_cache).then(KeyValueCache::new),
        };
        let n = config.num_attention_heads;
        match self.head_mask.as_ref().map(Tensor::dims) {
            Some(got) if got != [n] && got != [layers, n] => {
                let expected = format!("[{n}] or [{layers}, {n}]");
                return Err(Error::Shape { name: "head_mask", got: got.to_vec(), expected });
            }
            _ => {}
        }
        if let Some(mask) = &self.head_mask {
            check_device("head_mask", mask, device)?;
        }
        self.layer = 0;
        self.kept = Kept {
            past_key_values: cache,
            hidden_states: hidden_states.slots("hidden_states", layers + 1)?,
            attentions: attentions.slots("attentions", layers)?,
            cross_attentions: match &pass.encoder {
                Some(_) => attentions.slots("cross_attentions", layers)?,
                None => None,
            },
            encoder: pass.encoder,
        };
        Ok(())
    }

    /// Ends a pass and hands out what it kept. The cache that the caller brought is used up.
    pub(crate) fn finish(&mut self) -> Kept {
        self.cache = None;
        std::mem::take(&mut self.kept)
    }

    /// Says which layer what follows belongs to.
    pub(crate) fn enter_layer(&mut self, layer: usize) {
        self.layer = layer;
    }

    /// The keys and values of all tokens so far, from those of the new ones; `[B, S, H]` each.
    pub(crate) fn extend_cache(
        &mut self,
        keys: Tensor,
        values: Tensor,
    ) -> Result<(Tensor, Tensor)> {
        match &mut self.kept.past_key_values {
            Some(cache) => cache.append(self.layer, keys, values),
            None => Ok((keys, values)),
        }
    }

    pub(crate) fn keep_hidden_state(&mut self, index: usize, x: &Tensor) {
        if let Some(kept) = &mut self.kept.hidden_states {
            kept.fill(index, x);
        }
    }

    fn attentions(&mut self, kind: AttentionKind) -> Option<&mut LayerOutputs> {
        match kind {
            AttentionKind::Itself => self.kept.attentions.as_mut(),
            AttentionKind::Cross => self.kept.cross_attentions.as_mut(),
        }
    }

    pub(crate) fn wants_attention(&mut self, kind: AttentionKind) -> bool {
        let layer = self.layer;
        self.attentions(kind).is_some_and(|kept| kept.wants(layer))
    }

    pub(crate) fn keep_attention(&mut self, kind: AttentionKind, weights: &Tensor) {
        let layer = self.layer;
        if let Some(kept) = self.attentions(kind) {
            kept.fill(layer, weights);
        }
    }

    /// The states of another encoder, if there are any to attend to.
    pub(crate) fn encoder_states(&self) -> Option<EncoderStates> {
        self.kept.encoder.clone()
    }

    /// The keys and values that an earlier pass made of those states.
    pub(crate) fn cached_states(&self) -> Option<(Tensor, Tensor)> {
        self.kept.past_key_values.as_ref()?.states(self.layer)
    }

    /// Keeps the keys and values of those states for later passes.
    pub(crate) fn cache_states(&mut self, keys: Tensor, values: Tensor) {
        if let Some(cache) = &mut self.kept.past_key_values {
            cache.push_states(keys, values);
        }
    }

    /// What the weights of these heads of the running layer are multiplied by: `[1, N, 1, 1]`.
    pub(crate) fn head_mask(&self, heads: &[u32]) -> Result<Option<Tensor>> {
        let Some(mask) = &self.head_mask else { return Ok(None) };
        let mask = if mask.rank() == 2 { mask.get(self.layer)? } else { mask.clone() };
        let heads = Tensor::new(heads, mask.device())?;
        Ok(Some(mask.index_select(&heads, 0)?.reshape((1, (), 1, 1))?))
    }

    /// `x` with each element zeroed with probability `p` and the others divided by `1 − p`, in
    /// training; `x` itself otherwise. Srivastava et al. 2014.
    pub(crate) fn dropout(&mut self, x: &Tensor, p: f64) -> Result<Tensor> {
        match self.dropout_factor(x.shape(), p, x.dtype(), x.device())? {
            Some(factor) => Ok(x.mul(&factor)?),
            None => Ok(x.clone()),
        }
    }

    /// What [`ForwardContext::dropout`] multiplies a tensor of this shape with, if anything.
    pub(crate) fn dropout_factor(
        &mut self,
        shape: impl Into<Shape>,
        p: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let Some(generator) = self.dropout.as_mut().filter(|_| p > 0.) else { return Ok(None) };
        let shape = shape.into();
        let kept = if p < 1. { (1. / (1. - p)) as f32 } else { 0. };
        let factor: Vec<f32> = (0..shape.elem_count())
            .map(|_| if generator.random::<f64>() < p { 0. } else { kept })
            .collect();
        Ok(Some(Tensor::from_vec(factor, shape, device)?.to_dtype(dtype)?))
    }
}

impl Layers {
    /// An empty place for each wanted entry of `count`, or `None` where nothing is wanted.
    fn slots(&self, name: &'static str, count: usize) -> Result<Option<LayerOutputs>> {
        match self {
            Self::None => Ok(None),
            Self::All => Ok(Some(LayerOutputs::with_slots(count, 0..count))),
            Self::Only(indices) => {
                let resolved = indices
                    .iter()
                    .map(|&got| {
                        let index = if got < 0 { got + count as i64 } else { got };
                        usize::try_from(index)
                            .ok()
                            .filter(|index| *index < count)
                            .ok_or(Error::NoSuchLayer { name, got, count })
                    })
                    .collect::<Result<Vec<_>>>()?;
                Ok(Some(LayerOutputs::with_slots(count, resolved)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, p: f64) -> Result<Vec<f32>> {
        let ones = Tensor::ones(20_000, DType::F32, &Device::Cpu)?;
        Ok(ForwardContext::training(seed).dropout(&ones, p)?.to_vec1()?)
    }

    #[test]
    fn dropout_keeps_the_asked_share_and_the_mean() -> Result<()> {
        let values = drawn(7, 0.1)?;
        let kept = values.iter().filter(|v| **v != 0.).count() as f64 / values.len() as f64;
        assert!((kept - 0.9).abs() < 0.01, "kept {kept}");
        assert!(values.iter().all(|v| *v == 0. || (*v - 1. / 0.9).abs() < 1e-6));
        assert!(drawn(7, 1.)?.iter().all(|v| *v == 0.));
        Ok(())
    }

    #[test]
    fn the_same_seed_drops_the_same_elements() -> Result<()> {
        assert_eq!(drawn(3, 0.5)?, drawn(3, 0.5)?);
        assert_ne!(drawn(3, 0.5)?, drawn(4, 0.5)?);
        Ok(())
    }

    #[test]
    fn evaluation_drops_nothing() -> Result<()> {
        let x = Tensor::arange(0f32, 8., &Device::Cpu)?;
        let y = ForwardContext::new().dropout(&x, 0.5)?;
        assert_eq!(y.to_vec1::<f32>()?, x.to_vec1::<f32>()?);
        Ok(())
    }
}
