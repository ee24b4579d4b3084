//! Labels of texts.

use bert_core::{BertForSequenceClassification, Head, ProblemType};
use bert_tokenize::{Text, Truncation};
use serde::Serialize;

use super::pipeline;
use crate::batches::{encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::{largest, rows, sigmoid, softmax};
use crate::task_error::TaskError;

pipeline! {
    /// The labels of a text or pair, the most likely one first. Hugging Face: `TextClassificationPipeline`.
    ///
    /// ```
    /// use bert::*;
    ///
    /// # fn main() -> bert::Result<()> {
    /// // The built-in checkpoint has no classifier: a new one knows nothing.
    /// let options = LoadOptions::new().with_labels(["bad", "good"]).with_missing_initialized(0);
    /// let classifier = TextClassificationPipeline::from_pretrained(Checkpoint::built_in(), &options)?;
    /// let labels = classifier.run("my dog is cute", &TextClassificationOptions::new())?;
    /// println!("{} {:.2}", labels[0].label, labels[0].score);
    /// let pairs = [("how are you?", "fine"), ("who?", "me")];
    /// for labels in classifier.run_all(pairs, &TextClassificationOptions::new().with_all()) {
    ///     assert_eq!(labels?.len(), 2);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::TextTooLong`] for a text that the model cannot read whole, unless
    /// [`TextClassificationOptions::with_truncation`] allows to cut it.
    TextClassificationPipeline(
        BertForSequenceClassification, BertForSequenceClassification, TextClassificationOptions
    ) -> Vec<Classification>
}

/// A label of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Classification {
    /// The label, as the config's `id2label` names it.
    pub label: String,
    /// Its probability or, in regression, the number.
    pub score: f32,
}

/// What makes probabilities of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionToApply {
    /// Each label by itself.
    Sigmoid,
    /// One label of all.
    Softmax,
    /// Nothing: the scores are the result.
    None,
}

/// The options of [`TextClassificationPipeline`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TextClassificationOptions {
    /// The number of labels. Default: 1. `None` for all.
    pub top_k: Option<usize>,
    /// Default: by the config's `problem_type` (regression: none, several labels at once: sigmoid, one of
    /// several: softmax) or, without one, sigmoid for a single label and softmax for more.
    pub function_to_apply: Option<FunctionToApply>,
    /// Whether texts that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl Default for TextClassificationOptions {
    fn default() -> Self {
        Self { top_k: Some(1), function_to_apply: None, truncation: false }
    }
}

impl TextClassificationOptions {
    /// The most likely label.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most likely `labels`.
    pub fn with_top_k(self, labels: usize) -> Self {
        Self { top_k: Some(labels), ..self }
    }

    /// All labels.
    pub fn with_all(self) -> Self {
        Self { top_k: None, ..self }
    }

    /// Sets [`TextClassificationOptions::function_to_apply`].
    pub fn with_function_to_apply(self, function: FunctionToApply) -> Self {
        Self { function_to_apply: Some(function), ..self }
    }

    /// Cuts texts that are longer than the model reads: of a pair the longer one, at its end.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true, ..self }
    }
}

impl TextClassificationPipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &TextClassificationOptions,
    ) -> Result<Vec<Vec<Classification>>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        if options.top_k == Some(0) {
            return Err(TaskError::option("top_k", 0, "1 or more, or None for all labels").into());
        }
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let config = model.bert.config();
        let function = match options.function_to_apply {
            Some(function) => function,
            None => self.function(),
        };
        let truncation = options.truncation.then(|| Truncation::to(max_length(tokenizer, config)));
        let way_out = "ask for TextClassificationOptions::with_truncation, or shorten it";
        let batch = encode(tokenizer, config, texts, |row| first_row + row, truncation, way_out)?;
        in_batches(
            &batch.encodings,
            model.bert.device(),
            |it| it.len(),
            |input, _| {
                let scores = rows(&model.forward_packed(input)?.logits)?.into_iter();
                let labels = scores.map(|scores| {
                    let scores = match function {
                        FunctionToApply::None => scores,
                        FunctionToApply::Softmax => softmax(&scores),
                        FunctionToApply::Sigmoid => scores.into_iter().map(sigmoid).collect(),
                    };
                    let best = largest(&scores, options.top_k.unwrap_or(usize::MAX)).into_iter();
                    best.map(|id| Classification { label: config.label(id), score: scores[id] })
                        .collect()
                });
                Ok(labels.collect())
            },
        )
    }

    /// What transformers applies for this config.
    fn function(&self) -> FunctionToApply {
        let config = self.model.bert.config();
        match config.problem_type {
            Some(ProblemType::Regression) => FunctionToApply::None,
            Some(ProblemType::MultiLabelClassification) => FunctionToApply::Sigmoid,
            _ if config.num_labels() == 1 => FunctionToApply::Sigmoid,
            _ => FunctionToApply::Softmax,
        }
    }
}
