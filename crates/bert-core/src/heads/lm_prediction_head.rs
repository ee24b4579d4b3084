//! From states to scores over the vocabulary.

use bert_kernels::{
    Activation, EmbeddingWeights, LayerNormWeights, LinearWeights, layer_norm, linear,
    linear_activation,
};
use candle_core::{DType, Tensor, TensorId};
use candle_nn::{Init, VarBuilder};

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::surgery::{named, resized};

/// `LayerNorm(activation(x W + b)) Eᵀ + c`, with the word embeddings `E` as the decoder unless the
/// checkpoint has another one.
///
/// Devlin et al. 2018, §3.1, task 1. Hugging Face: `BertLMPredictionHead`.
#[derive(Clone, Debug)]
pub struct PredictionHead {
    transform: LinearWeights,
    activation: Activation,
    norm: LayerNormWeights,
    /// A decoder other than the word embeddings: `[V, H]`.
    decoder: Option<EmbeddingWeights>,
    /// `[V]`.
    bias: Tensor,
    packed: Option<PackedDecoder>,
}

/// A packed copy of a decoder's matrix and bias, and which ones it was made of: it counts as long as
/// they are the head's.
#[derive(Clone, Debug)]
struct PackedDecoder {
    of: [TensorId; 2],
    weights: LinearWeights,
}

impl PredictionHead {
    /// Reads `decoder.weight`, `[V, H]`, where there is one. It is read before the model below the
    /// head, so that no two copies of a large matrix are on their way when most is loaded.
    pub(crate) fn read_decoder(
        vb: &VarBuilder,
        config: &BertConfig,
    ) -> Result<Option<EmbeddingWeights>> {
        let decoder = vb.pp("decoder");
        let sizes = (config.vocab_size, config.hidden_size);
        if decoder.contains_tensor("weight") || !config.tie_word_embeddings {
            return Ok(Some(init::embedding(decoder, sizes, config)?));
        }
        Ok(None)
    }

    /// Loads `transform.dense`, `transform.LayerNorm` and the biases. `decoder`, what
    /// [`PredictionHead::read_decoder`] gave, is kept where it differs from `word_embeddings`.
    pub(crate) fn load(
        vb: VarBuilder,
        decoder: Option<EmbeddingWeights>,
        word_embeddings: &Tensor,
        config: &BertConfig,
    ) -> Result<Self> {
        let (v, h) = (config.vocab_size, config.hidden_size);
        let decoder = match decoder {
            // What is absent is no copy of anything: it is drawn, or stands for an error.
            own if !vb.contains_tensor("decoder.weight") => own,
            Some(table)
                if config.tie_word_embeddings && same_values(&table.weight, word_embeddings)? =>
            {
                None
            }
            own => own,
        };
        let at_decoder = vb.pp("decoder");
        // The decoder adds its own bias where there is one, and otherwise the head's.
        let bias = |vb: &VarBuilder| vb.get_with_hints(v, "bias", Init::Const(0.));
        let bias = match (at_decoder.contains_tensor("bias"), vb.contains_tensor("bias")) {
            (true, true) => bias(&vb).and(bias(&at_decoder)),
            (true, false) => bias(&at_decoder),
            (false, _) => bias(&vb),
        }?;
        Ok(Self {
            transform: init::linear(vb.pp("transform.dense"), (h, h), config)?,
            activation: config.activation()?,
            norm: init::layer_norm(vb.pp("transform.LayerNorm"), config)?,
            decoder,
            bias,
            packed: None,
        })
    }

    /// Whether the decoder is the word embeddings.
    pub(crate) fn is_tied(&self) -> bool {
        self.decoder.is_none()
    }

    /// `x`: `[…, H]`; `words`, the word embeddings: `[V, H]` → `[…, V]`.
    pub(crate) fn forward(&self, x: &Tensor, words: &Tensor) -> Result<Tensor> {
        self.check(words)?;
        let transformed = linear_activation(x, &self.transform, self.activation)?;
        let normed = layer_norm(&transformed, &self.norm)?;
        let decoder = self.decoder(words);
        match &self.packed {
            // Gradients go through the matrix itself.
            Some(packed) if packed.of == [decoder.id(), self.bias.id()] && !normed.track_op() => {
                Ok(linear(&normed, &packed.weights)?)
            }
            _ => Ok(linear(&normed, &LinearWeights::new(decoder.clone(), self.bias.clone()))?),
        }
    }

    /// Whether the copy of the decoder that the CPU's products read has been made, perhaps of another
    /// matrix.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Lets it go.
    pub(crate) fn unpack_decoder(&mut self) {
        self.packed = None;
    }

    /// Makes it, unless the matrix and the bias do not fit, of which the next pass complains.
    pub(crate) fn pack_decoder(&mut self, words: &Tensor) -> Result<()> {
        let (decoder, bias) = (self.decoder(words).clone(), self.bias.clone());
        let of = [decoder.id(), bias.id()];
        if self.packed.as_ref().is_some_and(|packed| packed.of == of) {
            return Ok(());
        }
        // Not two of them at a time.
        self.packed = None;
        if self.check(words).is_err() {
            return Ok(());
        }
        let mut weights = LinearWeights::new(decoder, bias);
        weights.pack()?;
        self.packed = weights.tensors(0).is_none().then_some(PackedDecoder { of, weights });
        Ok(())
    }

    /// Refuses word embeddings that were resized without the head.
    fn check(&self, words: &Tensor) -> Result<()> {
        let (got, expected) = (self.bias.dims(), &words.dims()[..1]);
        if got == expected {
            return Ok(());
        }
        let expected = format!(
            "{expected:?}, like the word embeddings; call resize_token_embeddings on the model with \
             the head"
        );
        Err(Error::Shape { name: "cls.predictions.bias", got: got.to_vec(), expected })
    }

    /// The decoder's matrix, `[V, H]`: `words` where it is tied to them.
    pub(crate) fn decoder<'a>(&'a self, words: &'a Tensor) -> &'a Tensor {
        self.decoder.as_ref().map_or(words, |own| &own.weight)
    }

    /// Unties the decoder: `[V, H]`.
    pub(crate) fn set_decoder(&mut self, weight: Tensor) {
        self.decoder = Some(EmbeddingWeights { weight, padding: None });
    }

    /// The head with another `V`.
    pub(crate) fn resized(&self, words: usize) -> Result<Self> {
        let mut head = Self { bias: resized(&self.bias, words)?, ..self.clone() };
        if let Some(decoder) = &mut head.decoder {
            decoder.weight = resized(&decoder.weight, words)?;
        }
        Ok(head)
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

named!(PredictionHead {
    "transform.dense" => transform,
    "transform.LayerNorm" => norm,
    "decoder" => decoder,
    "bias" => bias,
});
