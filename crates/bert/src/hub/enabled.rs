//! Files of a repository, from the cache or the network.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use hf_hub::RepoType;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body};

use super::cache::{CachedRepo, is_file_name};
use super::settings::Settings;
use super::transfer::{Bar, read_in_background};
use crate::error::{Error, Result};
use crate::files::atomic::shared_file;
use crate::hub::options::HubOptions;

/// How long the hub's first answer may take, including the look-up of its name and the connection.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// How long a download may stall.
const STALL: Duration = Duration::from_secs(15);
/// How long a hub that could not be reached is not asked again.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// A model repository at a branch, tag or commit.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    id: String,
    pub(crate) options: HubOptions,
    /// When and why the hub could not be reached.
    given_up: Arc<Mutex<Option<(Instant, String)>>>,
}

/// The hub's answer about a file, before the download.
struct Metadata {
    /// The file's address at this commit.
    url: String,
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

    /// Forgets that the hub could not be reached, because the options have changed.
    pub(crate) fn forget(&mut self) {
        self.given_up = Arc::default();
    }

    /// The index of the first of `names` that the repository has, and its path in the cache. `None` if
    /// it has none of them. Files in the cache are found without the network; without a network, only
    /// the cache counts.
    pub(crate) fn find(&self, names: &[&str]) -> Result<Option<(usize, PathBuf)>> {
        if !is_revision(self.revision()) {
            let reason =
                format!("{:?} is not the name of a branch, tag or commit", self.revision());
            return Err(self.refused(names[0], reason));
        }
        let settings = Settings::new(&self.options);
        let Some(folder) = &settings.cache else {
            let reason = "there is no home folder for a cache; set HF_HOME";
            return Err(self.unreachable(names[0], Path::new(""), reason));
        };
        let cache = CachedRepo::new(folder, self.hf_repo());
        let mut out_of_reach = None;
        for (i, name) in names.iter().enumerate() {
            if let Some(path) = cache.get(name) {
                return Ok(Some((i, path)));
            }
            if cache.is_known_absent(name) || out_of_reach.is_some() {
                continue;
            }
            match self.fetch(name, &settings, folder, &cache) {
                Ok(Some(path)) => return Ok(Some((i, path))),
                Ok(None) => {}
                Err(error @ Error::HubUnreachable { .. }) => out_of_reach = Some(error),
                Err(error) => return Err(error),
            }
        }
        out_of_reach.map_or(Ok(None), Err)
    }

