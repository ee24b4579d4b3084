//! What can go wrong between a name and a loaded model.

use std::path::PathBuf;

use candle_core::{DType, DeviceLocation};

use crate::load::report::{Mismatch, listing};
use crate::task_error::TaskError;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that says what was given, what was expected and, where possible, how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name is neither a folder nor a possible hub id.
    #[error(
        "{name:?} is neither a folder nor a hub id; expected the path of a folder with config.json, \
         or a name like google-bert/bert-base-uncased"
    )]
    NoSuchCheckpoint {
        /// The name.
        name: String,
    },

    /// A checkpoint's folder lacks a file.
    #[error("no {file} in {checkpoint}{}", holding(found))]
    MissingFile {
        /// The file, or several files of which one would do.
        file: String,
        /// The checkpoint.
        checkpoint: String,
        /// The files that it has, if they are known.
        found: Option<Vec<String>>,
    },

    /// A checkpoint has no weights in a format that this library reads.
    #[error(
        "no weights in {checkpoint}: expected model.safetensors, pytorch_model.bin or an index of one of \
         them{}{}",
        holding(found),
        other_formats(found)
    )]
    NoWeights {
        /// The checkpoint.
        checkpoint: String,
        /// The files that it has, if they are known.
        found: Option<Vec<String>>,
    },

    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },

    /// A `config.json` is not that of a BERT.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: bert_core::Error,
    },

    /// A `tokenizer.json` cannot be used.
    #[error("{path}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: bert_tokenize::Error,
    },

    /// A safetensors file is damaged.
    #[error("{path} is not a whole safetensors file: {reason}; download or save it again")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A `pytorch_model.bin` is damaged, or no `torch.save` wrote it.
    #[error(
        "{path} is not a file of weights that torch.save wrote: {reason}; download or save it again"
    )]
    TorchFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A file that `torch.save` wrote holds something else than a model's weights by name.
    #[error("{path} holds {found} and not a state dict; in Python, save {expected}")]
    NoStateDict {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What to save instead.
        expected: String,
    },

    /// A file was cloned without Git LFS.
    #[error(
        "{path} is a pointer of Git LFS and not the file itself; run `git lfs pull` in its folder, or \
         download the file"
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },

    /// The index of a sharded checkpoint cannot be used.
    #[error("{path} is not an index of weight files: {reason}")]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// Two tensors of a checkpoint have one name.
    #[error(
        "{} and {} in {checkpoint} are the same parameter of the model; rename one of them with \
         LoadOptions::with_renamed_prefix", names[0], names[1]
    )]
    AmbiguousWeight {
        /// The checkpoint.
        checkpoint: String,
        /// The names in the files.
        names: [String; 2],
    },

    /// The checkpoint lacks weights that the model needs.
    #[error(
        "{} of the model's weights are not in {checkpoint}: {}; the checkpoint holds {}; {advice}",
        missing.len(), listing(missing), listing(found)
    )]
    MissingWeights {
        /// The checkpoint.
        checkpoint: String,
        /// The names the model asked for.
        missing: Vec<String>,
        /// The names the checkpoint has.
        found: Vec<String>,
        /// What to do.
        advice: String,
    },

    /// The checkpoint has weights in its embeddings or layers that no BERT has.
    #[error(
        "{checkpoint} has {} that BERT does not use in its embeddings or layers: {}; BERT would compute \
         other numbers than this architecture; load it in Python, or merge adapters there first",
        count(weights.len(), "weight"), listing(weights)
    )]
    OtherArchitecture {
        /// The checkpoint.
        checkpoint: String,
        /// Their names.
        weights: Vec<String>,
    },

    /// Weights have other shapes than the config says.
    #[error(
        "{} weights in {checkpoint} have other shapes than its config.json asks for: {}; use the config \
         that belongs to these weights, or ask for new ones with LoadOptions::with_missing_initialized and, \
         below a head, from_pretrained_with_report",
        mismatched.len(), listing(mismatched)
    )]
    MismatchedWeights {
        /// The checkpoint.
        checkpoint: String,
        /// Which weights, and both shapes of each.
        mismatched: Vec<Mismatch>,
    },

    /// A weight is stored as something that no model computes with.
    #[error("{name} in {checkpoint} is stored as {got}, expected F64, F32, F16 or BF16")]
    WeightDType {
        /// The checkpoint.
        checkpoint: String,
        /// The weight's name.
        name: String,
        /// Its dtype in the file.
        got: String,
    },

    /// A checkpoint was saved from a class that this library does not have.
    #[error("config.json names the class {got}, expected one of {}", known.join(", "))]
    UnknownArchitecture {
        /// The class.
        got: String,
        /// The classes of this library.
        known: &'static [&'static str],
    },

    /// A model is asked for in a dtype it cannot have.
    #[error(
        "a model cannot be loaded as {got:?} on {on:?}, expected F32, F16, BF16 or, except on Metal, F64"
    )]
    ModelDType {
        /// The dtype asked for.
        got: DType,
        /// The device asked for.
        on: DeviceLocation,
    },

    /// The hub was needed and did not answer.
    #[error(
        "{file} of {repo} is not in the cache {cache}, and {}; pass the path of a folder that holds the \
         checkpoint, or {}",
        if *offline { reason.clone() } else { format!("the hub cannot be reached: {reason}") },
        if *offline {
            "allow the network once"
        } else {
            "connect to the network (HF_HUB_OFFLINE=1 says that files which the cache lacks do not exist)"
        }
    )]
    HubUnreachable {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// Where it was looked for first.
        cache: PathBuf,
        /// Why the hub cannot be reached.
        reason: String,
        /// Whether the caller or the environment forbids the network.
        offline: bool,
    },

    /// The hub answered, but not with the file.
    #[error("cannot get {file} of {repo} from the hub: {reason}")]
    Hub {
        /// The repository.
        repo: String,
        /// The file.
        file: String,
        /// What the hub said.
        reason: String,
    },

    /// The hub's cache cannot be written to.
    #[error(
        "cannot write to the hub's cache {folder}: {source}; make room there, or set HF_HOME to another folder"
    )]
    Cache {
        /// The cache of one repository.
        folder: PathBuf,
        /// The reason.
        source: std::io::Error,
    },

    /// A file or a folder's files cannot be written.
    #[error("cannot save to {path}: {source}; make room there or choose another folder")]
    Save {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },

    /// A name that cannot be that of a checkpoint's file.
    #[error(
        "{got:?} is not the name of a file in a checkpoint, expected one like modules.json or 1_Pooling/config.json"
    )]
    FileName {
        /// The name.
        got: String,
    },

    /// An option of the hub was set for a checkpoint that is not on the hub.
    #[error("{option} has no effect on {checkpoint}, which is not on the hub; leave it out")]
    NotOnHub {
        /// The method that sets it.
        option: &'static str,
        /// The checkpoint.
        checkpoint: String,
    },

    /// A device was asked for that this machine or build does not have.
    #[error("no {name} device: {reason}; use another device, for example the CPU")]
    NoDevice {
        /// `cuda` or `metal`.
        name: &'static str,
        /// Why not.
        reason: String,
    },

    /// A pipeline or an encoder of texts cannot do what it is asked to.
    #[error(transparent)]
    Task(#[from] TaskError),

    /// The model refused a config or an input.
    #[error(transparent)]
    Model(#[from] bert_core::Error),

    /// The tokenizer refused a text.
    #[error(transparent)]
    Text(#[from] bert_tokenize::Error),

    /// The optimizer refused settings or gradients.
    #[error(transparent)]
    Training(#[from] bert_train::Error),

    /// An operation failed in Candle.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match bert_core::Error::from(error) {
            bert_core::Error::Candle(error) => Self::Candle(error),
            full => Self::Model(full),
        }
    }
}

impl Error {
    /// The row of the text that an error is about.
    pub(crate) fn row_mut(&mut self) -> Option<&mut usize> {
        use bert_tokenize::Error::{NoTokens, Stride, Truncation};
        match self {
            Self::Task(error) => error.row_mut(),
            Self::Text(NoTokens { row } | Truncation { row, .. } | Stride { row, .. }) => Some(row),
            _ => None,
        }
    }

    /// The error with the row that its text has for the caller.
    pub(crate) fn at_row(mut self, of: impl FnOnce(usize) -> usize) -> Self {
        if let Some(row) = self.row_mut() {
            *row = of(*row);
        }
        self
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// "1 weight" or "2 weights".
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The files of a checkpoint, if they are known.
fn holding(found: &Option<Vec<String>>) -> String {
    found.iter().map(|found| format!(", which holds {}", listing(found))).collect()
}

/// What the weights that a checkpoint has instead are, and how to convert them.
fn other_formats(found: &Option<Vec<String>>) -> String {
    const CONVERT: &str = "convert them in Python with transformers: save_pretrained of a model \
                           loaded with";
    let has = |ending: &str| found.iter().flatten().any(|name| name.ends_with(ending));
    let adapter = has("adapter_model.safetensors") || has("adapter_model.bin");
    if adapter {
        "; these are an adapter's: merge it with its model in Python (peft: merge_and_unload)"
            .to_owned()
    } else if has(".h5")
        || has("saved_model.pb")
        || found.iter().flatten().any(|name| is_tensorflow(name))
    {
        format!("; these weights are TensorFlow's: {CONVERT} from_tf=True (version 4)")
    } else if has(".msgpack") {
        format!("; these weights are Flax's: {CONVERT} from_flax=True (version 4)")
    } else if has(".onnx") {
        "; these weights are ONNX's, made from another checkpoint: load that one".to_owned()
    } else if has(".gguf") || has(".ot") || has("openvino_model.bin") {
        "; these weights were made for another program from another checkpoint: load that one"
            .to_owned()
    } else {
        String::new()
    }
}

/// Whether a file is a part of a TensorFlow checkpoint, like `bert_model.ckpt.index`.
fn is_tensorflow(name: &str) -> bool {
    name.contains(".ckpt") && name.ends_with(".index")
}
