//! BERT, as in Devlin et al. 2018 and with the numbers of Hugging Face's transformers.
//!
//! Modules in reading order: [`BertConfig`] says how large the model is; [`BertInput`] goes into
//! [`BertModel`], which is [`BertEmbeddings`], then [`BertEncoder`] (a list of [`BertLayer`]), then
//! [`BertPooler`]; [`BaseModelOutputWithPoolingAndCrossAttentions`] comes out. [`AttentionMask`]
//! says which tokens see which, and [`ForwardContext`] what to keep besides the result.
//!
//! Models load from any [`candle_nn::VarBuilder`]. Reading files, the hub and tokenizers are the
//! business of the crates above this one.
//!
//! # Dimensions
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | batch: sequences in one call |
//! | `S` | sequence length in tokens; `Q` and `K` where queries and keys differ |
//! | `H` | hidden size |
//! | `L` | layers |
//! | `N` | attention heads |
//! | `D` | size of a head, `H / N` |
//! | `F` | feed-forward size |
//! | `V` | vocabulary size |
//! | `P` | positions the checkpoint has |

mod config;
mod error;
mod init;
mod named;

mod pass;

mod add_norm;
mod attention;
mod embeddings;
mod encoder;
mod feed_forward;
mod layer;
mod linear;
mod model;
mod pooler;

mod generation;
mod heads;
mod loss;
mod surgery;

mod outputs;

pub use bert_kernels::{Activation, WeightForm};
pub use config::{BertConfig, PositionEmbeddingType, ProblemType, TokenIds};
pub use embeddings::BertEmbeddings;
pub use encoder::BertEncoder;
pub use error::{Error, Result};
pub use generation::{GenerationConfig, Sampling};
pub use heads::{
    AnswerSpans, BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction,
    BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertLMHeadModel, BertLMPredictionHead, Head, HeadPass,
    PreTrainingLabels,
};
pub use layer::BertLayer;
pub use linear::Linear;
pub use model::BertModel;
pub use named::{Named, Parameter, Replace, Visit, below};
pub use outputs::{
    BaseModelOutputWithPastAndCrossAttentions, BaseModelOutputWithPoolingAndCrossAttentions,
    BertForPreTrainingOutput, CausalLMOutputWithCrossAttentions, LayerOutputs, MaskedLMOutput,
    ModelOutput, MultipleChoiceModelOutput, NextSentencePredictorOutput, PooledOutput,
    QuestionAnsweringModelOutput, SequenceClassifierOutput, TokenClassifierOutput,
};
pub use pass::cache::KeyValueCache;
pub use pass::input::{BertInput, PackedInput};
pub use pass::mask::AttentionMask;
pub use pass::options::{ForwardOptions, Layers, PaddingStates};
pub use pooler::BertPooler;
pub use surgery::{FreezeOptions, Model, Parameters};
