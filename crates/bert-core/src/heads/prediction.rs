//! From states to scores over the vocabulary.

use bert_kernels::{Activation, LayerNormWeights, LinearWeights, activate, layer_norm, linear};
use candle_core::{DType, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::config::BertConfig;
use crate::error::Result;
use crate::names;

/// `LayerNorm(activation(x W + b)) Eᵀ + c`, with the word embeddings `E` as the decoder unless the
/// checkpoint has another one.
///
/// Devlin et al. 2018, §3.1, task 1. Hugging Face: `BertLMPredictionHead`.
#[derive(Clone, Debug)]
pub(crate) struct PredictionHead {
    transform: LinearWeights,
    activation: Activation,
    norm: LayerNormWeights,
    decoder: LinearWeights,
    tied: bool,
}

impl PredictionHead {
    /// Reads `decoder.weight`, `[V, H]`, where there is one. It is read before the model below the
    /// head, so that no two copies of a large matrix are on their way when most is loaded.
    pub(crate) fn read_decoder(vb: &VarBuilder, config: &BertConfig) -> Result<Option<Tensor>> {
        let decoder = vb.pp("decoder");
        if decoder.contains_tensor("weight") || !config.tie_word_embeddings {
            return Ok(Some(names::embedding(decoder, config.vocab_size, config)?));
        }
        Ok(None)
    }

    /// Loads `transform.dense`, `transform.LayerNorm` and the biases. `decoder`, what
    /// [`PredictionHead::read_decoder`] gave, is kept where it differs from `word_embeddings`.
    pub(crate) fn load(
        vb: VarBuilder,
        decoder: Option<Tensor>,
        word_embeddings: &Tensor,
        config: &BertConfig,
    ) -> Result<Self> {
        let (v, h) = (config.vocab_size, config.hidden_size);
        let own = match decoder {
            // What is absent is no copy of anything: it is drawn, or stands for an error.
            Some(weight) if !vb.contains_tensor("decoder.weight") => Some(weight),
            Some(weight) if same_values(&weight, word_embeddings)? => None,
            own => own,
        };
        let decoder = vb.pp("decoder");
        // The decoder adds its own bias where there is one, and otherwise the head's.
        let bias = |vb: &VarBuilder| vb.get_with_hints(v, "bias", Init::Const(0.));
        let bias = match (decoder.contains_tensor("bias"), vb.contains_tensor("bias")) {
            (true, true) => bias(&vb).and(bias(&decoder)),
            (true, false) => bias(&decoder),
            (false, _) => bias(&vb),
        }?;
        Ok(Self {
            transform: names::linear(vb.pp("transform.dense"), (h, h), config)?,
            activation: config.activation()?,
            norm: names::layer_norm(vb.pp("transform.LayerNorm"), config)?,
            tied: own.is_none(),
            decoder: LinearWeights { weight: own.unwrap_or_else(|| word_embeddings.clone()), bias },
        })
    }

    /// Whether the decoder is the word embeddings.
    pub(crate) fn is_tied(&self) -> bool {
        self.tied
    }

    /// `x`: `[…, H]` → `[…, V]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let transformed = activate(&linear(x, &self.transform)?, self.activation)?;
        Ok(linear(&layer_norm(&transformed, &self.norm)?, &self.decoder)?)
    }
}

/// Whether two matrices are equal, compared some rows at a time.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    const ROWS: usize = 1024;
    let v = a.dim(0)?;
    for start in (0..v).step_by(ROWS) {
        let rows = ROWS.min(v - start);
        let differing = a.narrow(0, start, rows)?.ne(&b.narrow(0, start, rows)?)?;
        if differing.to_dtype(DType::F32)?.max_all()?.to_scalar::<f32>()? != 0. {
            return Ok(false);
        }
    }
    Ok(true)
}
