//! BERT that labels tokens.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::classifier::Classifier;
use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::TokenClassifierOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores of each class for each token, as for named entities.
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
        Ok(Self {
            bert: BertModel::load_base_without_pooler(init::base_below_head(&vb), config)?,
            classifier: Classifier::load(vb.pp("classifier"), config.num_labels(), config)?,
        })
    }

    /// `input`: B sequences of S tokens → `logits` `[B, S, C]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<TokenClassifierOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForTokenClassification::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<TokenClassifierOutput> {
        let output = self.bert.forward_with(input, context)?;
        Ok(TokenClassifierOutput {
            loss: None,
            logits: self.classifier.forward(&output.last_hidden_state, context)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForTokenClassification::forward_with`] and the loss: the mean cross-entropy.
    ///
    /// `labels`: `[B, S]` class ids, of an integer dtype; −100 where a token does not count.
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
    ) -> Result<TokenClassifierOutput> {
        let mut output = context.with_all_states(|context| self.forward_with(input, context))?;
        output.loss = Some(classification(&output.logits, "labels", labels)?);
        Ok(output)
    }
}

head!(BertForTokenClassification { "classifier" => classifier });
