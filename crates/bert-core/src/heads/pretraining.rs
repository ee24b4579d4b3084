//! BERT as it is pre-trained.

use bert_kernels::{LinearWeights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::lm_prediction_head::PredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::BertForPreTrainingOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with the heads of both pre-training tasks: masked words and next sentences.
///
/// Devlin et al. 2018, §3.1. Hugging Face: `BertForPreTraining`.
#[derive(Clone, Debug)]
pub struct BertForPreTraining {
    /// The model below the head.
    pub bert: BertModel,
    predictions: PredictionHead,
    seq_relationship: LinearWeights,
}

impl BertForPreTraining {
    /// Loads `bert`, `cls.predictions` and `cls.seq_relationship`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let cls = vb.pp("cls");
        let decoder = PredictionHead::read_decoder(&cls.pp("predictions"), config)?;
        let bert = BertModel::load_base(init::base_below_head(&vb), config)?;
        let (words, sizes) = (bert.embeddings.word_embeddings(), (config.hidden_size, 2));
        Ok(Self {
            predictions: PredictionHead::load(cls.pp("predictions"), decoder, words, config)?,
            seq_relationship: init::linear(cls.pp("seq_relationship"), sizes, config)?,
            bert,
        })
    }

    /// `input`: B pairs of S tokens → scores `[B, S, V]` and `[B, 2]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<BertForPreTrainingOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForPreTraining::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<BertForPreTrainingOutput> {
        let output = self.bert.forward_with(input, context)?;
        let pooled = output.pooler_output.as_ref().ok_or(Error::NoPooler)?;
        let words = self.bert.embeddings.word_embeddings();
        Ok(BertForPreTrainingOutput {
            loss: None,
            prediction_logits: self.predictions.forward(&output.last_hidden_state, words)?,
            seq_relationship_logits: linear(pooled, &self.seq_relationship)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForPreTraining::forward_with`] and the loss: the sum of both tasks' mean cross-entropies.
    ///
    /// See [`PreTrainingLabels`].
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; [`Error::Shape`], [`Error::DType`],
    /// [`Error::LabelOutOfRange`] and [`Error::NoLabels`] for labels that do not fit.
    pub fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &PreTrainingLabels,
        context: &mut ForwardContext,
    ) -> Result<BertForPreTrainingOutput> {
        let mut output = context.with_all_states(|context| self.forward_with(input, context))?;
        let words = classification(&output.prediction_logits, "labels", &labels.labels)?;
        let next = &labels.next_sentence_label;
        let follows = classification(&output.seq_relationship_logits, "next_sentence_label", next)?;
        output.loss = Some((words + follows)?);
        Ok(output)
    }

    /// Whether the decoder over the vocabulary is the word embeddings.
    pub fn has_tied_decoder(&self) -> bool {
        self.predictions.is_tied()
    }
}

/// What [`BertForPreTraining`] learns from.
#[derive(Clone, Debug)]
pub struct PreTrainingLabels {
    /// `[B, S]` word ids, of an integer dtype; −100 where a place does not count.
    pub labels: Tensor,
    /// `[B]`, 0 where the second text follows the first and 1 where it does not.
    pub next_sentence_label: Tensor,
}

head!(BertForPreTraining { "cls.predictions" => predictions, "cls.seq_relationship" => seq_relationship }, decoder predictions);
