//! The addresses of the hub and its cache, and the token.

use std::ffi::OsStr;
use std::path::PathBuf;

use ureq::http::Uri;

use crate::hub::options::HubOptions;

/// The caller's options, or else the variables of the environment that huggingface_hub reads.
pub(super) struct Settings {
    pub(super) endpoint: String,
    token: Option<String>,
    pub(super) cache: Option<PathBuf>,
    /// Why the network must not be used, if it must not.
    pub(super) offline: Option<&'static str>,
}

impl Settings {
    pub(super) fn new(options: &HubOptions) -> Self {
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
            // The first of the two variables that is set counts.
            offline: match (options.local_files_only, variable("HF_HUB_OFFLINE")) {
                (true, _) => Some("local_files_only is set"),
                (false, Some(value)) => is_yes(&value).then_some("HF_HUB_OFFLINE is set"),
                (false, None) => variable("TRANSFORMERS_OFFLINE")
                    .filter(|value| is_yes(value))
                    .map(|_| "TRANSFORMERS_OFFLINE is set"),
            },
        }
    }

    pub(super) fn authorize<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
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

/// Whether huggingface_hub takes a variable's value for yes.
fn is_yes(value: &OsStr) -> bool {
    let value = value.to_string_lossy().to_uppercase();
    ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
}
