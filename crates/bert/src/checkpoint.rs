//! Where a model's files are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bert_core::BertConfig;
use bert_tokenize::{BertTokenizer, TokenizerFiles};

use crate::error::{Error, Result};
use crate::files::safetensors::SafetensorsFile;
use crate::files::torch::TorchFile;
use crate::files::weight_file::WeightFile;
use crate::hub;
use crate::hub::id::is_id;
use crate::hub::options::{DownloadProgress, HubOptions};
use crate::load::backend::shards;

/// The files of one model: a folder, a repository on the hub, or bytes in memory.
///
/// Wherever a checkpoint is expected, a name does too: a folder's path where there is such a
/// folder, a hub id otherwise. Files are looked for when they are needed:
///
/// * `config.json`;
/// * `tokenizer.json`, or else `vocab.txt` with what `tokenizer_config.json`,
///   `special_tokens_map.json` and `added_tokens.json` say;
/// * `model.safetensors`, or else `model.safetensors.index.json` and its shards, or else
///   `pytorch_model.bin`, or else `pytorch_model.bin.index.json` and its shards.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    Dir(PathBuf),
    Hub(hub::Repo),
    Memory(Arc<Memory>),
}

#[derive(Debug)]
struct Memory {
    name: &'static str,
    files: BTreeMap<String, Bytes>,
}

/// The contents of a file in memory, shared and never copied.
#[derive(Clone)]
pub(crate) struct Bytes(Arc<Cow<'static, [u8]>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A file of a checkpoint.
enum File {
    OnDisk(PathBuf),
    /// With what to call it in errors.
    InMemory(PathBuf, Bytes),
}

impl File {
    fn path(&self) -> &Path {
        match self {
            Self::OnDisk(path) | Self::InMemory(path, _) => path,
        }
    }

    fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::OnDisk(path) => match std::fs::read(path) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(cause) => Err(Error::Io { path: path.clone(), cause }),
            },
            Self::InMemory(_, bytes) => Ok(Cow::Borrowed(bytes.as_ref())),
        }
    }
}

impl Checkpoint {
    /// A folder as `save_pretrained` writes it.
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
    /// `main`. Files are taken from the cache and, where they are not there, downloaded into it.
    ///
    /// The environment is read as huggingface_hub reads it: `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`.
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

    /// Files in memory, by the names they would have in a folder. `include_bytes!` fits.
    pub fn from_bytes<N, B>(files: impl IntoIterator<Item = (N, B)>) -> Self
    where
        N: Into<String>,
        B: Into<Cow<'static, [u8]>>,
    {
        Self::in_memory("a checkpoint in memory", files)
    }

    /// The small English checkpoint that this crate carries. It is untrained: its numbers mean
    /// nothing, but everything runs.
    pub fn built_in() -> Self {
        let files: [(_, &[u8]); 3] = [
            ("config.json", include_bytes!("../built-in/config.json")),
            ("tokenizer.json", include_bytes!("../built-in/tokenizer.json")),
            ("model.safetensors", include_bytes!("../built-in/model.safetensors")),
        ];
        Self::in_memory("the built-in checkpoint", files)
    }

