//! From hidden states to a score for each word.

use bert_kernels::{
    Activation, EmbeddingWeights, LayerNormWeights, LinearWeights, WeightForm, layer_norm, linear,
    linear_activation,
};
use candle_core::{DType, Device, Tensor, TensorId};
use candle_nn::{Init, VarBuilder};

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::model::BertModel;
use crate::named;

/// `LayerNorm(activation(x W + b)) Eᵀ + c`, with the word embeddings `E` as the decoder unless the
/// checkpoint has another one.
///
/// Devlin et al. 2018, §3.1, task 1. Hugging Face: `BertLMPredictionHead`.
#[derive(Clone, Debug)]
pub struct BertLMPredictionHead {
    transform: LinearWeights,
    activation: Activation,
    norm: LayerNormWeights,
    /// A decoder other than the word embeddings: `[V, H]`.
    decoder: Option<Tensor>,
    /// `[V]`.
    bias: Tensor,
    converted: Option<ConvertedDecoder>,
}

/// A copy of a decoder's matrix and bias in another form. It is used as long as the tensors that it was
/// made from are still the head's.
#[derive(Clone, Debug)]
struct ConvertedDecoder {
    made_from: [TensorId; 2],
    weights: LinearWeights,
}

impl BertLMPredictionHead {
    /// Loads the model below such a head, then `cls.predictions`.
    pub(crate) fn load_with_model(
        vb: &VarBuilder,
        config: &BertConfig,
        pooler: bool,
    ) -> Result<(BertModel, Self)> {
        config.validate()?;
        let at = vb.pp("cls.predictions");
        let decoder = Self::read_decoder(&at, config)?;
        let bert = BertModel::load_below_head(vb, config, pooler)?;
        let head = Self::load(at, decoder, bert.embeddings.word_embeddings(), config)?;
        Ok((bert, head))
    }

