//! BERT that tells whether one text follows another.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::{Head, HeadPass, model_with_head};
use crate::config::BertConfig;
use crate::error::Result;
use crate::linear::Linear;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::{NextSentencePredictorOutput, PooledOutput};

/// BERT with scores for "the second text follows the first" (class 0) and "it does not" (class 1):
/// `logits` `[B, 2]`.
///
/// **Labels**: `[B]`, 0 if the second text follows and 1 if it does not, of an integer dtype. The loss
/// is the mean cross-entropy.
///
/// Devlin et al. 2018, §3.1, task 2. Hugging Face: `BertForNextSentencePrediction`.
#[derive(Clone, Debug)]
pub struct BertForNextSentencePrediction {
    /// The model below the head.
    pub bert: BertModel,
    seq_relationship: Linear,
}

impl BertForNextSentencePrediction {
    /// Loads `bert` and `cls.seq_relationship`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (at, h) = (vb.pp("cls.seq_relationship"), config.hidden_size);
        let bert = BertModel::load_below_head(&vb, config, true)?;
        Ok(Self { bert, seq_relationship: Linear::load(at, h, 2, config)? })
    }
}

impl Head for BertForNextSentencePrediction {
    type Labels = Tensor;
    type Output = NextSentencePredictorOutput;

    fn scores(&self, pass: &HeadPass) -> Result<NextSentencePredictorOutput> {
        let PooledOutput { pooler_output, hidden_states, attentions } = pass.pooled(&self.bert)?;
        let logits = self.seq_relationship.forward(&pooler_output)?;
        Ok(NextSentencePredictorOutput { logits, hidden_states, attentions })
    }

    fn loss(&self, output: &NextSentencePredictorOutput, labels: &Tensor) -> Result<Tensor> {
        classification(&output.logits, "labels", labels)
    }
}

model_with_head!(BertForNextSentencePrediction { "cls.seq_relationship" => seq_relationship });
