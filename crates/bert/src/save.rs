//! Models and tokenizers as folders that transformers loads.

use std::collections::BTreeMap;
use std::io::{Error as IoError, Result as IoResult, Write};
use std::path::Path;

use bert_core::{BertConfig, Parameter, Parameters};
use bert_tokenize::BertTokenizer;
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::atomic::StagedFiles;
use crate::files::safetensors::{Entry, header, write_tensor};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How a model is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The most bytes of weights in one file. A larger model is split into several files; a single
    /// weight is never split. Default: 50 GB, as in transformers.
    pub max_shard_size: u64,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { max_shard_size: 50_000_000_000 }
    }
}

impl SaveOptions {
    /// One file, unless the model is larger than 50 GB.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`SaveOptions::max_shard_size`].
    pub fn with_max_shard_size(mut self, bytes: u64) -> Self {
        self.max_shard_size = bytes;
        self
    }
}

/// Writes `config` and the weights of a model into `folder`, all of them or none.
pub(crate) fn save_model<M: Parameters>(
    model: &M,
    config: &BertConfig,
    folder: &Path,
    options: &SaveOptions,
) -> Result<()> {
    let config_text = config.to_json()?;
    let shards = shards(model, options.max_shard_size);
    check_head(&shards, config)?;
    let count = shards.len();
    let name = |number: usize| match count {
        1 => WEIGHTS.to_owned(),
        _ => format!("model-{number:05}-of-{count:05}.safetensors"),
    };
    let names: Vec<String> = (1..=count).map(name).collect();
    let save = || {
        let mut staged = StagedFiles::new(folder)?;
        for (name, shard) in names.iter().zip(&shards) {
            staged.write(name, |file| {
                file.write_all(&header(shard)?)?;
                let mut expected = shard.iter().peekable();
                each_weight(model, |name, parameter| {
                    match expected.next_if(|entry| entry.name == name) {
                        Some(_) => write_tensor(file, &parameter.tensor().map_err(IoError::other)?),
                        None => Ok(()),
                    }
                })
            })?;
        }
        if count > 1 {
            staged.write(INDEX, |file| file.write_all(index(&shards, &names).as_bytes()))?;
        }
        staged.write("config.json", |file| file.write_all(config_text.as_bytes()))?;
        // Loaders take the first kind of weights that they find.
        staged.commit(is_weights)
    };
    save().map_err(|source| Error::Save { path: folder.to_owned(), source })
}

/// Whether an earlier save can have written a file of this name.
fn is_weights(name: &str) -> bool {
    let shard = name.strip_prefix("model-").and_then(|name| name.strip_suffix(".safetensors"));
    let numbers = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_shard = |(part, count): (&str, &str)| numbers(part) && numbers(count);
    name == WEIGHTS
        || name == INDEX
        || shard.and_then(|it| it.split_once("-of-")).is_some_and(is_shard)
}

/// Refuses a head whose vocabulary is not that of the model below it.
fn check_head(shards: &[Vec<Entry>], config: &BertConfig) -> Result<()> {
    for entry in shards.iter().flatten() {
        let is_head = ["cls.predictions.bias", "cls.predictions.decoder.weight"];
        if is_head.contains(&&*entry.name) && entry.shape[0] != config.vocab_size {
            return Err(Error::Model(bert_core::Error::Shape {
                name: "cls.predictions",
                got: entry.shape.clone(),
                expected: format!(
                    "{} words, as below the head; call resize_token_embeddings on the model with \
                     the head",
                    config.vocab_size
                ),
            }));
        }
    }
    Ok(())
}

/// Calls `see` with every weight that transformers expects in a file.
fn each_weight<M: Parameters>(
    model: &M,
    mut see: impl FnMut(&str, Parameter) -> IoResult<()>,
) -> IoResult<()> {
    let mut failure = Ok(());
    let mut untied = false;
    let visited = model.for_each_parameter(|name, parameter| {
        if failure.is_ok() {
            failure = see(name, parameter);
        }
        untied |= name == "cls.predictions.decoder.weight";
        if untied && failure.is_ok() && name == "cls.predictions.bias" {
            // In transformers a decoder that is not tied has a bias of its own as well.
            failure = see("cls.predictions.decoder.bias", parameter);
        }
        Ok(())
    });
    failure.and(visited.map_err(IoError::other))
}

/// The weights in order, in as few files as possible.
fn shards<M: Parameters>(model: &M, most: u64) -> Vec<Vec<Entry>> {
    let (mut shards, mut shard, mut bytes) = (Vec::new(), Vec::new(), 0);
    // Listing cannot fail.
    let _ = each_weight(model, |name, parameter| {
        let entry = Entry::new(name, parameter.dtype(), parameter.dims());
        if bytes > 0 && bytes + entry.bytes() > most {
            shards.push(std::mem::take(&mut shard));
            bytes = 0;
        }
        bytes += entry.bytes();
        shard.push(entry);
        Ok(())
    });
    shards.push(shard);
    shards
}

fn index(shards: &[Vec<Entry>], names: &[String]) -> String {
    let weight_map: BTreeMap<&str, &String> = (shards.iter().zip(names))
        .flat_map(|(shard, name)| shard.iter().map(move |entry| (entry.name.as_str(), name)))
        .collect();
    let total_size: u64 = shards.iter().flatten().map(Entry::bytes).sum();
    format!("{:#}", json!({"metadata": {"total_size": total_size}, "weight_map": weight_map}))
}

/// A tokenizer that can be saved. Hugging Face: `PreTrainedTokenizer`.
pub trait PreTrainedTokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`. Older files are replaced once
    /// both new ones are complete.
    ///
    /// # Errors
    /// [`Error::Save`] when they cannot be written.
    fn save_pretrained(&self, folder: impl AsRef<Path>) -> Result<()>;
}

impl PreTrainedTokenizer for BertTokenizer {
    fn save_pretrained(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let files = self.to_files()?;
        let save = || {
            let mut staged = StagedFiles::new(folder)?;
            for (name, text) in &files {
                staged.write(name, |file| file.write_all(text.as_bytes()))?;
            }
            staged.commit(|_| false)
        };
        save().map_err(|source| Error::Save { path: folder.to_owned(), source })
    }
}
