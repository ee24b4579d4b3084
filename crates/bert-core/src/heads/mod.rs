//! Models with a head, one file each.

mod prediction;
mod pretraining;

pub use pretraining::{BertForPreTraining, BertForPreTrainingOutput};
