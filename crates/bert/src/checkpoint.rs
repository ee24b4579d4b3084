//! Where a model's files are.

use std::path::{Path, PathBuf};

use bert_core::BertConfig;
use bert_tokenize::BertTokenizer;

use crate::error::{Error, Result};
use crate::hub;
use crate::hub_id::is_id;
use crate::safetensors::SafetensorsFile;

/// The files of one model: a folder, a repository on the hub, or the checkpoint in this crate.
///
/// Wherever a checkpoint is expected, a name does too: a folder's path where there is such a
/// folder, a hub id otherwise.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Dir(PathBuf),
    Hub(hub::Repo),
    BuiltIn,
}

/// A file of a checkpoint, and what to call it in errors.
enum File {
    OnDisk(PathBuf),
    InMemory(&'static [u8]),
}

const BUILT_IN: [(&str, &[u8]); 3] = [
    ("config.json", include_bytes!("../built-in/config.json")),
    ("tokenizer.json", include_bytes!("../built-in/tokenizer.json")),
    ("model.safetensors", include_bytes!("../built-in/model.safetensors")),
];

impl Checkpoint {
    /// A folder as `save_pretrained` writes it: `config.json`, `tokenizer.json`,
    /// `model.safetensors`. Files are looked for when they are needed.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when `path` is not a folder.
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            Ok(Self { source: Source::Dir(path.to_owned()) })
        } else {
            Err(Error::NoSuchCheckpoint { name: path.display().to_string() })
        }
    }

    /// A repository on the Hugging Face hub, like `google-bert/bert-base-uncased`, at its branch
    /// `main`. Files are taken from the cache and, where they are not there, downloaded into it
    /// when they are needed.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when `id` cannot be the name of a repository.
    pub fn from_hub(id: &str) -> Result<Self> {
        if is_id(id) {
            Ok(Self { source: Source::Hub(hub::Repo::new(id)) })
        } else {
            Err(Error::NoSuchCheckpoint { name: id.to_owned() })
        }
    }

    /// The small English checkpoint that this crate carries. It is untrained: its numbers mean
    /// nothing, but everything runs.
    pub fn built_in() -> Self {
        Self { source: Source::BuiltIn }
    }

    /// The folder or repository `name`.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when it can be neither.
    pub fn named(name: &str) -> Result<Self> {
        if Path::new(name).is_dir() { Self::from_dir(name) } else { Self::from_hub(name) }
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::HubUnreachable`], [`Error::Hub`] or [`Error::Io`] when it
    /// cannot be had, [`Error::Config`] when it is not a BERT's.
    pub fn config(&self) -> Result<BertConfig> {
        let (path, bytes) = self.read("config.json")?;
        let text = String::from_utf8_lossy(&bytes);
        BertConfig::from_json(&text).map_err(|source| Error::Config { path, source })
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// As [`Checkpoint::config`]; [`Error::Tokenizer`] when it is not a tokenizer.
    pub fn tokenizer(&self) -> Result<BertTokenizer> {
        let (path, bytes) = self.read("tokenizer.json")?;
        BertTokenizer::from_bytes(&bytes).map_err(|source| Error::Tokenizer { path, source })
    }

    /// Opens `model.safetensors`.
    pub(crate) fn weights(&self) -> Result<SafetensorsFile> {
        const NAME: &str = "model.safetensors";
        match self.file(NAME)? {
            File::OnDisk(path) => SafetensorsFile::open(&path),
            File::InMemory(bytes) => SafetensorsFile::from_bytes(&built_in_path(NAME), bytes),
        }
    }

    fn read(&self, name: &str) -> Result<(PathBuf, Vec<u8>)> {
        match self.file(name)? {
            File::OnDisk(path) => match std::fs::read(&path) {
                Ok(bytes) => Ok((path, bytes)),
                Err(source) => Err(Error::Io { path, source }),
            },
            File::InMemory(bytes) => Ok((built_in_path(name), bytes.to_vec())),
        }
    }

    fn file(&self, name: &str) -> Result<File> {
        match &self.source {
            Source::Dir(folder) => {
                let path = folder.join(name);
                if path.is_file() { Ok(File::OnDisk(path)) } else { Err(missing(folder, name)) }
            }
            Source::Hub(repo) => repo.file(name).map(File::OnDisk),
            Source::BuiltIn => BUILT_IN
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| File::InMemory(bytes))
                .ok_or_else(|| missing(&built_in_path(""), name)),
        }
    }
}

/// What errors call a file of the built-in checkpoint.
fn built_in_path(name: &str) -> PathBuf {
    Path::new("the built-in checkpoint").join(name)
}

fn missing(folder: &Path, file: &str) -> Error {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    found.sort();
    Error::MissingFile { file: file.to_owned(), folder: folder.to_owned(), found }
}

impl TryFrom<&str> for Checkpoint {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::named(name)
    }
}

impl TryFrom<&String> for Checkpoint {
    type Error = Error;

    fn try_from(name: &String) -> Result<Self> {
        Self::named(name)
    }
}

impl TryFrom<&Path> for Checkpoint {
    type Error = Error;

    fn try_from(path: &Path) -> Result<Self> {
        Self::from_dir(path)
    }
}

impl TryFrom<&PathBuf> for Checkpoint {
    type Error = Error;

    fn try_from(path: &PathBuf) -> Result<Self> {
        Self::from_dir(path)
    }
}

impl From<&Checkpoint> for Checkpoint {
    fn from(checkpoint: &Checkpoint) -> Self {
        checkpoint.clone()
    }
}

impl std::fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Dir(path) => write!(f, "{}", path.display()),
            Source::Hub(repo) => write!(f, "{}", repo.id()),
            Source::BuiltIn => write!(f, "the built-in checkpoint"),
        }
    }
}
