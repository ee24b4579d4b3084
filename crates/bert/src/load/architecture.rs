//! What the names of a checkpoint's weights tell of its architecture.

use bert_core::BertConfig;

/// The beginnings of the names of heads, the pooler among them.
const HEADS: [&str; 4] = ["classifier.", "cls.", "pooler.", "qa_outputs."];

/// A weight's name without the prefix that models with a head have.
fn plain(name: &str) -> &str {
    name.strip_prefix("bert.").unwrap_or(name)
}

/// Whether a weight belongs to a head or to the pooler: what fine-tuning begins anew.
pub(super) fn is_head(name: &str) -> bool {
    HEADS.iter().any(|head| plain(name).starts_with(head))
}

fn is_pooler(name: &str) -> bool {
    plain(name).starts_with("pooler.")
}

/// Whether an unused weight lies in the embeddings or in one of `layers` layers, where every weight of
/// a BERT is used: the model would compute something else than the checkpoint's own.
pub(super) fn is_foreign(unused: &str, layers: usize) -> bool {
    let name = plain(unused);
    if name.starts_with("embeddings.") {
        return true;
    }
    let Some(rest) = name.strip_prefix("encoder.") else { return false };
    let layer = rest.strip_prefix("layer.").and_then(|rest| rest.split_once('.'));
    match layer.and_then(|(index, part)| Some((index.parse::<usize>().ok()?, part))) {
        // A model of fewer layers, or an encoder made of a decoder.
        Some((index, part)) => index < layers && !part.starts_with("crossattention."),
        None => true,
    }
}

/// What to do about missing weights.
pub(super) fn advice(missing: &[String], found: &[String], config: &BertConfig) -> String {
    let new = "ask for new weights with LoadOptions::with_missing_initialized";
    if let Some(prefix) = common_prefix(missing, found) {
        return format!(
            "their names begin with {prefix:?} there: load with \
             LoadOptions::with_renamed_prefix({prefix:?}, \"\")"
        );
    }
    if missing.iter().all(|name| is_pooler(name)) {
        return format!(
            "the checkpoint has no pooler: leave it out with LoadOptions::without_pooling_layer, load \
             with AutoModel, which does so, or {new}"
        );
    }
    if missing.iter().all(|name| is_head(name)) {
        return format!("load the class the checkpoint was saved from, or {new}");
    }
    let foreign =
        found.iter().find(|name| is_foreign(name, config.num_hidden_layers) && !known(name));
    let code = match config.other.contains_key("auto_map") {
        true => ", whose code config.json names under auto_map",
        false => "",
    };
    match foreign {
        Some(name) => format!(
            "the checkpoint's architecture is not BERT's ({name} is no part of one){code}; load it in \
             Python"
        ),
        None => "these are parts of every BERT: use all files of one checkpoint. If they are to be new, \
                 ask for it with LoadOptions::with_missing_initialized and load with \
                 from_pretrained_with_report"
            .to_owned(),
    }
}

/// Whether a name is one of a BERT's layers or embeddings.
fn known(name: &str) -> bool {
    const PARTS: [&str; 8] = [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.self.distance_embedding",
        "attention.output",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ];
    let name = plain(name);
    let tables = ["word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"];
    match name.strip_prefix("embeddings.") {
        Some(table) => tables.iter().any(|known| table.starts_with(known)),
        None => {
            let part = name.strip_prefix("encoder.layer.").and_then(|rest| rest.split_once('.'));
            part.is_some_and(|(_, part)| PARTS.iter().any(|known| part.starts_with(known)))
        }
    }
}

/// What stands before the names of most of the missing weights in the checkpoint, like `module.`.
pub(super) fn common_prefix(missing: &[String], found: &[String]) -> Option<String> {
    let prefix_of = |wanted: &str| {
        let wanted = plain(wanted);
        let prefix = found.iter().find_map(|name| name.strip_suffix(wanted));
        let prefix = prefix.filter(|prefix| prefix.ends_with('.'))?;
        let prefix = prefix.strip_suffix("bert.").unwrap_or(prefix);
        (!prefix.is_empty()).then_some(prefix)
    };
    let prefix = missing.iter().find_map(|name| prefix_of(name))?;
    let same = missing.iter().filter(|name| prefix_of(name) == Some(prefix)).count();
    (2 * same > missing.len()).then(|| prefix.to_owned())
}
