//! BERT that labels texts.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use crate::config::{BertConfig, ProblemType};
use crate::error::Result;
use crate::init;
use crate::loss::{binary_cross_entropy, check_shape, classification, mean_squared_error};
use crate::model::BertModel;
use crate::outputs::SequenceClassifierOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores of each class, or predicted numbers, for each text or pair.
///
/// Devlin et al. 2018, §4.1. Hugging Face: `BertForSequenceClassification`.
#[derive(Clone, Debug)]
pub struct BertForSequenceClassification {
    /// The model below the head.
    pub bert: BertModel,
    classifier: Classifier,
}

impl BertForSequenceClassification {
    /// Loads `bert` and `classifier`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            bert: BertModel::load_base(init::base_below_head(&vb), config)?,
            classifier: Classifier::load(vb.pp("classifier"), config.num_labels(), config)?,
        })
    }

    /// `input`: B sequences of S tokens → `logits` `[B, C]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<SequenceClassifierOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForSequenceClassification::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<SequenceClassifierOutput> {
        let output = self.bert.pooled_with(input, context)?;
        Ok(SequenceClassifierOutput {
            loss: None,
            logits: self.classifier.forward(&output.pooler_output, context)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForSequenceClassification::forward_with`] and the loss: what the config's `problem_type` asks for.
    ///
    /// `labels`: `[B]` class ids of an integer dtype for one label of several (mean cross-entropy);
    /// `[B, C]` zeros and ones of a floating dtype for any number of labels (mean binary
    /// cross-entropy); `[B, C]`, or `[B]` for C = 1, numbers for regression (mean squared error).
    /// Without a `problem_type`, C = 1 means regression, and otherwise the labels' dtype decides.
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
    ) -> Result<SequenceClassifierOutput> {
        let mut output = self.forward_with(input, context)?;
        let (b, c) = output.logits.dims2()?;
        let problem = match self.bert.config().problem_type {
            Some(problem) => problem,
            None if c == 1 => ProblemType::Regression,
            None if labels.dtype().is_int() => ProblemType::SingleLabelClassification,
            None => ProblemType::MultiLabelClassification,
        };
        output.loss = Some(match problem {
            ProblemType::SingleLabelClassification => {
                classification(&output.logits, "labels", labels)?
            }
            ProblemType::MultiLabelClassification => {
                check_shape("labels", labels, &[b, c])?;
                binary_cross_entropy(&output.logits, labels)?
            }
            ProblemType::Regression if c == 1 && labels.rank() == 1 => {
                check_shape("labels", labels, &[b])?;
                mean_squared_error(&output.logits.squeeze(1)?, labels)?
            }
            ProblemType::Regression => {
                check_shape("labels", labels, &[b, c])?;
                mean_squared_error(&output.logits, labels)?
            }
        });
        Ok(output)
    }
}

head!(BertForSequenceClassification { "classifier" => classifier });
