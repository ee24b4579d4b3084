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
use crate::pass::input::BertInput;

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
        // CUDA refuses to compute no rows: without positions one is computed and left out.
        let spare = positions.is_empty().then_some(0);
        let rows = positions.iter().map(|(row, token)| (row * s + token) as u32).chain(spare);
        let rows = Tensor::new(rows.collect::<Vec<_>>(), states.device())?;
        let states = states.flatten(0, 1)?.index_select(&rows, 0)?;
        let scores = self.predictions.forward(&states, self.bert.embeddings.word_embeddings())?;
        Ok(scores.narrow(0, 0, positions.len())?)
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
