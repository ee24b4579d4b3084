//! What models return, with the field names of transformers' `modeling_outputs.py`.

use std::fmt;
use std::ops::Index;

use candle_core::Tensor;

use crate::pass::cache::KeyValueCache;

/// One tensor per layer, or per chosen layer. Absent layers keep their place, so an index means
/// the same layer whichever were asked for.
#[derive(Clone, Debug)]
pub struct LayerOutputs {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    wanted: bool,
    tensor: Option<Tensor>,
}

impl LayerOutputs {
    pub(crate) fn with_slots(count: usize, wanted: impl IntoIterator<Item = usize>) -> Self {
        let mut slots = vec![Slot { wanted: false, tensor: None }; count];
        for index in wanted {
            slots[index].wanted = true;
        }
        Self { slots }
    }

    pub(crate) fn wants(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.wanted)
    }

    pub(crate) fn fill(&mut self, index: usize, tensor: &Tensor) {
        if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.wanted) {
            slot.tensor = Some(tensor.clone());
        }
    }

    /// Each tensor changed.
    pub(crate) fn map<E>(self, change: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        let slots = self.slots.into_iter().map(|slot| {
            let tensor = slot.tensor.as_ref().map(&change).transpose()?;
            Ok(Slot { tensor, ..slot })
        });
        Ok(Self { slots: slots.collect::<Result<_, E>>()? })
    }

    /// How many layers there are, asked for or not.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The tensor of a layer, or `None` where it was not asked for or does not exist.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.slots.get(index)?.tensor.as_ref()
    }

    /// The tensors that were asked for, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i, slot.tensor.as_ref()?)))
    }
}

impl Index<usize> for LayerOutputs {
    type Output = Tensor;

    /// # Panics
    /// Where [`LayerOutputs::get`] gives `None`, as indexing a `Vec` does.
    #[allow(clippy::panic)]
    fn index(&self, index: usize) -> &Tensor {
        match self.get(index) {
            Some(tensor) => tensor,
            None => panic!("layer {index} of {} was not asked for", self.len()),
        }
    }
}

/// What [`BertModel`](crate::BertModel) returns.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
#[derive(Clone, Debug)]
pub struct BaseModelOutputWithPoolingAndCrossAttentions {
    /// The last layer's output: `[B, S, H]`.
    pub last_hidden_state: Tensor,
    /// The first token's state through the pooler: `[B, H]`. Absent without a pooler.
    pub pooler_output: Option<Tensor>,
    /// `L + 1` tensors `[B, S, H]`: the embeddings' output, then each layer's. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// Keys and values for the next call. From decoders only.
    pub past_key_values: Option<KeyValueCache>,
    /// `L` tensors `[B, N, Q, K]` of attention weights. On request.
    pub attentions: Option<LayerOutputs>,
    /// `L` tensors `[B, N, Q, K]` of attention weights over another encoder's states. On request,
    /// with encoder states.
    pub cross_attentions: Option<LayerOutputs>,
}

/// What [`BertEncoder`](crate::BertEncoder) returns.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
#[derive(Clone, Debug)]
pub struct BaseModelOutputWithPastAndCrossAttentions {
    /// The last layer's output: `[B, S, H]`.
    pub last_hidden_state: Tensor,
    /// Keys and values for the next call. From decoders only.
    pub past_key_values: Option<KeyValueCache>,
    /// `L + 1` tensors `[B, S, H]`: the encoder's input, then each layer's output. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// `L` tensors `[B, N, Q, K]` of attention weights. On request.
    pub attentions: Option<LayerOutputs>,
    /// `L` tensors `[B, N, Q, K]` of attention weights over another encoder's states. On request,
    /// with encoder states.
    pub cross_attentions: Option<LayerOutputs>,
}

impl BaseModelOutputWithPastAndCrossAttentions {
    /// The states, the kept ones too, in another form.
    pub(crate) fn map_states<E>(
        self,
        change: impl Fn(&Tensor) -> Result<Tensor, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            last_hidden_state: change(&self.last_hidden_state)?,
            hidden_states: self.hidden_states.map(|kept| kept.map(&change)).transpose()?,
            ..self
        })
    }
}

impl fmt::Display for BaseModelOutputWithPoolingAndCrossAttentions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BaseModelOutputWithPoolingAndCrossAttentions")?;
        Fields(f)
            .tensor("last_hidden_state", Some(&self.last_hidden_state))?
            .tensor("pooler_output", self.pooler_output.as_ref())?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .cache(self.past_key_values.as_ref())?
            .layers("attentions", self.attentions.as_ref())?
            .layers("cross_attentions", self.cross_attentions.as_ref())?;
        Ok(())
    }
}

impl fmt::Display for BaseModelOutputWithPastAndCrossAttentions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BaseModelOutputWithPastAndCrossAttentions")?;
        Fields(f)
            .tensor("last_hidden_state", Some(&self.last_hidden_state))?
            .cache(self.past_key_values.as_ref())?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .layers("attentions", self.attentions.as_ref())?
            .layers("cross_attentions", self.cross_attentions.as_ref())?;
        Ok(())
    }
}

