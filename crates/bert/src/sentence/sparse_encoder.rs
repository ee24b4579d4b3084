//! A few weighed words for each text.

use bert_core::{BertForMaskedLM, Head};
use bert_kernels::{Activation, activate, log1p, widen};
use bert_tokenize::{BertTokenizer, Encoding};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::files::{ModuleFiles, SentenceFiles, read};
use super::options::SentenceOptions;
use super::similarity::SimilarityFunction;
use super::texts::TextEncoder;
use crate::batches::in_batches;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::options::LoadOptions;
use crate::load::pretrained::PreTrainedModel;
use crate::scores::{largest, rows};
use crate::task_error::TaskError;

/// What a token's scores of all words take up of a batch, in tokens.
const TOKEN_COST: usize = 8;

/// A few weighed words for each text, as SPLADE makes them: most numbers of a vector are zero.
/// sentence-transformers: `SparseEncoder`.
///
/// ```no_run
/// use bert::{LoadOptions, SentenceOptions, SparseEncoder};
///
/// # fn main() -> bert::Result<()> {
/// let id = "naver/splade-cocondenser-ensembledistil"; // or a folder
/// let model = SparseEncoder::from_pretrained(id, &LoadOptions::new())?;
/// let options = SentenceOptions::new().with_max_active_dims(8);
/// let vector = model.encode("my dog is cute", &options)?;
/// assert_eq!(vector.indices().len(), 8);
/// for (word, weight) in model.decode(&vector, 3) {
///     println!("{weight:.2} {word}");
/// }
/// # Ok(())
/// # }
/// ```
///
/// Texts that are longer than the model reads are cut at their end, as in sentence-transformers.
#[derive(Clone, Debug)]
pub struct SparseEncoder {
    model: BertForMaskedLM,
    texts: TextEncoder,
    pooling: SpladePooling,
    max_active_dims: Option<usize>,
    similarity: SimilarityFunction,
}

