//! BERT that labels tokens.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use super::head::{Head, HeadPass, model_with_head};
use crate::config::BertConfig;
use crate::error::Result;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::TokenClassifierOutput;

/// BERT with a score of each class for each token, as for named entities: `logits` `[B, S, C]`.
///
/// **Labels**: `[B, S]` class ids of an integer dtype, −100 for tokens that do not count. The loss is
/// the mean cross-entropy.
///
/// Devlin et al. 2018, §5.3. Hugging Face: `BertForTokenClassification`.
#[derive(Clone, Debug)]
pub struct BertForTokenClassification {
    /// The model below the head.
    pub bert: BertModel,
    classifier: Classifier,
}

impl BertForTokenClassification {
    /// Loads `bert`, without a pooler, and `classifier`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate_classes()?;
        let bert = BertModel::load_below_head(&vb, config, false)?;
        Ok(Self { bert, classifier: Classifier::load(vb, config.num_labels(), config)? })
    }
}

impl Head for BertForTokenClassification {
    type Labels = Tensor;
    type Output = TokenClassifierOutput;

    fn scores(&self, pass: &HeadPass) -> Result<TokenClassifierOutput> {
        let output = pass.states(&self.bert)?;
        let logits = self.classifier.forward(&output.last_hidden_state, pass)?;
        let (hidden_states, attentions) = (output.hidden_states, output.attentions);
        Ok(TokenClassifierOutput { logits, hidden_states, attentions })
    }

    fn loss(&self, output: &TokenClassifierOutput, labels: &Tensor) -> Result<Tensor> {
        classification(&output.logits, "labels", labels)
    }
}

model_with_head!(BertForTokenClassification { "classifier" => classifier });
