//! BERT, as in Devlin et al. 2018 and with the numbers of Hugging Face's transformers.
//!
//! In reading order: [`BertConfig`] has the sizes; [`BertInput`] goes into [`BertModel`], which is
//! [`BertEmbeddings`], [`BertEncoder`] (a list of [`BertLayer`]) and [`BertPooler`];
//! [`BaseModelOutputWithPoolingAndCrossAttentions`] comes out. [`AttentionMask`] says which tokens see
//! which, and [`ForwardOptions`] what else a caller wants.
//!
//! Models load from any [`candle_nn::VarBuilder`]. Files, the hub and tokenizers are in the crates above
//! this one.
//!
//! # A head of your own
//!
//! A head implements [`Head`]. [`named!`] and [`Model`] give it everything in [`Parameters`]: training,
//! freezing, counting and replacing parameters by name.
//!
//! ```
//! use bert_core::{
//!     BertConfig, BertInput, BertModel, ForwardOptions, Head, HeadPass, Linear, Model, Parameters,
//!     Result, named,
//! };
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{VarBuilder, VarMap};
//!
//! /// One score for each text.
//! struct Scorer {
//!     bert: BertModel,
//!     score: Linear,
//! }
//!
//! impl Scorer {
//!     fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
//!         let score = Linear::load(vb.pp("score"), config.hidden_size, 1, config)?;
//!         Ok(Self { bert: BertModel::load_below_head(&vb, config, true)?, score })
//!     }
//! }
//!
//! named!(Scorer { "bert" => bert, "score" => score });
//!
//! impl Model for Scorer {
//!     fn bert(&self) -> &BertModel {
//!         &self.bert
//!     }
//!
//!     fn bert_mut(&mut self) -> &mut BertModel {
//!         &mut self.bert
//!     }
//! }
//!
//! impl Head for Scorer {
//!     type Labels = Tensor; // [B]
//!     type Output = Tensor; // [B]
//!
//!     fn scores(&self, pass: &HeadPass) -> Result<Tensor> {
//!         let pooled = pass.pooled(&self.bert)?.pooler_output; // [B, H]
//!         Ok(self.score.forward(&pass.dropout(&pooled, 0.1)?)?.squeeze(1)?)
//!     }
//!
//!     fn loss(&self, scores: &Tensor, labels: &Tensor) -> Result<Tensor> {
//!         Ok((scores - labels)?.sqr()?.mean_all()?)
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! # let config = BertConfig::from_json(
//! #     r#"{"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16,
//! #         "num_hidden_layers": 2, "max_position_embeddings": 4}"#)?;
//! let vars = VarMap::new();
//! let mut model = Scorer::load(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu), &config)?;
//! let input = BertInput::from_ids(Tensor::new(&[[1u32, 4, 2], [1, 5, 2]], &Device::Cpu)?);
//! let labels = Tensor::new(&[0f32, 1.], &Device::Cpu)?;
//! let (loss, scores) =
//!     model.forward_with_labels(&input, &labels, &ForwardOptions::training(1))?;
//! assert_eq!((loss.rank(), scores.dims()), (0, &[2][..]));
//! assert!(loss.backward()?.get(&vars.data().lock().unwrap()["score.weight"]).is_some());
//! model.freeze()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Dimensions
//!
//! | letter | meaning |
//! |---|---|
//! | `B` | batch: sequences in one call |
//! | `S` | sequence length in tokens; `Q` and `K` where queries and keys differ |
//! | `T` | tokens of a packed batch |
//! | `H` | hidden size |
//! | `L` | layers |
//! | `N` | attention heads |
//! | `D` | size of a head, `H / N` |
//! | `F` | feed-forward size |
//! | `V` | vocabulary size |
//! | `P` | positions of the checkpoint |
//! | `C` | classes, or choices |
//! | `M` | rows of any kind |

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
pub use loss::counted_labels;
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

/// Compiles the README's program as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
