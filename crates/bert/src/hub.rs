//! Files of a repository on the Hugging Face hub, from the cache or the network.
//!
//! The cache is huggingface_hub's: `blobs/` holds contents by their ETag, `snapshots/<commit>/`
//! links to them by name, `refs/` says which commit a branch is at, and `.no_exist/` remembers
//! which files a commit does not have.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, RepoType};
use indicatif::{ProgressBar, ProgressStyle};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::hub_options::{DownloadProgress, HubOptions};

/// How long the hub's first answer may take, name look-up and connection included.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(20);
/// Bytes that are handed over at a time.
const CHUNK: usize = 1 << 20;

/// A model repository at a branch, tag or commit.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    id: String,
    pub(crate) options: HubOptions,
    /// Why the hub could not be reached, once it could not: asking again would wait again.
    given_up: Arc<OnceLock<String>>,
}

/// What the hub says of a file before it is downloaded.
struct Metadata {
    commit: String,
    etag: String,
    bytes: Option<u64>,
}

impl Repo {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned(), options: HubOptions::default(), given_up: Arc::default() }
    }

    fn revision(&self) -> &str {
        self.options.revision.as_deref().unwrap_or("main")
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The first of `names` that the repository has, and its path in the cache, or `None` where it
    /// has none of them. What is in the cache is found without the network.
    pub(crate) fn find(&self, names: &[&str]) -> Result<Option<(usize, PathBuf)>> {
        let settings = Settings::new(&self.options);
        let Some(folder) = &settings.cache else {
            let reason = "there is no home folder for a cache; set HF_HOME";
            return Err(self.unreachable(names[0], Path::new(""), reason));
        };
        let cache = CachedRepo::new(folder, self);
        for (i, name) in names.iter().enumerate() {
            if let Some(path) = cache.get(name) {
                return Ok(Some((i, path)));
            }
        }
        for (i, name) in names.iter().enumerate() {
            if cache.is_known_absent(name) {
                continue;
            }
            if let Some(reason) = settings.offline {
                return Err(self.unreachable(name, folder, reason));
            }
            if let Some(reason) = self.given_up.get() {
                return Err(self.unreachable(name, folder, reason));
            }
            if let Some(metadata) = self.metadata(name, &settings, folder)? {
                let path = self.download(name, &metadata, &settings, &cache)?;
                return Ok(Some((i, path)));
            }
        }
        Ok(None)
    }

    /// Asks for a file; `None` where the repository does not have it.
    fn metadata(&self, file: &str, settings: &Settings, cache: &Path) -> Result<Option<Metadata>> {
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(FIRST_ANSWER))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        let mut url = self.url(file, settings);
        // A renamed repository redirects within the hub; a large file to where it is stored.
        for _ in 0..5 {
            let request =
                settings.authorize(agent.head(&url).header("Accept-Encoding", "identity"));
            let response = request.call().map_err(|error| {
                let reason = self.given_up.get_or_init(|| error.to_string());
                self.unreachable(file, cache, reason)
            })?;
            let location = header(response.headers(), "location");
            match location.filter(|_| response.status().is_redirection()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = format!("{}{path}", settings.origin());
                }
                None if !response.status().is_success() => {
                    return self.refusal(file, &response, cache).map(|()| None);
                }
                _ => {
                    let reason = "what answers has no usable X-Repo-Commit and ETag; check HF_ENDPOINT \
                                  and the network";
                    return match read_metadata(&response) {
                        Some(metadata) => Ok(Some(metadata)),
                        None => Err(self.unreachable(file, cache, reason)),
                    };
                }
            }
        }
        Err(self.refused(file, "it redirects without end".to_owned()))
    }

    /// What an answer without a file means: nothing where the file does not exist.
    fn refusal(&self, file: &str, response: &Response<Body>, cache: &Path) -> Result<()> {
        let status = response.status();
        if status.is_server_error() || [407, 429].contains(&status.as_u16()) {
            return Err(self.unreachable(file, cache, &format!("it answers {status}")));
        }
        let reason = match header(response.headers(), "x-error-code").as_deref() {
            Some("RevisionNotFound") => {
                format!("there is no revision {:?}; check its name", self.revision())
            }
            Some("GatedRepo") => {
                "the repository is gated; accept its terms on its page and set HF_TOKEN \
                                  to a token of that account"
                    .to_owned()
            }
            Some("RepoNotFound") => no_access(status),
            _ if status == StatusCode::NOT_FOUND => return Ok(()),
            _ if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN => {
                no_access(status)
            }
            _ => format!("it answers {status}"),
        };
        Err(self.refused(file, reason))
    }

    /// Downloads a file and puts it into the cache under its name when it is whole.
    fn download(
        &self,
        file: &str,
        metadata: &Metadata,
        settings: &Settings,
        cache: &CachedRepo,
    ) -> Result<PathBuf> {
        let blob = cache.repo.blob_path(&metadata.etag);
        if !blob.is_file() {
            let agent: Agent = Agent::config_builder()
                .timeout_resolve(Some(FIRST_ANSWER))
                .timeout_connect(Some(FIRST_ANSWER))
                .timeout_recv_response(Some(STALL))
                .http_status_as_error(false)
                .build()
                .into();
            let request = agent.get(self.url(file, settings)).header("Accept-Encoding", "identity");
            let response = settings
                .authorize(request)
                .call()
                .map_err(|error| self.unreachable(file, cache.repo_folder(), &error.to_string()))?;
            if response.status() != StatusCode::OK {
                let status = response.status();
                return Err(self.refused(file, format!("it answers {status} to the download")));
            }
            let bytes = metadata
                .bytes
                .or_else(|| header(response.headers(), "content-length")?.parse().ok());
            self.store(file, &blob, bytes, response.into_body(), cache)?;
        }
        cache.link(file, &blob, &metadata.commit).map_err(|cause| cache.unwritable(cause))
    }

    /// Writes a body aside and renames it when it has the announced length.
    fn store(
        &self,
        file: &str,
        blob: &Path,
        bytes: Option<u64>,
        body: Body,
        cache: &CachedRepo,
    ) -> Result<()> {
        let unwritable = |cause| cache.unwritable(cause);
        let folder = blob.parent().unwrap_or(blob);
        std::fs::create_dir_all(folder).map_err(unwritable)?;
        let mut aside = tempfile::Builder::new()
            .suffix(".incomplete")
            .tempfile_in(folder)
            .map_err(unwritable)?;
        let chunks = read_in_background(body);
        let bar = Bar::new(&self.options, file, bytes);
        let mut done = 0;
        loop {
            match chunks.recv_timeout(STALL) {
                Ok(Ok(chunk)) => {
                    aside.write_all(&chunk).map_err(unwritable)?;
                    done += chunk.len() as u64;
                    bar.report(done);
                }
                Ok(Err(error)) => {
                    return Err(
                        self.refused(file, format!("the download broke off: {error}; try again"))
                    );
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let seconds = STALL.as_secs();
                    return Err(self
                        .refused(file, format!("nothing came for {seconds} seconds; try again")));
                }
            }
        }
        if bytes.is_some_and(|bytes| bytes != done) {
            let bytes = bytes.unwrap_or_default();
            return Err(self.refused(file, format!("{done} of {bytes} bytes came; try again")));
        }
        aside.persist(blob).map_err(|error| cache.unwritable(error.error))?;
        Ok(())
    }

    fn url(&self, file: &str, settings: &Settings) -> String {
        let repo = self.hf_repo();
        format!("{}/{}/resolve/{}/{file}", settings.endpoint, repo.url(), repo.url_revision())
    }

    fn hf_repo(&self) -> hf_hub::Repo {
        hf_hub::Repo::with_revision(self.id.clone(), RepoType::Model, self.revision().to_owned())
    }

    fn unreachable(&self, file: &str, cache: &Path, reason: &str) -> Error {
        Error::HubUnreachable {
            repo: self.id.clone(),
            file: file.to_owned(),
            cache: cache.to_owned(),
            reason: reason.to_owned(),
        }
    }

    fn refused(&self, file: &str, reason: String) -> Error {
        Error::Hub { repo: self.id.clone(), file: file.to_owned(), reason }
    }
}