    fn in_memory<N, B>(name: &'static str, files: impl IntoIterator<Item = (N, B)>) -> Self
    where
        N: Into<String>,
        B: Into<Cow<'static, [u8]>>,
    {
        let bytes = |bytes: B| Bytes(Arc::new(bytes.into()));
        let files = files.into_iter().map(|(name, file)| (name.into(), bytes(file))).collect();
        Self { source: Source::Memory(Arc::new(Memory { name, files })) }
    }

    /// Takes a repository at another branch, tag or commit.
    ///
    /// This and the methods below say how to use the hub; they change nothing for a folder.
    pub fn with_revision(self, revision: &str) -> Self {
        self.with_hub_options(|options| options.revision = Some(revision.to_owned()))
    }

    /// Keeps downloads in this folder, in place of what the environment says.
    pub fn with_cache_dir(self, folder: impl Into<PathBuf>) -> Self {
        self.with_hub_options(|options| options.cache_dir = Some(folder.into()))
    }

    /// Asks this hub, in place of what the environment says.
    pub fn with_endpoint(self, url: &str) -> Self {
        self.with_hub_options(|options| options.endpoint = Some(url.to_owned()))
    }

    /// Shows the hub this token, in place of what the environment says.
    pub fn with_token(self, token: &str) -> Self {
        self.with_hub_options(|options| options.token = Some(token.to_owned()))
    }

    /// Takes files from the cache only.
    pub fn local_files_only(self) -> Self {
        self.with_hub_options(|options| options.local_files_only = true)
    }

    /// Calls `callback` while files are downloaded. Without one, a bar is drawn where standard
    /// error is a terminal.
    pub fn with_progress(
        self,
        callback: impl Fn(DownloadProgress) + Send + Sync + 'static,
    ) -> Self {
        self.with_hub_options(|options| options.on_progress = Some(Arc::new(callback)))
    }

    fn with_hub_options(mut self, set: impl FnOnce(&mut HubOptions)) -> Self {
        if let Source::Hub(repo) = &mut self.source {
            set(&mut repo.options);
            repo.forget();
        }
        self
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
        let file = self.file("config.json")?;
        let text = String::from_utf8_lossy(&file.read()?).into_owned();
        BertConfig::from_json(&text)
            .map_err(|cause| Error::Config { path: file.path().to_owned(), cause })
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// As [`Checkpoint::config`]; [`Error::Tokenizer`] when the files do not make a tokenizer.
    pub fn tokenizer(&self) -> Result<BertTokenizer> {
        let (which, file) = self.first_of(&["tokenizer.json", "vocab.txt"])?;
        let main = file.read()?;
        let [config, map, added] = [
            self.optional("tokenizer_config.json", which)?,
            self.optional("special_tokens_map.json", which)?,
            self.optional("added_tokens.json", which)?,
        ];
        BertTokenizer::from_files(&TokenizerFiles {
            tokenizer: Some(&*main).filter(|_| which == 0),
            vocab: Some(&*main).filter(|_| which == 1),
            tokenizer_config: config.as_deref(),
            special_tokens_map: map.as_deref(),
            added_tokens: added.as_deref(),
        })
        .map_err(|cause| Error::Tokenizer { path: file.path().to_owned(), cause })
    }

    /// Opens the files of weights.
    pub(crate) fn weights(&self) -> Result<Vec<Box<dyn WeightFile>>> {
        let (which, file) = self.first_of(&[
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ])?;
        let open: fn(File) -> Result<Box<dyn WeightFile>> =
            if which < 2 { open_safetensors } else { open_torch };
        if which % 2 == 0 {
            return Ok(vec![open(file)?]);
        }
        let path = file.path().to_owned();
        let shards = shards(&file.read()?).map_err(|reason| Error::Index { path, reason })?;
        shards.iter().map(|shard| open(self.file(shard)?)).collect()
    }

    fn file(&self, name: &str) -> Result<File> {
        Ok(self.first_of(&[name])?.1)
    }

    /// A file that need not be there. One that cannot be asked for counts as not there where the
    /// caller wants no network, or has a `tokenizer.json`, which says most of it (`which` 0). A
    /// `vocab.txt` says nothing of lower case, so there only a known absence counts.
    fn optional(&self, name: &str, which: usize) -> Result<Option<Vec<u8>>> {
        match self.find(&[name]) {
            Ok(Some((_, file))) => Ok(Some(file.read()?.into_owned())),
            Ok(None) => Ok(None),
            Err(Error::HubUnreachable { offline, .. }) if offline || which == 0 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first of `names` that there is, and which it is.
    fn first_of(&self, names: &[&str]) -> Result<(usize, File)> {
        match self.find(names)? {
            Some(found) => Ok(found),
            None => Err(Error::MissingFile {
                file: names.join(" or "),
                checkpoint: self.to_string(),
                found: self.listing(),
            }),
        }
    }

    fn find(&self, names: &[&str]) -> Result<Option<(usize, File)>> {
        let mut names_in_order = names.iter().enumerate();
        Ok(match &self.source {
            Source::Dir(folder) => names_in_order.find_map(|(i, name)| {
                let path = folder.join(name);
                path.is_file().then_some((i, File::OnDisk(path)))
            }),
            Source::Hub(repo) => repo.find(names)?.map(|(i, path)| (i, File::OnDisk(path))),
            Source::Memory(memory) => names_in_order.find_map(|(i, name)| {
                let bytes = memory.files.get(*name)?.clone();
                Some((i, File::InMemory(Path::new(memory.name).join(name), bytes)))
            }),
        })
    }

    /// The files that are there, where that can be told without asking the network.
    fn listing(&self) -> Vec<String> {
        match &self.source {
            Source::Dir(folder) => {
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                let mut names: Vec<String> =
                    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
                names.sort();
                names
            }
            Source::Hub(_) => Vec::new(),
            Source::Memory(memory) => memory.files.keys().cloned().collect(),
        }
    }
}

fn open_safetensors(file: File) -> Result<Box<dyn WeightFile>> {
    Ok(match file {
        File::OnDisk(path) => Box::new(SafetensorsFile::open(&path)?),
        File::InMemory(path, bytes) => Box::new(SafetensorsFile::from_bytes(&path, bytes)?),
    })
}

fn open_torch(file: File) -> Result<Box<dyn WeightFile>> {
    Ok(match file {
        File::OnDisk(path) => Box::new(TorchFile::open(&path)?),
        File::InMemory(path, bytes) => Box::new(TorchFile::from_bytes(&path, bytes)?),
    })
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
            Source::Memory(memory) => f.write_str(memory.name),
        }
    }
}
