//! What checkpoints call things, and how their parameters start when there is no checkpoint.
//!
//! A name is decided by looking ([`VarBuilder::contains_tensor`]) and then read once, so that an
//! error is about the tensor that is really missing.

use bert_kernels::{EmbeddingWeights, LayerNormWeights, LinearWeights};
use candle_nn::{Init, VarBuilder};

use crate::config::BertConfig;
use crate::error::Result;

/// Where the base model's parameters are: below `bert.` in checkpoints of a model with a head, at
/// the root in those of a bare `BertModel`.
pub(crate) fn base_model<'a>(vb: &VarBuilder<'a>) -> VarBuilder<'a> {
    if vb.contains_tensor("bert.embeddings.word_embeddings.weight") {
        vb.pp("bert")
    } else {
        vb.clone()
    }
}

/// Where the base model's parameters are in a checkpoint of a model with a head: below `bert.`,
/// unless the head was put beside those of a bare `BertModel`.
pub(crate) fn base_below_head<'a>(vb: &VarBuilder<'a>) -> VarBuilder<'a> {
    if vb.contains_tensor("embeddings.word_embeddings.weight") { vb.clone() } else { vb.pp("bert") }
}

/// `weight`: `[rows, width]`.
pub(crate) fn embedding(
    vb: VarBuilder,
    (rows, width): (usize, usize),
    config: &BertConfig,
) -> Result<EmbeddingWeights> {
    let weight = vb.get_with_hints((rows, width), "weight", normal(config))?;
    Ok(EmbeddingWeights { weight, padding: None })
}

/// `weight`: `[output, input]`, `bias`: `[output]`.
pub(crate) fn linear(
    vb: VarBuilder,
    (input, output): (usize, usize),
    config: &BertConfig,
) -> Result<LinearWeights> {
    let weight = vb.get_with_hints((output, input), "weight", normal(config))?;
    Ok(LinearWeights::new(weight, vb.get_with_hints(output, "bias", Init::Const(0.))?))
}

/// `weight` and `bias`, or `gamma` and `beta` in checkpoints that came from TensorFlow: `[H]` each.
pub(crate) fn layer_norm(vb: VarBuilder, config: &BertConfig) -> Result<LayerNormWeights> {
    let legacy = vb.contains_tensor("gamma");
    let (gamma, beta) = if legacy { ("gamma", "beta") } else { ("weight", "bias") };
    Ok(LayerNormWeights {
        gamma: vb.get_with_hints(config.hidden_size, gamma, Init::Const(1.))?,
        beta: vb.get_with_hints(config.hidden_size, beta, Init::Const(0.))?,
        eps: config.layer_norm_eps,
    })
}

fn normal(config: &BertConfig) -> Init {
    Init::Randn { mean: 0., stdev: config.initializer_range }
}
