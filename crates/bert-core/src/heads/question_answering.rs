//! BERT that finds answers in a text.

use candle_core::{D, Tensor};
use candle_nn::VarBuilder;

use super::head::{Head, HeadPass, model_with_head};
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::linear::Linear;
use crate::loss::{class_ids, cross_entropy};
use crate::model::BertModel;
use crate::outputs::QuestionAnsweringModelOutput;

/// BERT with scores of each token as the first and as the last of the answer: `start_logits` and
/// `end_logits`, `[B, S]` each.
///
/// The softmax runs over all tokens of a sequence, including padding. The scores at padding are
/// therefore always those of transformers, regardless of [`PaddingStates`](crate::PaddingStates).
///
/// **Labels**: [`AnswerSpans`]. The loss is the mean of the cross-entropies of start and end.
///
/// Devlin et al. 2018, §4.2. Hugging Face: `BertForQuestionAnswering`.
#[derive(Clone, Debug)]
pub struct BertForQuestionAnswering {
    /// The model below the head.
    pub bert: BertModel,
    qa_outputs: Linear,
}

/// The positions of the answers.
#[derive(Clone, Debug)]
pub struct AnswerSpans {
    /// The first token of each answer: `[B]`, of an integer dtype; S or more if the answer is not in
    /// the sequence.
    pub start_positions: Tensor,
    /// The last token of each answer, likewise.
    pub end_positions: Tensor,
}

impl BertForQuestionAnswering {
    /// Loads `bert`, without a pooler, and `qa_outputs`.
    ///
    /// # Errors
    /// As [`BertModel::load`]; [`Error::Config`] for a config with another number of labels than 2.
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        if config.num_labels() != 2 {
            let got = format!("{} classes", config.num_labels());
            let expected = "2, the first and the last token of an answer";
            return Err(Error::config("id2label", got, expected));
        }
        let bert = BertModel::load_below_head(&vb, config, false)?;
        let (at, h) = (vb.pp("qa_outputs"), config.hidden_size);
        Ok(Self { bert, qa_outputs: Linear::load(at, h, 2, config)? })
    }
}

impl Head for BertForQuestionAnswering {
    type Labels = AnswerSpans;
    type Output = QuestionAnsweringModelOutput;

    fn scores(&self, pass: &HeadPass) -> Result<QuestionAnsweringModelOutput> {
        let output = pass.reading_padding().states(&self.bert)?;
        let logits = self.qa_outputs.forward(&output.last_hidden_state)?; // [B, S, 2]
        let scores = |which| logits.narrow(D::Minus1, which, 1)?.squeeze(D::Minus1);
        Ok(QuestionAnsweringModelOutput {
            start_logits: scores(0)?,
            end_logits: scores(1)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    fn loss(&self, output: &QuestionAnsweringModelOutput, labels: &AnswerSpans) -> Result<Tensor> {
        let (b, s) = output.start_logits.dims2()?;
        // Answers that were cut off are at S or beyond. S does not count.
        let outside = s as i64;
        let loss = |name, logits: &Tensor, positions: &Tensor| {
            let mut positions = class_ids(name, positions, &[b])?;
            positions.iter_mut().for_each(|position| *position = (*position).clamp(0, outside));
            cross_entropy(logits, &positions, outside)
        };
        let start = loss("start_positions", &output.start_logits, &labels.start_positions)?;
        let end = loss("end_positions", &output.end_logits, &labels.end_positions)?;
        Ok(((start + end)? / 2.)?)
    }
}

model_with_head!(BertForQuestionAnswering { "qa_outputs" => qa_outputs });
