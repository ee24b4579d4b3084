//! Text from a decoder, one token at a time.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::config::TokenIds;
use crate::error::{Error, Result};
use crate::heads::lm_head::BertLMHeadModel;
use crate::loss::check_shape;
use crate::pass::input::BertInput;
use crate::pass::mask::AttentionMask;
use crate::pass::options::ForwardOptions;

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
    /// How to draw tokens; `None` takes the likeliest.
    pub sampling: Option<Sampling>,
    /// Whether keys and values of earlier tokens are kept, if the model's config says so too. It changes
    /// the time, not the text. Default: yes.
    pub use_cache: bool,
}

/// How tokens are drawn.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sampling {
    /// The generator's seed: the same seed draws the same tokens.
    pub seed: u64,
    /// The number that scores are divided by. Default: 1.
    pub temperature: f64,
    /// The number of likeliest tokens to draw from. Default: all.
    pub top_k: Option<usize>,
    /// Tokens are drawn from the fewest likeliest ones whose probabilities add up to this. Default: 1.
    pub top_p: f64,
}

impl GenerationConfig {
    /// Greedy, with a cache.
    pub fn new(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, sampling: None, use_cache: true }
    }

    /// Sets [`GenerationConfig::sampling`].
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling: Some(sampling), ..self }
    }

    /// Computes all tokens at each step.
    pub fn without_cache(self) -> Self {
        Self { use_cache: false, ..self }
    }
}

impl Sampling {
    /// The model's own probabilities.
    pub fn new(seed: u64) -> Self {
        Self { seed, temperature: 1., top_k: None, top_p: 1. }
    }

    /// Sets [`Sampling::temperature`], above 0.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// Sets [`Sampling::top_k`], at least 1.
    pub fn with_top_k(self, top_k: usize) -> Self {
        Self { top_k: Some(top_k), ..self }
    }

    /// Sets [`Sampling::top_p`], above 0 and at most 1.
    pub fn with_top_p(self, top_p: f64) -> Self {
        Self { top_p, ..self }
    }

    /// The generator of a row, after checking the settings.
    fn generator(&self, row: usize) -> Result<ChaCha8Rng> {
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
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(row as u64);
        Ok(generator)
    }

    /// Draws a token from scores.
    fn draw(&self, logits: &[f32], generator: &mut ChaCha8Rng) -> u32 {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let likelier = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
        if let Some(top_k) = self.top_k.filter(|top_k| *top_k < order.len()) {
            order.select_nth_unstable_by(top_k, likelier);
            order.truncate(top_k);
        }
        order.sort_unstable_by(likelier);
        let best = f64::from(logits[order[0]]);
        let weight = |token: &usize| ((f64::from(logits[*token]) - best) / self.temperature).exp();
        let weights: Vec<f64> = order.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        // The fewest likeliest tokens that have the asked probability.
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
    /// `input`: `input_ids` `[B, S]` → ids `[B, S + new]`, U32, beginning with the input's. Sequences are
    /// padded on the left, as an `attention_mask` `[B, S]` says; without one, each `pad_token_id` (the
    /// input's, or else the config's) is padding, unless it ends texts too. Positions count the tokens
    /// that are not padding. New tokens have the type of the last one. Encoder states, with a mask
    /// `[B, K]`, are as in [`BertInput`]. Sequences that end before the others are filled with
    /// `pad_token_id` or, without one, with `eos_token_id`; a sequence that has all positions ends too.
    /// A sequence has the same tokens whatever its neighbors are, also when they are drawn. Of the
    /// checkpoint's settings, `eos_token_id` and `pad_token_id` of `config.json` count. The other ones
    /// are those of `generation`; a `generation_config.json` is not read. Hugging Face: `generate`,
    /// greedy or sampling.
    ///
    /// # Errors
    /// [`Error::NotADecoder`] when the model looks at later tokens; [`Error::NotForGeneration`] for
    /// vectors and positions; [`Error::Generation`] for settings, padding or scores that allow no
    /// next token; [`Error::TooLong`] when there are fewer positions than tokens and no `eos_token_id`
    /// that could end a sequence before, and as
    /// [`BertModel::forward_with`](crate::BertModel::forward_with).
    pub fn generate(&self, input: &BertInput, generation: &GenerationConfig) -> Result<Tensor> {
        let config = self.bert.config();
        if !config.is_decoder {
            return Err(Error::NotADecoder);
        }
        let device = self.bert.device();
        let mut texts = self.texts(input)?;
        let generator = |row| generation.sampling.as_ref().map(|it| it.generator(row)).transpose();
        let mut generators: Vec<_> = (0..texts.ids.len()).map(generator).collect::<Result<_>>()?;
        texts.check_length(generation.max_new_tokens, config.max_position_embeddings)?;
        // Without layers there is nothing to keep.
        let uses_cache = generation.use_cache && config.num_hidden_layers > 0;
        let mut options = ForwardOptions::new();
        for _ in 0..generation.max_new_tokens {
            texts.end_at(config.max_position_embeddings);
            if texts.ended.iter().all(|ended| *ended) {
                break;
            }
            let step = texts.next_input(input, options.cache.is_some(), device)?;
            let output = self.forward_last(&step, 1, &options)?;
            options.cache = output.past_key_values.filter(|_| uses_cache);
            let logits = output.logits.squeeze(1)?.to_dtype(DType::F32)?.to_vec2::<f32>()?;
            for (row, logits) in logits.iter().enumerate() {
                if texts.ended[row] {
                    texts.fill(row);
                    continue;
                }
                if let Some(got) = logits.iter().find(|score| !score.is_finite()) {
                    let (what, got) = ("a word's score", f64::from(*got));
                    return Err(Error::Generation { what, got, expected: "a finite number" });
                }
                let token = match (&generation.sampling, &mut generators[row]) {
                    (Some(sampling), Some(generator)) => sampling.draw(logits, generator),
                    _ => likeliest(logits),
                };
                texts.push(row, token.into());
            }
        }
        texts.into_ids(device)
    }

    /// The input's sequences, after checking that they can be continued.
    fn texts(&self, input: &BertInput) -> Result<Texts> {
        for (name, given) in
            [("inputs_embeds", &input.inputs_embeds), ("position_ids", &input.position_ids)]
        {
            if given.is_some() {
                return Err(Error::NotForGeneration { name });
            }
        }
        let config = self.bert.config();
        let ids = input.input_ids.as_ref().ok_or(Error::NoInput)?;
        let (b, s) = self.bert.embeddings.check(input, 0)?.dims;
        let ids = rows_of(ids)?;
        let ends = match &config.eos_token_id {
            Some(TokenIds::One(id)) => vec![*id],
            Some(TokenIds::Many(ids)) => ids.clone(),
            None => Vec::new(),
        };
        let masks = match &input.attention_mask {
            Some(mask) => {
                check_shape("attention_mask", mask, &[b, s])?;
                AttentionMask::new(mask)?;
                rows_of(mask)?
            }
            None => {
                let pad = input.pad_token_id.map(i64::from).or(config.pad_token_id);
                let pad = pad.filter(|pad| !ends.contains(pad));
                let visible = |id: &i64| i64::from(Some(*id) != pad);
                ids.iter().map(|row| row.iter().map(visible).collect()).collect()
            }
        };
        if masks.iter().any(|mask| mask[s - 1] == 0) {
            let (what, got) = ("the mask of the last token of a row", 0.);
            let expected =
                "1: pad on the left, and pass an attention_mask if pad_token_id is a word";
            return Err(Error::Generation { what, got, expected });
        }
        let types = match &input.token_type_ids {
            Some(types) => rows_of(&types.broadcast_as((b, s))?)?,
            None => vec![vec![0; s]; b],
        };
        // As in transformers, an id that no word has ends nothing.
        let ends: Vec<i64> =
            ends.into_iter().filter(|id| (0..config.vocab_size as i64).contains(id)).collect();
        let pad = input.pad_token_id.filter(|id| (*id as usize) < config.vocab_size);
        let pad = pad.or(config.padding_row()).map(i64::from);
        let pad = pad.or(ends.first().copied()).unwrap_or(0);
        Ok(Texts { ids, types, masks, ended: vec![false; b], ends, pad })
    }
}

/// The sequences so far, row by row.
struct Texts {
    ids: Vec<Vec<i64>>,
    types: Vec<Vec<i64>>,
    masks: Vec<Vec<i64>>,
    ended: Vec<bool>,
    /// The tokens that end a text.
    ends: Vec<i64>,
    /// What fills a row whose text has ended.
    pad: i64,
}

impl Texts {
    /// The visible tokens of a row.
    fn length(&self, row: usize) -> usize {
        self.masks[row].iter().sum::<i64>() as usize
    }

