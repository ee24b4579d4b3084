//! Hugging Face's `Auto` classes, for BERT.

use bert_core::{BertConfig, BertModel};
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
