//! The outputs of models, with the field names of transformers' `modeling_outputs.py`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Index;

use candle_core::Tensor;

use crate::pass::cache::KeyValueCache;

/// One tensor per layer, or per chosen layer. Indices do not shift: index `i` means the same layer even
/// if only some layers were chosen.
#[derive(Clone, Debug)]
pub struct LayerOutputs {
    /// The number of layers, chosen or not.
    count: usize,
    /// The tensors of the chosen layers, absent until they are computed.
    chosen: BTreeMap<usize, Option<Tensor>>,
}

impl LayerOutputs {
    pub(crate) fn with_slots(count: usize, wanted: impl IntoIterator<Item = usize>) -> Self {
        Self { count, chosen: wanted.into_iter().map(|index| (index, None)).collect() }
    }

    /// Where the tensor of a layer goes, if it is wanted.
    pub(crate) fn slot(&mut self, index: usize) -> Option<&mut Option<Tensor>> {
        self.chosen.get_mut(&index)
    }

    /// `change` of each tensor.
    pub(crate) fn map<E>(self, change: impl Fn(&Tensor) -> Result<Tensor, E>) -> Result<Self, E> {
        let changed = |(index, tensor): (usize, Option<Tensor>)| {
            Ok((index, tensor.as_ref().map(&change).transpose()?))
        };
        Ok(Self { chosen: self.chosen.into_iter().map(changed).collect::<Result<_, E>>()?, ..self })
    }

    /// The number of layers, chosen or not.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The tensor of a layer; `None` if it was not chosen or does not exist.
    pub fn get(&self, index: usize) -> Option<&Tensor> {
        self.chosen.get(&index)?.as_ref()
    }

    /// The chosen tensors and their indices.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Tensor)> {
        self.chosen.iter().filter_map(|(index, tensor)| Some((*index, tensor.as_ref()?)))
    }
}

impl Index<usize> for LayerOutputs {
    type Output = Tensor;

    /// # Panics
    /// When [`LayerOutputs::get`] gives `None`.
    #[allow(clippy::panic)]
    fn index(&self, index: usize) -> &Tensor {
        match self.get(index) {
            Some(tensor) => tensor,
            None => panic!("layer {index} of {} was not chosen", self.len()),
        }
    }
}

/// What models return.
///
/// [`fmt::Display`] prints the type's name and each present field with its shape and dtype. Hugging
/// Face: `ModelOutput`.
pub trait ModelOutput: fmt::Display {
    /// The names and tensors of the present fields, in order; per-layer tensors as `NAME.INDEX`. Keys
    /// and values are left out.
    fn items(&self) -> Vec<(String, Tensor)>;
}

/// A field of an output.
trait Field {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    fn items(&self, _name: &str, _items: &mut Vec<(String, Tensor)>) {}
}

impl Field for Tensor {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {name}: {:?} {:?}", self.dims(), self.dtype())
    }

    fn items(&self, name: &str, items: &mut Vec<(String, Tensor)>) {
        items.push((name.to_owned(), self.clone()));
    }
}

impl<T: Field> Field for Option<T> {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|field| field.fmt(name, f))
    }

    fn items(&self, name: &str, items: &mut Vec<(String, Tensor)>) {
        self.iter().for_each(|field| field.items(name, items));
    }
}

impl Field for LayerOutputs {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {name}: {} of {}", self.iter().count(), self.len())?;
        self.iter().try_for_each(|(index, tensor)| {
            writeln!(f, "    [{index}]: {:?} {:?}", tensor.dims(), tensor.dtype())
        })
    }

    fn items(&self, name: &str, items: &mut Vec<(String, Tensor)>) {
        items.extend(self.iter().map(|(i, tensor)| (format!("{name}.{i}"), tensor.clone())));
    }
}

impl Field for KeyValueCache {
    fn fmt(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {name}: {} tokens", self.len())
    }
}

/// Defines outputs and implements [`ModelOutput`] for them.
macro_rules! outputs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                writeln!(f, stringify!($name))?;
                $(Field::fmt(&self.$field, stringify!($field), f)?;)*
                Ok(())
            }
        }

        impl ModelOutput for $name {
            fn items(&self) -> Vec<(String, Tensor)> {
                let mut items = Vec::new();
                $(Field::items(&self.$field, stringify!($field), &mut items);)*
                items
            }
        }
    )*};
}

