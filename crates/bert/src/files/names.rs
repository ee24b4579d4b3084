//! The names of a checkpoint's files.

use std::path::Path;

use crate::error::{Error, Result};

/// Refuses names of files outside the checkpoint.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let is_plain = |part: &str| !["", ".", ".."].contains(&part);
    match !name.contains('\\') && name.split('/').all(is_plain) {
        true => Ok(()),
        false => Err(Error::FileName { got: name.to_owned() }),
    }
}

/// The files of a folder and, with their paths, those in its folders.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut all: Vec<String> = names(folder)
        .into_iter()
        .filter(|name| name != ".git")
        .flat_map(|name| match names(&folder.join(&name)).as_slice() {
            [] => vec![name],
            inner => inner.iter().map(|inner| format!("{name}/{inner}")).collect(),
        })
        .collect();
    all.sort();
    all
}