    /// Reads `decoder.weight`, `[V, H]`, if the checkpoint has it. Read it before the model below the
    /// head, to keep the peak memory low: comparing it with the word embeddings needs both.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn read_decoder(vb: &VarBuilder, config: &BertConfig) -> Result<Option<EmbeddingWeights>> {
        let decoder = vb.pp("decoder");
        let sizes = (config.vocab_size, config.hidden_size);
        let has_own = decoder.contains_tensor("weight") || !config.tie_word_embeddings;
        has_own.then(|| init::embedding(decoder, sizes, config)).transpose()
    }

    /// Loads `transform.dense`, `transform.LayerNorm` and the biases. `decoder`, from
    /// [`BertLMPredictionHead::read_decoder`], is kept if it differs from `word_embeddings`, `[V, H]`.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(
        vb: VarBuilder,
        decoder: Option<EmbeddingWeights>,
        word_embeddings: &Tensor,
        config: &BertConfig,
    ) -> Result<Self> {
        let (v, h) = (config.vocab_size, config.hidden_size);
        let at_decoder = vb.pp("decoder");
        let mut decoder = decoder.map(|table| table.weight);
        // A decoder that the checkpoint lacks is new, or stands for an error: it is not tied.
        if let Some(own) = &decoder
            && config.tie_word_embeddings
            && at_decoder.contains_tensor("weight")
            && same_values(own, word_embeddings)?
        {
            decoder = None;
        }
        // As in transformers 4: the decoder's own bias if there is one, and otherwise the head's.
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
            converted: None,
        })
    }

    /// Whether the decoder is the word embeddings.
    pub fn is_tied(&self) -> bool {
        self.decoder.is_none()
    }

    /// `x`: `[…, H]`; `words`, the word embeddings: `[V, H]` → `[…, V]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the word embeddings were resized without the head.
    pub fn forward(&self, x: &Tensor, words: &Tensor) -> Result<Tensor> {
        self.check(words)?;
        let transformed = linear_activation(x, &self.transform, self.activation)?;
        let normed = layer_norm(&transformed, &self.norm)?;
        let decoder = self.decoder(words);
        let made_from = [decoder.id(), self.bias.id()];
        match &self.converted {
            // Gradients need the matrix itself.
            Some(copy) if copy.made_from == made_from && !normed.track_op() => {
                Ok(linear(&normed, &copy.weights)?)
            }
            _ => Ok(linear(&normed, &LinearWeights::new(decoder.clone(), self.bias.clone()))?),
        }
    }

    /// Makes a copy of the decoder in `form`; none if that is its own form. Without a form, it renews the
    /// copy that there is. If its matrix and bias differ in size nothing is copied, and `forward` returns
    /// the error.
    pub(crate) fn copy_decoder(&mut self, words: &Tensor, form: Option<WeightForm>) -> Result<()> {
        let (decoder, bias) = (self.decoder(words).clone(), self.bias.clone());
        let made_from = [decoder.id(), bias.id()];
        let old = self.converted.as_ref();
        let old_form = old.map_or(WeightForm::Unpacked, |copy| copy.weights.form());
        let form = form.unwrap_or(old_form);
        if form == old_form && old.is_none_or(|copy| copy.made_from == made_from) {
            return Ok(());
        }
        // Dropped first: two copies at a time would raise the peak memory.
        self.converted = None;
        if self.check(words).is_err() {
            return Ok(());
        }
        let mut weights = LinearWeights::new(decoder, bias);
        weights.convert(form)?;
        let is_copy = weights.form() != WeightForm::Unpacked;
        self.converted = is_copy.then_some(ConvertedDecoder { made_from, weights });
        Ok(())
    }

    /// Refuses word embeddings that were resized without the head.
    fn check(&self, words: &Tensor) -> Result<()> {
        let (got, expected) = (self.bias.dims(), words.dims().get(..1).unwrap_or_default());
        if got == expected {
            return Ok(());
        }
        let expected = format!(
            "{expected:?}, like the word embeddings; call resize_token_embeddings on the model with \
             the head"
        );
        Err(Error::shape("cls.predictions.bias", &self.bias, expected))
    }

    /// The decoder's matrix, `[V, H]`: `words` if it is tied to them.
    pub(crate) fn decoder<'a>(&'a self, words: &'a Tensor) -> &'a Tensor {
        self.decoder.as_ref().unwrap_or(words)
    }

    /// Unties the decoder: `[V, H]`.
    pub(crate) fn set_decoder(&mut self, weight: Tensor) {
        self.decoder = Some(weight);
    }

    /// The head with another `V`.
    pub(crate) fn resized(&self, words: usize) -> Result<Self> {
        let decoder = self.decoder.as_ref().map(|own| resized(own, words)).transpose()?;
        Ok(Self { decoder, bias: resized(&self.bias, words)?, ..self.clone() })
    }
}

/// Whether two matrices are equal. A few rows are compared at a time. What stands for a weight that could
/// not be read has no rows of its own and equals nothing.
fn same_values(a: &Tensor, b: &Tensor) -> Result<bool> {
    const ROWS: usize = 1024;
    if a.dims() != b.dims() || !a.is_contiguous() || !b.is_contiguous() {
        return Ok(false);
    }
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

named!(BertLMPredictionHead {
    "transform.dense" => transform,
    "transform.LayerNorm" => norm,
    "decoder.weight" => decoder,
    "bias" => bias,
});

/// The first `rows` rows of `[V]` or `[V, H]`; rows beyond them are the mean of all.
pub(crate) fn resized(table: &Tensor, rows: usize) -> Result<Tensor> {
    let old = table.dim(0)?;
    if rows <= old {
        return Ok(table.narrow(0, 0, rows)?.copy()?);
    }
    // F64 on the host: the mean of many rows in half precision would be far off.
    let mean = table.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.mean_keepdim(0)?;
    let mean = mean.to_dtype(table.dtype())?.to_device(table.device())?;
    let shape = [&[rows - old], &table.dims()[1..]].concat();
    Ok(Tensor::cat(&[table, &mean.broadcast_as(shape)?], 0)?)
}
