//! How parameters are loaded, and how they start without a checkpoint.
//!
//! A name is decided by looking ([`VarBuilder::contains_tensor`]) and then read once, so that an
//! error is about the tensor that is really missing.

use bert_kernels::{EmbeddingWeights, LayerNormWeights, LinearWeights};
use candle_nn::{Init, VarBuilder};

use crate::config::BertConfig;
use crate::error::Result;

/// The location of the base model's parameters: below `bert.` in the checkpoint of a model with a
/// head, at the root in that of a bare `BertModel`.
pub(crate) fn base_model<'a>(vb: &VarBuilder<'a>) -> VarBuilder<'a> {
    if vb.contains_tensor("bert.embeddings.word_embeddings.weight") {
        vb.pp("bert")
    } else {
        vb.clone()
    }
}

/// The location of the base model's parameters for a model with a head: below `bert.`, unless the
/// checkpoint is that of a bare `BertModel`.
pub(crate) fn base_below_head<'a>(vb: &VarBuilder<'a>) -> VarBuilder<'a> {
    let is_bare = !vb.contains_tensor("bert.embeddings.word_embeddings.weight")
        && vb.contains_tensor("embeddings.word_embeddings.weight");
    if is_bare { vb.clone() } else { vb.pp("bert") }
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

/// `weight` and `bias`, or `gamma` and `beta` in checkpoints from TensorFlow: `[H]` each.
pub(crate) fn layer_norm(vb: VarBuilder, config: &BertConfig) -> Result<LayerNormWeights> {
    let legacy = vb.contains_tensor("gamma") && !vb.contains_tensor("weight");
    let (gamma, beta) = if legacy { ("gamma", "beta") } else { ("weight", "bias") };
    Ok(LayerNormWeights {
        gamma: vb.get_with_hints(config.hidden_size, gamma, Init::Const(1.))?,
        beta: vb.get_with_hints(config.hidden_size, beta, Init::Const(0.))?,
        eps: config.layer_norm_eps,
    })
}

/// Matrices start with the config's `initializer_range`.
fn normal(config: &BertConfig) -> Init {
    Init::Randn { mean: 0., stdev: config.initializer_range }
}
