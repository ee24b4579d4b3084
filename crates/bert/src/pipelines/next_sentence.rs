//! Does one text follow another?

use bert_core::{BertForNextSentencePrediction, Head};
use bert_tokenize::{Text, Truncation};
use serde::Serialize;

use super::pipeline;
use crate::batches::{encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::{rows, softmax};
use crate::task_error::TaskError;

pipeline! {
    /// Whether the second text of a pair follows the first (Devlin et al. 2018, §3.1, task 2).
    ///
    /// ```
    /// use bert::{Checkpoint, LoadOptions, NextSentenceOptions, NextSentencePipeline};
    ///
    /// # fn main() -> bert::Result<()> {
    /// let options = LoadOptions::new();
    /// let pipeline = NextSentencePipeline::from_pretrained(Checkpoint::built_in(), &options)?;
    /// let pair = ("Where does Anna live?", "She lives in Paris.");
    /// let result = pipeline.run(pair, &NextSentenceOptions::new())?;
    /// assert!(result.is_next > result.not_next);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::NotAPair`] for a single text; [`TaskError::TextTooLong`] for a pair that the model cannot read
    /// whole, unless [`NextSentenceOptions::with_truncation`] allows to cut it.
    NextSentencePipeline(
        BertForNextSentencePrediction, BertForNextSentencePrediction, NextSentenceOptions
    ) -> NextSentence
}

/// The probabilities of both answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NextSentence {
    /// That the second text follows the first.
    pub is_next: f32,
    /// That it does not.
    pub not_next: f32,
}

/// The options of [`NextSentencePipeline`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NextSentenceOptions {
    /// Whether pairs that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl NextSentenceOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the longer text of pairs that are longer than the model reads, at its end.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true }
    }
}

impl NextSentencePipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &NextSentenceOptions,
    ) -> Result<Vec<NextSentence>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        let is_single = |text: &T| matches!(text.into(), Text::Single(_) | Text::Words(_));
        if let Some(row) = texts.iter().position(is_single) {
            return Err(TaskError::NotAPair { row: first_row + row }.into());
        }
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let config = model.bert.config();
        let truncation = options.truncation.then(|| Truncation::to(max_length(tokenizer, config)));
        let way_out = "ask for NextSentenceOptions::with_truncation, or shorten it";
        let batch = encode(tokenizer, config, texts, |row| first_row + row, truncation, way_out)?;
        in_batches(
            &batch.encodings,
            model.bert.device(),
            |it| it.len(),
            |input, _| {
                let scores = rows(&model.forward_packed(input)?.logits)?;
                let both = scores.iter().map(|scores| softmax(scores));
                Ok(both.map(|both| NextSentence { is_next: both[0], not_next: both[1] }).collect())
            },
        )
    }
}
