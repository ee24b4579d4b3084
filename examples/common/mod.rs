//! What the examples have in common.

use std::path::Path;

use bert::{Checkpoint, LoadOptions, Result, SentenceTransformer, best_device};

/// The named checkpoint. Without a name it is the first of `folders` that exists, or else the built-in
/// checkpoint, which knows simple everyday English.
#[allow(dead_code)]
pub fn checkpoint(name: Option<&str>, folders: &[&str], advice: &str) -> Result<Checkpoint> {
    let found = folders.iter().find(|folder| Path::new(folder).is_dir());
    match name.or(found.copied()) {
        Some(name) => Checkpoint::from_name(name),
        None => {
            println!("The built-in checkpoint knows simple everyday English. {advice}\n");
            Ok(Checkpoint::built_in())
        }
    }
}

/// The named encoder of texts, or without a name MiniLM if it was fetched, or else the built-in checkpoint.
#[allow(dead_code)]
pub fn sentence_transformer(name: Option<&str>) -> Result<SentenceTransformer> {
    let advice = "For other texts run scripts/fetch-minilm, or pass --model \
                  sentence-transformers/all-MiniLM-L6-v2.";
    let checkpoint = checkpoint(name, &["target/minilm"], advice)?;
    let options = LoadOptions::new().with_device(best_device());
    let model = SentenceTransformer::from_pretrained(checkpoint, &options)?;
    if let Some(note) = model.note() {
        println!("Note: {note}.\n");
    }
    Ok(model)
}
