//! What models with a head have in common.

use candle_core::Tensor;

use crate::error::Result;
use crate::model::BertModel;
use crate::outputs::{BaseModelOutputWithPoolingAndCrossAttentions, PooledOutput};
use crate::pass::input::{BertInput, Input, PackedInput};
use crate::pass::options::ForwardOptions;
use crate::surgery::Model;

/// A model with a head: scores from hidden states, and a loss of the scores.
///
/// Implement it for a head of your own; the crate's documentation shows one.
pub trait Head: Model {
    /// What the model learns from.
    type Labels;
    /// What the model returns.
    type Output;

    /// The scores of a pass.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    fn scores(&self, pass: &HeadPass) -> Result<Self::Output>;

    /// The loss of scores, a scalar.
    ///
    /// # Errors
    /// When the labels do not fit the scores.
    fn loss(&self, output: &Self::Output, labels: &Self::Labels) -> Result<Tensor>;

    /// `input`: B sequences of S tokens → the output that the model's documentation describes.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    fn forward(&self, input: &BertInput) -> Result<Self::Output> {
        self.forward_with(input, &ForwardOptions::new())
    }

    /// [`Head::forward`] with options.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    fn forward_with(&self, input: &BertInput, options: &ForwardOptions) -> Result<Self::Output> {
        self.scores(&HeadPass::new(Input::Padded(input), options))
    }

    /// B sequences one after the other, T tokens in all → [`Head::forward`]'s output, where scores of
    /// tokens have the shape `[T, …]` instead of `[B, S, …]`. No padding is computed where
    /// [`BertModel::forward_packed`] computes none.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed`];
    /// [`Error::PackedChoices`](crate::Error::PackedChoices) for multiple choice.
    fn forward_packed(&self, input: &PackedInput) -> Result<Self::Output> {
        self.forward_packed_with(input, &ForwardOptions::new())
    }

    /// [`Head::forward_packed`] with options.
    ///
    /// # Errors
    /// As [`BertModel::forward_packed_with`].
    fn forward_packed_with(
        &self,
        input: &PackedInput,
        options: &ForwardOptions,
    ) -> Result<Self::Output> {
        self.scores(&HeadPass::new(Input::Packed(input), options))
    }

    /// The loss that the model's documentation describes, a scalar, and the output of
    /// [`Head::forward_with`].
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; for labels that do not fit [`Error::Shape`], [`Error::DType`],
    /// [`Error::LabelOutOfRange`] and [`Error::NoLabels`].
    ///
    /// [`Error::Shape`]: crate::Error::Shape
    /// [`Error::DType`]: crate::Error::DType
    /// [`Error::LabelOutOfRange`]: crate::Error::LabelOutOfRange
    /// [`Error::NoLabels`]: crate::Error::NoLabels
    fn forward_with_labels(
        &self,
        input: &BertInput,
        labels: &Self::Labels,
        options: &ForwardOptions,
    ) -> Result<(Tensor, Self::Output)> {
        let pass = HeadPass::new(Input::Padded(input), options).reading_padding();
        let output = self.scores(&pass)?;
        Ok((self.loss(&output, labels)?, output))
    }
}

/// A pass of a model below its head.
#[derive(Clone, Copy, Debug)]
pub struct HeadPass<'a> {
    input: Input<'a>,
    options: &'a ForwardOptions,
    reads_padding: bool,
}

impl<'a> HeadPass<'a> {
    pub(crate) fn new(input: Input<'a>, options: &'a ForwardOptions) -> Self {
        Self { input, options, reads_padding: false }
    }

    /// The model's input. `None` if its sequences are packed.
    pub fn input(&self) -> Option<&'a BertInput> {
        match self.input {
            Input::Padded(input) => Some(input),
            Input::Packed(_) => None,
        }
    }

    /// The pass of another input.
    pub fn with_input(self, input: &'a BertInput) -> Self {
        Self { input: Input::Padded(input), ..self }
    }

    /// The pass of a head whose scores depend on the states of padding even without labels.
    pub fn reading_padding(self) -> Self {
        Self { reads_padding: true, ..self }
    }

    /// The output of the model below the head. With labels, or after [`HeadPass::reading_padding`],
    /// `last_hidden_state` has the states of padding as they were computed.
    ///
    /// # Errors
    /// As [`BertModel::forward_with`].
    pub fn states(&self, bert: &BertModel) -> Result<BaseModelOutputWithPoolingAndCrossAttentions> {
        bert.states(self.input, self.options, self.reads_padding)
    }

    /// The pooled output of the model below the head: `[B, H]`. It may take less time than
    /// [`HeadPass::states`].
    ///
    /// # Errors
    /// As [`BertModel::forward_with`]; [`Error::NoPooler`](crate::Error::NoPooler) without a pooler.
    pub fn pooled(&self, bert: &BertModel) -> Result<PooledOutput> {
        bert.pooled_with(self.input, self.options)
    }

    /// In training, `x` with each element zeroed with probability `p` and the others divided by
    /// `1 − p`; in evaluation `x` itself.
    ///
    /// # Errors
    /// When the device cannot allocate.
    pub fn dropout(&self, x: &Tensor, p: f64) -> Result<Tensor> {
        self.options.dropout.apply(x, p)
    }
}

/// Implements [`Named`](crate::Named) and [`Model`] for a model with a head: the names and fields of
/// the head's parts, and which of them is a head over the vocabulary.
macro_rules! model_with_head {
    ($model:ty { $($name:literal => $field:ident),* $(,)? } $(, predictions $predictions:ident)?) => {
        $crate::named!($model { "bert" => bert, $($name => $field),* });

        impl $crate::surgery::Model for $model {
            fn bert(&self) -> &BertModel {
                &self.bert
            }

            fn bert_mut(&mut self) -> &mut BertModel {
                &mut self.bert
            }

            $(fn predictions(&self) -> Option<&BertLMPredictionHead> {
                Some(&self.$predictions)
            }

            fn predictions_mut(&mut self) -> Option<&mut BertLMPredictionHead> {
                Some(&mut self.$predictions)
            })?
        }
    };
}
pub(crate) use model_with_head;
