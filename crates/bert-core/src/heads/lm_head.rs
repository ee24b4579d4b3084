//! BERT as a left-to-right language model.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::lm_prediction_head::PredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::loss::{IGNORED, class_ids, cross_entropy};
use crate::model::BertModel;
use crate::outputs::CausalLMOutputWithCrossAttentions;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores for the word that follows each place; a decoder if its config says `is_decoder`.
///
/// Hugging Face: `BertLMHeadModel`.
#[derive(Clone, Debug)]
pub struct BertLMHeadModel {
    /// The model below the head.
    pub bert: BertModel,
    predictions: PredictionHead,
}

impl BertLMHeadModel {
    /// Loads `bert`, without a pooler, and `cls.predictions`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let cls = vb.pp("cls.predictions");
        let decoder = PredictionHead::read_decoder(&cls, config)?;
        let bert = BertModel::load_base_without_pooler(init::base_below_head(&vb), config)?;
        let words = bert.embeddings.word_embeddings();
        Ok(Self { predictions: PredictionHead::load(cls, decoder, words, config)?, bert })
    }

    /// `input`: B sequences of S tokens → `logits` `[B, S, V]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<CausalLMOutputWithCrossAttentions> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertLMHeadModel::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<CausalLMOutputWithCrossAttentions> {
        self.forward_last(input, usize::MAX, context)
    }

    /// [`BertLMHeadModel::forward_with`] with scores of the last places only: `[B, places, V]`, of all
    /// places where there are no more. Hugging Face: `logits_to_keep`, but that 0 means none here.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_last(
        &self,
        input: &BertInput,
        places: usize,
        context: &mut ForwardContext,
    ) -> Result<CausalLMOutputWithCrossAttentions> {
        let output = self.bert.forward_with(input, context)?;
        let states = &output.last_hidden_state;
        let s = states.dim(1)?;
        let places = places.min(s);
        let last = states.narrow(1, s - places, places)?;
        Ok(CausalLMOutputWithCrossAttentions {
            loss: None,
            logits: self.predictions.forward(&last, self.bert.embeddings.word_embeddings())?,
            past_key_values: output.past_key_values,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
            cross_attentions: output.cross_attentions,
        })
    }

    /// [`BertLMHeadModel::forward_with`] and the loss: the mean cross-entropy of each place's scores
    /// with the label of the next place.
    ///
    /// `labels`: `[B, S]` word ids, usually the input's own, of an integer dtype; −100 where a place
    /// does not count. The first label of a row is no place's next and never counts.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; [`Error::Shape`],
    /// [`Error::DType`],
    /// [`Error::LabelOutOfRange`] and
    /// [`Error::NoLabels`] for labels that do not fit.
    pub fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &Tensor,
        context: &mut ForwardContext,
    ) -> Result<CausalLMOutputWithCrossAttentions> {
        let mut output = context.with_all_states(|context| self.forward_with(input, context))?;
        let (b, s, v) = output.logits.dims3()?;
        let labels = class_ids("labels", labels, &[b, s])?;
        let next: Vec<i64> =
            labels.chunks(s).flat_map(|row| row[1..].iter().copied().chain([IGNORED])).collect();
        let loss = cross_entropy(&output.logits.reshape((b * s, v))?, &next, IGNORED);
        output.loss = Some(loss.map_err(|error| match error {
            // The caller's labels are one place further.
            Error::LabelOutOfRange { got, at, classes, ignored } => {
                Error::LabelOutOfRange { got, at: at + 1, classes, ignored }
            }
            error => error,
        })?);
        Ok(output)
    }

    /// Whether the decoder over the vocabulary is the word embeddings.
    pub fn has_tied_decoder(&self) -> bool {
        self.predictions.is_tied()
    }
}

head!(BertLMHeadModel { "cls.predictions" => predictions }, decoder predictions);
