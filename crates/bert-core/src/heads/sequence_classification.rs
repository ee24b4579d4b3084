//! BERT that labels texts.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use super::head::{Head, HeadPass, model_with_head};
use crate::config::{BertConfig, ProblemType};
use crate::error::Result;
use crate::loss::{binary_cross_entropy, check_shape, classification, mean_squared_error};
use crate::model::BertModel;
use crate::outputs::{PooledOutput, SequenceClassifierOutput};

/// BERT with a score of each class, or predicted numbers, for each text or pair: `logits` `[B, C]`.
///
/// **Labels**: `[B]` class ids of an integer dtype for one label of several (mean cross-entropy);
/// `[B, C]` zeros and ones of a floating dtype for any number of labels (mean binary cross-entropy);
/// `[B, C]`, or `[B]` if C is 1, numbers for regression (mean squared error). The config's
/// `problem_type` decides. Without it, C = 1 means regression, and otherwise the labels' dtype decides.
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
        config.validate_classes()?;
        let bert = BertModel::load_below_head(&vb, config, true)?;
        Ok(Self { bert, classifier: Classifier::load(vb, config.num_labels(), config)? })
    }
}

impl Head for BertForSequenceClassification {
    type Labels = Tensor;
    type Output = SequenceClassifierOutput;

    fn scores(&self, pass: &HeadPass) -> Result<SequenceClassifierOutput> {
        let PooledOutput { pooler_output, hidden_states, attentions } = pass.pooled(&self.bert)?;
        let logits = self.classifier.forward(&pooler_output, pass)?;
        Ok(SequenceClassifierOutput { logits, hidden_states, attentions })
    }

    fn loss(&self, output: &SequenceClassifierOutput, labels: &Tensor) -> Result<Tensor> {
        let logits = &output.logits;
        let (b, c) = logits.dims2()?;
        let problem = match self.bert.config().problem()? {
            Some(problem) => problem,
            None if c == 1 => ProblemType::Regression,
            None if labels.dtype().is_int() => ProblemType::SingleLabelClassification,
            None => ProblemType::MultiLabelClassification,
        };
        match problem {
            ProblemType::SingleLabelClassification => classification(logits, "labels", labels),
            ProblemType::MultiLabelClassification => {
                check_shape("labels", labels, &[b, c])?;
                binary_cross_entropy(logits, labels)
            }
            ProblemType::Regression => {
                let one_number = c == 1 && labels.rank() == 1;
                let logits = if one_number { &logits.squeeze(1)? } else { logits };
                check_shape("labels", labels, logits.dims())?;
                mean_squared_error(logits, labels)
            }
        }
    }
}

model_with_head!(BertForSequenceClassification { "classifier" => classifier });
