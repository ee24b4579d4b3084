//! The options of a call.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::task_error::TaskError;

/// What a text is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Task {
    #[default]
    None,
    Query,
    Document,
}

/// The options of [`SentenceTransformer`](crate::SentenceTransformer),
/// [`SparseEncoder`](crate::SparseEncoder) and [`MultiVectorEncoder`](crate::MultiVectorEncoder).
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SentenceOptions {
    /// The text before each text. Default: the prompt of [`SentenceOptions::prompt_name`].
    pub prompt: Option<String>,
    /// The name of a prompt of the checkpoint. Default: the checkpoint's default prompt, if it has one.
    pub prompt_name: Option<String>,
    /// Whether vectors get the length 1. Default: no, unless the checkpoint's modules do it. Not for sparse
    /// vectors.
    pub normalize_embeddings: bool,
    /// The first numbers of a vector that are kept (Matryoshka embeddings); for
    /// [`SentenceTransformer`](crate::SentenceTransformer) only. Default: as the checkpoint says, or else
    /// all.
    pub truncate_dim: Option<usize>,
    /// The most numbers of a sparse vector; for [`SparseEncoder`](crate::SparseEncoder) only. Default: as the checkpoint says, or else all.
    pub max_active_dims: Option<usize>,
    pub(super) task: Task,
    progress: Option<Progress>,
}

/// Told how many texts are done.
#[derive(Clone)]
struct Progress(Arc<dyn Fn(usize) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

impl SentenceOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts this before each text.
    pub fn with_prompt(self, prompt: impl Into<String>) -> Self {
        Self { prompt: Some(prompt.into()), ..self }
    }

    /// Puts the checkpoint's prompt of this name before each text.
    pub fn with_prompt_name(self, name: impl Into<String>) -> Self {
        Self { prompt_name: Some(name.into()), ..self }
    }

    /// The texts are queries: unless told otherwise, they get the prompt `query`. sentence-transformers:
    /// `encode_query`.
    pub fn for_queries(self) -> Self {
        Self { task: Task::Query, ..self }
    }

    /// The texts are documents: unless told otherwise, they get the prompt `document`.
    /// sentence-transformers: `encode_document`.
    pub fn for_documents(self) -> Self {
        Self { task: Task::Document, ..self }
    }

    /// Makes the length of vectors 1.
    pub fn with_normalized_embeddings(self) -> Self {
        Self { normalize_embeddings: true, ..self }
    }

    /// Sets [`SentenceOptions::truncate_dim`].
    pub fn with_truncate_dim(self, numbers: usize) -> Self {
        Self { truncate_dim: Some(numbers), ..self }
    }

    /// Sets [`SentenceOptions::max_active_dims`].
    pub fn with_max_active_dims(self, numbers: usize) -> Self {
        Self { max_active_dims: Some(numbers), ..self }
    }

    /// Refuses options that an encoder does not have.
    pub(super) fn refuse(&self, unknown: &[&'static str], encoder: &str) -> Result<()> {
        let set = [
            ("truncate_dim", self.truncate_dim.map(|numbers| numbers.to_string())),
            ("max_active_dims", self.max_active_dims.map(|numbers| numbers.to_string())),
            ("normalize_embeddings", self.normalize_embeddings.then(|| "true".to_owned())),
        ];
        for (option, value) in set.into_iter().filter(|(option, _)| unknown.contains(option)) {
            if let Some(got) = value {
                let expected = format!("none, because a {encoder} does not have it");
                return Err(TaskError::option(option, got, expected).into());
            }
        }
        Ok(())
    }

    /// Tells how many texts are done.
    pub(super) fn tell(&self, texts: usize) {
        if let Some(progress) = &self.progress {
            (progress.0)(texts);
        }
    }

    /// Calls `callback` with the number of texts that are done, after each batch of texts.
    pub fn with_progress(self, callback: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self { progress: Some(Progress(Arc::new(callback))), ..self }
    }
}
