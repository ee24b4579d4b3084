//! BERT that chooses among answers.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::MultipleChoiceModelOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with one score for each of several sequences, of which one is right.
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
        Ok(Self {
            bert: BertModel::load_base(init::base_below_head(&vb), config)?,
            classifier: Classifier::load(vb.pp("classifier"), 1, config)?,
        })
    }

    /// `input`: B questions of C choices of S tokens: `[B, C, S]` wherever [`BertInput`] says
    /// `[B, S]` → `logits` `[B, C]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<MultipleChoiceModelOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForMultipleChoice::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<MultipleChoiceModelOutput> {
        let (b, c, flat) = input.flatten_choices()?;
        let output = self.bert.pooled_with(&flat, context)?;
        Ok(MultipleChoiceModelOutput {
            loss: None,
            logits: self.classifier.forward(&output.pooler_output, context)?.reshape((b, c))?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForMultipleChoice::forward_with`] and the loss: the mean cross-entropy over the choices.
    ///
    /// `labels`: `[B]`, the right choice of each question, of an integer dtype.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; for labels that do not fit
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DType`](crate::Error::DType),
    /// [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange) and
    /// [`Error::NoLabels`](crate::Error::NoLabels).
    pub fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &Tensor,
        context: &mut ForwardContext,
    ) -> Result<MultipleChoiceModelOutput> {
        let mut output = self.forward_with(input, context)?;
        output.loss = Some(classification(&output.logits, "labels", labels)?);
        Ok(output)
    }
}

head!(BertForMultipleChoice { "classifier" => classifier });
