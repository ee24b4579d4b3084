//! BERT that chooses among answers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use super::head::{Head, HeadPass, model_with_head};
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::{MultipleChoiceModelOutput, PooledOutput};

/// BERT with one score for each of several sequences, of which one is right: `logits` `[B, C]`.
///
/// The input has B questions with C choices of S tokens: `[B, C, S]` wherever
/// [`BertInput`](crate::BertInput) says `[B, S]`.
///
/// **Labels**: `[B]`, the right choice of each question, of an integer dtype. The loss is the mean
/// cross-entropy over the choices.
///
/// Devlin et al. 2018, §4.4. Hugging Face: `BertForMultipleChoice`.
#[derive(Clone, Debug)]
pub struct BertForMultipleChoice {
    /// The model below the head.
    pub bert: BertModel,
    classifier: Classifier,
}

impl BertForMultipleChoice {
    /// Loads `bert` and `classifier`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let bert = BertModel::load_below_head(&vb, config, true)?;
        Ok(Self { bert, classifier: Classifier::load(vb, 1, config)? })
    }
}

impl Head for BertForMultipleChoice {
    type Labels = Tensor;
    type Output = MultipleChoiceModelOutput;

    fn scores(&self, pass: &HeadPass) -> Result<MultipleChoiceModelOutput> {
        let (b, c, flat) = pass.input().ok_or(Error::PackedChoices)?.flatten_choices()?;
        let pass = pass.with_input(&flat);
        let PooledOutput { pooler_output, hidden_states, attentions } = pass.pooled(&self.bert)?;
        let logits = self.classifier.forward(&pooler_output, &pass)?.reshape((b, c))?;
        Ok(MultipleChoiceModelOutput { logits, hidden_states, attentions })
    }

    fn loss(&self, output: &MultipleChoiceModelOutput, labels: &Tensor) -> Result<Tensor> {
        classification(&output.logits, "labels", labels)
    }
}

model_with_head!(BertForMultipleChoice { "classifier" => classifier });