/// An output of a loss, scores and what [`BertModel`](crate::BertModel) returns on request.
macro_rules! scores {
    ($(#[$doc:meta])* $name:ident, $(#[$logits:meta])*) => {
        $(#[$doc])*
        ///
        /// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
        #[derive(Clone, Debug)]
        pub struct $name {
            /// A scalar. With labels only.
            pub loss: Option<Tensor>,
            $(#[$logits])*
            pub logits: Tensor,
            /// As [`BertModel`](crate::BertModel) returns them. On request.
            pub hidden_states: Option<LayerOutputs>,
            /// As [`BertModel`](crate::BertModel) returns them. On request.
            pub attentions: Option<LayerOutputs>,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                writeln!(f, stringify!($name))?;
                Fields(f)
                    .tensor("loss", self.loss.as_ref())?
                    .tensor("logits", Some(&self.logits))?
                    .layers("hidden_states", self.hidden_states.as_ref())?
                    .layers("attentions", self.attentions.as_ref())?;
                Ok(())
            }
        }
    };
}

scores! {
    /// What [`BertForMaskedLM`](crate::BertForMaskedLM) returns.
    MaskedLMOutput,
    /// Scores of each word of the vocabulary at each place: `[B, S, V]`.
}
scores! {
    /// What [`BertForNextSentencePrediction`](crate::BertForNextSentencePrediction) returns.
    NextSentencePredictorOutput,
    /// Scores of "the second text follows the first" and "it does not": `[B, 2]`.
}
scores! {
    /// What [`BertForSequenceClassification`](crate::BertForSequenceClassification) returns.
    SequenceClassifierOutput,
    /// Scores of each class, or the predicted numbers: `[B, C]`.
}
scores! {
    /// What [`BertForTokenClassification`](crate::BertForTokenClassification) returns.
    TokenClassifierOutput,
    /// Scores of each class for each token: `[B, S, C]`.
}
scores! {
    /// What [`BertForMultipleChoice`](crate::BertForMultipleChoice) returns.
    MultipleChoiceModelOutput,
    /// Scores of each choice: `[B, C]`.
}

/// What [`BertForPreTraining`](crate::BertForPreTraining) returns.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
#[derive(Clone, Debug)]
pub struct BertForPreTrainingOutput {
    /// The sum of both tasks' losses, a scalar. With labels only.
    pub loss: Option<Tensor>,
    /// Scores of each word of the vocabulary at each place: `[B, S, V]`.
    pub prediction_logits: Tensor,
    /// Scores of "the second text follows the first" and "it does not": `[B, 2]`.
    pub seq_relationship_logits: Tensor,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub attentions: Option<LayerOutputs>,
}

/// What [`BertLMHeadModel`](crate::BertLMHeadModel) returns.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
#[derive(Clone, Debug)]
pub struct CausalLMOutputWithCrossAttentions {
    /// A scalar. With labels only.
    pub loss: Option<Tensor>,
    /// Scores of each word of the vocabulary as the next one: `[B, S, V]`.
    pub logits: Tensor,
    /// Keys and values for the next call. From decoders only.
    pub past_key_values: Option<KeyValueCache>,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub attentions: Option<LayerOutputs>,
    /// As [`BertModel`](crate::BertModel) returns them. On request, with encoder states.
    pub cross_attentions: Option<LayerOutputs>,
}

impl fmt::Display for CausalLMOutputWithCrossAttentions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CausalLMOutputWithCrossAttentions")?;
        Fields(f)
            .tensor("loss", self.loss.as_ref())?
            .tensor("logits", Some(&self.logits))?
            .cache(self.past_key_values.as_ref())?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .layers("attentions", self.attentions.as_ref())?
            .layers("cross_attentions", self.cross_attentions.as_ref())?;
        Ok(())
    }
}

/// What [`BertForQuestionAnswering`](crate::BertForQuestionAnswering) returns.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype.
#[derive(Clone, Debug)]
pub struct QuestionAnsweringModelOutput {
    /// The mean of the losses of start and end, a scalar. With labels only.
    pub loss: Option<Tensor>,
    /// Scores of each token as the answer's first: `[B, S]`.
    pub start_logits: Tensor,
    /// Scores of each token as the answer's last: `[B, S]`.
    pub end_logits: Tensor,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub hidden_states: Option<LayerOutputs>,
    /// As [`BertModel`](crate::BertModel) returns them. On request.
    pub attentions: Option<LayerOutputs>,
}

impl fmt::Display for BertForPreTrainingOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "BertForPreTrainingOutput")?;
        Fields(f)
            .tensor("loss", self.loss.as_ref())?
            .tensor("prediction_logits", Some(&self.prediction_logits))?
            .tensor("seq_relationship_logits", Some(&self.seq_relationship_logits))?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .layers("attentions", self.attentions.as_ref())?;
        Ok(())
    }
}

impl fmt::Display for QuestionAnsweringModelOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "QuestionAnsweringModelOutput")?;
        Fields(f)
            .tensor("loss", self.loss.as_ref())?
            .tensor("start_logits", Some(&self.start_logits))?
            .tensor("end_logits", Some(&self.end_logits))?
            .layers("hidden_states", self.hidden_states.as_ref())?
            .layers("attentions", self.attentions.as_ref())?;
        Ok(())
    }
}

/// Writes one line per field that is present.
struct Fields<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Fields<'_, '_> {
    fn tensor(self, name: &str, tensor: Option<&Tensor>) -> Result<Self, fmt::Error> {
        if let Some(tensor) = tensor {
            writeln!(self.0, "  {name}: {:?} {:?}", tensor.dims(), tensor.dtype())?;
        }
        Ok(self)
    }

    pub(crate) fn layers(
        self,
        name: &str,
        layers: Option<&LayerOutputs>,
    ) -> Result<Self, fmt::Error> {
        if let Some(layers) = layers {
            writeln!(self.0, "  {name}: {} of {}", layers.iter().count(), layers.len())?;
            for (index, tensor) in layers.iter() {
                writeln!(self.0, "    [{index}]: {:?} {:?}", tensor.dims(), tensor.dtype())?;
            }
        }
        Ok(self)
    }

    fn cache(self, cache: Option<&KeyValueCache>) -> Result<Self, fmt::Error> {
        if let Some(cache) = cache {
            writeln!(self.0, "  past_key_values: {} tokens", cache.len())?;
        }
        Ok(self)
    }
}
