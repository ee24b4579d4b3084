//! What a step learns: masked words, which text follows, which texts mean the same.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use bert::*;
use clap::ValueEnum;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::texts::{Example, Texts};

/// What is masked together: a token, or all tokens of a word.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Masking {
    Token,
    WholeWord,
}

/// How a batch is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub seed: u64,
    /// Examples of a step, and as many paraphrases.
    pub batch_size: usize,
    /// Parts of a batch. Each compares its own paraphrases only.
    pub parts: usize,
    /// The most tokens of an example.
    pub max_length: usize,
    pub masking: Masking,
    pub mask_probability: f64,
    /// How much the loss of paraphrases counts; if it is 0 there are none.
    pub similarity_weight: f64,
}

/// A part of a batch.
pub struct Part {
    input: BertInput,
    /// The rows of `[B · S]` whose words are asked for, and those words.
    words: [Vec<u32>; 2],
    /// The rows of `[B]` that are pairs: 0 if the second text follows and 1 if it does not.
    pairs: [Vec<u32>; 2],
    /// Texts, then as many paraphrases of them, and how many.
    paraphrases: Option<(BertInput, usize)>,
    /// The seed of its dropout.
    seed: u64,
    tokens: usize,
}

/// The losses of a batch, or what a part of it adds to them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    pub masked_words: f64,
    pub next_sentence: f64,
    pub similarity: f64,
}

/// A batch.
pub struct Batch {
    pub parts: Vec<Part>,
    pub tokens: usize,
    words: usize,
    pairs: usize,
    paraphrases: usize,
    similarity_weight: f64,
}

