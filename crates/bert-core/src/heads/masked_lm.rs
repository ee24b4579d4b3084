//! BERT that fills in masked words.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::head::{Head, HeadPass, model_with_head};
use super::lm_prediction_head::BertLMPredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::MaskedLMOutput;
use crate::pass::input::{BertInput, PackedInput};

/// BERT with a score of each word of the vocabulary at each position: `logits` `[B, S, V]`.
///
/// **Labels**: `[B, S]` word ids of an integer dtype, −100 for positions that do not count. The loss
/// is the mean cross-entropy.
///
/// Devlin et al. 2018, §3.1, task 1. Hugging Face: `BertForMaskedLM`.
#[derive(Clone, Debug)]
pub struct BertForMaskedLM {
    /// The model below the head.
    pub bert: BertModel,
    predictions: BertLMPredictionHead,
}

impl BertForMaskedLM {
    /// Loads `bert`, without a pooler, and `cls.predictions`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let (bert, predictions) = BertLMPredictionHead::load_with_model(&vb, config, false)?;
        Ok(Self { bert, predictions })
    }

    /// The scores at chosen positions only: `[M, V]`. Those of other positions are never computed.
    ///
    /// `positions`: M pairs of a row and a token in it.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoSuchPosition`] for a position outside the input.
    pub fn scores_at(&self, input: &BertInput, positions: &[(usize, usize)]) -> Result<Tensor> {
        let states = self.bert.forward(input)?.last_hidden_state;
        let (b, s, _) = states.dims3()?;
        if let Some(got) = positions.iter().find(|(row, token)| *row >= b || *token >= s) {
            return Err(Error::NoSuchPosition { got: *got, rows: b, tokens: s });
        }
        let rows = positions.iter().map(|(row, token)| (row * s + token) as u32);
        self.scores_of(&states.flatten(0, 1)?, rows)
    }

    /// [`BertForMaskedLM::scores_at`] for packed sequences: `positions` are M of the T tokens.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`]; [`Error::NoSuchPosition`] for a position of T or more.
    pub fn scores_at_packed(&self, input: &PackedInput, positions: &[usize]) -> Result<Tensor> {
        let states = self.bert.forward_packed(input)?.last_hidden_state;
        let tokens = states.dim(0)?;
        if let Some(got) = positions.iter().find(|token| **token >= tokens) {
            return Err(Error::NoSuchPosition { got: (0, *got), rows: 1, tokens });
        }
        self.scores_of(&states, positions.iter().map(|token| *token as u32))
    }

    /// The scores of some rows of hidden states, `[T, H]`.
    fn scores_of(&self, states: &Tensor, rows: impl Iterator<Item = u32>) -> Result<Tensor> {
        let mut rows: Vec<u32> = rows.collect();
        let count = rows.len();
        if rows.is_empty() {
            // CUDA refuses to compute no rows: one is computed and left out.
            rows.push(0);
        }
        let states = states.index_select(&Tensor::new(rows, states.device())?, 0)?;
        let scores = self.predictions.forward(&states, self.bert.embeddings.word_embeddings())?;
        Ok(scores.narrow(0, 0, count)?)
    }
}

impl Head for BertForMaskedLM {
    type Labels = Tensor;
    type Output = MaskedLMOutput;

    fn scores(&self, pass: &HeadPass) -> Result<MaskedLMOutput> {
        let output = pass.states(&self.bert)?;
        let words = self.bert.embeddings.word_embeddings();
        let logits = self.predictions.forward(&output.last_hidden_state, words)?;
        let (hidden_states, attentions) = (output.hidden_states, output.attentions);
        Ok(MaskedLMOutput { logits, hidden_states, attentions })
    }

    fn loss(&self, output: &MaskedLMOutput, labels: &Tensor) -> Result<Tensor> {
        classification(&output.logits, "labels", labels)
    }
}

model_with_head!(BertForMaskedLM { "cls.predictions" => predictions }, predictions predictions);
