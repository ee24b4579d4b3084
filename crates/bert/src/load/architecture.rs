//! What the names of a checkpoint's weights tell of its architecture.

use std::collections::{BTreeMap, HashSet};

use bert_core::BertConfig;

/// What the names of heads begin with, the pooler's among them.
const HEADS: [&str; 4] = ["classifier.", "cls.", "pooler.", "qa_outputs."];
/// The parts of a layer that have a weight and a bias.
const PARTS: [&str; 8] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
];
/// The tables of the embeddings.
const TABLES: [&str; 3] = ["word_embeddings", "position_embeddings", "token_type_embeddings"];
/// The last parts of names of tensors that are no parameters: constants, and what quantizers leave.
const BUFFERS: [&str; 10] = [
    "_amax",
    "attention_mask",
    "head_mask",
    "inv_freq",
    "masked_bias",
    "num_batches_tracked",
    "padding_idx",
    "position_ids",
    "token_type_ids",
    "version",
];

/// A weight's name without the prefix that models with a head have, and in the names of today:
/// checkpoints from TensorFlow say gamma and beta.
pub(super) fn canonical(name: &str) -> String {
    let name = plain(name);
    let legacy = [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")];
    let current = |(old, new): (&str, &str)| Some(format!("{}{new}", name.strip_suffix(old)?));
    legacy.into_iter().find_map(current).unwrap_or_else(|| name.to_owned())
}

fn plain(name: &str) -> &str {
    name.strip_prefix("bert.").unwrap_or(name)
}

/// Whether a weight is one that fine-tuning begins anew: of a head, of the pooler, or of a decoder's
/// attention to an encoder.
pub(super) fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| plain(name).starts_with(head)) || name.contains(".crossattention.")
}

fn is_pooler(name: &str) -> bool {
    plain(name).starts_with("pooler.")
}

/// Whether a tensor is no parameter of a model.
pub(super) fn is_buffer(name: &str) -> bool {
    BUFFERS.contains(&name.rsplit('.').next().unwrap_or(name))
}

/// Whether a canonical name is one of a BERT's embeddings or of any of its layers.
fn is_bert(name: &str) -> bool {
    if let Some(part) = name.strip_prefix("embeddings.") {
        let table = part.strip_suffix(".weight");
        return table.is_some_and(|table| TABLES.contains(&table))
            || ["LayerNorm.weight", "LayerNorm.bias"].contains(&part);
    }
    let layer = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.'));
    let Some((number, part)) = layer else { return false };
    let part = part.strip_prefix("cross").unwrap_or(part);
    let stem = part.strip_suffix(".weight").or_else(|| part.strip_suffix(".bias"));
    number.bytes().all(|digit| digit.is_ascii_digit())
        && (stem.is_some_and(|stem| PARTS.contains(&stem))
            || part == "attention.self.distance_embedding.weight")
}

/// The unused weights that lie where a BERT has none: a BERT would compute other numbers than the
/// architecture that they belong to. All names are those after the caller's renamings.
pub(super) fn foreign<'a>(used: &[&str], unused: &[&'a str]) -> Vec<&'a str> {
    let known: HashSet<String> = used.iter().map(|name| canonical(name)).collect();
    let below_bert = |name: &&&str| name.starts_with("bert.") && is_bert(&canonical(name));
    let prefix = if used.iter().any(|name| below_bert(&name)) { "bert." } else { "" };
    let is_foreign = |name: &&&str| {
        let name = **name;
        if !name.starts_with(prefix) || prefix.is_empty() && name.starts_with("bert.") {
            return false;
        }
        let own = canonical(name);
        let in_model = ["embeddings.", "embeddings_project.", "encoder."];
        let where_bert_is = in_model.iter().any(|part| own.starts_with(part))
            || !prefix.is_empty() && !is_head(&own);
        // A weight under two names, layers that the config leaves out, or a decoder's parts.
        where_bert_is && !known.contains(&own) && !is_bert(&own) && !is_buffer(name)
    };
    unused.iter().filter(is_foreign).copied().collect()
}

/// What to do about missing weights. `found`: the names in the files.
pub(super) fn advice(missing: &[String], found: &[String], config: &BertConfig) -> String {
    let new = "LoadOptions::with_missing_initialized";
    if let Some(prefix) = hidden_prefix(missing, found) {
        return format!(
            "their names begin with {prefix:?} there: load with \
             LoadOptions::with_renamed_prefix({prefix:?}, \"\")"
        );
    }
    if missing.iter().all(|name| is_pooler(name)) && !found.iter().any(|name| is_pooler(name)) {
        return format!(
            "the checkpoint has no pooler: BertModel can do without \
             (LoadOptions::without_pooling_layer, which AutoModel does by itself), other classes need a \
             new one ({new})"
        );
    }
    if missing.iter().all(|name| name.contains(".crossattention.")) {
        return format!(
            "config.json asks for cross-attention, and the checkpoint was saved without: ask for new \
             weights with {new}"
        );
    }
    if missing.iter().all(|name| is_head(name)) {
        return format!(
            "load the class the checkpoint was saved from, or ask for new weights with {new}"
        );
    }
    if missing.iter().all(|name| name.contains(".distance_embedding.")) {
        return "config.json asks for relative positions, and the checkpoint was saved without: correct \
                position_embedding_type"
            .to_owned();
    }
    let strange = found.iter().find(|name| {
        let own = canonical(name);
        let in_model = own.contains("encoder.") || own.contains("embeddings.");
        in_model && !is_bert(&own) && !is_buffer(name)
    });
    let code = match config.other.contains_key("auto_map") {
        true => ", whose code config.json names under auto_map",
        false => "",
    };
    match strange {
        Some(name) => format!(
            "the checkpoint's architecture is not BERT's ({name} is no part of one){code}; load it in \
             Python"
        ),
        None => format!(
            "every BERT has these weights: a file may be missing, or config.json may belong to another \
             checkpoint. To draw them anew, use {new} and from_pretrained_with_report"
        ),
    }
}

/// What stands before the names of missing weights of the model, or of the pooler, in the checkpoint,
/// like `module.`.
pub(super) fn hidden_prefix(missing: &[String], found: &[String]) -> Option<String> {
    /// Missing weights that are looked for.
    const SOME: usize = 50;
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let wanted = missing.iter().map(|name| plain(name));
    let wanted = wanted.filter(|name| is_pooler(name) || !is_head(name));
    for wanted in wanted.take(SOME) {
        for name in found {
            let prefix = name.strip_suffix(wanted).filter(|prefix| prefix.ends_with('.'));
            let prefix = prefix.map(|prefix| prefix.strip_suffix("bert.").unwrap_or(prefix));
            if let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) {
                *counts.entry(prefix).or_default() += 1;
            }
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(prefix, _)| prefix.to_owned())
}