impl Recipe {
    /// A step's batch. Nothing but the seed and the step decides what is in it.
    pub fn batch(&self, texts: &Texts, tokenizer: &BertTokenizer, step: u64) -> Result<Batch> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(step);
        let mut examples =
            (0..self.batch_size).map(|_| texts.example(&mut random)).collect::<Result<Vec<_>>>()?;
        // Examples of about one length have less padding.
        examples.sort_by_key(Example::len);
        let parts = examples
            .chunks(self.batch_size.div_ceil(self.parts))
            .map(|examples| self.part(examples, texts, tokenizer, &mut random))
            .collect::<Result<Vec<_>>>()?;
        Ok(Batch {
            tokens: parts.iter().map(|part| part.tokens).sum(),
            words: parts.iter().map(|part| part.words[0].len()).sum(),
            pairs: parts.iter().map(|part| part.pairs[0].len()).sum(),
            paraphrases: parts.iter().filter_map(|it| Some(it.paraphrases.as_ref()?.1)).sum(),
            similarity_weight: self.similarity_weight,
            parts,
        })
    }

    fn part(
        &self,
        examples: &[Example],
        texts: &Texts,
        tokenizer: &BertTokenizer,
        random: &mut ChaCha8Rng,
    ) -> Result<Part> {
        let encode = EncodeOptions::new()
            .with_padding(Padding::Longest)
            .with_truncation(Truncation::to(self.max_length))
            .with_split_special_tokens(true);
        let both = examples.iter().map(|example| match &example.second {
            Some((second, _)) => Text::Pair(&example.first, second),
            None => Text::Single(&example.first),
        });
        let mut batch = tokenizer.encode_batch(both, &encode)?;
        let length = batch.encodings.first().map_or(0, Encoding::len);
        let [mut words, mut pairs] = [[Vec::new(), Vec::new()], [Vec::new(), Vec::new()]];
        for (row, (encoding, example)) in batch.encodings.iter_mut().zip(examples).enumerate() {
            for (at, word) in self.mask(encoding, tokenizer, random)? {
                words[0].push((row * length + at) as u32);
                words[1].push(word);
            }
            if let Some((_, follows)) = example.second {
                pairs[0].push(row as u32);
                pairs[1].push(u32::from(!follows));
            }
        }
        let count = |batch: &BatchEncoding| -> usize {
            batch.encodings.iter().map(|it| it.attention_mask.iter().sum::<u32>() as usize).sum()
        };
        let mut tokens = count(&batch);
        let input = batch.to_input(&Device::Cpu)?;
        let mut paraphrases = None;
        if self.similarity_weight > 0. {
            let (mut texts_of, mut others, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
            // What is said twice would count as wrong for itself. Small files have few sentences.
            for _ in 0..4 * examples.len() {
                for ([one, two], meaning) in texts.paraphrases(random)? {
                    let is_new = [&one, &two, &meaning].iter().all(|it| !seen.contains(*it));
                    if texts_of.len() < examples.len() && is_new {
                        seen.extend([one.clone(), two.clone(), meaning]);
                        texts_of.push(one);
                        others.push(two);
                    }
                }
                if texts_of.len() == examples.len() {
                    break;
                }
            }
            let batch = tokenizer.encode_batch(texts_of.iter().chain(&others), &encode)?;
            tokens += count(&batch);
            paraphrases = Some((batch.to_input(&Device::Cpu)?, others.len()));
        }
        Ok(Part { input, words, pairs, paraphrases, seed: random.random(), tokens })
    }

    /// Masks tokens: 80 % become `[MASK]`, 10 % another token, 10 % stay. Returns where, and the tokens
    /// that were there. Devlin et al. 2018, §3.1, task 1.
    pub fn mask(
        &self,
        encoding: &mut Encoding,
        tokenizer: &BertTokenizer,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<(usize, u32)>> {
        let tokens = (0..encoding.len()).filter(|i| encoding.special_tokens_mask[*i] == 0);
        let tokens: Vec<usize> = tokens.collect();
        let word = |i: usize| (encoding.sequence_ids[i], encoding.word_ids[i]);
        let is_one =
            |a: &usize, b: &usize| self.masking == Masking::WholeWord && word(*a) == word(*b);
        let words: Vec<&[usize]> = tokens.chunk_by(is_one).collect();
        let mut chosen: Vec<&[usize]> =
            words.iter().copied().filter(|_| random.random_bool(self.mask_probability)).collect();
        if chosen.is_empty() {
            chosen.extend(words.choose(random));
        }
        let mask = tokenizer.mask_token_id().context("the tokenizer has no [MASK]")?;
        let mut masked = Vec::new();
        for &i in chosen.into_iter().flatten() {
            masked.push((i, encoding.ids[i]));
            encoding.ids[i] = match random.random_range(0..10) {
                0 => random.random_range(0..tokenizer.vocab_size() as u32),
                1 => encoding.ids[i],
                _ => mask,
            };
        }
        Ok(masked)
    }
}

impl Batch {
    /// What a part adds to the loss, a scalar, and what that is made of. Each loss is a mean over the
    /// batch: over its masked words, its pairs, its paraphrases.
    pub fn loss(&self, part: &Part, model: &BertForPreTraining) -> Result<(Tensor, Losses)> {
        let dropout = ForwardOptions::training(part.seed);
        let output = model.forward_with(&part.input, &dropout)?;
        let scores = output.prediction_logits.flatten_to(1)?;
        let words = share(&scores, &part.words, self.words)?;
        let next = share(&output.seq_relationship_logits, &part.pairs, self.pairs)?;
        let similarity = match &part.paraphrases {
            Some((input, count)) => {
                let mean = multiple_negatives(&model.bert, input, &dropout)?;
                (mean * (*count as f64 / self.paraphrases as f64))?
            }
            None => words.zeros_like()?,
        };
        let value = |loss: &Tensor| loss.to_scalar::<f32>().map(f64::from);
        let losses = Losses {
            masked_words: value(&words)?,
            next_sentence: value(&next)?,
            similarity: value(&similarity)?,
        };
        Ok((((words + next)? + (similarity * self.similarity_weight)?)?, losses))
    }
}

/// The cross-entropies of some rows of `scores`, `[M, C]`, added up and divided by the number of such rows
/// in the whole batch.
fn share(scores: &Tensor, [rows, labels]: &[Vec<u32>; 2], all: usize) -> Result<Tensor> {
    if rows.is_empty() {
        return Ok(Tensor::zeros((), scores.dtype(), scores.device())?);
    }
    let rows = Tensor::new(rows.as_slice(), scores.device())?;
    let labels = Tensor::new(labels.as_slice(), scores.device())?;
    let mean = candle_nn::loss::cross_entropy(&scores.index_select(&rows, 0)?, &labels)?;
    Ok((mean * (rows.elem_count() as f64 / all as f64))?)
}

/// How well each text finds its own paraphrase among those of all. sentence-transformers:
/// `MultipleNegativesRankingLoss`, with its scale of 20.
fn multiple_negatives(
    model: &BertModel,
    input: &BertInput,
    dropout: &ForwardOptions,
) -> Result<Tensor> {
    let states = model.forward_with(input, dropout)?.last_hidden_state; // [2N, S, H]
    let mask = input.attention_mask.as_ref().context("texts without a mask")?;
    let mask = mask.to_dtype(states.dtype())?.unsqueeze(2)?;
    let sums = states.broadcast_mul(&mask)?.sum(1)?;
    // The length of the sum is as good as that of the mean.
    let norms = (sums.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?;
    let vectors = sums.broadcast_div(&norms)?;
    let n = vectors.dim(0)? / 2;
    let (texts, others) = (vectors.narrow(0, 0, n)?, vectors.narrow(0, n, n)?);
    let scores = (texts.matmul(&others.t()?.contiguous()?)? * 20.)?; // [N, N]
    let own = Tensor::arange(0u32, n as u32, scores.device())?;
    Ok(candle_nn::loss::cross_entropy(&scores, &own)?)
}
