//! BERT that finds answers in a text.

use bert_kernels::{LinearWeights, linear};
use candle_core::{D, Tensor};
use candle_nn::VarBuilder;

use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::loss::{class_ids, cross_entropy};
use crate::model::BertModel;
use crate::outputs::QuestionAnsweringModelOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores of each token as the first and as the last of the answer.
///
/// Devlin et al. 2018, §4.2. Hugging Face: `BertForQuestionAnswering`.
#[derive(Clone, Debug)]
pub struct BertForQuestionAnswering {
    /// The model below the head.
    pub bert: BertModel,
    qa_outputs: LinearWeights,
}

impl BertForQuestionAnswering {
    /// Loads `bert`, without a pooler, and `qa_outputs`.
    ///
    /// # Errors
    /// As [`BertModel::load`]; [`Error::Config`] for a config with another number of labels than 2.
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        if config.num_labels() != 2 {
            let got = format!("{} classes", config.num_labels());
            let expected = "2, the first and the last token of an answer".to_owned();
            return Err(Error::Config { field: "id2label", got, expected });
        }
        Ok(Self {
            bert: BertModel::load_base_without_pooler(init::base_below_head(&vb), config)?,
            qa_outputs: init::linear(vb.pp("qa_outputs"), (config.hidden_size, 2), config)?,
        })
    }

    /// `input`: B pairs of S tokens → `start_logits` and `end_logits`, `[B, S]` each.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<QuestionAnsweringModelOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForQuestionAnswering::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<QuestionAnsweringModelOutput> {
        // Scores of a sequence's tokens compete, those of padding too.
        let output =
            context.preferring_all_states(|context| self.bert.forward_with(input, context))?;
        let logits = linear(&output.last_hidden_state, &self.qa_outputs)?; // [B, S, 2]
        let scores = |which| logits.narrow(D::Minus1, which, 1)?.squeeze(D::Minus1);
        Ok(QuestionAnsweringModelOutput {
            loss: None,
            start_logits: scores(0)?,
            end_logits: scores(1)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForQuestionAnswering::forward_with`] and the loss: the mean of the cross-entropies of start and end.
    ///
    /// See [`AnswerSpans`].
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; [`Error::Shape`](crate::Error::Shape),
    /// [`Error::DType`](crate::Error::DType),
    /// [`Error::LabelOutOfRange`](crate::Error::LabelOutOfRange) and
    /// [`Error::NoLabels`](crate::Error::NoLabels) for labels that do not fit.
    pub fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &AnswerSpans,
        context: &mut ForwardContext,
    ) -> Result<QuestionAnsweringModelOutput> {
        let mut output = context.with_all_states(|context| self.forward_with(input, context))?;
        let (b, s) = output.start_logits.dims2()?;
        // Answers that were cut off lie at S or beyond, and S does not count.
        let outside = s as i64;
        let loss = |name, logits: &Tensor, positions: &Tensor| {
            let mut positions = class_ids(name, positions, &[b])?;
            positions.iter_mut().for_each(|position| *position = (*position).clamp(0, outside));
            cross_entropy(logits, &positions, outside)
        };
        let start = loss("start_positions", &output.start_logits, &labels.start_positions)?;
        let end = loss("end_positions", &output.end_logits, &labels.end_positions)?;
        output.loss = Some(((start + end)? / 2.)?);
        Ok(output)
    }
}

/// Where the answers are.
#[derive(Clone, Debug)]
pub struct AnswerSpans {
    /// The first token of each answer: `[B]`, of an integer dtype; S or more where the answer is not
    /// in the sequence.
    pub start_positions: Tensor,
    /// The last token of each answer, likewise.
    pub end_positions: Tensor,
}

head!(BertForQuestionAnswering { "qa_outputs" => qa_outputs });
