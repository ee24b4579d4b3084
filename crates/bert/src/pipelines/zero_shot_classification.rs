//! Labels that the model was not trained for.

use bert_core::{BertForSequenceClassification, Head};
use bert_tokenize::{Text, Truncation, TruncationStrategy};
use serde::Serialize;

use super::pipeline;
use crate::batches::{encode, in_batches, in_windows, max_length};
use crate::error::Result;
use crate::scores::{rows, softmax};
use crate::task_error::TaskError;

/// The most pairs of a text and a label that are encoded at a time: there may be thousands of labels.
const PAIRS: usize = 1024;

pipeline! {
    /// How well labels fit a text, by a model that was trained for natural-language inference: it tells whether
    /// "This example is LABEL." follows from the text. Hugging Face: `ZeroShotClassificationPipeline`.
    ///
    /// ```
    /// use bert::*;
    ///
    /// # fn main() -> bert::Result<()> {
    /// // The built-in checkpoint has no classifier: a new one knows nothing.
    /// let names = ["contradiction", "neutral", "entailment"];
    /// let options = LoadOptions::new().with_labels(names).with_missing_initialized(0);
    /// let checkpoint = Checkpoint::built_in();
    /// let pipeline = ZeroShotClassificationPipeline::from_pretrained(checkpoint, &options)?;
    /// let labels = ["animals", "sports"];
    /// let result = pipeline.run("my dog is cute", &labels, &ZeroShotClassificationOptions::new())?;
    /// println!("{}: {:.2}", result.labels[0], result.scores[0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::NoEntailment`] for a model with other labels, [`TaskError::Option`] without candidate labels or for
    /// a template without `{}`; [`TaskError::TextTooLong`] for a text that the model cannot read whole, unless
    /// [`ZeroShotClassificationOptions::with_truncation`] allows to cut it.
    ZeroShotClassificationPipeline(BertForSequenceClassification, BertForSequenceClassification)
}

/// Labels of a text, the best one first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ZeroShotClassification {
    /// The text.
    pub sequence: String,
    /// The candidate labels.
    pub labels: Vec<String>,
    /// Their probabilities.
    pub scores: Vec<f32>,
}

/// The options of [`ZeroShotClassificationPipeline`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ZeroShotClassificationOptions {
    /// The sentence that a label is put into, in place of `{}`. Default: `This example is {}.`
    pub hypothesis_template: String,
    /// Whether several labels may fit. Default: one does, and the probabilities of all sum to 1.
    pub multi_label: bool,
    /// Whether texts that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl Default for ZeroShotClassificationOptions {
    fn default() -> Self {
        let hypothesis_template = "This example is {}.".to_owned();
        Self { hypothesis_template, multi_label: false, truncation: false }
    }
}

impl ZeroShotClassificationOptions {
    /// One label of all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`ZeroShotClassificationOptions::hypothesis_template`].
    pub fn with_hypothesis_template(self, template: impl Into<String>) -> Self {
        Self { hypothesis_template: template.into(), ..self }
    }

    /// Each label by itself.
    pub fn with_multi_label(self) -> Self {
        Self { multi_label: true, ..self }
    }

    /// Cuts the end of texts that are longer than the model reads. The sentence with the label is never cut.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true, ..self }
    }
}

impl ZeroShotClassificationPipeline {
    /// How well labels fit one text.
    ///
    /// # Errors
    /// As the pipeline's documentation says.
    pub fn run<L: AsRef<str>>(
        &self,
        text: &str,
        labels: &[L],
        options: &ZeroShotClassificationOptions,
    ) -> Result<ZeroShotClassification> {
        Ok(self.window(&[text], labels, 0, options)?.remove(0))
    }

