//! The addresses of the hub and its cache, and the token.

use std::path::PathBuf;

use ureq::http::Uri;

use super::network::Network;
use crate::hub::options::HubOptions;

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
    /// The reason, if there is no folder for a cache, or if a proxy cannot be used.
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
            network: Network::new(endpoint, text)?,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache,
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
