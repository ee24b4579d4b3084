//! Files of a repository on the Hugging Face hub, from the cache or the network.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, RepoType};

use crate::error::{Error, Result};

/// How long the first answer of the hub may take.
const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// A model repository at its branch `main`.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    id: String,
}

impl Repo {
    pub(crate) fn new(id: &str) -> Self {
        Self { id: id.to_owned() }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The path of `file` in the cache, after downloading it if it is not there.
    pub(crate) fn file(&self, file: &str) -> Result<PathBuf> {
        let unreachable = |cache: &Path, reason: String| Error::HubUnreachable {
            repo: self.id.clone(),
            file: file.to_owned(),
            cache: cache.to_owned(),
            reason,
        };
        let Some(folder) = cache_folder() else {
            let reason = "there is no home folder for a cache; set HF_HOME".to_owned();
            return Err(unreachable(Path::new(""), reason));
        };
        let repo = hf_hub::Repo::new(self.id.clone(), RepoType::Model);
        let cache = Cache::new(folder.clone());
        if let Some(path) = cache.repo(repo.clone()).get(file) {
            return Ok(path);
        }
        if let Some(variable) = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(is_set)
        {
            return Err(unreachable(&folder, format!("{variable} is set")));
        }
        let answer = |error: ApiError| match &error {
            ApiError::RequestError(request) => match **request {
                ureq::Error::StatusCode(status) => Error::Hub {
                    repo: self.id.clone(),
                    file: file.to_owned(),
                    reason: status_reason(status),
                },
                _ => unreachable(&folder, request.to_string()),
            },
            _ => Error::Hub {
                repo: self.id.clone(),
                file: file.to_owned(),
                reason: error.to_string(),
            },
        };
        let api = api(cache).map_err(answer)?;
        let remote = api.repo(repo);
        match first_contact(api, remote.url(file)) {
            Some(contact) => contact.map_err(answer)?,
            None => {
                let reason = format!("no answer within {} seconds", FIRST_CONTACT.as_secs());
                return Err(unreachable(&folder, reason));
            }
        }
        remote.download(file).map_err(answer)
    }
}

/// Where huggingface_hub keeps its files.
fn cache_folder() -> Option<PathBuf> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| variable("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(variable("HF_HOME")?.join("hub")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface/hub")))
}

/// Whether a variable holds what huggingface_hub takes for yes.
fn is_set(name: &&str) -> bool {
    let value = std::env::var(name).unwrap_or_default().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}

fn api(cache: Cache) -> std::result::Result<Api, ApiError> {
    let mut builder = ApiBuilder::from_cache(cache).with_progress(std::io::stderr().is_terminal());
    if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    builder.build()
}

/// Asks for the metadata of `url`, or gives `None` when no answer comes in time.
///
/// hf-hub sets no time limits, so the question is asked on a thread of its own.
fn first_contact(api: Api, url: String) -> Option<std::result::Result<(), ApiError>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // The receiver is gone when the time is over, and so is the interest in the answer.
        let _ = sender.send(api.metadata(&url).map(drop));
    });
    receiver.recv_timeout(FIRST_CONTACT).ok()
}

fn status_reason(status: u16) -> String {
    match status {
        401 | 403 => format!(
            "it answers {status}: the repository does not exist, or is private or gated; \
             set HF_TOKEN to a token that may read it"
        ),
        404 => "it answers 404: there is no such file; check the name".to_owned(),
        _ => format!("it answers {status}"),
    }
}
