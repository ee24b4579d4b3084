//! Text from a decoder, a token at a time.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::TokenIds;
use crate::error::{Error, Result};
use crate::heads::BertLMHeadModel;
use crate::pass::input::BertInput;
use crate::pass::mask::AttentionMask;
use crate::pass::options::ForwardContext;

/// How tokens are chosen and when to stop. Hugging Face: `GenerationConfig`.
///
/// ```
/// use bert_core::{GenerationConfig, Sampling};
///
/// let greedy = GenerationConfig::new(20);
/// let sampled = GenerationConfig::new(20)
///     .with_sampling(Sampling::new(42).with_temperature(0.8).with_top_k(50).with_top_p(0.9));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// The most tokens to add to each sequence.
    pub max_new_tokens: usize,
    /// How to draw tokens; absent, the likeliest is taken.
    pub sampling: Option<Sampling>,
    /// Whether keys and values of earlier tokens are kept, if the model's config says so too. Changes
    /// time, not numbers. Default: yes.
    pub use_cache: bool,
}

/// How tokens are drawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sampling {
    /// Seed of the generator: the same seed draws the same tokens.
    pub seed: u64,
    /// What scores are divided by. Default: 1.
    pub temperature: f64,
    /// Draw among this many likeliest tokens. Default: all.
    pub top_k: Option<usize>,
    /// Draw among the likeliest tokens that together have this probability. Default: 1.
    pub top_p: f64,
}

impl GenerationConfig {
    /// Greedy, with a cache.
    pub fn new(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, sampling: None, use_cache: true }
    }

    /// Sets [`GenerationConfig::sampling`].
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = Some(sampling);
        self
    }

    /// Computes every token anew at every step.
    pub fn without_cache(mut self) -> Self {
        self.use_cache = false;
        self
    }
}

impl Sampling {
    /// From the model's own probabilities.
    pub fn new(seed: u64) -> Self {
        Self { seed, temperature: 1., top_k: None, top_p: 1. }
    }

    /// Sets [`Sampling::temperature`], above 0.
    pub fn with_temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// Sets [`Sampling::top_k`], at least 1.
    pub fn with_top_k(mut self, top_k: usize) -> Self {
        self.top_k = Some(top_k);
        self
    }

    /// Sets [`Sampling::top_p`], above 0 and at most 1.
    pub fn with_top_p(mut self, top_p: f64) -> Self {
        self.top_p = top_p;
        self
    }

    fn check(&self) -> Result<()> {
        let bad = |what, got, expected| Err(Error::Generation { what, got, expected });
        if !(self.temperature.is_finite() && self.temperature > 0.) {
            return bad("temperature", self.temperature, "a finite number above 0");
        }
        if self.top_k == Some(0) {
            return bad("top_k", 0., "at least 1");
        }
        if !(self.top_p > 0. && self.top_p <= 1.) {
            return bad("top_p", self.top_p, "above 0 and at most 1");
        }
        Ok(())
    }

    /// Draws a token from scores.
    fn draw(&self, logits: &[f32], generator: &mut ChaCha8Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        order.truncate(self.top_k.unwrap_or(order.len()));
        let best = f64::from(logits[order[0]]);
        let weights: Vec<f64> = order
            .iter()
            .map(|token| ((f64::from(logits[*token]) - best) / self.temperature).exp())
            .collect();
        let total: f64 = weights.iter().sum();
        // The shortest run of the likeliest tokens that has the asked probability.
        let mut within = 0.;
        let kept = weights.iter().take_while(|weight| {
            let more = within < self.top_p * total;
            within += **weight;
            more
        });
        let kept = kept.count();
        let mut left = generator.random::<f64>() * weights[..kept].iter().sum::<f64>();
        let drawn = weights[..kept].iter().position(|weight| {
            left -= weight;
            left < 0.
        });
        order[drawn.unwrap_or(kept - 1)] as u32
    }
}

