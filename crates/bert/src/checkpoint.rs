//! The files of a checkpoint.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bert_core::BertConfig;
use bert_tokenize::{BertTokenizer, TokenizerFiles};
use serde::de::Error as _;

use crate::error::{Error, Result};
use crate::files::atomic::current;
use crate::files::file::{Bytes, File};
use crate::files::names::{check_name, names_in};
use crate::files::safetensors::SafetensorsFile;
use crate::files::shards::shards;
use crate::files::torch::TorchFile;
use crate::files::weight_file::WeightFile;
use crate::hub::Repo;
use crate::hub::id::is_id;
use crate::hub::options::{DownloadProgress, HubOptions};

/// The files of one model: a folder, a repository on the hub, or bytes in memory.
///
/// Functions that take a checkpoint also take its name: the path of an existing folder, or a hub id.
/// Files are looked for when they are needed:
///
/// * `config.json`;
/// * `tokenizer.json`, or else `vocab.txt`, with `tokenizer_config.json`, `special_tokens_map.json` and
///   `added_tokens.json` if they exist;
/// * the file that `transformers_weights` in `config.json` names, or else `model.safetensors`, or else
///   `model.safetensors.index.json` and its shards, or else `pytorch_model.bin`, or else
///   `pytorch_model.bin.index.json` and its shards;
/// * any other file, with [`Checkpoint::read`].
#[derive(Clone, Debug)]
pub struct Checkpoint {
    source: Source,
    /// The folder in it that has the files, like `0_Transformer/`. Empty for the checkpoint itself.
    subfolder: String,
    /// An option of the hub that was set although this is not on the hub.
    unused_option: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Source {
    Dir(PathBuf),
    Hub(Repo),
    /// A name for errors, and the files by their names.
    Memory(&'static str, BTreeMap<String, Bytes>),
}

/// Opens a file of weights in some format.
type Open = fn(&File) -> Result<Box<dyn WeightFile>>;

impl Checkpoint {
    /// A folder as `save_pretrained` writes it.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when `path` is not a folder.
    pub fn from_dir(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            Ok(Self::new(Source::Dir(path.to_owned())))
        } else {
            Err(Error::NoSuchCheckpoint { name: path.display().to_string() })
        }
    }

    /// A repository on the Hugging Face hub, like `google-bert/bert-base-uncased`, at its branch
    /// `main`. Files that the cache lacks are downloaded into it.
    ///
    /// These variables of the environment work as in huggingface_hub: `HF_HOME`, `HF_HUB_CACHE`,
    /// `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`,
    /// `TRANSFORMERS_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`; `HTTPS_PROXY`,
    /// `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`; `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE` and
    /// `SSL_CERT_FILE`.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when `id` cannot be the name of a repository.
    pub fn from_hub(id: &str) -> Result<Self> {
        if is_id(id) {
            Ok(Self::new(Source::Hub(Repo::new(id, HubOptions::default()))))
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
        let bytes = |bytes: B| Bytes(Arc::new(bytes.into()));
        let files = files.into_iter().map(|(name, file)| (name.into(), bytes(file))).collect();
        Self::new(Source::Memory("a checkpoint in memory", files))
    }

    /// The small checkpoint that is part of this crate: a [`BertForPreTraining`](crate::BertForPreTraining)
    /// and [`SentenceTransformer`](crate::SentenceTransformer) of simple everyday English. Its file
    /// `README.md` says what it has learned and what it cannot do.
    pub fn built_in() -> Self {
        macro_rules! files {
            ($($name:literal),*) => { [$(($name, include_bytes!(concat!("../built-in/", $name)))),*] };
        }
        let files: [(&str, &[u8]); 8] = files![
            "README.md",
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "model.safetensors",
            "modules.json",
            "1_Pooling/config.json"
        ];
        let files = files.map(|(name, bytes)| (name.to_owned(), Bytes(Arc::new(bytes.into()))));
        Self::new(Source::Memory("the built-in checkpoint", files.into()))
    }

    fn new(source: Source) -> Self {
        Self { source, subfolder: String::new(), unused_option: None }
    }

    /// Chooses another branch, tag or commit of a repository.
    ///
    /// This option and those below are for the hub. If the checkpoint is not on the hub, reading any
    /// of its files returns [`Error::NotOnHub`].
    pub fn with_revision(self, revision: &str) -> Self {
        self.with_hub_option("with_revision", |it| it.revision = Some(revision.to_owned()))
    }

    /// Sets the folder of the cache, overriding the environment.
    pub fn with_cache_dir(self, folder: impl Into<PathBuf>) -> Self {
        self.with_hub_option("with_cache_dir", |it| it.cache_dir = Some(folder.into()))
    }

    /// Sets the hub's URL, overriding the environment.
    pub fn with_endpoint(self, url: &str) -> Self {
        self.with_hub_option("with_endpoint", |it| it.endpoint = Some(url.to_owned()))
    }

    /// Sets the access token, overriding the environment.
    pub fn with_token(self, token: &str) -> Self {
        self.with_hub_option("with_token", |it| it.token = Some(token.to_owned()))
    }

    /// Takes files from the cache only.
    pub fn with_local_files_only(self) -> Self {
        self.with_hub_option("with_local_files_only", |it| it.local_files_only = true)
    }

    /// Calls `callback` during downloads. By default, a progress bar is drawn if standard error is a
    /// terminal.
    pub fn with_progress(
        self,
        callback: impl Fn(DownloadProgress) + Send + Sync + 'static,
    ) -> Self {
        self.with_hub_option("with_progress", |it| it.on_progress = Some(Arc::new(callback)))
    }

    fn with_hub_option(mut self, option: &'static str, set: impl FnOnce(&mut HubOptions)) -> Self {
        match &mut self.source {
            Source::Hub(repo) => {
                set(&mut repo.options);
                // A new one: with these options the hub may be reached.
                *repo = Repo::new(&repo.id, repo.options.clone());
            }
            Source::Dir(_) | Source::Memory(..) => self.unused_option = Some(option),
        }
        self
    }

    /// Whether looking for a file costs nothing.
    pub(crate) fn is_folder(&self) -> bool {
        !matches!(self.source, Source::Hub(_))
    }

    /// The files of a folder in the checkpoint, like `0_Transformer`.
    ///
    /// # Errors
    /// [`Error::FileName`] for a folder outside the checkpoint.
    pub fn with_subfolder(&self, folder: &str) -> Result<Self> {
        let folder = folder.trim_end_matches('/');
        check_name(folder)?;
        Ok(Self { subfolder: format!("{}{folder}/", self.subfolder), ..self.clone() })
    }

    /// The folder or repository `name`.
    ///
    /// # Errors
    /// [`Error::NoSuchCheckpoint`] when it can be neither.
    pub fn from_name(name: &str) -> Result<Self> {
        if Path::new(name).is_dir() { Self::from_dir(name) } else { Self::from_hub(name) }
    }

    /// Reads a file by its name, like `modules.json` or `1_Pooling/config.json`. `None` if the
    /// checkpoint does not have it.
    ///
    /// # Errors
    /// [`Error::FileName`] for a name outside the checkpoint, [`Error::NotOnHub`] for an option
    /// without effect, and [`Error::HubUnreachable`], [`Error::Hub`] or [`Error::Io`] when the file
    /// cannot be read.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        check_name(name)?;
        self.find(&[name])?.map(|(_, file)| Ok(file.read()?.into_owned())).transpose()
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`Error::MissingFile`] and the errors of [`Checkpoint::read`] when it cannot be read,
    /// [`Error::Config`] when it is not that of a BERT.
    pub fn config(&self) -> Result<BertConfig> {
        let file = self.file("config.json")?;
        let bytes = file.read()?;
        std::str::from_utf8(&bytes)
            .map_err(|error| serde_json::Error::custom(error).into())
            .and_then(BertConfig::from_json)
            .map_err(|source| Error::Config { path: file.path().to_owned(), source })
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// As [`Checkpoint::config`]; [`Error::Tokenizer`] when the files do not make a tokenizer.
    pub fn tokenizer(&self) -> Result<BertTokenizer> {
        let names = ["tokenizer.json", "vocab.txt"];
        let main = self.find(&names)?;
        let is_json = matches!(main, Some((0, _)));
        let main_bytes = main.as_ref().map(|(_, file)| file.read()).transpose()?;
        let [config, map, added, model] = [
            "tokenizer_config.json",
            "special_tokens_map.json",
            "added_tokens.json",
            "config.json",
        ]
        .map(|name| self.optional(name, is_json));
        let (config, map, added, model) = (config?, map?, added?, model?);
        let tokenizer = BertTokenizer::from_files(&TokenizerFiles {
            tokenizer: main_bytes.as_deref().filter(|_| is_json),
            vocab: main_bytes.as_deref().filter(|_| !is_json),
            tokenizer_config: config.as_deref(),
            special_tokens_map: map.as_deref(),
            added_tokens: added.as_deref(),
            config: model.as_deref(),
        });
        tokenizer.map_err(|source| match (main, source) {
            (None, bert_tokenize::Error::NoVocabulary) => self.missing(&names),
            (Some((_, file)), source) => Error::Tokenizer { path: file.path().to_owned(), source },
            (None, source) => Error::Tokenizer { path: PathBuf::from(self.to_string()), source },
        })
    }

    /// Opens the files of weights: the file `named`, or else the first that there is.
    pub(crate) fn weights(&self, named: Option<&str>) -> Result<Vec<Box<dyn WeightFile>>> {
        const NAMES: [&str; 4] = [
            "model.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
        ];
        let (name, file) = match named {
            Some(name) => {
                check_name(name)?;
                (name, self.file(name)?)
            }
            None => match self.find(&NAMES)? {
                Some((index, file)) => (NAMES[index], file),
                None => {
                    let (checkpoint, found) = (self.to_string(), self.listing());
                    return Err(Error::NoWeights { checkpoint, found });
                }
            },
        };
        let is_index = name.ends_with(".index.json");
        let is_torch = name.trim_end_matches(".index.json").ends_with(".bin");
        let open: Open = if is_torch { TorchFile::open } else { SafetensorsFile::open };
        if !is_index {
            return Ok(vec![open(&file)?]);
        }
        let path = file.path().to_owned();
        let shards = shards(&file.read()?).map_err(|reason| Error::Index { path, reason })?;
        shards.iter().map(|shard| open(&self.file(shard)?)).collect()
    }

    fn file(&self, name: &str) -> Result<File> {
        self.find(&[name])?.map(|(_, file)| file).ok_or_else(|| self.missing(&[name]))
    }

    /// A file that need not exist. If the hub cannot be reached, the file counts as absent when the
    /// caller wants no network or when there is a `tokenizer.json`. With a `vocab.txt` alone that is
    /// an error: lower-casing would be a guess.
    pub(crate) fn optional(&self, name: &str, is_json: bool) -> Result<Option<Vec<u8>>> {
        match self.read(name) {
            Err(Error::HubUnreachable { offline, .. }) if offline || is_json => Ok(None),
            result => result,
        }
    }

    /// The error for files of which none exists.
    fn missing(&self, names: &[&str]) -> Error {
        Error::MissingFile {
            file: names.join(" or "),
            checkpoint: self.to_string(),
            found: self.listing(),
        }
    }

    /// The first of `names` that exists, and its index.
    fn find(&self, names: &[&str]) -> Result<Option<(usize, File)>> {
        if let Some(option) = self.unused_option {
            return Err(Error::NotOnHub { option, checkpoint: self.to_string() });
        }
        let names: Vec<String> =
            names.iter().map(|name| format!("{}{name}", self.subfolder)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut names_in_order = names.iter().enumerate();
        Ok(match &self.source {
            Source::Dir(folder) => names_in_order.find_map(|(i, name)| {
                let path = current(folder, name);
                path.is_file().then_some((i, File::OnDisk(path)))
            }),
            Source::Hub(repo) => repo.find(&names)?.map(|(i, path)| (i, File::OnDisk(path))),
            Source::Memory(title, files) => names_in_order.find_map(|(i, name)| {
                let bytes = files.get(*name)?.clone();
                Some((i, File::InMemory(Path::new(title).join(name), bytes)))
            }),
        })
    }

    /// The files, if they are known.
    fn listing(&self) -> Option<Vec<String>> {
        let all = match &self.source {
            Source::Dir(folder) => return Some(names_in(&folder.join(&self.subfolder))),
            Source::Hub(repo) => repo.listing()?,
            Source::Memory(_, files) => files.keys().cloned().collect(),
        };
        let inside = all.iter().filter_map(|name| name.strip_prefix(&self.subfolder));
        Some(inside.map(str::to_owned).collect())
    }
}

/// Names and paths of checkpoints.
macro_rules! try_from {
    ($($type:ty => $constructor:ident),* $(,)?) => {$(
        impl TryFrom<$type> for Checkpoint {
            type Error = Error;

            fn try_from(name: $type) -> Result<Self> {
                Self::$constructor(&name)
            }
        }
    )*};
}

try_from! {
    &str => from_name,
    &String => from_name,
    String => from_name,
    &Path => from_dir,
    &PathBuf => from_dir,
    PathBuf => from_dir,
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
            Source::Hub(repo) => f.write_str(&repo.id),
            Source::Memory(name, _) => f.write_str(name),
        }?;
        match self.subfolder.trim_end_matches('/') {
            "" => Ok(()),
            folder => write!(f, "/{folder}"),
        }
    }
}
