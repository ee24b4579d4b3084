//! Which configurations a BERT can have.

use super::{BertConfig, ProblemType};
use crate::error::{Error, Result};

/// The largest size in a config: the number of elements of a matrix always fits a `usize`.
const MAX_SIZE: usize = i32::MAX as usize;
/// The most layers of a config.
const MAX_LAYERS: usize = 1 << 16;

impl BertConfig {
    /// Checks that a model can have this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the field, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.validate_sizes()?;
        self.validate_numbers()?;
        self.validate_pruned_heads()?;
        if self.add_cross_attention && !self.is_decoder {
            let expected = "false, or is_decoder true";
            return Err(Error::config("add_cross_attention", true, expected));
        }
        let vocab_size = self.vocab_size as i64;
        if let Some(id) = self.pad_token_id.filter(|id| !(-vocab_size..vocab_size).contains(id)) {
            let expected = format!("an id from {} to {}", -vocab_size, vocab_size - 1);
            return Err(Error::config("pad_token_id", id, expected));
        }
        if self.problem_type == Some(ProblemType::SingleLabelClassification)
            && self.num_labels() == 1
        {
            let got = "\"single_label_classification\" with 1 label";
            let expected = "at least 2 labels, or problem_type \"regression\"";
            return Err(Error::config("problem_type", got, expected));
        }
        self.activation().map(drop)
    }

    fn validate_sizes(&self) -> Result<()> {
        for (field, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("id2label", self.id2label.len()),
        ] {
            if !(1..=MAX_SIZE).contains(&size) {
                return Err(Error::config(field, size, format!("a size from 1 to {MAX_SIZE}")));
            }
        }
        if self.num_hidden_layers > MAX_LAYERS {
            let expected = format!("at most {MAX_LAYERS}");
            return Err(Error::config("num_hidden_layers", self.num_hidden_layers, expected));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let expected =
                format!("a multiple of num_attention_heads, {}", self.num_attention_heads);
            return Err(Error::config("hidden_size", self.hidden_size, expected));
        }
        Ok(())
    }

    fn validate_numbers(&self) -> Result<()> {
        for (field, probability) in [
            ("hidden_dropout_prob", Some(self.hidden_dropout_prob)),
            ("attention_probs_dropout_prob", Some(self.attention_probs_dropout_prob)),
            ("classifier_dropout", self.classifier_dropout),
        ] {
            if let Some(p) = probability.filter(|p| !(0. ..=1.).contains(p)) {
                return Err(Error::config(field, p, "a probability between 0 and 1"));
            }
        }
        for (field, value) in
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)]
        {
            if !(value.is_finite() && value >= 0.) {
                return Err(Error::config(field, value, "a finite number, at least 0"));
            }
        }
        Ok(())
    }

    fn validate_pruned_heads(&self) -> Result<()> {
        const FIELD: &str = "pruned_heads";
        let (n, layers) = (self.num_attention_heads, self.num_hidden_layers);
        for (layer, pruned) in &self.pruned_heads {
            if *layer >= layers {
                let expected = format!("layers below {layers}");
                return Err(Error::config(FIELD, format!("layer {layer}"), expected));
            }
            if let Some(head) = pruned.iter().find(|head| **head >= n) {
                let expected = format!("heads below {n}");
                return Err(Error::config(FIELD, format!("{layer}: {head}"), expected));
            }
            if (0..n).all(|head| pruned.contains(&head)) {
                let got = format!("{layer}: all of them");
                return Err(Error::config(FIELD, got, "at least one head left"));
            }
        }
        Ok(())
    }
}