    /// Downloads a file. `None` if the repository does not have it.
    fn fetch(
        &self,
        file: &str,
        settings: &Settings,
        folder: &Path,
        cache: &CachedRepo,
    ) -> Result<Option<PathBuf>> {
        if let Some(reason) = settings.offline {
            return Err(Error::HubUnreachable {
                repo: self.id.clone(),
                file: file.to_owned(),
                cache: folder.to_owned(),
                reason: reason.to_owned(),
                offline: true,
            });
        }
        let given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, reason)) = given_up.filter(|(when, _)| when.elapsed() < GIVEN_UP) {
            return Err(self.unreachable(file, folder, &reason));
        }
        match self.metadata(file, settings, cache)? {
            Some(metadata) => self.download(file, &metadata, settings, cache).map(Some),
            None => Ok(None),
        }
    }

    /// Asks the hub about a file. `None` if the repository does not have it.
    fn metadata(
        &self,
        file: &str,
        settings: &Settings,
        cache: &CachedRepo,
    ) -> Result<Option<Metadata>> {
        let folder = &cache.folder;
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(FIRST_ANSWER))
            .http_status_as_error(false)
            .max_redirects(0)
            .build()
            .into();
        // If a part of a repository is in the cache, its other files come from the same commit.
        let revision = cache.commit().unwrap_or_else(|| self.revision().to_owned());
        let mut url = self.url(file, &revision, settings);
        // A renamed repository redirects within the hub, a large file to its storage.
        for _ in 0..5 {
            let request =
                settings.authorize(agent.head(&url).header("Accept-Encoding", "identity"));
            let response = request.call().map_err(|error| {
                let reason = error.to_string();
                let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
                *given_up = Some((Instant::now(), reason.clone()));
                self.unreachable(file, folder, &reason)
            })?;
            let location = header(response.headers(), "location");
            match location.filter(|_| response.status().is_redirection()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = format!("{}{path}", settings.origin());
                }
                None if !response.status().is_success() => {
                    self.refusal(file, &response, folder)?;
                    if let Some(commit) = header(response.headers(), "x-repo-commit") {
                        cache.remember_absent(file, &commit);
                    }
                    return Ok(None);
                }
                _ => {
                    let reason = "the answer has no valid X-Repo-Commit and ETag headers; check HF_ENDPOINT \
                                  and the network";
                    let Some(mut metadata) = read_metadata(&response) else {
                        return Err(self.unreachable(file, folder, reason));
                    };
                    // The download asks for the commit: the branch may move meanwhile.
                    let (branch, commit) =
                        (resolve(&escaped(&revision)), resolve(&metadata.commit));
                    metadata.url = url.replacen(&branch, &commit, 1);
                    return Ok(Some(metadata));
                }
            }
        }
        Err(self.refused(file, "it redirects endlessly".to_owned()))
    }

    /// The error of an answer without a file; no error if the file does not exist.
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

    /// Downloads a file and links it in the cache once it is complete.
    fn download(
        &self,
        file: &str,
        metadata: &Metadata,
        settings: &Settings,
        cache: &CachedRepo,
    ) -> Result<PathBuf> {
        let blob = cache.blob_path(&metadata.etag);
        if !blob.is_file() {
            let agent: Agent = Agent::config_builder()
                .timeout_resolve(Some(FIRST_ANSWER))
                .timeout_connect(Some(FIRST_ANSWER))
                .timeout_recv_response(Some(STALL))
                .http_status_as_error(false)
                .build()
                .into();
            let request = agent.get(&metadata.url).header("Accept-Encoding", "identity");
            let response = settings
                .authorize(request)
                .call()
                .map_err(|error| self.unreachable(file, &cache.folder, &error.to_string()))?;
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

    /// Writes a body to a temporary file and renames it if it has the announced length.
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
        let mut temporary = shared_file(folder).map_err(unwritable)?;
        let chunks = read_in_background(body);
        let bar = Bar::new(&self.options, file, bytes);
        let mut done = 0;
        loop {
            match chunks.recv_timeout(STALL) {
                Ok(Ok(chunk)) => {
                    temporary.write_all(&chunk).map_err(unwritable)?;
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
                        .refused(file, format!("no data came for {seconds} seconds; try again")));
                }
            }
        }
        if bytes.is_some_and(|bytes| bytes != done) {
            let bytes = bytes.unwrap_or_default();
            return Err(self.refused(file, format!("{done} of {bytes} bytes received; try again")));
        }
        temporary.persist(blob).map_err(|error| cache.unwritable(error.error))?;
        Ok(())
    }

    fn url(&self, file: &str, revision: &str, settings: &Settings) -> String {
        let (endpoint, id) = (&settings.endpoint, self.hf_repo().url());
        format!("{endpoint}/{id}{}{}", resolve(&escaped(revision)), escaped_path(file))
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
            offline: false,
        }
    }

    fn refused(&self, file: &str, reason: String) -> Error {
        Error::Hub { repo: self.id.clone(), file: file.to_owned(), reason }
    }
}

/// Whether a text can be the name of a branch, tag or commit, and of a file below `refs/`.
fn is_revision(text: &str) -> bool {
    text.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+@=~".contains(c))
    })
}

/// A revision in the hub's addresses.
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F").replace('+', "%2B")
}

/// A file's name in the hub's addresses.
fn escaped_path(file: &str) -> String {
    let escape = |byte: u8| match byte {
        b'/' | b'-' | b'_' | b'.' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    file.bytes().map(escape).collect()
}

/// The part between a repository and a file in the hub's addresses.
fn resolve(revision: &str) -> String {
    format!("/resolve/{revision}/")
}

/// Commit, ETag and length of a file. Commit and ETag become names of files, so they are checked.
fn read_metadata(response: &Response<Body>) -> Option<Metadata> {
    let headers = response.headers();
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    let own_length =
        || header(headers, "content-length").filter(|_| response.status().is_success());
    let bytes = header(headers, "x-linked-size").or_else(own_length);
    let commit = header(headers, "x-repo-commit").filter(|commit| is_file_name(commit))?;
    is_file_name(&etag).then(|| Metadata {
        url: String::new(),
        commit,
        etag,
        bytes: bytes.and_then(|bytes| bytes.parse().ok()),
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn no_access(status: StatusCode) -> String {
    format!(
        "it answers {status}: the repository does not exist or is private; check its name, \
         or set HF_TOKEN to a token that may read it"
    )
}
