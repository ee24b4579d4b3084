//! The index of a checkpoint in several files.

use std::collections::{BTreeMap, BTreeSet};

/// The files that the index of a sharded checkpoint names.
pub(crate) fn shards(index: &[u8]) -> std::result::Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    match files.iter().find(|file| file.contains(['/', '\\', ':']) || file.starts_with('.')) {
        Some(file) => Err(format!("{file:?} is not the name of a file in the same folder")),
        None if files.is_empty() => Err("it lists no files".to_owned()),
        None => Ok(files),
    }
}
