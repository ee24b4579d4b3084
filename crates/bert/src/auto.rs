//! Hugging Face's `Auto` classes, for BERT.

use bert_core::{
    BertConfig, BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction,
    BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertModel,
};
use bert_tokenize::BertTokenizer;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::load::{LoadOptions, LoadReport, PreTrainedModel};

/// Loads configurations. Hugging Face: `AutoConfig`.
pub struct AutoConfig;

impl AutoConfig {
    /// Reads the `config.json` of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`Checkpoint::config`].
    pub fn from_pretrained<C>(checkpoint: C) -> Result<BertConfig>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        checkpoint.try_into()?.config()
    }
}

/// Loads tokenizers. Hugging Face: `AutoTokenizer`.
pub struct AutoTokenizer;

impl AutoTokenizer {
    /// Reads the `tokenizer.json` of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`Checkpoint::tokenizer`].
    pub fn from_pretrained<C>(checkpoint: C) -> Result<BertTokenizer>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        checkpoint.try_into()?.tokenizer()
    }
}

/// Loads models without a head. Hugging Face: `AutoModel`.
pub struct AutoModel;

impl AutoModel {
    /// Loads the model of `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    pub fn from_pretrained<C>(checkpoint: C, options: &LoadOptions) -> Result<BertModel>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        BertModel::from_pretrained(checkpoint, options)
    }

    /// [`AutoModel::from_pretrained`], and what checkpoint and model did not share.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    pub fn from_pretrained_with_report<C>(
        checkpoint: C,
        options: &LoadOptions,
    ) -> Result<(BertModel, LoadReport)>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        BertModel::from_pretrained_with_report(checkpoint, options)
    }
}

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