outputs! {
    /// The output of [`BertModel`](crate::BertModel).
    BaseModelOutputWithPoolingAndCrossAttentions {
        /// The last layer's output: `[B, S, H]`.
        last_hidden_state: Tensor,
        /// The first token's state through the pooler: `[B, H]`. Absent without a pooler.
        pooler_output: Option<Tensor>,
        /// `L + 1` tensors `[B, S, H]`: the embeddings' output, then each layer's. On request.
        hidden_states: Option<LayerOutputs>,
        /// Keys and values for the next pass. From decoders only.
        past_key_values: Option<KeyValueCache>,
        /// `L` tensors `[B, N, Q, K]` of attention weights. On request.
        attentions: Option<LayerOutputs>,
        /// `L` tensors `[B, N, Q, K]` of attention weights over another encoder's states. On
        /// request, with encoder states.
        cross_attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertEncoder`](crate::BertEncoder).
    BaseModelOutputWithPastAndCrossAttentions {
        /// The last layer's output: `[B, S, H]`.
        last_hidden_state: Tensor,
        /// Keys and values for the next pass. From decoders only.
        past_key_values: Option<KeyValueCache>,
        /// `L + 1` tensors `[B, S, H]`: the encoder's input, then each layer's output. On request.
        hidden_states: Option<LayerOutputs>,
        /// `L` tensors `[B, N, Q, K]` of attention weights. On request.
        attentions: Option<LayerOutputs>,
        /// `L` tensors `[B, N, Q, K]` of attention weights over another encoder's states. On
        /// request, with encoder states.
        cross_attentions: Option<LayerOutputs>,
    }

    /// The pooled output of a [`BertModel`](crate::BertModel), for heads over whole sequences.
    PooledOutput {
        /// The first token's state through the pooler: `[B, H]`.
        pooler_output: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForMaskedLM`](crate::BertForMaskedLM).
    MaskedLMOutput {
        /// The score of each word of the vocabulary at each position: `[B, S, V]`.
        logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForNextSentencePrediction`](crate::BertForNextSentencePrediction).
    NextSentencePredictorOutput {
        /// The scores of "the second text follows the first" and "it does not": `[B, 2]`.
        logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForSequenceClassification`](crate::BertForSequenceClassification).
    SequenceClassifierOutput {
        /// The score of each class, or the predicted numbers: `[B, C]`.
        logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForTokenClassification`](crate::BertForTokenClassification).
    TokenClassifierOutput {
        /// The score of each class for each token: `[B, S, C]`.
        logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForMultipleChoice`](crate::BertForMultipleChoice).
    MultipleChoiceModelOutput {
        /// The score of each choice: `[B, C]`.
        logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForPreTraining`](crate::BertForPreTraining).
    BertForPreTrainingOutput {
        /// The score of each word of the vocabulary at each position: `[B, S, V]`.
        prediction_logits: Tensor,
        /// The scores of "the second text follows the first" and "it does not": `[B, 2]`.
        seq_relationship_logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertLMHeadModel`](crate::BertLMHeadModel).
    CausalLMOutputWithCrossAttentions {
        /// The score of each word of the vocabulary as the next one: `[B, S, V]`.
        logits: Tensor,
        /// Keys and values for the next pass. From decoders only.
        past_key_values: Option<KeyValueCache>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request, with encoder states.
        cross_attentions: Option<LayerOutputs>,
    }

    /// The output of [`BertForQuestionAnswering`](crate::BertForQuestionAnswering).
    QuestionAnsweringModelOutput {
        /// The score of each token as the answer's first: `[B, S]`.
        start_logits: Tensor,
        /// The score of each token as the answer's last: `[B, S]`.
        end_logits: Tensor,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        hidden_states: Option<LayerOutputs>,
        /// As [`BertModel`](crate::BertModel) returns them. On request.
        attentions: Option<LayerOutputs>,
    }
}
