//! From a model to a folder that transformers loads.

use std::collections::{BTreeMap, HashMap};
use std::io::{Error as IoError, Result as IoResult, Write};
use std::path::Path;

use bert_core::{BertConfig, Parameter, Parameters};
use bert_tokenize::BertTokenizer;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use crate::error::{Error, Result};
use crate::files::atomic::Aside;
use crate::files::safetensors::SafetensorsFile;
use crate::files::weight_file::WeightFile;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How a model is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The most bytes of weights in one file; a larger model is split over several. A single weight
    /// is never split. Default: 50 GB, as in transformers.
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

    /// Splits weights over files of at most `bytes`.
    pub fn max_shard_size(mut self, bytes: u64) -> Self {
        self.max_shard_size = bytes;
        self
    }
}

/// A weight to be written.
struct Entry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
}

impl Entry {
    fn new(name: &str, dtype: DType, shape: Vec<usize>) -> Self {
        Self { name: name.to_owned(), dtype, shape }
    }

    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()) as u64
    }
}

/// Writes `config` and the weights of a model into `folder`. The config gets its name last.
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
    let name = |i: usize| match count {
        1 => WEIGHTS.to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let save = || {
        let mut aside = Aside::new(folder)?;
        for (i, shard) in shards.iter().enumerate() {
            aside.write(&name(i), |file| {
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
            aside.write(INDEX, |file| file.write_all(index(&shards, name).as_bytes()))?;
        }
        let mut config_aside = Aside::new(folder)?;
        config_aside.write("config.json", |file| file.write_all(config_text.as_bytes()))?;
        aside.rename()?;
        // Of several kinds of weights, loaders take the first they find.
        let new: Vec<String> =
            (0..count).map(name).chain((count > 1).then(|| INDEX.into())).collect();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_weights(&name) && !new.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        config_aside.rename()
    };
    save().map_err(|cause| Error::Save { path: folder.to_owned(), cause })
}

/// Whether a file is one that an earlier save wrote weights or their index into.
fn is_weights(name: &str) -> bool {
    let shard = name.strip_prefix("model-").and_then(|name| name.strip_suffix(".safetensors"));
    let numbers = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_shard = |(part, count): (&str, &str)| numbers(part) && numbers(count);
    name == WEIGHTS
        || name == INDEX
        || shard.and_then(|it| it.split_once("-of-")).is_some_and(is_shard)
}

/// Refuses a head over another vocabulary than that of the model below it.
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

/// Calls `see` with every weight that transformers wants in a file.
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
            // There a decoder of one's own has a bias of its own too.
            failure = see("cls.predictions.decoder.bias", parameter);
        }
        Ok(())
    });
    failure.and(visited.map_err(IoError::other))
}

/// Weights in their order, in as few files as hold them.
fn shards<M: Parameters>(model: &M, most: u64) -> Vec<Vec<Entry>> {
    let (mut shards, mut shard, mut bytes) = (Vec::new(), Vec::new(), 0);
    // Listing them cannot fail.
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

fn index(shards: &[Vec<Entry>], name: impl Fn(usize) -> String) -> String {
    let weight_map: BTreeMap<&str, String> = (shards.iter().enumerate())
        .flat_map(|(i, shard)| shard.iter().map(move |entry| (i, entry)))
        .map(|(i, entry)| (entry.name.as_str(), name(i)))
        .collect();
    let total_size: u64 = shards.iter().flatten().map(Entry::bytes).sum();
    format!("{:#}", json!({"metadata": {"total_size": total_size}, "weight_map": weight_map}))
}

/// What stands before the tensors of a safetensors file.
fn header(entries: &[Entry]) -> IoResult<Vec<u8>> {
    let mut end = 0;
    let tensors = entries.iter().map(|entry| {
        let start = end;
        end += entry.bytes() as usize;
        let (dtype, shape) = (Dtype::from(entry.dtype), entry.shape.clone());
        (entry.name.clone(), TensorInfo { dtype, shape, data_offsets: (start, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors.collect()).map_err(IoError::other)?;
    let mut text = serde_json::to_vec(&metadata)?;
    // Tensors begin at a multiple of 8 bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

fn write_tensor(file: &mut impl Write, tensor: &Tensor) -> IoResult<()> {
    let host = tensor.to_device(&Device::Cpu).map_err(IoError::other)?;
    host.write_bytes(file).map_err(|error| match error {
        candle_core::Error::Io(cause) => cause,
        other => IoError::other(other),
    })
}

/// Writes tensors into a safetensors file, for example the state of an optimizer. What stood there
/// before is replaced when the new file is whole.
///
/// # Errors
/// [`Error::Save`] when the file cannot be written.
pub fn save_tensors(tensors: &BTreeMap<String, Tensor>, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, tensor)| Entry::new(name, tensor.dtype(), tensor.dims().to_vec()))
        .collect();
    let save = || {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| IoError::other("this is no file's name"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut aside = Aside::new(folder.unwrap_or(Path::new(".")))?;
        aside.write(name, |file| {
            file.write_all(&header(&entries)?)?;
            tensors.values().try_for_each(|tensor| write_tensor(file, tensor))
        })?;
        aside.rename()
    };
    save().map_err(|cause| Error::Save { path: path.to_owned(), cause })
}

/// Reads the tensors of a safetensors file, which must be of a floating-point dtype, to the host.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Safetensors`] when it is damaged,
/// [`Error::WeightDType`] for a tensor of another dtype.
pub fn load_tensors(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let file = SafetensorsFile::open(path.as_ref())?;
    let mut tensors = HashMap::new();
    for name in file.names() {
        let info = file.info(&name);
        let Some(dtype) = info.as_ref().and_then(|info| info.dtype) else {
            let got = info.map(|info| info.stored_as).unwrap_or_default();
            let checkpoint = path.as_ref().display().to_string();
            return Err(Error::WeightDType { checkpoint, name, got });
        };
        let tensor = file.read(&name, dtype)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// A tokenizer that can be saved. Hugging Face: `PreTrainedTokenizer`.
pub trait PreTrainedTokenizer {
    /// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`, each replaced when the new
    /// ones are whole.
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
            let mut aside = Aside::new(folder)?;
            for (name, text) in &files {
                aside.write(name, |file| file.write_all(text.as_bytes()))?;
            }
            aside.rename()
        };
        save().map_err(|cause| Error::Save { path: folder.to_owned(), cause })
    }
}
