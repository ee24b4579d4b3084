//! Hugging Face's `Auto` classes, for BERT.

use bert_core::{
    BertConfig, BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction,
    BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertLMHeadModel, BertModel,
};
use bert_tokenize::BertTokenizer;
use candle_nn::VarBuilder;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::backend::NewWeights;
use crate::load::options::LoadOptions;
use crate::load::pretrained::{PreTrainedModel, load_with_or_without_pooler};
use crate::load::report::LoadReport;

/// Loads configurations. Hugging Face: `AutoConfig`.
#[derive(Clone, Copy, Debug)]
pub struct AutoConfig;

impl AutoConfig {
    /// Reads the `config.json` of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`Checkpoint::config`].
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
    ) -> Result<BertConfig> {
        checkpoint.try_into().map_err(Into::into)?.config()
    }
}

/// Loads tokenizers. Hugging Face: `AutoTokenizer`.
#[derive(Clone, Copy, Debug)]
pub struct AutoTokenizer;

impl AutoTokenizer {
    /// Reads the tokenizer of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`Checkpoint::tokenizer`].
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
    ) -> Result<BertTokenizer> {
        checkpoint.try_into().map_err(Into::into)?.tokenizer()
    }
}

/// Loads models without a head, or with the class that the checkpoint was saved from. Hugging Face:
/// `AutoModel`.
#[derive(Clone, Copy, Debug)]
pub struct AutoModel;

/// Implements [`PreTrainedModel`] for models with a head, and defines [`AnyModel`].
macro_rules! heads {
    ($($model:ident),*) => {
        $(
            impl PreTrainedModel for $model {
                const CLASS: &'static str = stringify!($model);

                fn from_weights(
                    vb: VarBuilder,
                    config: &BertConfig,
                    _options: &LoadOptions,
                ) -> bert_core::Result<Self> {
                    Self::load(vb, config)
                }
            }
        )*

        /// A model of the class that a checkpoint's `architectures` names.
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub enum AnyModel {
            /// A [`BertModel`].
            BertModel(BertModel),
            $(
                #[doc = concat!("A [`", stringify!($model), "`].")]
                $model($model),
            )*
        }

        const ARCHITECTURES: &[&str] = &[BertModel::CLASS, $($model::CLASS),*];

        fn load_architecture(
            name: &str,
            checkpoint: &Checkpoint,
            options: &LoadOptions,
        ) -> Result<AnyModel> {
            match name {
                BertModel::CLASS => {
                    AutoModel::from_pretrained(checkpoint, options).map(AnyModel::BertModel)
                }
                $($model::CLASS => {
                    $model::from_pretrained(checkpoint, options).map(AnyModel::$model)
                })*
                _ => Err(Error::UnknownArchitecture { got: name.to_owned(), known: ARCHITECTURES }),
            }
        }
    };
}

heads! {
    BertForPreTraining, BertLMHeadModel, BertForMaskedLM,
    BertForNextSentencePrediction, BertForSequenceClassification, BertForTokenClassification,
    BertForQuestionAnswering, BertForMultipleChoice
}

impl AutoModel {
    /// Loads the model of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id. If the checkpoint
    /// has no pooler, the model has none, unless [`LoadOptions::with_missing_initialized`] asks for a
    /// new one.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    pub fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<BertModel> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        Ok(load_with_or_without_pooler(&checkpoint, options, NewWeights::Heads)?.0)
    }

    /// Loads the class that the first of the config's `architectures` names, or [`BertModel`] if it
    /// names none.
    ///
    /// # Errors
    /// [`Error::UnknownArchitecture`] for a class that [`AnyModel`] does not have, and as
    /// [`PreTrainedModel::from_pretrained`].
    pub fn from_architecture(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<AnyModel> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        let architectures = checkpoint.config()?.architectures.unwrap_or_default();
        let name = architectures.first().map_or("BertModel", String::as_str);
        load_architecture(name, &checkpoint, options)
    }

    /// [`AutoModel::from_pretrained`] and a report of what became of the checkpoint's weights.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    pub fn from_pretrained_with_report(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<(BertModel, LoadReport)> {
        let checkpoint = checkpoint.try_into().map_err(Into::into)?;
        load_with_or_without_pooler(&checkpoint, options, NewWeights::Any)
    }
}

/// Loads left-to-right language models. Hugging Face: `AutoModelForCausalLM`.
pub type AutoModelForCausalLM = BertLMHeadModel;
/// Loads models with a masked-word head. Hugging Face: `AutoModelForMaskedLM`.
pub type AutoModelForMaskedLM = BertForMaskedLM;
/// Loads models that choose among answers. Hugging Face: `AutoModelForMultipleChoice`.
pub type AutoModelForMultipleChoice = BertForMultipleChoice;
/// Loads models with a next-sentence head. Hugging Face: `AutoModelForNextSentencePrediction`.
pub type AutoModelForNextSentencePrediction = BertForNextSentencePrediction;
/// Loads models with both pre-training heads. Hugging Face: `AutoModelForPreTraining`.
pub type AutoModelForPreTraining = BertForPreTraining;
/// Loads models that find answers. Hugging Face: `AutoModelForQuestionAnswering`.
pub type AutoModelForQuestionAnswering = BertForQuestionAnswering;
/// Loads models that label texts. Hugging Face: `AutoModelForSequenceClassification`.
pub type AutoModelForSequenceClassification = BertForSequenceClassification;
/// Loads models that label tokens. Hugging Face: `AutoModelForTokenClassification`.
pub type AutoModelForTokenClassification = BertForTokenClassification;
