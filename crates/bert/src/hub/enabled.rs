//! Files of a repository, from the cache or the network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hf_hub::RepoType;
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode};

use super::cache::{CachedRepo, is_file_name};
use super::network::{self, redirected};
use super::settings::Settings;
use super::transfer::{Transfer, Trouble, is_whole, progress};
use crate::error::{Error, Result};
use crate::hub::options::HubOptions;

/// How long a hub that could not be reached is not asked again.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// A model repository at a branch, tag or commit.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    pub(crate) id: String,
    pub(crate) options: HubOptions,
    /// When and why the hub could not be reached.
    given_up: Arc<Mutex<Option<(Instant, String)>>>,
}

/// The download of one file.
struct Download<'a> {
    repo: &'a Repo,
    file: &'a str,
    settings: &'a Settings,
    cache: &'a CachedRepo,
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
    pub(crate) fn new(id: &str, options: HubOptions) -> Self {
        Self { id: id.to_owned(), options, given_up: Arc::default() }
    }

    fn revision(&self) -> &str {
        self.options.revision.as_deref().unwrap_or("main")
    }

    /// The index of the first of `names` that the repository has, and its path in the cache. `None` if
    /// it has none of them. Files in the cache are found without the network; without a network, only
    /// the cache counts.
    pub(crate) fn find(&self, names: &[&str]) -> Result<Option<(usize, PathBuf)>> {
        let (repo, revision) = (self.id.clone(), self.revision());
        if !is_revision(revision) {
            let reason = format!("{revision:?} is not the name of a branch, tag or commit");
            return Err(Error::Hub { repo, file: names[0].to_owned(), reason });
        }
        let settings = Settings::new(&self.options).map_err(|reason| Error::Hub {
            repo: repo.clone(),
            file: names[0].to_owned(),
            reason,
        })?;
        let repo = hf_hub::Repo::with_revision(repo, RepoType::Model, revision.to_owned());
        let cache = CachedRepo::new(&settings.cache, repo);
        let mut out_of_reach = None;
        for (i, file) in names.iter().enumerate() {
            if let Some(path) = cache.get(file) {
                return Ok(Some((i, path)));
            }
            if cache.is_known_absent(file) || out_of_reach.is_some() {
                continue;
            }
            match (Download { repo: self, file, settings: &settings, cache: &cache }).fetch() {
                Ok(Some(path)) => return Ok(Some((i, path))),
                Ok(None) => {}
                Err(error @ Error::HubUnreachable { .. }) => out_of_reach = Some(error),
                Err(error) => return Err(error),
            }
        }
        out_of_reach.map_or(Ok(None), Err)
    }

    /// The repository's files, as the hub lists them. `None` if it cannot be asked.
    pub(crate) fn listing(&self) -> Option<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Listing {
            siblings: Vec<Sibling>,
        }
        #[derive(serde::Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let settings = Settings::new(&self.options).ok().filter(|it| it.offline.is_none())?;
        let revision = escaped_path(self.revision()).replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", settings.endpoint, self.id);
        let mut response = settings.get(&url, 0).ok()?;
        let body = response.body_mut().read_to_vec().ok()?;
        let listing: Listing = serde_json::from_slice(&body).ok()?;
        Some(listing.siblings.into_iter().map(|file| file.rfilename).collect())
    }
}

