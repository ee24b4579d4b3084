//! The addresses of the hub and its cache, and the token.

use std::path::PathBuf;

use ureq::Body;
use ureq::http::Response;

use super::network::{self, Network, origin, redirected};
use crate::hub::options::HubOptions;

/// How many redirects of a download are followed.
const MOST_REDIRECTS: usize = 10;

/// What huggingface_hub takes for yes.
const YES: [&str; 4] = ["1", "ON", "YES", "TRUE"];

/// The caller's options, or else the variables of the environment that huggingface_hub reads.
pub(super) struct Settings {
    pub(super) endpoint: String,
    token: Option<String>,
    pub(super) cache: PathBuf,
    /// Why the network must not be used, if it must not.
    pub(super) offline: Option<String>,
    pub(super) network: Network,
}

impl Settings {
    /// # Errors
    /// The reason, if there is no folder for a cache.
    pub(super) fn new(options: &HubOptions) -> Result<Self, String> {
        let HubOptions { endpoint, token, cache_dir, .. } = options.clone();
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| Some(variable(name)?.to_string_lossy().into_owned());
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
        let is_yes = |value: &String| YES.contains(&&*value.to_uppercase());
        let implicit = text("HF_HUB_DISABLE_IMPLICIT_TOKEN").filter(is_yes).is_none();
        let from_environment = || {
            text("HF_TOKEN")
                .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| std::fs::read_to_string(token_file?).ok())
        };
        let token = token
            .or_else(|| implicit.then(from_environment)?)
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = endpoint.or_else(|| text("HF_ENDPOINT"));
        let endpoint = endpoint.as_deref().unwrap_or("https://huggingface.co");
        let forbidden = options.local_files_only.then(|| "local_files_only is set".to_owned());
        // The first of the two variables that is set counts.
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .into_iter()
            .find_map(|name| Some((name, text(name)?)))
            .filter(|(_, value)| is_yes(value))
            .map(|(name, _)| format!("{name} is set"));
        let cache = cache_dir
            .or_else(|| path("HF_HUB_CACHE"))
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(home?.join("hub")))
            .ok_or("there is no home folder for a cache; set HF_HOME")?;
        Ok(Self {
            network: Network::new(text),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache,
            offline: forbidden.or(offline),
        })
    }

    /// Adds the headers that requests to an address have. No other host gets the token.
    pub(super) fn prepare<T>(
        &self,
        request: ureq::RequestBuilder<T>,
        url: &str,
    ) -> ureq::RequestBuilder<T> {
        let request = request.header("Accept-Encoding", "identity");
        match &self.token {
            Some(token) if origin(url) == origin(&self.endpoint) => {
                request.header("Authorization", format!("Bearer {token}"))
            }
            _ => request,
        }
    }

    /// Asks for a file, from its byte `from` on. Redirects are followed.
    ///
    /// # Errors
    /// The reason for which the network failed.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response<Body>, String> {
        let mut url = url.to_owned();
        for _ in 0..MOST_REDIRECTS {
            let mut request = self.prepare(self.network.downloading(&url)?.get(&url), &url);
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            let response =
                request.call().map_err(|error| network::reason(&error, self.network.stall))?;
            let location = response.headers().get("location").and_then(|it| it.to_str().ok());
            match location.filter(|_| response.status().is_redirection()) {
                Some(location) => url = redirected(&url, location)?,
                None => return Ok(response),
            }
        }
        Err("it redirects endlessly".to_owned())
    }
}
