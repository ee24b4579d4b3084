//! BERT in Rust, on [Candle](https://github.com/huggingface/candle), with the names, arguments and
//! numbers of Hugging Face's transformers.
//!
//! ```
//! use bert::{AutoModel, AutoTokenizer, Checkpoint, EncodeOptions, LoadOptions};
//!
//! # fn main() -> bert::Result<()> {
//! let checkpoint = Checkpoint::built_in(); // or "google-bert/bert-base-uncased", or a folder
//! let tokenizer = AutoTokenizer::from_pretrained(&checkpoint)?;
//! let model = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new())?;
//!
//! let inputs = tokenizer.encode("Hello, my dog is cute", &EncodeOptions::new())?;
//! let outputs = model.forward(&inputs.to_input(model.device())?)?;
//! assert_eq!(outputs.last_hidden_state.dims(), [1, 8, 128]);
//! # Ok(())
//! # }
//! ```
//!
//! From text to answer there are pipelines ([`FillMaskPipeline`], [`TextClassificationPipeline`],
//! [`TokenClassificationPipeline`], [`QuestionAnsweringPipeline`], [`ZeroShotClassificationPipeline`],
//! [`NextSentencePipeline`], [`FeatureExtractionPipeline`]) and encoders of texts ([`SentenceTransformer`],
//! [`CrossEncoder`], [`SparseEncoder`], [`MultiVectorEncoder`]). Below them are the models:
//!
//! | task | class | Auto class |
//! |---|---|---|
//! | embeddings of tokens and texts | [`BertModel`] | [`AutoModel`] |
//! | pre-training | [`BertForPreTraining`] | [`AutoModelForPreTraining`] |
//! | fill in masked words | [`BertForMaskedLM`] | [`AutoModelForMaskedLM`] |
//! | continue a text | [`BertLMHeadModel`] | [`AutoModelForCausalLM`] |
//! | does one text follow another? | [`BertForNextSentencePrediction`] | [`AutoModelForNextSentencePrediction`] |
//! | label texts or pairs, predict numbers | [`BertForSequenceClassification`] | [`AutoModelForSequenceClassification`] |
//! | label tokens | [`BertForTokenClassification`] | [`AutoModelForTokenClassification`] |
//! | find answers in a text | [`BertForQuestionAnswering`] | [`AutoModelForQuestionAnswering`] |
//! | choose among answers | [`BertForMultipleChoice`] | [`AutoModelForMultipleChoice`] |
//!
//! Classes have their transformers names. Import the trait [`Head`] to call models with a head:
//! `forward` returns scores, `forward_with` takes [`ForwardOptions`], and `forward_with_labels` returns
//! the loss as well.
//!
//! This crate re-exports the public items of the crates below it: the model from `bert-core`,
//! tokenization from `bert-tokenize` and training from `bert-train`.
//!
//! # Features
//!
//! * `hub` (default): downloads from the Hugging Face hub.
//! * `cuda`, `metal`, `accelerate`: Candle's backends. Results are the same up to rounding. `cuda` has kernels
//!   of this library's own; see [`cuda_device`].

#[cfg(target_endian = "big")]
compile_error!("weights are stored in little-endian order, and Candle reads them in the machine's");

mod auto;
mod batches;
mod checkpoint;
mod device;
mod error;
mod files;
mod hub;
mod load;
mod pipelines;
mod save;
mod scores;
mod sentence;
mod task_error;
mod tensor_files;

pub use auto::{
    AnyModel, AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM,
    AutoModelForMultipleChoice, AutoModelForNextSentencePrediction, AutoModelForPreTraining,
    AutoModelForQuestionAnswering, AutoModelForSequenceClassification,
    AutoModelForTokenClassification, AutoTokenizer,
};
pub use bert_core::{
    Activation, AnswerSpans, AttentionMask, BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPoolingAndCrossAttentions, BertConfig, BertEmbeddings, BertEncoder,
    BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction, BertForPreTraining,
    BertForPreTrainingOutput, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertInput, BertLMHeadModel, BertLMPredictionHead, BertLayer,
    BertModel, BertPooler, CausalLMOutputWithCrossAttentions, ForwardOptions, FreezeOptions,
    GenerationConfig, Head, HeadPass, KeyValueCache, LayerOutputs, Layers, Linear, MaskedLMOutput,
    Model, ModelOutput, MultipleChoiceModelOutput, Named, NextSentencePredictorOutput, PackedInput,
    PaddingStates, Parameter, Parameters, PooledOutput, PositionEmbeddingType, PreTrainingLabels,
    ProblemType, QuestionAnsweringModelOutput, Replace, Sampling, SequenceClassifierOutput,
    TokenClassifierOutput, TokenIds, Visit, WeightForm, counted_labels, named,
};
pub use bert_tokenize::{
    BatchEncoding, BertTokenizer, DecodeOptions, EncodeOptions, Encoding, OffsetUnit, Padding,
    Side, Text, TokenizerFiles, Truncation, TruncationStrategy, Words,
};
pub use bert_train::{AdamW, AdamWOptions, Gradients, ParameterGroup, Schedule};
pub use candle_core::{DType, Device, Tensor};
pub use candle_nn::VarMap;
pub use checkpoint::Checkpoint;
pub use device::{best_device, cuda_device, metal_device};
pub use error::{Error, Result};
pub use hub::options::DownloadProgress;
pub use load::options::LoadOptions;
pub use load::pretrained::PreTrainedModel;
pub use load::report::{Conversion, LoadReport, Mismatch};
pub use pipelines::{
    AggregationStrategy, Answer, Classification, Entity, FeatureExtractionOptions,
    FeatureExtractionPipeline, FillMaskOptions, FillMaskPipeline, FilledMask, FunctionToApply,
    NextSentence, NextSentenceOptions, NextSentencePipeline, QuestionAnsweringOptions,
    QuestionAnsweringPipeline, TextClassificationOptions, TextClassificationPipeline,
    TokenClassificationOptions, TokenClassificationPipeline, ZeroShotClassification,
    ZeroShotClassificationOptions, ZeroShotClassificationPipeline,
};
pub use save::{PreTrainedTokenizer, SaveOptions};
pub use sentence::{
    CrossEncoder, CrossEncoderOptions, EmbeddingPrecision, Hit, MultiVectorEncoder, PoolingMode,
    QuantizedEmbeddings, Ranked, SentenceOptions, SentenceTransformer, SimilarityFunction,
    SparseEncoder, SparseVector, max_sim, quantize_embeddings, semantic_search, value_ranges,
};
pub use tensor_files::{load_tensors, save_tensors};

/// The errors in [`Error::Model`], [`Error::Text`], [`Error::Training`] and [`Error::Task`].
pub mod errors {
    pub use bert_core::Error as ModelError;
    pub use bert_tokenize::Error as TextError;
    pub use bert_train::Error as TrainingError;

    pub use crate::task_error::TaskError;
}

/// Compiles the READMEs' programs as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
#[doc = include_str!("../README.md")]
struct Readme;
