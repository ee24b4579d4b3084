//! How the hub is reached: proxies, certificates and time limits, as the environment says.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

/// How long the hub's first answer may take, including the look-up of its name and the connection.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(10);

/// The longest time that can be waited for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What the environment says of the network.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// How long the hub's first answer may take.
    pub(super) first_answer: Duration,
    /// How long a download may stand still.
    pub(super) stall: Duration,
    /// The proxies of addresses without and with encryption, or why they cannot be used.
    proxies: [Result<Option<Proxy>, String>; 2],
}

impl Network {
    /// Reads these variables: `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds;
    /// `HTTPS_PROXY` or `HTTP_PROXY`, by an address's scheme, or else `ALL_PROXY`, and `NO_PROXY`, all in
    /// small letters too.
    pub(super) fn new(variable: impl Fn(&str) -> Option<String>) -> Self {
        let seconds = |name: &str, default| {
            let seconds = variable(name).and_then(|text| text.trim().parse().ok());
            let seconds = seconds.filter(|seconds| *seconds > 0.);
            let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            time.unwrap_or(default).min(LONGEST)
        };
        let exceptions = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
        let proxy = |names: [&str; 4]| {
            let found = names.iter().find_map(|name| Some((name, variable(name)?)));
            let proxy = found.map(|(name, url)| {
                self::proxy(&url, &exceptions)
                    .map_err(|error| format!("the proxy in {name} cannot be used: {error}"))
            });
            proxy.transpose()
        };
        Self {
            first_answer: seconds("HF_HUB_ETAG_TIMEOUT", FIRST_ANSWER),
            stall: seconds("HF_HUB_DOWNLOAD_TIMEOUT", STALL),
            proxies: [
                proxy(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
                proxy(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            ],
        }
    }

    /// The proxy of an address. One that cannot be used is an error: nothing is sent past it.
    fn proxy(&self, url: &str) -> Result<Option<Proxy>, String> {
        self.proxies[usize::from(is_encrypted(url))].clone()
    }

    /// What asks about a file at an address. Redirects are left to the caller.
    pub(super) fn asking(&self, url: &str) -> Result<Agent, String> {
        let config = Agent::config_builder()
            .timeout_global(Some(self.first_answer))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(self.proxy(url)?)
            .tls_config(TlsConfig::builder().root_certs(certificates()?).build());
        Ok(config.build().into())
    }

    /// What downloads a file from an address, for as long as data come. Redirects are left to the caller.
    pub(super) fn downloading(&self, url: &str) -> Result<Agent, String> {
        let config = Agent::config_builder()
            .timeout_resolve(Some(self.stall))
            .timeout_connect(Some(self.stall))
            .timeout_recv_response(Some(self.stall))
            .timeout_per_read(Some(self.stall))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(self.proxy(url)?)
            .tls_config(TlsConfig::builder().root_certs(certificates()?).build());
        Ok(config.build().into())
    }
}

fn is_encrypted(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
}

/// Scheme and host of an address.
pub(super) fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

/// The address to which another one redirects.
///
/// # Errors
/// The reason not to go there.
pub(super) fn redirected(url: &str, location: &str) -> Result<String, String> {
    let to = match location {
        path if path.starts_with('/') && !path.starts_with("//") => {
            origin(url).map(|origin| origin + path)
        }
        other => origin(other).map(|_| other.to_owned()),
    };
    let to = to.ok_or_else(|| format!("it redirects to {location:?}, which is no address"))?;
    match is_encrypted(url) && !is_encrypted(&to) {
        true => Err(format!("it redirects to {to:?}, which is not encrypted")),
        false => Ok(to),
    }
}

/// A proxy, and the hosts that are reached without it: as in requests, with the hosts below them.
fn proxy(url: &str, exceptions: &str) -> Result<Proxy, ureq::Error> {
    let without_slash = url.strip_suffix('/').filter(|rest| !rest.ends_with(['/', ':']));
    let proxy = Proxy::new(without_slash.unwrap_or(url))?;
    let mut builder = Proxy::builder(proxy.protocol())
        .host(proxy.host())
        .port(proxy.port())
        .resolve_target(proxy.resolve_target());
    if let Some(username) = proxy.username() {
        builder = builder.username(username);
    }
    if let Some(password) = proxy.password() {
        builder = builder.password(password);
    }
    for host in exceptions.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        builder = builder.no_proxy(host);
        if !host.starts_with(['.', '*']) {
            builder = builder.no_proxy(&format!(".{host}"));
        }
    }
    builder.build()
}

/// What went wrong. `limit` is how long an answer may take.
pub(super) fn reason(error: &ureq::Error, limit: Duration) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("nothing came for {} seconds", limit.as_secs_f64()),
        error if error.to_string().contains("certificate") => format!(
            "{error}; if your network has an authority of its own, set SSL_CERT_FILE to the file of its \
             certificate"
        ),
        error => error.to_string(),
    }
}

