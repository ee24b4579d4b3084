//! A vector of each text.

use bert_core::{BertModel, PackedInput};
use bert_tokenize::{BertTokenizer, Encoding};
use candle_core::Tensor;

use super::features::{Features, Target};
use super::files::SentenceFiles;
use super::modules::{Module, normalize};
use super::options::SentenceOptions;
use super::pooling::{Pooling, PoolingMode};
use super::similarity::SimilarityFunction;
use super::texts::TextEncoder;
use crate::batches::in_batches;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::options::LoadOptions;
use crate::scores::rows;
use crate::task_error::TaskError;

/// A vector of each text, for search, clustering and comparison. sentence-transformers:
/// `SentenceTransformer`.
///
/// ```
/// use bert::{Checkpoint, LoadOptions, SentenceOptions, SentenceTransformer};
///
/// # fn main() -> bert::Result<()> {
/// // "sentence-transformers/all-MiniLM-L6-v2", or a folder
/// let model = SentenceTransformer::from_pretrained(Checkpoint::built_in(), &LoadOptions::new())?;
/// let options = SentenceOptions::new();
/// let query = model.encode("A cat is asleep.", &options)?;
/// let texts = ["The kitten naps.", "Stock prices fell again."];
/// let vectors: Vec<Vec<f32>> = model.encode_all(texts, &options).collect::<bert::Result<_>>()?;
/// let similarities = model.similarity(&[query], &vectors)?;
/// assert!(similarities[0][0] > similarities[0][1]);
/// # Ok(())
/// # }
/// ```
///
/// The checkpoint's `modules.json` says what becomes of the model's hidden states: pooling, dense layers,
/// normalization. Without that file, vectors are means, as in sentence-transformers;
/// [`SentenceTransformer::note`] then says so.
///
/// **Texts that are longer than [`SentenceTransformer::max_seq_length`] tokens are cut at their end**, as in
/// sentence-transformers.
#[derive(Clone, Debug)]
pub struct SentenceTransformer {
    model: BertModel,
    texts: TextEncoder,
    modules: Vec<Module>,
    truncate_dim: Option<usize>,
    similarity: SimilarityFunction,
    note: Option<&'static str>,
}

