//! BERT that fills in masked words.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use super::lm_prediction_head::PredictionHead;
use crate::config::BertConfig;
use crate::error::{Error, Result};
use crate::init;
use crate::loss::classification;
use crate::model::BertModel;
use crate::outputs::MaskedLMOutput;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardContext;
use crate::surgery::head;

/// BERT with scores for each word of the vocabulary at each place.
///
/// Devlin et al. 2018, §3.1, task 1. Hugging Face: `BertForMaskedLM`.
#[derive(Clone, Debug)]
pub struct BertForMaskedLM {
    /// The model below the head.
    pub bert: BertModel,
    predictions: PredictionHead,
}

impl BertForMaskedLM {
    /// Loads `bert`, without a pooler, and `cls.predictions`.
    ///
    /// # Errors
    /// As [`BertModel::load`].
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let cls = vb.pp("cls.predictions");
        let decoder = PredictionHead::read_decoder(&cls, config)?;
        let bert = BertModel::load_base_without_pooler(init::base_below_head(&vb), config)?;
        let words = bert.embeddings.word_embeddings();
        Ok(Self { predictions: PredictionHead::load(cls, decoder, words, config)?, bert })
    }

    /// `input`: B sequences of S tokens → `logits` `[B, S, V]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn forward(&self, input: &BertInput) -> Result<MaskedLMOutput> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertForMaskedLM::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn forward_with(
        &self,
        input: &BertInput,
        context: &mut ForwardContext,
    ) -> Result<MaskedLMOutput> {
        let output = self.bert.forward_with(input, context)?;
        let words = self.bert.embeddings.word_embeddings();
        Ok(MaskedLMOutput {
            loss: None,
            logits: self.predictions.forward(&output.last_hidden_state, words)?,
            hidden_states: output.hidden_states,
            attentions: output.attentions,
        })
    }

    /// [`BertForMaskedLM::forward_with`] and the loss: the mean cross-entropy.
    ///
    /// `labels`: `[B, S]` word ids, of an integer dtype; −100 where a place does not count.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; [`Error::Shape`], [`Error::DType`],
    /// [`Error::LabelOutOfRange`] and [`Error::NoLabels`] for labels that do not fit.
    pub fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &Tensor,
        context: &mut ForwardContext,
    ) -> Result<MaskedLMOutput> {
        let mut output = context.with_all_states(|context| self.forward_with(input, context))?;
        output.loss = Some(classification(&output.logits, "labels", labels)?);
        Ok(output)
    }

    /// Scores at chosen places only: `[M, V]`, without those of all places ever being made.
    ///
    /// `places`: M pairs of a row and a token of it.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; [`Error::NoSuchPlace`] for a place that is not in the input.
    pub fn scores_at(&self, input: &BertInput, places: &[(usize, usize)]) -> Result<Tensor> {
        let states = self.bert.forward(input)?.last_hidden_state;
        let (b, s, _) = states.dims3()?;
        if let Some((row, token)) = places.iter().find(|(row, token)| *row >= b || *token >= s) {
            return Err(Error::NoSuchPlace { got: (*row, *token), rows: b, tokens: s });
        }
        let rows: Vec<u32> = places.iter().map(|(row, token)| (row * s + token) as u32).collect();
        let rows = Tensor::from_vec(rows, places.len(), states.device())?;
        let states = states.flatten(0, 1)?.index_select(&rows, 0)?;
        self.predictions.forward(&states, self.bert.embeddings.word_embeddings())
    }

    /// Whether the decoder over the vocabulary is the word embeddings.
    pub fn has_tied_decoder(&self) -> bool {
        self.predictions.is_tied()
    }
}

head!(BertForMaskedLM { "cls.predictions" => predictions }, decoder predictions);