impl Download<'_> {
    /// Downloads the file. `None` if the repository does not have it.
    fn fetch(&self) -> Result<Option<PathBuf>> {
        let folder = &self.settings.cache;
        if let Some(reason) = &self.settings.offline {
            return Err(self.unreachable(folder, reason));
        }
        let given_up = self.repo.given_up.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, reason)) = given_up.filter(|(when, _)| when.elapsed() < GIVEN_UP) {
            return Err(self.unreachable(folder, &reason));
        }
        self.metadata()?.map(|metadata| self.download(&metadata)).transpose()
    }

    /// Asks the hub about the file. `None` if the repository does not have it.
    fn metadata(&self) -> Result<Option<Metadata>> {
        let Self { repo, file, settings, cache } = self;
        let unreachable = |reason: String| self.unreachable(&cache.folder, &reason);
        // If a part of a repository is in the cache, its other files come from the same commit.
        let branch = resolve(&cache.commit().unwrap_or_else(|| repo.revision().to_owned()));
        let mut url = format!("{}/{}{branch}{}", settings.endpoint, repo.id, escaped_path(file));
        // A renamed repository redirects within the hub, a large file to its storage.
        for _ in 0..5 {
            let agent = settings.network.asking(&url).map_err(unreachable)?;
            let response = settings.prepare(agent.head(&url), &url).call().map_err(|error| {
                let reason = network::reason(&error, settings.network.first_answer);
                let mut given_up = repo.given_up.lock().unwrap_or_else(PoisonError::into_inner);
                *given_up = Some((Instant::now(), reason.clone()));
                self.unreachable(&cache.folder, &reason)
            })?;
            let location = header(response.headers(), "location");
            match location.filter(|_| response.status().is_redirection()) {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    url = redirected(&url, &path).map_err(unreachable)?;
                }
                None if !response.status().is_success() => {
                    self.refusal(&response)?;
                    if let Some(commit) = header(response.headers(), "x-repo-commit") {
                        cache.remember_absent(file, &commit);
                    }
                    return Ok(None);
                }
                _ => {
                    let reason = "the answer has no valid X-Repo-Commit and ETag headers; check HF_ENDPOINT \
                                  and the network";
                    // The download asks for the commit: the branch may move meanwhile.
                    let at_commit = |commit: &str| url.replacen(&branch, &resolve(commit), 1);
                    let metadata = read_metadata(&response, at_commit).map(Some);
                    return metadata.ok_or_else(|| self.unreachable(&cache.folder, reason));
                }
            }
        }
        Err(self.refused("it redirects endlessly".to_owned()))
    }

    /// The error of an answer without a file; no error if the file does not exist.
    fn refusal(&self, response: &Response<Body>) -> Result<()> {
        let status = response.status();
        if status.is_server_error() || [407, 429].contains(&status.as_u16()) {
            return Err(self.unreachable(&self.cache.folder, &format!("it answers {status}")));
        }
        let code = header(response.headers(), "x-error-code");
        let reason = match (code.as_deref(), status) {
            (Some("RevisionNotFound"), _) => match self.cache.commit() {
                Some(commit) if commit != self.repo.revision() => format!(
                    "the commit {commit} is gone from it; delete {} to download another one",
                    self.cache.folder.display()
                ),
                _ => format!("there is no revision {:?}; check its name", self.repo.revision()),
            },
            (Some("GatedRepo"), _) => {
                "the repository is gated; accept its terms on its page and set HF_TOKEN \
                                  to a token of that account"
                    .to_owned()
            }
            (Some("RepoNotFound"), _) | (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                format!(
                    "it answers {status}: the repository does not exist or is private; check its \
                     name, or set HF_TOKEN to a token that may read it"
                )
            }
            (_, StatusCode::NOT_FOUND) => return Ok(()),
            _ => format!("it answers {status}"),
        };
        Err(self.refused(reason))
    }

    /// Downloads the file and links it in the cache once it is complete. One process does this at a
    /// time, as with huggingface_hub.
    fn download(&self, metadata: &Metadata) -> Result<PathBuf> {
        let cache = self.cache;
        let unwritable = |cause| cache.unwritable(cause);
        let (etag, blob) = (&metadata.etag, cache.repo.blob_path(&metadata.etag));
        let patience = self.settings.network.stall.saturating_mul(2);
        let _lock = cache.lock(etag, patience).map_err(unwritable)?;
        let is_new = !blob.is_file() && !cache.path(self.file, &metadata.commit).is_file();
        if is_new {
            let (mut unfinished, left) = cache.unfinished(&blob).map_err(unwritable)?;
            let transfer = Transfer {
                settings: self.settings,
                url: &metadata.url,
                total: metadata.bytes,
                report: &progress(&self.repo.options, self.file, metadata.bytes),
            };
            let broken_off = |trouble| self.broken_off(trouble);
            transfer.complete(&mut unfinished, left).map_err(broken_off)?;
            // Another program may have left a file with holes.
            if left > 0 && !is_whole(&mut unfinished, etag).map_err(unwritable)? {
                transfer.complete(&mut unfinished, 0).map_err(broken_off)?;
            }
            cache.keep(unfinished, &blob).map_err(unwritable)?;
        }
        cache.link(self.file, &blob, &metadata.commit, is_new).map_err(unwritable)
    }

    fn broken_off(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Disk(cause) => self.cache.unwritable(cause),
            Trouble::Refused(status) => {
                self.refused(format!("it answers {status} to the download"))
            }
            Trouble::Network { reason, done, total } => {
                let of = total.map_or(String::new(), |total| format!(" of {total}"));
                self.refused(format!(
                    "the download broke off after {done}{of} bytes: {reason}; try again to go on"
                ))
            }
        }
    }

    fn unreachable(&self, cache: &Path, reason: &str) -> Error {
        Error::HubUnreachable {
            repo: self.repo.id.clone(),
            file: self.file.to_owned(),
            cache: cache.to_owned(),
            reason: reason.to_owned(),
            offline: self.settings.offline.is_some(),
        }
    }

    fn refused(&self, reason: String) -> Error {
        Error::Hub { repo: self.repo.id.clone(), file: self.file.to_owned(), reason }
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

/// A file's name in the hub's addresses.
fn escaped_path(file: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let escape = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    file.bytes().map(escape).collect()
}

/// The part between a repository and a file in the hub's addresses.
fn resolve(revision: &str) -> String {
    format!("/resolve/{}/", revision.replace('/', "%2F").replace('+', "%2B"))
}

/// Commit, ETag and length of a file. Commit and ETag become names of files, so they are checked.
fn read_metadata(response: &Response<Body>, url: impl Fn(&str) -> String) -> Option<Metadata> {
    let headers = response.headers();
    let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"))?;
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    let own_length =
        || header(headers, "content-length").filter(|_| response.status().is_success());
    let bytes = header(headers, "x-linked-size").or_else(own_length);
    let commit = header(headers, "x-repo-commit").filter(|commit| is_file_name(commit))?;
    is_file_name(&etag).then(|| Metadata {
        url: url(&commit),
        commit,
        etag,
        bytes: bytes.and_then(|bytes| bytes.parse().ok()),
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