/// A vector of which most numbers are zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SparseVector {
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl SparseVector {
    /// A vector of its numbers that are not zero: their dimensions in ascending order, and the numbers.
    ///
    /// # Errors
    /// [`TaskError::Option`] for dimensions in another order or of another number.
    pub fn new(indices: Vec<u32>, values: Vec<f32>) -> Result<Self> {
        if indices.len() != values.len() {
            let expected = format!("{}, one for each value", values.len());
            return Err(TaskError::option("number of indices", indices.len(), expected).into());
        }
        if !indices.is_sorted_by(|a, b| a < b) {
            let expected = "rising, each larger than the last";
            return Err(TaskError::option("order of indices", "another one", expected).into());
        }
        Ok(Self { indices, values })
    }

    /// The dimensions that are not zero, in ascending order: ids of words.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// The numbers of these dimensions.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The numbers that are not zero and their dimensions.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        self.indices.iter().copied().zip(self.values.iter().copied())
    }

    /// All `width` numbers. Dimensions beyond them are left out.
    pub fn to_dense(&self, width: usize) -> Vec<f32> {
        let mut dense = vec![0.; width];
        for (index, value) in self.iter() {
            if let Some(number) = dense.get_mut(index as usize) {
                *number = value;
            }
        }
        dense
    }

    /// The numbers of both in the dimensions where one of them is not zero.
    fn numbers_beside(&self, other: &Self) -> (Vec<f32>, Vec<f32>) {
        let (mut a, mut b) = (self.iter().peekable(), other.iter().peekable());
        let mut numbers = (Vec::new(), Vec::new());
        while let Some(index) = a.peek().into_iter().chain(b.peek()).map(|it| it.0).min() {
            let number = |next: Option<(u32, f32)>| next.map_or(0., |it| it.1);
            numbers.0.push(number(a.next_if(|it| it.0 == index)));
            numbers.1.push(number(b.next_if(|it| it.0 == index)));
        }
        numbers
    }

    /// The dot product of two vectors.
    pub fn dot(&self, other: &Self) -> f32 {
        let pairs = self.iter().filter_map(|(index, value)| {
            let at = other.indices.binary_search(&index).ok()?;
            Some(value * other.values[at])
        });
        pairs.sum()
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct SpladePooling {
    pooling_strategy: Strategy,
    activation_function: Growth,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Strategy {
    #[default]
    Max,
    Sum,
}

/// How slowly weights grow with scores.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Growth {
    /// `ln(1 + max(x, 0))`.
    #[default]
    Relu,
    /// `ln(1 + ln(1 + max(x, 0)))`.
    #[serde(rename = "log1p_relu")]
    Log1pRelu,
}

impl SpladePooling {
    /// `[N, V]` scores of a text's tokens → `[1, V]` weights.
    fn pool(self, scores: &Tensor) -> Result<Tensor> {
        let grow = |x: &Tensor| -> Result<Tensor> {
            let once = log1p(&activate(&widen(x)?, Activation::Relu)?)?;
            match self.activation_function {
                Growth::Relu => Ok(once),
                Growth::Log1pRelu => Ok(log1p(&once)?),
            }
        };
        Ok(match self.pooling_strategy {
            // Growth keeps the order.
            Strategy::Max => grow(&scores.max_keepdim(0)?)?,
            Strategy::Sum => grow(scores)?.sum_keepdim(0)?,
        })
    }
}

impl SparseEncoder {
    /// Loads a [`Checkpoint`], a folder's path or a hub id. Without `modules.json`, weights are the largest
    /// of all tokens, as in SPLADE.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`] and [`Checkpoint::tokenizer`]; [`TaskError::Module`] for files of
    /// modules that cannot be used and [`TaskError::UnknownModule`] for a module other than `SpladePooling`.
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        let files = SentenceFiles::read(&checkpoint, "SparseEncoder")?;
        let model = BertForMaskedLM::from_pretrained(&files.transformer, options)?;
        let texts = TextEncoder::new(&files, model.bert.config())?;
        let pooling = match files.modules.as_deref() {
            None => SpladePooling::default(),
            Some([ModuleFiles { class, files }]) if class == "SpladePooling" => {
                read(files, "config.json")?.unwrap_or_default()
            }
            Some(modules) => {
                let classes = modules.iter().map(|module| &*module.class).collect::<Vec<_>>();
                let (got, known) = (classes.join(" and "), "a transformer and SpladePooling");
                return Err(TaskError::UnknownModule { got, known }.into());
            }
        };
        let named = files.config.similarity_fn_name.as_deref();
        let similarity = named.and_then(SimilarityFunction::from_name);
        Ok(Self {
            model,
            texts,
            pooling,
            max_active_dims: files.config.max_active_dims,
            similarity: similarity.unwrap_or(SimilarityFunction::Dot),
        })
    }

    /// The model.
    pub fn model(&self) -> &BertForMaskedLM {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &BertTokenizer {
        &self.texts.tokenizer
    }

    /// The vector of one text.
    ///
    /// # Errors
    /// [`TaskError::NoSuchPrompt`] and [`TaskError::Option`] for options that the checkpoint does not have or
    /// cannot do.
    pub fn encode(&self, text: &str, options: &SentenceOptions) -> Result<SparseVector> {
        let encodings = self.texts.encode(&[text], options)?;
        Ok(self.vectors(&encodings, options)?.remove(0))
    }

    /// The vectors of texts, in their order. A few hundred texts are read and computed at a time, when the
    /// iterator gets to them.
    ///
    /// # Errors
    /// The iterator ends after its first error, which is one of [`SparseEncoder::encode`].
    pub fn encode_all<'s, T: AsRef<str> + Send + Sync, I: IntoIterator<Item = T>>(
        &'s self,
        texts: I,
        options: &SentenceOptions,
    ) -> impl Iterator<Item = Result<SparseVector>> + use<'s, T, I> {
        self.texts.run_all(texts, options, |encodings, options| self.vectors(encodings, options))
    }

    /// The `top_k` words with the largest weights.
    pub fn decode(&self, vector: &SparseVector, top_k: usize) -> Vec<(String, f32)> {
        let best = largest(&vector.values, top_k).into_iter();
        best.map(|i| {
            let token = self.texts.tokenizer.id_to_token(vector.indices[i]);
            (token.unwrap_or_default(), vector.values[i])
        })
        .collect()
    }

    /// How similar each of `a` is to each of `b`, by the checkpoint's function.
    ///
    /// # Errors
    /// As [`SimilarityFunction::between`].
    pub fn similarity(&self, a: &[SparseVector], b: &[SparseVector]) -> Result<Vec<Vec<f32>>> {
        let between = |a: &SparseVector, b: &SparseVector| match self.similarity {
            SimilarityFunction::Dot => Ok(a.dot(b)),
            function => {
                let (a, b) = a.numbers_beside(b);
                function.between(&a, &b)
            }
        };
        a.iter().map(|a| b.iter().map(|b| between(a, b)).collect()).collect()
    }

    fn vectors(
        &self,
        encodings: &[Encoding],
        options: &SentenceOptions,
    ) -> Result<Vec<SparseVector>> {
        options.refuse(&["truncate_dim", "normalize_embeddings"], "SparseEncoder")?;
        let most = options.max_active_dims.or(self.max_active_dims);
        if most == Some(0) {
            return Err(TaskError::option("max_active_dims", 0, "1 or more").into());
        }
        let device = self.model.bert.device();
        in_batches(
            encodings,
            device,
            |it| TOKEN_COST * it.len(),
            |input, _| {
                let scores = self.model.forward_packed(input)?.logits;
                let pooled = input.cumulative_lengths.windows(2).map(|rows| {
                    self.pooling.pool(&scores.narrow(0, rows[0], rows[1] - rows[0])?)
                });
                let weights = rows(&Tensor::cat(&pooled.collect::<Result<Vec<_>>>()?, 0)?)?;
                Ok(weights.iter().map(|weights| sparse(weights, most)).collect())
            },
        )
    }
}

/// The numbers that are not zero, and of them the largest `most`.
fn sparse(weights: &[f32], most: Option<usize>) -> SparseVector {
    let mut indices: Vec<usize> = match most {
        Some(most) => largest(weights, most),
        None => (0..weights.len()).collect(),
    };
    indices.retain(|i| weights[*i] != 0.);
    indices.sort_unstable();
    SparseVector {
        values: indices.iter().map(|i| weights[*i]).collect(),
        indices: indices.into_iter().map(|i| i as u32).collect(),
    }
}