/// The authorities whose certificates are trusted: those of the file, or of the folder's files, in
/// `SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE`, or else the platform's, or else Mozilla's.
fn certificates() -> Result<RootCerts, String> {
    static READ: OnceLock<Result<RootCerts, String>> = OnceLock::new();
    READ.get_or_init(read_certificates).clone()
}

fn read_certificates() -> Result<RootCerts, String> {
    for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else { continue };
        let reason = |reason: &dyn std::fmt::Display| format!("the file in {name}: {reason}");
        let pem = read_pem(path.as_ref()).map_err(|error| reason(&error))?;
        let certificates: Vec<Certificate> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(reason(&"it has no certificate"));
        }
        return Ok(RootCerts::Specific(Arc::new(certificates)));
    }
    // A certificate of the platform that cannot be read is no reason to use none.
    let platform = rustls_native_certs::load_native_certs().certs;
    let platform: Vec<Certificate> =
        platform.iter().map(|it| Certificate::from_der(it).to_owned()).collect();
    if platform.is_empty() {
        return Ok(RootCerts::WebPki);
    }
    Ok(RootCerts::Specific(Arc::new(platform)))
}

/// A file, or all files of a folder, one after the other.
fn read_pem(path: &Path) -> std::io::Result<Vec<u8>> {
    if !path.is_dir() {
        return std::fs::read(path);
    }
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.is_file() {
            all.extend(std::fs::read(path)?);
            all.push(b'\n');
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(variables: &[(&str, &str)]) -> Network {
        Network::new(|name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_is_chosen_by_the_scheme_and_used_or_refused() {
        let all = [
            ("HTTPS_PROXY", "secure:1/"),
            ("http_proxy", "http://user:p%40ss@plain:2"),
            ("ALL_PROXY", "socks5h://all:3"),
            ("NO_PROXY", "localhost, example.org,.below.net"),
        ];
        let proxy = |url| network(&all).proxy(url).unwrap().unwrap();
        assert_eq!(
            (proxy("HTTPS://huggingface.co").host(), proxy("https://a").port()),
            ("secure", 1)
        );
        let plain = proxy("http://mirror");
        assert_eq!((plain.host(), plain.port(), plain.password()), ("plain", 2, Some("p@ss")));
        let socks = network(&all[2..]).proxy("https://huggingface.co").unwrap().unwrap();
        assert_eq!((socks.protocol(), socks.port()), (ureq::ProxyProtocol::Socks5h, 3));
        assert!(!socks.resolve_target());
        for (host, direct) in [
            ("localhost", true),
            ("example.org", true),
            ("hub.example.org", true),
            ("a.below.net", true),
            ("huggingface.co", false),
        ] {
            let uri = format!("http://{host}/").parse().unwrap();
            assert_eq!(socks.is_no_proxy(&uri), direct, "{host}");
        }
        for wrong in ["ftp://p:1", "http://", "://"] {
            let error = network(&[("ALL_PROXY", wrong)]).proxy("https://h").unwrap_err();
            assert!(error.contains("the proxy in ALL_PROXY cannot be used"), "{error}");
        }
    }

    #[test]
    fn time_limits_are_those_of_the_environment() {
        let limits = |variables: &[(&str, &str)]| {
            let network = network(variables);
            (network.first_answer, network.stall)
        };
        assert_eq!(limits(&[]), (FIRST_ANSWER, STALL));
        let told = [("HF_HUB_ETAG_TIMEOUT", "30"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")];
        assert_eq!(limits(&told), (Duration::from_secs(30), Duration::from_millis(500)));
        for odd in ["soon", "0", "-1", "nan", "1e300"] {
            assert_eq!(limits(&[("HF_HUB_ETAG_TIMEOUT", odd)]), (FIRST_ANSWER, STALL), "{odd}");
        }
        assert_eq!(limits(&[("HF_HUB_ETAG_TIMEOUT", "1e19")]).0, LONGEST);
    }

    #[test]
    fn redirects_stay_encrypted_and_are_addresses() {
        let to = |location| redirected("https://hub:1/a/b?c", location);
        assert_eq!(to("/d?e").unwrap(), "https://hub:1/d?e");
        assert_eq!(to("https://cdn/x").unwrap(), "https://cdn/x");
        assert_eq!(redirected("http://hub/", "https://cdn/").unwrap(), "https://cdn/");
        for wrong in ["http://cdn/x", "//cdn/x", "x", "", "file:///etc/passwd"] {
            assert!(to(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn certificates_come_from_a_file_or_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let mut all = read_pem(folder.path()).unwrap();
        all.sort();
        assert_eq!(all, b"\n\nab");
        assert_eq!(read_pem(&folder.path().join("a")).unwrap(), b"a");
        assert!(read_pem(&folder.path().join("c")).is_err());
    }
}