/// What the caller says, or else what huggingface_hub reads from the environment.
struct Settings {
    endpoint: String,
    token: Option<String>,
    cache: Option<PathBuf>,
    /// Why the network is not to be used, if it is not.
    offline: Option<&'static str>,
}

impl Settings {
    fn new(options: &HubOptions) -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let user = std::env::home_dir();
        let path = |name| {
            let path = PathBuf::from(variable(name)?);
            match (path.strip_prefix("~"), &user) {
                (Ok(below), Some(user)) => Some(user.join(below)),
                _ => Some(path),
            }
        };
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(user.as_ref()?.join(".cache/huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let token = options
            .token
            .clone()
            .or_else(|| Some(variable("HF_TOKEN")?.to_string_lossy().into_owned()))
            .or_else(|| std::fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = options
            .endpoint
            .clone()
            .or_else(|| Some(variable("HF_ENDPOINT")?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache: options
                .cache_dir
                .clone()
                .or_else(|| path("HF_HUB_CACHE"))
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .or_else(|| Some(home?.join("hub"))),
            offline: if options.local_files_only {
                Some("local_files_only is set")
            } else if is_yes("HF_HUB_OFFLINE") {
                Some("HF_HUB_OFFLINE is set")
            } else if is_yes("TRANSFORMERS_OFFLINE") {
                Some("TRANSFORMERS_OFFLINE is set")
            } else {
                None
            },
        }
    }

    fn authorize<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Scheme and host of the endpoint, which redirects within the hub leave out.
    fn origin(&self) -> String {
        let uri: Option<Uri> = self.endpoint.parse().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
        parts.map_or_else(|| self.endpoint.clone(), |(scheme, host)| format!("{scheme}://{host}"))
    }
}

/// The cache of one repository at one revision.
struct CachedRepo {
    folder: PathBuf,
    revision: String,
    repo: CacheRepo,
}

impl CachedRepo {
    fn new(cache: &Path, repo: &Repo) -> Self {
        Self {
            folder: cache.join(repo.hf_repo().folder_name()),
            revision: repo.revision().to_owned(),
            repo: Cache::new(cache.to_owned()).repo(repo.hf_repo()),
        }
    }

    fn repo_folder(&self) -> &Path {
        &self.folder
    }

    /// The commit that the cache knows the revision as.
    fn commit(&self) -> Option<String> {
        let commit = std::fs::read_to_string(self.folder.join("refs").join(&self.revision));
        let commit = commit.map_or_else(|_| self.revision.clone(), |text| text.trim().to_owned());
        Some(commit).filter(|commit| is_file_name(commit))
    }

    fn get(&self, file: &str) -> Option<PathBuf> {
        Some(self.repo.pointer_path(&self.commit()?).join(file)).filter(|path| path.is_file())
    }

    fn is_known_absent(&self, file: &str) -> bool {
        self.commit()
            .is_some_and(|commit| self.folder.join(".no_exist").join(commit).join(file).exists())
    }

    /// Gives a blob its name in the snapshot of a commit, and the revision that commit.
    fn link(&self, file: &str, blob: &Path, commit: &str) -> std::io::Result<PathBuf> {
        let path = self.repo.pointer_path(commit).join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let up: PathBuf = std::iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        match symlink(&target, blob, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        if self.revision != commit {
            self.repo.create_ref(commit)?;
        }
        Ok(path)
    }

    fn unwritable(&self, cause: std::io::Error) -> Error {
        Error::Cache { folder: self.folder.clone(), cause }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, path)
}

/// Reads a body on a thread of its own, because ureq has no limit for a read that stands still.
/// The end of the channel is the end of the body.
fn read_in_background(body: Body) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let mut reader = body.into_reader();
        loop {
            let mut chunk = Vec::new();
            let read = reader.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
            let message = match read {
                Ok(0) => return,
                Ok(_) => Ok(chunk),
                Err(error) => Err(error),
            };
            let ended = message.is_err();
            // The receiver is gone when the download was given up.
            if sender.send(message).is_err() || ended {
                return;
            }
        }
    });
    receiver
}

/// The caller's callback, or a bar where standard error is a terminal.
struct Bar<'a> {
    options: &'a HubOptions,
    file: &'a str,
    total: Option<u64>,
    bar: ProgressBar,
}

