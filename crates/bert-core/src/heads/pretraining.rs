//! BERT as it is pre-trained.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::{Head, HeadPass, model_with_head};
use super::lm_prediction_head::BertLMPredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::linear::Linear;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::BertForPreTrainingOutput;

/// BERT with the heads of both pre-training tasks: masked words, `prediction_logits` `[B, S, V]`, and
/// next sentences, `seq_relationship_logits` `[B, 2]`.
///
/// **Labels**: [`PreTrainingLabels`]. The loss is the sum of both tasks' mean cross-entropies.
///
/// Devlin et al. 2018, §3.1. Hugging Face: `BertForPreTraining`.
#[derive(Clone, Debug)]
pub struct BertForPreTraining {
    /// The model below the head.
    pub bert: BertModel,
    predictions: BertLMPredictionHead,
    seq_relationship: Linear,
}

/// What [`BertForPreTraining`] learns from.
#[derive(Clone, Debug)]
pub struct PreTrainingLabels {
    /// `[B, S]` word ids of an integer dtype, −100 for positions that do not count.
    pub labels: Tensor,
    /// `[B]`, 0 if the second text follows the first and 1 if it does not.
    pub next_sentence_label: Tensor,
}

impl BertForPreTraining {
    /// Loads `bert`, `cls.predictions` and `cls.seq_relationship`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (bert, predictions) = BertLMPredictionHead::load_with_model(&vb, config, true)?;
        let (at, h) = (vb.pp("cls.seq_relationship"), config.hidden_size);
        Ok(Self { bert, predictions, seq_relationship: Linear::load(at, h, 2, config)? })
    }
}

impl Head for BertForPreTraining {
    type Labels = PreTrainingLabels;
    type Output = BertForPreTrainingOutput;

    fn scores(&self, pass: &HeadPass) -> Result<BertForPreTrainingOutput> {
        let output = pass.states(&self.bert)?;
        let pooled = output.pooler_output.as_ref().ok_or(Error::NoPooler)?;
        let words = self.bert.embeddings.word_embeddings();
        Ok(BertForPreTrainingOutput {
            prediction_logits: self.predictions.forward(&output.last_hidden_state, words)?,
            seq_relationship_logits: self.seq_relationship.forward(pooled)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    fn loss(&self, output: &Self::Output, labels: &PreTrainingLabels) -> Result<Tensor> {
        let words = classification(&output.prediction_logits, "labels", &labels.labels)?;
        let next = &labels.next_sentence_label;
        let follows = classification(&output.seq_relationship_logits, "next_sentence_label", next)?;
        Ok((words + follows)?)
    }
}

model_with_head!(
    BertForPreTraining {
        "cls.predictions" => predictions, "cls.seq_relationship" => seq_relationship
    }, predictions predictions
);