    /// Refuses more new tokens than there are positions for, if nothing can end a sequence before.
    fn check_length(&self, new: usize, positions: usize) -> Result<()> {
        let longest = (0..self.ids.len()).map(|row| self.length(row)).max().unwrap_or(0);
        // The last token is no input of a pass.
        if self.ends.is_empty() && longest.saturating_add(new) > positions + 1 {
            return Err(Error::TooLong { got: 1, past: positions, positions });
        }
        Ok(())
    }

    /// Ends the rows that have no position for another token.
    fn end_at(&mut self, positions: usize) {
        for row in 0..self.ids.len() {
            self.ended[row] |= self.length(row) > positions;
        }
    }

    fn push(&mut self, row: usize, token: i64) {
        self.ended[row] = self.ends.contains(&token);
        self.add(row, token, 1);
    }

    /// Adds padding to a row that has ended.
    fn fill(&mut self, row: usize) {
        self.add(row, self.pad, 0);
    }

    fn add(&mut self, row: usize, token: i64, visible: i64) {
        self.ids[row].push(token);
        self.masks[row].push(visible);
        let last_type = self.types[row][self.types[row].len() - 1];
        self.types[row].push(last_type);
    }

    /// The input of the next pass: the last tokens if the others are `cached`.
    fn next_input(&self, input: &BertInput, cached: bool, device: &Device) -> Result<BertInput> {
        let (b, length) = (self.ids.len(), self.ids[0].len());
        let first = if cached { length - 1 } else { 0 };
        let tensor = |rows: &[Vec<i64>], first: usize| {
            let values: Vec<i64> = rows.iter().flat_map(|row| &row[first..]).copied().collect();
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
        let mut next = BertInput::from_ids(tensor(&self.ids, first)?)
            .with_token_type_ids(tensor(&self.types, first)?)
            .with_position_ids(tensor(&positions.collect::<Vec<_>>(), first)?)
            .with_attention_mask(tensor(&self.masks, 0)?);
        next.encoder_hidden_states = input.encoder_hidden_states.clone();
        next.encoder_attention_mask = input.encoder_attention_mask.clone();
        Ok(next)
    }

    fn into_ids(self, device: &Device) -> Result<Tensor> {
        let shape = (self.ids.len(), self.ids[0].len());
        let ids: Vec<u32> = self.ids.into_iter().flatten().map(|id| id as u32).collect();
        Ok(Tensor::from_vec(ids, shape, device)?)
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