impl BertLMHeadModel {
    /// Continues token sequences until each has an `eos_token_id` or `max_new_tokens` are added.
    ///
    /// `input`: `input_ids` `[B, S]`; with an `attention_mask` `[B, S]`, sequences are padded on the
    /// left and positions are counted from their first token; new tokens have the type of the last;
    /// encoder states, with a mask `[B, K]`, as in [`BertInput`] → ids `[B, S + new]`, U32, the input's first. Sequences that end before the
    /// others are filled with `pad_token_id`, or without one with `eos_token_id`. Hugging Face: `generate`, greedy or sampling.
    ///
    /// # Errors
    /// [`Error::NotADecoder`] when the model looks at later tokens; [`Error::NotForGeneration`] for
    /// vectors and positions; [`Error::Generation`] for settings, padding or scores that allow no
    /// next token; [`Error::TooLong`] when the positions run out, and as
    /// [`BertModel::forward_with`](crate::BertModel::forward_with).
    pub fn generate(&self, input: &BertInput, generation: &GenerationConfig) -> Result<Tensor> {
        let config = self.bert.config();
        if !config.is_decoder {
            return Err(Error::NotADecoder);
        }
        let mut generator = match &generation.sampling {
            Some(sampling) => {
                sampling.check()?;
                Some((sampling, ChaCha8Rng::seed_from_u64(sampling.seed)))
            }
            None => None,
        };
        for (name, given) in
            [("inputs_embeds", &input.inputs_embeds), ("position_ids", &input.position_ids)]
        {
            if given.is_some() {
                return Err(Error::NotForGeneration { name });
            }
        }
        let ids = input.input_ids.as_ref().ok_or(Error::NoInput)?;
        let checked = self.bert.embeddings.check(input, 0)?;
        let (b, s) = (checked.batch, checked.sequence);
        let device = self.bert.device().clone();
        let mut rows = rows_of(ids)?;
        let mut types = match &input.token_type_ids {
            Some(types) => rows_of(&types.broadcast_as((b, s))?)?,
            None => vec![vec![0; s]; b],
        };
        let mut masks = match &input.attention_mask {
            Some(mask) if mask.dims() == [b, s] => {
                AttentionMask::new(mask)?;
                rows_of(mask)?
            }
            Some(mask) => {
                let (got, expected) = (mask.dims().to_vec(), format!("[{b}, {s}]"));
                return Err(Error::Shape { name: "attention_mask", got, expected });
            }
            None => vec![vec![1; s]; b],
        };
        if masks.iter().any(|mask| mask[s - 1] == 0) {
            let (what, got) = ("the last value of a row of attention_mask", 0.);
            return Err(Error::Generation { what, got, expected: "1: pad on the left" });
        }
        let ends: Vec<i64> = match &config.eos_token_id {
            Some(TokenIds::One(id)) => vec![*id],
            Some(TokenIds::Many(ids)) => ids.clone(),
            None => Vec::new(),
        };
        let pad = match config.pad_token_id {
            Some(id) if id < 0 => id + config.vocab_size as i64,
            Some(id) => id,
            None => ends.first().copied().unwrap_or(0),
        };
        let positions = config.max_position_embeddings;
        let mut ended = vec![false; b];
        let mut cache = None;
        for _ in 0..generation.max_new_tokens {
            let longest = masks.iter().map(|mask| mask.iter().sum::<i64>() as usize).max();
            if let Some(past) = longest.filter(|length| *length > positions) {
                return Err(Error::TooLong { got: 1, past: past - 1, positions });
            }
            let cached = cache.is_some();
            let step = Step { rows: &rows, types: &types, masks: &masks, cached, input };
            let mut context = ForwardContext::new();
            if let Some(cache) = cache.take() {
                context = context.with_cache(cache);
            }
            let output = self.forward_last(&step.input(&device)?, 1, &mut context)?;
            cache = output.past_key_values.filter(|_| generation.use_cache);
            let logits = output.logits.squeeze(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            for (row, logits) in logits.iter().enumerate() {
                if let Some(got) = logits.iter().find(|score| !score.is_finite()) {
                    let (what, got) = ("a word's score", f64::from(*got));
                    return Err(Error::Generation { what, got, expected: "a finite number" });
                }
                let token = match &mut generator {
                    _ if ended[row] => pad,
                    Some((sampling, generator)) => i64::from(sampling.draw(logits, generator)),
                    None => i64::from(likeliest(logits)),
                };
                ended[row] = ended[row] || ends.contains(&token);
                rows[row].push(token);
                masks[row].push(1);
                let last_type = types[row][types[row].len() - 1];
                types[row].push(last_type);
            }
            if ended.iter().all(|ended| *ended) {
                break;
            }
        }
        let length = rows[0].len();
        let ids: Vec<u32> = rows.into_iter().flatten().map(|id| id as u32).collect();
        Ok(Tensor::from_vec(ids, (b, length), &device)?)
    }
}

/// The sequences so far, as the next pass takes them.
struct Step<'a> {
    rows: &'a [Vec<i64>],
    types: &'a [Vec<i64>],
    masks: &'a [Vec<i64>],
    /// Whether all tokens but the last are in the cache.
    cached: bool,
    input: &'a BertInput,
}

impl Step<'_> {
    fn input(&self, device: &Device) -> Result<BertInput> {
        let (b, length) = (self.rows.len(), self.rows[0].len());
        let first = if self.cached { length - 1 } else { 0 };
        let tensor = |rows: Vec<Vec<i64>>, first: usize| {
            let values: Vec<i64> =
                rows.iter().flat_map(|row| row[first..].iter().copied()).collect();
            Tensor::from_vec(values, (b, length - first), device)
        };
        // Positions count visible tokens, so that padding on the left moves nothing.
        let positions = self.masks.iter().map(|mask| {
            let counted = mask.iter().scan(0, |seen, visible| {
                *seen += visible;
                Some((*seen - 1).max(0))
            });
            counted.collect()
        });
        let mut next = BertInput::from_ids(tensor(self.rows.to_vec(), first)?)
            .with_token_type_ids(tensor(self.types.to_vec(), first)?)
            .with_position_ids(tensor(positions.collect(), first)?)
            .with_attention_mask(tensor(self.masks.to_vec(), 0)?);
        next.encoder_hidden_states = self.input.encoder_hidden_states.clone();
        next.encoder_attention_mask = self.input.encoder_attention_mask.clone();
        Ok(next)
    }
}

fn rows_of(tensor: &Tensor) -> Result<Vec<Vec<i64>>> {
    Ok(tensor.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec2()?)
}

/// The first of the tokens with the highest score.
fn likeliest(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.unwrap_or_default() as u32
}
