//! A vector of each token, for late interaction.

use bert_core::{BertModel, PackedInput};
use bert_tokenize::{BatchEncoding, BertTokenizer, Encoding};
use candle_core::Tensor;
use serde::Deserialize;

use super::features::{Features, Target};
use super::files::{Expansion, ExpansionStrategy, ModuleFiles, SentenceFiles, read};
use super::modules::{Dense, Module, Weights, normalize};
use super::options::{SentenceOptions, Task};
use super::texts::TextEncoder;
use crate::batches::in_batches;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::options::LoadOptions;
use crate::scores::rows;
use crate::task_error::TaskError;

/// What ColBERT does not compare.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// A vector of each token, for late interaction as in ColBERT: documents are compared with a query token by
/// token ([`max_sim`]). sentence-transformers: `MultiVectorEncoder`.
///
/// It reads checkpoints of sentence-transformers, of PyLate and of Stanford's ColBERT (with
/// `artifact.metadata`). Texts that are longer than the checkpoint says are cut at their end, as there.
///
/// ```no_run
/// use bert::{LoadOptions, MultiVectorEncoder, SentenceOptions, max_sim};
///
/// # fn main() -> bert::Result<()> {
/// let model = MultiVectorEncoder::from_pretrained("colbert-ir/colbertv2.0", &LoadOptions::new())?;
/// let query = model.encode("how is the dog?", &SentenceOptions::new().for_queries())?;
/// let document = model.encode("the dog is small", &SentenceOptions::new().for_documents())?;
/// println!("{:.2}", max_sim(&query, &document)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MultiVectorEncoder {
    model: BertModel,
    texts: TextEncoder,
    modules: Vec<Module>,
    mask: Option<VectorMask>,
    /// Whether similarities are divided by the number of the query's vectors.
    mean: bool,
}

/// The tokens that have no vector.
#[derive(Clone, Debug)]
struct VectorMask {
    /// Their ids.
    skipped: Vec<u32>,
    /// For queries and for documents.
    of_queries: bool,
    of_documents: bool,
    /// The ids that alone have one in documents.
    kept: Option<Vec<u32>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MaskConfig {
    skiplist_words: Vec<String>,
    skiplist_tasks: Option<OneOrMany>,
    keep_only_token_ids: Option<Vec<u32>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Stanford's `artifact.metadata`, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Artifact {
    query_token_id: Option<String>,
    doc_token_id: Option<String>,
    query_maxlen: Option<usize>,
    doc_maxlen: Option<usize>,
    mask_punctuation: Option<bool>,
    attend_to_mask_tokens: bool,
}

impl MultiVectorEncoder {
    /// Loads a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`AutoModel::from_pretrained`](crate::AutoModel::from_pretrained) and
    /// [`Checkpoint::tokenizer`]; [`TaskError::Module`] for files of
    /// modules that cannot be used or are absent, and [`TaskError::UnknownModule`] for a module that is not
    /// known.
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        let files = SentenceFiles::read(&checkpoint, "MultiVectorEncoder")?;
        let (model, texts) = TextEncoder::with_model(&files, options)?;
        let named = files.config.similarity_fn_name.as_deref();
        let mean = named.is_some_and(|name| name.eq_ignore_ascii_case("meanmaxsim"));
        let mut encoder = Self { model, texts, modules: Vec::new(), mask: None, mean };
        match &files.modules {
            Some(modules) => encoder.add(modules)?,
            None => encoder.add_stanford(&files.transformer)?,
        }
        if files.config.late_interaction.is_there() {
            encoder.add_pylate(&files)?;
        }
        Ok(encoder)
    }

