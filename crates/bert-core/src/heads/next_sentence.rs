//! BERT that tells whether one text follows another.

use bert_kernels::{LinearWeights, linear};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::Result;
use crate::init;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::NextSentencePredictorOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores for "the second text follows the first" and "it does not".
///
/// Devlin et al. 2018, §3.1, task 2. Hugging Face: `BertForNextSentencePrediction`.
#[derive(Clone, Debug)]
pub struct BertForNextSentencePrediction {
    /// The model below the head.
    pub bert: BertModel,
    seq_relationship: LinearWeights,
}

impl BertForNextSentencePrediction {
    /// Loads `bert` and `cls.seq_relationship`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let sizes = (config.hidden_size, 2);
        Ok(Self {
            bert: BertModel::load_base(init::base_below_head(&vb), config)?,
            seq_relationship: init::linear(vb.pp("cls.seq_relationship"), sizes, config)?,
        })
    }

    /// `input`: B pairs of S tokens → `logits` `[B, 2]`, class 0 for "it follows".
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<NextSentencePredictorOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForNextSentencePrediction::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<NextSentencePredictorOutput> {
        let output = self.bert.pooled_with(input, context)?;
        Ok(NextSentencePredictorOutput {
            loss: None,
            logits: linear(&output.pooler_output, &self.seq_relationship)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForNextSentencePrediction::forward_with`] and the loss: the mean cross-entropy.
    ///
    /// `labels`: `[B]`, 0 where the second text follows and 1 where it does not, of an integer dtype.
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
    ) -> Result<NextSentencePredictorOutput> {
        let mut output = self.forward_with(input, context)?;
        output.loss = Some(classification(&output.logits, "labels", labels)?);
        Ok(output)
    }
}

head!(BertForNextSentencePrediction { "cls.seq_relationship" => seq_relationship });