    /// How well labels fit texts, in the order of the texts. A few hundred texts are read and computed at a
    /// time, when the iterator gets to them. It ends after the first error.
    pub fn run_all<'s, T: AsRef<str>, L: AsRef<str>, I: IntoIterator<Item = T>>(
        &'s self,
        texts: I,
        labels: &[L],
        options: &ZeroShotClassificationOptions,
    ) -> impl Iterator<Item = Result<ZeroShotClassification>> + use<'s, T, L, I> {
        let options = options.clone();
        let labels: Vec<String> = labels.iter().map(|label| label.as_ref().to_owned()).collect();
        let in_all: usize = labels.iter().map(|label| label.len()).sum();
        let count = labels.len();
        let size = move |text: &T| (text.as_ref().len() + 32) * count + in_all;
        in_windows(texts, size, move |texts, first_row| {
            self.window(texts, &labels, first_row, &options)
        })
    }

    fn window<T: AsRef<str>, L: AsRef<str>>(
        &self,
        texts: &[T],
        labels: &[L],
        first_row: usize,
        options: &ZeroShotClassificationOptions,
    ) -> Result<Vec<ZeroShotClassification>> {
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let config = model.bert.config();
        let entailment = self.entailment()?;
        if labels.is_empty() {
            return Err(TaskError::option("candidate_labels", "none", "at least one").into());
        }
        let template = &options.hypothesis_template;
        if !template.contains("{}") {
            let expected = "a sentence with {} in place of the label";
            return Err(TaskError::option(
                "hypothesis_template",
                format!("{template:?}"),
                expected,
            )
            .into());
        }
        let hypotheses: Vec<String> =
            labels.iter().map(|label| template.replace("{}", label.as_ref())).collect();
        let pairs: Vec<Text> = texts
            .iter()
            .flat_map(|text| hypotheses.iter().map(|label| Text::Pair(text.as_ref(), label)))
            .collect();
        let truncation = options.truncation.then(|| {
            Truncation::to(max_length(tokenizer, config))
                .with_strategy(TruncationStrategy::OnlyFirst)
        });
        let way_out = "ask for ZeroShotClassificationOptions::with_truncation, or shorten the text or the label";
        let mut logits = Vec::with_capacity(pairs.len());
        for part in pairs.chunks(PAIRS) {
            let row = |pair| first_row + (logits.len() + pair) / labels.len();
            let batch = encode(tokenizer, config, part, row, truncation, way_out)?;
            logits.extend(in_batches(
                &batch.encodings,
                model.bert.device(),
                |it| it.len(),
                |input, _| rows(&model.forward_packed(input)?.logits),
            )?);
        }
        let results = texts.iter().zip(logits.chunks(labels.len())).map(|(text, logits)| {
            let scores = probabilities(logits, entailment, options.multi_label);
            let mut order: Vec<usize> = (0..labels.len()).collect();
            // As numpy's argsort, read from its end.
            order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(b.cmp(a)));
            ZeroShotClassification {
                sequence: text.as_ref().to_owned(),
                labels: order.iter().map(|i| labels[*i].as_ref().to_owned()).collect(),
                scores: order.iter().map(|i| scores[*i]).collect(),
            }
        });
        Ok(results.collect())
    }

    /// The id of the label for "follows from the text".
    fn entailment(&self) -> Result<usize> {
        let config = self.model.bert.config();
        let labels: Vec<String> = (0..config.num_labels()).map(|id| config.label(id)).collect();
        let is_it = |label: &str| label.to_lowercase().starts_with("entail");
        let mut named: Vec<_> = config.label2id.iter().filter(|(label, _)| is_it(label)).collect();
        named.sort_by_key(|(_, id)| **id);
        let named = named.first().and_then(|(_, id)| usize::try_from(**id).ok());
        let found = named.filter(|id| *id < labels.len());
        let found = found.or_else(|| labels.iter().position(|it| is_it(it)));
        let found = found.filter(|_| labels.len() > 1);
        found.ok_or_else(|| TaskError::NoEntailment { labels }.into())
    }
}

/// The probability of each label, from the scores of each sentence.
fn probabilities(logits: &[Vec<f32>], entailment: usize, multi_label: bool) -> Vec<f32> {
    if !multi_label && logits.len() > 1 {
        return softmax(&logits.iter().map(|scores| scores[entailment]).collect::<Vec<_>>());
    }
    let both = logits.iter().map(|scores| {
        let contradiction = if entailment == 0 { scores.len() - 1 } else { 0 };
        softmax(&[scores[contradiction], scores[entailment]])[1]
    });
    both.collect()
}
