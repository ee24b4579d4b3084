//! From text to answer: transformers' pipelines.
//!
//! Each is built from a checkpoint in one line, takes one text (`run`) or an iterator of texts
//! (`run_all`), and can be called by any number of threads. Texts are sorted by length, packed and computed
//! in batches; a text's result does not depend on its neighbors, up to rounding.

mod feature_extraction;
mod fill_mask;
mod next_sentence;
mod question_answering;
mod text_classification;
mod token_classification;
mod words;
mod zero_shot_classification;

pub use feature_extraction::{FeatureExtractionOptions, FeatureExtractionPipeline};
pub use fill_mask::{FillMaskOptions, FillMaskPipeline, FilledMask};
pub use next_sentence::{NextSentence, NextSentenceOptions, NextSentencePipeline};
pub use question_answering::{Answer, QuestionAnsweringOptions, QuestionAnsweringPipeline};
pub use text_classification::{
    Classification, FunctionToApply, TextClassificationOptions, TextClassificationPipeline,
};
pub use token_classification::{TokenClassificationOptions, TokenClassificationPipeline};
pub use words::{AggregationStrategy, Entity};
pub use zero_shot_classification::{
    ZeroShotClassification, ZeroShotClassificationOptions, ZeroShotClassificationPipeline,
};

/// Defines a pipeline: its model and tokenizer, how it is loaded, and, if its options and result are given, its
/// calls, which go through `window`.
macro_rules! pipeline {
    ($(#[$doc:meta])* $name:ident($model:ty, $loader:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            /// The model.
            pub model: $model,
            /// Its tokenizer.
            pub tokenizer: bert_tokenize::BertTokenizer,
        }

        impl $name {
            /// A pipeline of a model and its tokenizer.
            pub fn new(model: $model, tokenizer: bert_tokenize::BertTokenizer) -> Self {
                Self { model, tokenizer }
            }

            /// Loads model and tokenizer from a [`Checkpoint`](crate::Checkpoint), a folder's path or a
            /// hub id.
            ///
            /// # Errors
            /// As [`PreTrainedModel::from_pretrained`](crate::PreTrainedModel::from_pretrained), for example
            /// when the checkpoint does not have the head, and as
            /// [`Checkpoint::tokenizer`](crate::Checkpoint::tokenizer).
            pub fn from_pretrained(
                checkpoint: impl TryInto<crate::Checkpoint, Error: Into<crate::Error>>,
                options: &crate::LoadOptions,
            ) -> crate::Result<Self> {
                #[allow(unused_imports)]
                use crate::PreTrainedModel as _;
                let checkpoint = checkpoint.try_into().map_err(Into::into)?;
                Ok(Self::new(
                    <$loader>::from_pretrained(&checkpoint, options)?,
                    checkpoint.tokenizer()?,
                ))
            }
        }
    };
    ($(#[$doc:meta])* $name:ident($model:ty, $loader:ty, $options:ty) -> $result:ty) => {
        pipeline! { $(#[$doc])* $name($model, $loader) }

        impl $name {
            /// The result of one text.
            ///
            /// # Errors
            /// As the pipeline's documentation says.
            pub fn run<'t>(
                &self,
                text: impl Into<bert_tokenize::Text<'t>>,
                options: &$options,
            ) -> crate::Result<$result> {
                let text: bert_tokenize::Text = text.into();
                let mut results = self.window(&[text], 0, options)?;
                Ok(results.remove(0))
            }

            /// The results of texts, in their order. A few hundred texts are read and computed at a time,
            /// when the iterator gets to them. It ends after the first error, which says the row of its
            /// text.
            pub fn run_all<'s, T, I: IntoIterator<Item = T>>(
                &'s self,
                texts: I,
                options: &$options,
            ) -> impl Iterator<Item = crate::Result<$result>> + use<'s, T, I>
            where
                for<'t> &'t T: Into<bert_tokenize::Text<'t>>,
            {
                let options = options.clone();
                let size = |text: &T| crate::batches::size(text.into());
                crate::batches::in_windows(texts, size, move |texts, first_row| {
                    self.window(texts, first_row, &options)
                })
            }
        }
    };
}
use pipeline;
