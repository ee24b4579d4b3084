//! Which configurations a BERT can have.

use std::collections::BTreeSet;

use super::{BertConfig, ProblemType};
use crate::error::{Error, Result};

/// The largest size in a config: the number of elements of a matrix always fits a `usize`.
const MAX_SIZE: usize = i32::MAX as usize;
/// The most layers of a config.
const MAX_LAYERS: usize = 1 << 16;
/// The most attention heads of a layer.
const MAX_HEADS: usize = 1 << 12;

impl BertConfig {
    /// Checks that a model can have this configuration.
    ///
    /// # Errors
    /// [`Error::Config`] with the field, its value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.validate_sizes()?;
        self.validate_numbers()?;
        self.validate_pruned_heads()?;
        let expected = "false, or is_decoder true";
        let ok = self.is_decoder || !self.add_cross_attention;
        check(ok, "add_cross_attention", self.add_cross_attention, expected)?;
        let vocab_size = self.vocab_size as i64;
        if let Some(id) = self.pad_token_id {
            let expected = format!("an id from {} to {}", -vocab_size, vocab_size - 1);
            check((-vocab_size..vocab_size).contains(&id), "pad_token_id", id, expected)?;
        }
        self.activation().map(drop)
    }

    /// Checks that a classifier has classes. Other models need none.
    pub(crate) fn validate_classes(&self) -> Result<()> {
        check(self.num_labels() > 0, "id2label", "{}", "the names of 1 class or more")
    }

    /// What the loss of a sequence classifier is, if the config says it.
    ///
    /// # Errors
    /// [`Error::Config`] for a `problem_type` that there is not, or that does not go with the number of
    /// classes.
    pub(crate) fn problem(&self) -> Result<Option<ProblemType>> {
        let unknown = self.other.get("problem_type").filter(|value| !value.is_null());
        if let Some(got) = unknown {
            let expected = "\"regression\", \"single_label_classification\" or \
                            \"multi_label_classification\"";
            return Err(Error::config("problem_type", got, expected));
        }
        let one_of_several = self.problem_type == Some(ProblemType::SingleLabelClassification);
        let got = "\"single_label_classification\" with 1 label";
        let expected = "at least 2 labels, or problem_type \"regression\"";
        check(!one_of_several || self.num_labels() > 1, "problem_type", got, expected)?;
        Ok(self.problem_type)
    }

    fn validate_sizes(&self) -> Result<()> {
        let (layers, n) = (self.num_hidden_layers, self.num_attention_heads);
        for (field, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", n),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ] {
            let expected = format!("a size from 1 to {MAX_SIZE}");
            check((1..=MAX_SIZE).contains(&size), field, size, expected)?;
        }
        let expected = format!("at most {MAX_LAYERS}");
        check(layers <= MAX_LAYERS, "num_hidden_layers", layers, expected)?;
        let expected = format!("at most {MAX_HEADS}");
        check(n <= MAX_HEADS, "num_attention_heads", n, expected)?;
        let (h, expected) = (self.hidden_size, format!("a multiple of num_attention_heads, {n}"));
        check(h.is_multiple_of(n), "hidden_size", h, expected)
    }

    pub(super) fn validate_numbers(&self) -> Result<()> {
        for (field, p) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.)),
        ] {
            check((0. ..=1.).contains(&p), field, p, "a probability between 0 and 1")?;
        }
        for (field, value) in
            [("layer_norm_eps", self.layer_norm_eps), ("initializer_range", self.initializer_range)]
        {
            let ok = value.is_finite() && value >= 0.;
            check(ok, field, value, "a finite number, at least 0")?;
        }
        Ok(())
    }

    fn validate_pruned_heads(&self) -> Result<()> {
        let (n, layers) = (self.num_attention_heads, self.num_hidden_layers);
        for (layer, pruned) in &self.pruned_heads {
            let check = |ok, got, expected| check(ok, "pruned_heads", got, expected);
            let expected = format!("layers below {layers}");
            check(*layer < layers, format!("layer {layer}"), expected)?;
            for head in pruned {
                check(*head < n, format!("{layer}: {head}"), format!("heads below {n}"))?;
            }
            let distinct: BTreeSet<_> = pruned.iter().collect();
            let expected = "at least one head left".to_owned();
            check(distinct.len() < n, format!("{layer}: all of them"), expected)?;
        }
        Ok(())
    }
}

/// Refuses a field's value unless it is `ok`.
fn check(ok: bool, field: &'static str, got: impl ToString, expected: impl ToString) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::config(field, got, expected)) }
}
