//! The addresses of the hub and its cache, and the token.

use std::path::PathBuf;

use ureq::http::Uri;

use crate::hub::options::HubOptions;

/// The caller's options, or else the variables of the environment that huggingface_hub reads.
pub(super) struct Settings {
    pub(super) endpoint: String,
    token: Option<String>,
    pub(super) cache: PathBuf,
    /// Why the network must not be used, if it must not.
    pub(super) offline: Option<String>,
}

impl Settings {
    /// `None` if there is no folder for a cache.
    pub(super) fn new(options: &HubOptions) -> Option<Self> {
        let HubOptions { endpoint, token, cache_dir, .. } = options.clone();
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name| Some(variable(name)?.to_string_lossy().into_owned());
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
        let token = token
            .or_else(|| text("HF_TOKEN"))
            .or_else(|| std::fs::read_to_string(token_file?).ok())
            .map(|token| token.trim().to_owned())
            .filter(|token| !token.is_empty());
        let endpoint = endpoint.or_else(|| text("HF_ENDPOINT"));
        let endpoint = endpoint.as_deref().unwrap_or("https://huggingface.co");
        let forbidden = options.local_files_only.then(|| "local_files_only is set".to_owned());
        // The first of the two variables that is set counts.
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]
            .into_iter()
            .find_map(|name| Some((name, text(name)?)))
            // What huggingface_hub takes for yes.
            .filter(|(_, value)| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase()))
            .map(|(name, _)| format!("{name} is set"));
        Some(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache: cache_dir
                .or_else(|| path("HF_HUB_CACHE"))
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .or_else(|| Some(home?.join("hub")))?,
            offline: forbidden.or(offline),
        })
    }

    /// Adds the headers that all requests have.
    pub(super) fn prepare<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        let request = request.header("Accept-Encoding", "identity");
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Scheme and host of the endpoint: redirects within the hub leave them out.
    pub(super) fn origin(&self) -> String {
        let uri: Option<Uri> = self.endpoint.parse().ok();
        let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
        parts.map_or_else(|| self.endpoint.clone(), |(scheme, host)| format!("{scheme}://{host}"))
    }
}
