//! Models with a head, one file each.

mod classifier;
pub(crate) mod head;
pub(crate) mod lm_head;
pub(crate) mod lm_prediction_head;
mod masked_lm;
mod multiple_choice;
mod next_sentence;
mod pretraining;
mod question_answering;
mod sequence_classification;
mod token_classification;

pub use head::{Head, HeadPass};
pub use lm_head::BertLMHeadModel;
pub use lm_prediction_head::BertLMPredictionHead;
pub use masked_lm::BertForMaskedLM;
pub use multiple_choice::BertForMultipleChoice;
pub use next_sentence::BertForNextSentencePrediction;
pub use pretraining::{BertForPreTraining, PreTrainingLabels};
pub use question_answering::{AnswerSpans, BertForQuestionAnswering};
pub use sequence_classification::BertForSequenceClassification;
pub use token_classification::BertForTokenClassification;