    /// The model below the modules.
    pub fn model(&self) -> &BertModel {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &BertTokenizer {
        &self.texts.tokenizer
    }

    /// The vectors of one text's tokens.
    ///
    /// # Errors
    /// [`TaskError::NoSuchPrompt`] for a prompt that the checkpoint does not have.
    pub fn encode(&self, text: &str, options: &SentenceOptions) -> Result<Vec<Vec<f32>>> {
        let encodings = self.texts.encode(&[text], options)?;
        Ok(self.vectors(&encodings, options)?.remove(0))
    }

    /// The vectors of texts, in their order. A few hundred texts are read and computed at a time, when the
    /// iterator gets to them.
    ///
    /// # Errors
    /// The iterator ends after its first error, which is one of [`MultiVectorEncoder::encode`].
    pub fn encode_all<'s, T: AsRef<str> + Send + Sync, I: IntoIterator<Item = T>>(
        &'s self,
        texts: I,
        options: &SentenceOptions,
    ) -> impl Iterator<Item = Result<Vec<Vec<f32>>>> + use<'s, T, I> {
        self.texts.run_all(texts, options, |encodings, options| self.vectors(encodings, options))
    }

    /// How similar each document is to each query: [`max_sim`], or its mean over the query's vectors if the
    /// checkpoint says so.
    ///
    /// # Errors
    /// As [`max_sim`].
    pub fn similarity(
        &self,
        queries: &[Vec<Vec<f32>>],
        documents: &[Vec<Vec<f32>>],
    ) -> Result<Vec<Vec<f32>>> {
        let row = |query: &Vec<Vec<f32>>| {
            let vectors = if self.mean { query.len().max(1) as f32 } else { 1. };
            documents.iter().map(|document| Ok(max_sim(query, document)? / vectors)).collect()
        };
        queries.iter().map(row).collect()
    }

    fn add(&mut self, modules: &[ModuleFiles]) -> Result<()> {
        for module in modules {
            if module.class == "MultiVectorMask" {
                let config: MaskConfig = read(&module.files, "config.json")?.unwrap_or_default();
                let tasks = match config.skiplist_tasks {
                    Some(OneOrMany::One(task)) => vec![task],
                    Some(OneOrMany::Many(tasks)) => tasks,
                    None => vec!["document".to_owned()],
                };
                let has = |task: &str| tasks.iter().any(|it| it == task);
                self.mask = Some(VectorMask {
                    skipped: self.ids_of(&config.skiplist_words),
                    of_queries: has("query"),
                    of_documents: has("document"),
                    kept: config.keep_only_token_ids.filter(|ids| !ids.is_empty()),
                });
            } else {
                let at = (self.model.device(), self.model.dtype());
                self.modules.push(Module::read(module, Target::Tokens, at)?);
            }
        }
        Ok(())
    }

    /// Ids of the words that the vocabulary has.
    fn ids_of<W: AsRef<str>>(&self, words: &[W]) -> Vec<u32> {
        words.iter().filter_map(|word| self.texts.tokenizer.token_to_id(word.as_ref())).collect()
    }

    /// Leaves words out of documents: without a list, punctuation.
    fn skip(&mut self, words: Option<&[String]>) {
        let skipped = match words {
            Some(words) => self.ids_of(words),
            None => self.ids_of(&PUNCTUATION.chars().map(String::from).collect::<Vec<_>>()),
        };
        self.mask = Some(VectorMask { skipped, of_queries: false, of_documents: true, kept: None });
    }

    /// Puts a mark before texts of a kind. It is one token if the vocabulary has it, or its first word.
    fn mark(&mut self, task: &str, mark: &str) -> Result<()> {
        self.texts.prompts.prefix(task, mark);
        let word = mark.split_whitespace().next().unwrap_or_default();
        for token in [mark, word] {
            if self.texts.tokenizer.token_to_id(token).is_some() {
                self.texts.tokenizer.add_special_tokens([token])?;
                break;
            }
        }
        Ok(())
    }

    /// The rest of a checkpoint of Stanford's ColBERT.
    fn add_stanford(&mut self, files: &Checkpoint) -> Result<()> {
        let artifact: Option<Artifact> = read(files, "artifact.metadata")?;
        let mut architectures = self.model.config().architectures.iter().flatten();
        let is_colbert = architectures.any(|name| name == "HF_ColBERT");
        let Some(artifact) = artifact.or_else(|| is_colbert.then(Artifact::default)) else {
            let reason = "there is neither this file nor artifact.metadata, so nothing says what the \
                          vectors are";
            return Err(super::files::module_error(files, "modules.json", reason));
        };
        let weights = Weights::read(files, (self.model.device(), self.model.dtype()))?;
        let shape = weights.shape("linear.weight").unwrap_or_default();
        self.modules.push(Module::Dense(Dense::of_tokens(weights.get("linear.weight", &shape)?)?));
        self.modules.push(Module::Normalize(Target::Tokens));
        let tokens = [artifact.query_token_id, artifact.doc_token_id];
        let defaults = [("query", "[unused0]"), ("document", "[unused1]")];
        for ((task, default), token) in defaults.into_iter().zip(tokens) {
            self.mark(task, &format!("{} ", token.as_deref().unwrap_or(default)))?;
        }
        if artifact.mask_punctuation != Some(false) {
            self.skip(None);
        }
        self.texts.document_length = artifact.doc_maxlen;
        self.texts.expansion = Some(Expansion {
            strategy: ExpansionStrategy::Fixed,
            attend: artifact.attend_to_mask_tokens,
            token: None,
            length: artifact.query_maxlen.filter(|length| *length > 0).unwrap_or(32),
        });
        Ok(())
    }

    /// What PyLate's config says, and the modules that it does not name.
    fn add_pylate(&mut self, files: &SentenceFiles) -> Result<()> {
        let config = &files.config.late_interaction;
        if files.config.is_of_pylate() {
            self.modules.push(Module::Normalize(Target::Tokens));
            self.skip(config.skiplist_words.as_deref());
        }
        for (task, mark) in [("query", &config.query_prefix), ("document", &config.document_prefix)]
        {
            if let Some(mark) = mark {
                self.mark(task, mark)?;
            }
        }
        let texts = &mut self.texts;
        texts.query_length = texts.query_length.or(config.query_length);
        texts.document_length = texts.document_length.or(config.document_length);
        if texts.expansion.is_none() && config.do_query_expansion != Some(false) {
            texts.expansion = Some(Expansion {
                strategy: ExpansionStrategy::Fixed,
                attend: config.attend_to_expansion_tokens.unwrap_or(false),
                token: None,
                length: texts.query_length.unwrap_or(32),
            });
        }
        Ok(())
    }

    fn vectors(
        &self,
        encodings: &[Encoding],
        options: &SentenceOptions,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        options.refuse(&["truncate_dim", "max_active_dims"], "MultiVectorEncoder")?;
        in_batches(encodings, self.model.device(), Encoding::len, |input, encodings| {
            let tokens = self.states(input, encodings)?;
            let mut starts = vec![0];
            for encoding in encodings {
                starts.push(starts[starts.len() - 1] + encoding.len());
            }
            let mut features = Features { tokens, starts, prompt_length: 0, sentence: None };
            self.modules.iter().try_for_each(|module| module.forward(&mut features))?;
            if options.normalize_embeddings {
                features.tokens = normalize(&features.tokens)?;
            }
            let mut vectors = rows(&features.tokens)?.into_iter();
            let vectors = encodings.iter().map(|encoding| {
                let all = vectors.by_ref().take(encoding.len()).enumerate();
                all.filter(|(i, _)| self.keeps(encoding, *i, options.task))
                    .map(|(_, vector)| vector)
                    .collect()
            });
            Ok(vectors.collect())
        })
    }

    /// Whether a token has a vector.
    fn keeps(&self, encoding: &Encoding, i: usize, task: Task) -> bool {
        let Some(mask) = &self.mask else { return encoding.attention_mask[i] != 0 };
        let (id, is_query) = (encoding.ids[i], task == Task::Query);
        let skips = if is_query { mask.of_queries } else { mask.of_documents };
        let is_kept = |kept: &Vec<u32>| is_query || kept.contains(&id);
        !(skips && mask.skipped.contains(&id)) && mask.kept.as_ref().is_none_or(is_kept)
    }

    /// The hidden states of all tokens, also of those that no token attends to: `[T, H]`.
    /// `packed` has those to which tokens attend.
    fn states(&self, packed: &PackedInput, encodings: &[&Encoding]) -> Result<Tensor> {
        let all: usize = encodings.iter().map(|it| it.len()).sum();
        if packed.cumulative_lengths.last() == Some(&all) {
            return Ok(self.model.forward_packed(packed)?.last_hidden_state);
        }
        let longest = encodings.iter().map(|it| it.len()).max().unwrap_or(0);
        let tokenizer = &self.texts.tokenizer;
        let (pad, token) = (tokenizer.pad_token_id(), tokenizer.pad_token());
        let mut batch = BatchEncoding::default();
        batch.pad_token_id = Some(pad.unwrap_or(0));
        batch.encodings = encodings.iter().copied().cloned().collect();
        for encoding in &mut batch.encodings {
            for _ in encoding.len()..longest {
                encoding.push_special(pad.unwrap_or(0), token.unwrap_or_default(), 0, 0);
            }
        }
        let input = batch.to_input(self.model.device())?;
        let states = self.model.forward(&input)?.last_hidden_state;
        let rows = encodings
            .iter()
            .enumerate()
            .map(|(row, it)| Ok(states.get(row)?.narrow(0, 0, it.len())?));
        Ok(Tensor::cat(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// How similar a document is to a query: for each vector of the query the largest dot product with one of
/// the document, added up. ColBERT: MaxSim.
///
/// # Errors
/// [`TaskError::Option`] for vectors of different widths and for a document without vectors.
pub fn max_sim<V: AsRef<[f32]>, W: AsRef<[f32]>>(query: &[V], document: &[W]) -> Result<f32> {
    if document.is_empty() {
        return Err(TaskError::option("number of the document's vectors", 0, "1 or more").into());
    }
    let mut sum = 0.;
    for a in query {
        let mut largest = f32::NEG_INFINITY;
        for b in document {
            let dot = super::similarity::SimilarityFunction::Dot.between(a.as_ref(), b.as_ref())?;
            // What is no number stays none.
            largest = if dot > largest || dot.is_nan() { dot } else { largest };
        }
        sum += largest;
    }
    Ok(sum)
}
