//! BERT as it is pre-trained.

use std::fmt;

use bert_kernels::{LinearWeights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::prediction::PredictionHead;
use crate::config::BertConfig;
use crate::context::ForwardContext;
use crate::error::{Error, Result};
use crate::input::BertInput;
use crate::model::BertModel;
use crate::names;
use crate::outputs::{Fields, LayerOutputs};

/// BERT with the heads of both pre-training tasks: masked words and next sentences.
///
/// Devlin et al. 2018, §3.1. Hugging Face: `BertForPreTraining`.
#[derive(Clone, Debug)]
pub struct BertForPreTraining {
    /// The model without a head.
    pub bert: BertModel,
    predictions: PredictionHead,
    seq_relationship: LinearWeights,
}

/// What [`BertForPreTraining`] returns.
#[derive(Clone, Debug)]
pub struct BertForPreTrainingOutput {
    /// Scores of each word of the vocabulary at each place: `[B, S, V]`.
    pub prediction_logits: Tensor,
    /// Scores of "the second text follows the first" and "it does not": `[B, 2]`.
    pub seq_relationship_logits: Tensor,
    /// As [`BertModel`] returns them. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// As [`BertModel`] returns them. On request.
    pub attentions: Option<LayerOutputs>,
}

impl BertForPreTraining {
    /// Loads `bert`, `cls.predictions` and `cls.seq_relationship`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let bert = BertModel::load_base(names::base_below_head(&vb), config)?;
        let cls = vb.pp("cls");
        let words = bert.embeddings.word_embeddings();
        Ok(Self {
            predictions: PredictionHead::load(cls.pp("predictions"), words, config)?,
            seq_relationship: names::linear(
                cls.pp("seq_relationship"),
                (config.hidden_size, 2),
                config,
            )?,
            bert,
        })
    }

    /// `input`: B sequences of S tokens → scores `[B, S, V]` and `[B, 2]`.
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
        Ok(BertForPreTrainingOutput {
            prediction_logits: self.predictions.forward(&output.last_hidden_state)?,
            seq_relationship_logits: linear(pooled, &self.seq_relationship)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// Whether the decoder over the vocabulary is the word embeddings.
    pub fn has_tied_decoder(&self) -> bool {
        self.predictions.is_tied()
    }
}

impl fmt::Display for BertForPreTrainingOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BertForPreTrainingOutput")?;
        Fields(f)
            .tensor("prediction_logits", Some(&self.prediction_logits))?
            .tensor("seq_relationship_logits", Some(&self.seq_relationship_logits))?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .layers("attentions", self.attentions.as_ref())?;
        Ok(())
    }
}
