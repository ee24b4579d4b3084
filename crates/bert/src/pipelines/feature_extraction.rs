//! Hidden states as features.

use bert_core::BertModel;
use bert_tokenize::{Text, Truncation};

use super::pipeline;
use crate::AutoModel;
use crate::batches::{encode, in_batches, max_length};
use crate::error::Result;
use crate::scores::rows;

pipeline! {
    /// The last hidden state of each token of a text, `[S][H]`, with `[CLS]` and `[SEP]`. Hugging Face:
    /// `FeatureExtractionPipeline`.
    ///
    /// ```
    /// use bert::{Checkpoint, FeatureExtractionOptions, FeatureExtractionPipeline, LoadOptions};
    ///
    /// # fn main() -> bert::Result<()> {
    /// let extractor =
    ///     FeatureExtractionPipeline::from_pretrained(Checkpoint::built_in(), &LoadOptions::new())?;
    /// let features = extractor.run("my dog is cute", &FeatureExtractionOptions::new())?;
    /// assert_eq!((features.len(), features[0].len()), (6, 128));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`TaskError::TextTooLong`](crate::errors::TaskError::TextTooLong) for a text that the model cannot read whole, unless
    /// [`FeatureExtractionOptions::with_truncation`] allows to cut it.
    FeatureExtractionPipeline(BertModel, AutoModel, FeatureExtractionOptions) -> Vec<Vec<f32>>
}

/// The options of [`FeatureExtractionPipeline`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct FeatureExtractionOptions {
    /// Whether texts that are too long are cut. Default: they are an error.
    pub truncation: bool,
}

impl FeatureExtractionOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the end of texts that are longer than the model reads.
    pub fn with_truncation(self) -> Self {
        Self { truncation: true }
    }
}

impl FeatureExtractionPipeline {
    fn window<T>(
        &self,
        texts: &[T],
        first_row: usize,
        options: &FeatureExtractionOptions,
    ) -> Result<Vec<Vec<Vec<f32>>>>
    where
        for<'t> &'t T: Into<Text<'t>>,
    {
        let (model, tokenizer) = (&self.model, &self.tokenizer);
        let truncation =
            options.truncation.then(|| Truncation::to(max_length(tokenizer, model.config())));
        let way_out = "ask for FeatureExtractionOptions::with_truncation, or split it";
        let batch =
            encode(tokenizer, model.config(), texts, |row| first_row + row, truncation, way_out)?;
        in_batches(
            &batch.encodings,
            model.device(),
            |it| it.len(),
            |input, encodings| {
                let mut states = rows(&model.forward_packed(input)?.last_hidden_state)?.into_iter();
                Ok(encodings.iter().map(|it| states.by_ref().take(it.len()).collect()).collect())
            },
        )
    }
}
