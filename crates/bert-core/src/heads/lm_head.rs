//! BERT as a left-to-right language model.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::{Head, HeadPass, model_with_head};
use super::lm_prediction_head::BertLMPredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::loss::{IGNORED, class_ids, cross_entropy};
use crate::model::BertModel;
use crate::outputs::CausalLMOutputWithCrossAttentions;
use crate::pass::input::{BertInput, Input};
use crate::pass::options::ForwardOptions;

/// BERT with a score of each word as the next one at each position: `logits` `[B, S, V]`. It is a
/// decoder if its config says `is_decoder`.
///
/// **Labels**: `[B, S]` word ids of an integer dtype, usually the input's own, −100 for positions that
/// do not count. The loss is the mean cross-entropy between each position's scores and the next
/// position's label; the first label of a row never counts.
///
/// Hugging Face: `BertLMHeadModel`.
#[derive(Clone, Debug)]
pub struct BertLMHeadModel {
    /// The model below the head.
    pub bert: BertModel,
    predictions: BertLMPredictionHead,
}

impl BertLMHeadModel {
    /// Loads `bert`, without a pooler, and `cls.predictions`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (bert, predictions) = BertLMPredictionHead::load_with_model(&vb, config, false)?;
        Ok(Self { bert, predictions })
    }

    /// [`Head::forward_with`] with the scores of the last `positions` only: `[B, positions, V]`, or of
    /// all if there are fewer. Hugging Face: `logits_to_keep`, except that 0 means none here.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_last(
        &self,
        input: &BertInput,
        positions: usize,
        options: &ForwardOptions,
    ) -> Result<CausalLMOutputWithCrossAttentions> {
        self.last(&HeadPass::new(Input::Padded(input), options), positions)
    }

    /// The scores of the last `positions` of a pass.
    fn last(&self, pass: &HeadPass, positions: usize) -> Result<CausalLMOutputWithCrossAttentions> {
        let output = pass.states(&self.bert)?;
        let states = &output.last_hidden_state;
        let axis = states.rank() - 2;
        let s = states.dim(axis)?;
        let positions = positions.min(s);
        let last = states.narrow(axis, s - positions, positions)?;
        Ok(CausalLMOutputWithCrossAttentions {
            logits: self.predictions.forward(&last, self.bert.embeddings.word_embeddings())?,
            past_key_values: output.past_key_values,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
            cross_attentions: output.cross_attentions,
        })
    }
}

impl Head for BertLMHeadModel {
    type Labels = Tensor;
    type Output = CausalLMOutputWithCrossAttentions;

    fn scores(&self, pass: &HeadPass) -> Result<CausalLMOutputWithCrossAttentions> {
        self.last(pass, usize::MAX)
    }

    fn loss(&self, output: &CausalLMOutputWithCrossAttentions, labels: &Tensor) -> Result<Tensor> {
        let (b, s, v) = output.logits.dims3()?;
        let labels = class_ids("labels", labels, &[b, s])?;
        let next: Vec<i64> = labels
            .chunks(s.max(1))
            .flat_map(|row| row[1..].iter().copied().chain([IGNORED]))
            .collect();
        let loss = cross_entropy(&output.logits.reshape((b * s, v))?, &next, IGNORED);
        loss.map_err(|error| match error {
            // The caller's labels are one position further.
            Error::LabelOutOfRange { got, at, classes, ignored } => {
                Error::LabelOutOfRange { got, at: at + 1, classes, ignored }
            }
            error => error,
        })
    }
}

model_with_head!(BertLMHeadModel { "cls.predictions" => predictions }, predictions predictions);
