//! The classes of a classifier, as `config.json` names them.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The most labels of a config.
const MAX_LABELS: usize = 1 << 16;

pub(super) fn default(count: usize) -> BTreeMap<i64, String> {
    (0..count as i64).map(|id| (id, unnamed(id))).collect()
}

pub(super) fn ids_of(id2label: &BTreeMap<i64, String>) -> BTreeMap<String, i64> {
    id2label.iter().map(|(id, label)| (label.clone(), *id)).collect()
}

/// `num_labels`. None for null.
pub(super) fn count(value: &Value) -> Result<Option<usize>> {
    let count = match value {
        Value::Null => return Ok(None),
        Value::Bool(count) => Some(i64::from(*count)),
        value => value.as_i64().or_else(|| value.as_f64().map(|count| count as i64)),
    };
    // Python's range of a negative number is empty.
    let count = count.map(|count| usize::try_from(count).unwrap_or(0));
    let expected = format!("an integer up to {MAX_LABELS}");
    let count = count.filter(|count| *count <= MAX_LABELS);
    count.map(Some).ok_or_else(|| Error::config("num_labels", value, expected))
}

/// Reads `id2label`.
pub(super) fn names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<i64, String>, D::Error> {
    let names = Map::deserialize(deserializer)?.into_iter().map(|(key, name)| {
        let id = id(&key)
            .ok_or_else(|| D::Error::custom(format!("{key:?} is not the number of a class")))?;
        let name = match name {
            Value::String(name) => name,
            Value::Null => unnamed(id),
            other => other.to_string(),
        };
        Ok((id, name))
    });
    names.collect()
}

/// Reads `label2id`. An id that is not a number is left out.
pub(super) fn ids<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<BTreeMap<String, i64>, D::Error> {
    let ids = Map::deserialize(deserializer)?.into_iter().filter_map(|(name, value)| {
        let id = match &value {
            Value::String(text) => id(text),
            value => value.as_i64().or_else(|| value.as_f64().map(|id| id as i64)),
        };
        Some((name, id?))
    });
    Ok(ids.collect())
}

fn unnamed(id: i64) -> String {
    format!("LABEL_{id}")
}

/// An integer as Python reads it.
fn id(text: &str) -> Option<i64> {
    text.trim().replace('_', "").parse().ok()
}