impl<'a> Bar<'a> {
    fn new(options: &'a HubOptions, file: &'a str, total: Option<u64>) -> Self {
        let bar = if options.on_progress.is_some() || !std::io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let style = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
            ProgressBar::new(total.unwrap_or_default())
                .with_style(
                    ProgressStyle::with_template(style)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                )
                .with_message(file.to_owned())
        };
        Self { options, file, total, bar }
    }

    fn report(&self, done: u64) {
        self.bar.set_position(done);
        if let Some(callback) = &self.options.on_progress {
            callback(DownloadProgress { file: self.file.to_owned(), done, total: self.total });
        }
    }
}

impl Drop for Bar<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Commit, ETag and length of a file; commit and ETag become names of files.
fn read_metadata(response: &Response<Body>) -> Option<Metadata> {
    let headers = response.headers();
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    let own_length =
        || header(headers, "content-length").filter(|_| response.status().is_success());
    let bytes = header(headers, "x-linked-size").or_else(own_length);
    let commit = header(headers, "x-repo-commit").filter(|commit| is_file_name(commit))?;
    is_file_name(&etag).then(|| Metadata {
        commit,
        etag,
        bytes: bytes.and_then(|bytes| bytes.parse().ok()),
    })
}

/// Whether a variable holds what huggingface_hub takes for yes.
fn is_yes(name: &str) -> bool {
    let value = std::env::var(name).unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether a text can be the name of one file.
fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn no_access(status: StatusCode) -> String {
    format!(
        "it answers {status}: the repository does not exist or is private; check its name, \
         or set HF_TOKEN to a token that may read it"
    )
}
