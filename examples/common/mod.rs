//! What the examples have in common.

use std::path::Path;

use bert::{Checkpoint, Result};

/// The named checkpoint. Without a name it is the first of `folders` that exists, or else the built-in
/// checkpoint, which knows nothing.
#[allow(dead_code)]
pub fn checkpoint(name: Option<&str>, folders: &[&str], advice: &str) -> Result<Checkpoint> {
    let found = folders.iter().find(|folder| Path::new(folder).is_dir());
    match name.or(found.copied()) {
        Some(name) => Checkpoint::from_name(name),
        None => {
            println!("This is the built-in checkpoint. It is untrained: it knows nothing, and its");
            println!("answers are random. {advice}\n");
            Ok(Checkpoint::built_in())
        }
    }
}