impl SentenceTransformer {
    /// Loads a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`AutoModel::from_pretrained`](crate::AutoModel::from_pretrained) and
    /// [`Checkpoint::tokenizer`]; [`TaskError::Module`] for files of
    /// modules that cannot be used and [`TaskError::UnknownModule`] for a module that is not known.
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        let files = SentenceFiles::read(&checkpoint, "SentenceTransformer")?;
        let (model, texts) = TextEncoder::with_model(&files, options)?;
        let at = (model.device(), model.dtype());
        let (modules, note) = match &files.modules {
            Some(modules) => {
                let read = |module| Module::read(module, Target::Sentence, at);
                (modules.iter().map(read).collect::<Result<Vec<_>>>()?, None)
            }
            None => {
                let note = "there is no modules.json, so vectors are means of hidden states; a \
                            checkpoint that was trained otherwise gives bad vectors";
                (vec![Module::Pooling(Pooling::mean())], Some(note))
            }
        };
        let named = files.config.similarity_fn_name.as_deref();
        let similarity = named.and_then(SimilarityFunction::from_name);
        Ok(Self {
            texts,
            modules,
            truncate_dim: files.config.truncate_dim,
            similarity: similarity.unwrap_or(SimilarityFunction::Cosine),
            note,
            model,
        })
    }

    /// Makes vectors by other modes, one after the other, without the checkpoint's modules.
    ///
    /// # Errors
    /// [`TaskError::Option`] without a mode.
    pub fn set_pooling(&mut self, modes: impl Into<Vec<PoolingMode>>) -> Result<()> {
        let modes = modes.into();
        if modes.is_empty() {
            return Err(TaskError::option("pooling modes", "none", "one or more").into());
        }
        self.modules = vec![Module::Pooling(Pooling { modes, include_prompt: true })];
        self.note = None;
        Ok(())
    }

    /// What should be known about the checkpoint, if anything.
    pub fn note(&self) -> Option<&'static str> {
        self.note
    }

    /// The model below the modules.
    pub fn model(&self) -> &BertModel {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &BertTokenizer {
        &self.texts.tokenizer
    }

    /// The most tokens of a text, with special tokens. Longer texts are cut.
    pub fn max_seq_length(&self) -> usize {
        self.texts.max_seq_length
    }

    /// Sets [`SentenceTransformer::max_seq_length`].
    ///
    /// # Errors
    /// [`TaskError::Option`] for more tokens than the model reads, or for none beside special tokens.
    pub fn set_max_seq_length(&mut self, tokens: usize) -> Result<()> {
        let most = self.model.config().max_position_embeddings;
        let least = self.texts.tokenizer.num_special_tokens_to_add(false) + 1;
        if !(least..=most).contains(&tokens) {
            let expected = format!("{least} to {most}");
            return Err(TaskError::option("max_seq_length", tokens, expected).into());
        }
        self.texts.max_seq_length = tokens;
        Ok(())
    }

    /// The vector of one text.
    ///
    /// # Errors
    /// [`TaskError::NoSuchPrompt`] and [`TaskError::Option`] for options that the checkpoint does not have or
    /// cannot do.
    pub fn encode(&self, text: &str, options: &SentenceOptions) -> Result<Vec<f32>> {
        let encodings = self.texts.encode(&[text], options)?;
        Ok(self.vectors(&encodings, options)?.remove(0))
    }

    /// [`SentenceTransformer::encode`] for a query: see [`SentenceOptions::for_queries`].
    ///
    /// # Errors
    /// As [`SentenceTransformer::encode`].
    pub fn encode_query(&self, text: &str, options: &SentenceOptions) -> Result<Vec<f32>> {
        self.encode(text, &options.clone().for_queries())
    }

    /// [`SentenceTransformer::encode`] for a document: see [`SentenceOptions::for_documents`].
    ///
    /// # Errors
    /// As [`SentenceTransformer::encode`].
    pub fn encode_document(&self, text: &str, options: &SentenceOptions) -> Result<Vec<f32>> {
        self.encode(text, &options.clone().for_documents())
    }

    /// The vectors of texts, in their order. A few hundred texts are read and computed at a time, when the
    /// iterator gets to them.
    ///
    /// # Errors
    /// The iterator ends after its first error, which is one of [`SentenceTransformer::encode`].
    pub fn encode_all<'s, T: AsRef<str> + Send + Sync, I: IntoIterator<Item = T>>(
        &'s self,
        texts: I,
        options: &SentenceOptions,
    ) -> impl Iterator<Item = Result<Vec<f32>>> + use<'s, T, I> {
        self.texts.run_all(texts, options, |encodings, options| self.vectors(encodings, options))
    }

    /// The vectors of a text's tokens, `[S][D]`, with those of the prompt and of special tokens.
    ///
    /// # Errors
    /// As [`SentenceTransformer::encode`].
    pub fn encode_tokens(&self, text: &str, options: &SentenceOptions) -> Result<Vec<Vec<f32>>> {
        let encodings = self.texts.encode(&[text], options)?;
        let run = |input: &PackedInput, _: &[&Encoding]| {
            Ok(vec![rows(&self.features(input, 0, false)?.tokens)?])
        };
        Ok(in_batches(&encodings, self.model.device(), Encoding::len, run)?.remove(0))
    }

    /// How similar each of `a` is to each of `b`, by the checkpoint's function.
    ///
    /// # Errors
    /// [`TaskError::Option`] for vectors of different widths.
    pub fn similarity<V: AsRef<[f32]>>(&self, a: &[V], b: &[V]) -> Result<Vec<Vec<f32>>> {
        self.similarity.matrix(a, b)
    }

    /// How similar each of `a` is to the one of `b` in the same place, by the checkpoint's function.
    ///
    /// # Errors
    /// As [`SentenceTransformer::similarity`]; [`TaskError::Option`] for different numbers of vectors.
    pub fn similarity_pairwise<V: AsRef<[f32]>>(&self, a: &[V], b: &[V]) -> Result<Vec<f32>> {
        self.similarity.pairwise(a, b)
    }

    /// The function by which vectors of this checkpoint are compared.
    pub fn similarity_function(&self) -> SimilarityFunction {
        self.similarity
    }

    fn vectors(&self, encodings: &[Encoding], options: &SentenceOptions) -> Result<Vec<Vec<f32>>> {
        options.refuse(&["max_active_dims"], "SentenceTransformer")?;
        let excluded = self.excluded_tokens(options)?;
        in_batches(encodings, self.model.device(), Encoding::len, |input, _| {
            let features = self.features(input, excluded, true)?;
            let vectors = features.sentence.ok_or(TaskError::NotPooled)?;
            rows(&self.finished(vectors, options)?)
        })
    }

    /// The tokens of a call's prompt, if a pooling leaves them out.
    fn excluded_tokens(&self, options: &SentenceOptions) -> Result<usize> {
        let excludes = |it: &Module| matches!(it, Module::Pooling(it) if !it.include_prompt);
        match self.modules.iter().any(excludes) {
            true => self.texts.prompt_length(self.texts.prompt(options)?),
            false => Ok(0),
        }
    }

    /// What the model and the modules make of packed texts, which begin with a prompt of some tokens.
    /// `vectors_only` says that nobody reads the vectors of tokens.
    fn features(
        &self,
        input: &PackedInput,
        prompt_length: usize,
        vectors_only: bool,
    ) -> Result<Features> {
        let starts = input.cumulative_lengths.clone();
        if vectors_only
            && prompt_length == 0
            && let Some((Module::Pooling(Pooling { modes, .. }), rest)) = self.modules.split_first()
            && modes[..] == [PoolingMode::Cls]
            && !rest.iter().any(|module| matches!(module, Module::Pooling(_)))
        {
            // The last layer computes the first tokens only.
            let first = self.model.first_tokens_packed(input)?;
            let starts = (0..starts.len()).collect();
            let sentence = Some(first.clone());
            let mut features = Features { tokens: first, starts, prompt_length, sentence };
            rest.iter().try_for_each(|module| module.forward(&mut features))?;
            return Ok(features);
        }
        let tokens = self.model.forward_packed(input)?.last_hidden_state;
        let mut features = Features { tokens, starts, prompt_length, sentence: None };
        self.modules.iter().try_for_each(|module| module.forward(&mut features))?;
        Ok(features)
    }

    /// Vectors as the options want them.
    fn finished(&self, vectors: Tensor, options: &SentenceOptions) -> Result<Tensor> {
        let width = vectors.dim(1)?;
        let vectors = match options.truncate_dim.or(self.truncate_dim) {
            Some(numbers) if numbers == 0 || numbers > width => {
                let expected = format!("1 to {width}, the width of the vectors");
                return Err(TaskError::option("truncate_dim", numbers, expected).into());
            }
            Some(numbers) => vectors.narrow(1, 0, numbers)?,
            None => vectors,
        };
        if options.normalize_embeddings { normalize(&vectors) } else { Ok(vectors) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_module_makes_what_it_makes_in_sentence_transformers() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/sentences");
        let cases = std::fs::read(fixtures.join("cases.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        let mut compared = 0;
        for case in cases.iter().filter(|case| case["call"] == "modules") {
            let name = case["model"].as_str().unwrap();
            let folder = fixtures.join(name);
            let model = SentenceTransformer::from_pretrained(&folder, &LoadOptions::new()).unwrap();
            let mut options = SentenceOptions::new();
            options.prompt = case["options"]["prompt"].as_str().map(str::to_owned);
            let texts: Vec<String> = serde_json::from_value(case["input"].clone()).unwrap();
            let encodings = model.texts.encode(&texts, &options).unwrap();
            let expected = case["expected"].as_array().unwrap();
            for (encoding, ids) in
                encodings.iter().zip(expected[0]["input_ids"].as_array().unwrap())
            {
                let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
                assert_eq!(encoding.ids, ids, "{name}");
            }
            let input = bert_tokenize::BatchEncoding::pack(&encodings, &candle_core::Device::Cpu);
            let input = input.unwrap();
            let excluded = model.excluded_tokens(&options).unwrap();
            for count in 1..expected.len() {
                let mut model = model.clone();
                model.modules.truncate(count);
                for vectors_only in [true, false] {
                    let features = model.features(&input, excluded, vectors_only).unwrap();
                    let got = rows(&features.sentence.unwrap()).unwrap();
                    let expected: Vec<Vec<f64>> =
                        serde_json::from_value(expected[count]["sentence_embedding"].clone())
                            .unwrap();
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_eq!(got.len(), expected.len());
                        for (x, y) in got.iter().zip(expected) {
                            let close = (f64::from(*x) - y).abs() < 1e-5 * y.abs().max(1.);
                            assert!(close, "{name}, module {count}: {x} and {y}");
                            compared += 1;
                        }
                    }
                }
            }
        }
        assert!(compared > 5000, "{compared}");
    }
}
