//! From the states of a text's tokens to one vector.

use std::ops::Range;

use bert_kernels::{Ids, gather_rows, sum_rows};
use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::features::{Features, accumulated_dtype};
use super::files::{module_error, read_existing};
use crate::checkpoint::Checkpoint;
use crate::error::Result;

/// How the states of a text's tokens become one vector.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PoolingMode {
    /// The first token's state.
    Cls,
    /// The largest of each dimension.
    Max,
    /// The mean.
    Mean,
    /// The sum divided by the root of the number of tokens.
    #[serde(rename = "mean_sqrt_len_tokens")]
    MeanSqrtLen,
    /// The mean, where the second token counts twice, the third one three times, and so on.
    WeightedMean,
    /// The last token's state.
    LastToken,
}

/// The keys of older files, in the order in which vectors are put together.
const OLD_KEYS: [(&str, PoolingMode); 6] = [
    ("pooling_mode_cls_token", PoolingMode::Cls),
    ("pooling_mode_max_tokens", PoolingMode::Max),
    ("pooling_mode_mean_tokens", PoolingMode::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
    ("pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ("pooling_mode_lasttoken", PoolingMode::LastToken),
];

/// Vectors by several modes, one after the other. sentence-transformers: `Pooling`.
#[derive(Clone, Debug)]
pub(super) struct Pooling {
    pub(super) modes: Vec<PoolingMode>,
    pub(super) include_prompt: bool,
}

impl Pooling {
    pub(super) fn mean() -> Self {
        Self { modes: vec![PoolingMode::Mean], include_prompt: true }
    }

    pub(super) fn read(files: &Checkpoint) -> Result<Self> {
        const CONFIG: &str = "config.json";
        let config: Value = read_existing(files, CONFIG)?;
        let modes = match &config["pooling_mode"] {
            Value::Null => {
                let is_set = |key: &str| config[key] == true;
                let set = OLD_KEYS.into_iter().filter(|(key, _)| is_set(key));
                Ok(set.map(|(_, mode)| mode).collect::<Vec<_>>())
            }
            Value::Array(modes) => modes.iter().map(PoolingMode::deserialize).collect(),
            mode => PoolingMode::deserialize(mode).map(|mode| vec![mode]),
        };
        let mut modes = modes.map_err(|error| module_error(files, CONFIG, error))?;
        match (modes.is_empty(), &config["pooling_mode"]) {
            (true, Value::Null) => modes.push(PoolingMode::Mean),
            (true, _) => return Err(module_error(files, CONFIG, "pooling_mode is an empty list")),
            (false, _) => {}
        }
        Ok(Self { modes, include_prompt: config["include_prompt"] != false })
    }

    /// The vectors of all texts: `[B, D]`.
    pub(super) fn forward(&self, features: &Features) -> Result<Tensor> {
        let texts = features.starts.windows(2).map(|rows| {
            let skipped = if self.include_prompt { 0 } else { features.prompt_length };
            rows[0] + skipped.min(rows[1] - rows[0] - 1)..rows[1]
        });
        let texts: Vec<_> = texts.collect();
        let vectors = self.modes.iter().map(|mode| mode.pool(features, &texts));
        let vectors = Tensor::cat(&vectors.collect::<Result<Vec<_>>>()?, 1)?;
        Ok(vectors.to_dtype(features.tokens.dtype())?)
    }
}

impl PoolingMode {
    /// `texts`: the rows of each text's tokens, at least one → `[B, D]`, accumulated in
    /// [`accumulated_dtype`], because sums of half precision would overflow or lose digits.
    fn pool(self, features: &Features, texts: &[Range<usize>]) -> Result<Tensor> {
        let (tokens, dtype) = (&features.tokens, accumulated_dtype(&features.tokens));
        let each_by = |factor: fn(f64) -> f64| {
            let factors = texts.iter().map(|rows| factor(rows.len() as f64)).collect();
            let factors = Tensor::from_vec(factors, (texts.len(), 1), &Device::Cpu)?;
            let factors = factors.to_dtype(dtype)?.to_device(tokens.device())?;
            Ok(sum_rows(tokens, texts)?.broadcast_mul(&factors)?)
        };
        let row_of_each = |row: fn(&Range<usize>) -> usize| {
            let rows = texts.iter().map(|rows| row(rows) as u32).collect();
            let rows = Ids::new(rows, (1, texts.len()), tokens.dim(0)?)?;
            Ok(gather_rows(tokens, &rows)?.squeeze(0)?.to_dtype(dtype)?)
        };
        match self {
            Self::Cls => row_of_each(|rows| rows.start),
            Self::LastToken => row_of_each(|rows| rows.end - 1),
            Self::Mean => each_by(|n| 1. / n),
            Self::MeanSqrtLen => each_by(|n| 1. / n.sqrt()),
            Self::Max | Self::WeightedMean => {
                let starts = features.starts.iter();
                let states = texts.iter().zip(starts).map(|(rows, start)| {
                    let states = tokens.narrow(0, rows.start, rows.len())?.to_dtype(dtype)?;
                    match self {
                        Self::Max => Ok(states.max_keepdim(0)?),
                        _ => weighted_mean(&states, rows.start - start),
                    }
                });
                Ok(Tensor::cat(&states.collect::<Result<Vec<_>>>()?, 0)?)
            }
        }
    }
}

/// `states`: `[N, D]`, those after the first `skipped` tokens of a text → `[1, D]`.
fn weighted_mean(states: &Tensor, skipped: usize) -> Result<Tensor> {
    let n = states.dim(0)?;
    let weights: Vec<f32> = (1..=n).map(|i| (skipped + i) as f32).collect();
    let sum: f32 = weights.iter().sum();
    let weights = Tensor::from_vec(weights, (n, 1), states.device())?;
    let weighed = states.broadcast_mul(&weights.to_dtype(states.dtype())?)?;
    Ok((weighed.sum_keepdim(0)? / f64::from(sum))?)
}
