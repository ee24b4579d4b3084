//! How the hub is reached: proxies, certificates and time limits, as the environment says.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

/// How long the hub's first answer may take, including the look-up of its name and the connection.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(10);

/// What the environment says of the network.
#[derive(Clone, Debug)]
pub(super) struct Network {
    /// How long the hub's first answer may take.
    pub(super) first_answer: Duration,
    /// How long a download may stand still.
    pub(super) stall: Duration,
    proxy: Option<Proxy>,
    /// Whether nothing is asked for without encryption.
    encrypted: bool,
}

impl Network {
    /// Reads these variables: `HF_HUB_ETAG_TIMEOUT` and `HF_HUB_DOWNLOAD_TIMEOUT`, in seconds;
    /// `HTTPS_PROXY` or `HTTP_PROXY`, by the scheme of `endpoint`, or else `ALL_PROXY`, and `NO_PROXY`,
    /// all in small letters too.
    ///
    /// # Errors
    /// The reason, for a proxy that cannot be used: nothing is sent past it.
    pub(super) fn new(
        endpoint: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let seconds = |name: &str, default| {
            let seconds = variable(name).and_then(|text| text.trim().parse().ok());
            seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(default)
        };
        let encrypted = endpoint.starts_with("https:");
        let names = match encrypted {
            true => ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
            false => ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"],
        };
        let found = names.iter().find_map(|name| Some((name, variable(name)?)));
        let proxy = found.map(|(name, url)| {
            let exceptions = variable("no_proxy").or_else(|| variable("NO_PROXY"));
            let proxy = self::proxy(&url, &exceptions.unwrap_or_default());
            proxy.map_err(|error| format!("the proxy in {name} cannot be used: {error}"))
        });
        Ok(Self {
            first_answer: seconds("HF_HUB_ETAG_TIMEOUT", FIRST_ANSWER),
            stall: seconds("HF_HUB_DOWNLOAD_TIMEOUT", STALL),
            proxy: proxy.transpose()?,
            encrypted,
        })
    }

    /// What asks about a file: a few redirects within the hub are followed by the caller.
    pub(super) fn asking(&self) -> Result<Agent, String> {
        let config = Agent::config_builder()
            .timeout_global(Some(self.first_answer))
            .http_status_as_error(false)
            .https_only(self.encrypted)
            .max_redirects(0)
            .proxy(self.proxy.clone())
            .tls_config(TlsConfig::builder().root_certs(certificates()?).build());
        Ok(config.build().into())
    }

    /// What downloads a file, for as long as data come.
    pub(super) fn downloading(&self) -> Result<Agent, String> {
        let config = Agent::config_builder()
            .timeout_resolve(Some(self.stall))
            .timeout_connect(Some(self.stall))
            .timeout_recv_response(Some(self.stall))
            .timeout_per_read(Some(self.stall))
            .http_status_as_error(false)
            .https_only(self.encrypted)
            .proxy(self.proxy.clone())
            .tls_config(TlsConfig::builder().root_certs(certificates()?).build());
        Ok(config.build().into())
    }
}

/// A proxy, and the hosts that are reached without it: as in requests, with the hosts below them.
fn proxy(url: &str, exceptions: &str) -> Result<Proxy, ureq::Error> {
    let proxy = Proxy::new(url)?;
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

/// The authorities whose certificates are trusted: those of the file in `REQUESTS_CA_BUNDLE`,
/// `CURL_CA_BUNDLE` or `SSL_CERT_FILE`, or else the platform's, or else Mozilla's.
fn certificates() -> Result<RootCerts, String> {
    static READ: OnceLock<Result<RootCerts, String>> = OnceLock::new();
    READ.get_or_init(read_certificates).clone()
}

fn read_certificates() -> Result<RootCerts, String> {
    for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"] {
        let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()) else { continue };
        let reason = |reason: &dyn std::fmt::Display| format!("the file in {name}: {reason}");
        let pem = std::fs::read(&path).map_err(|error| reason(&error))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn network(endpoint: &str, variables: &[(&str, &str)]) -> Result<Network, String> {
        Network::new(endpoint, |name| {
            let found = variables.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_is_chosen_by_the_scheme_and_used_or_refused() {
        let all = [
            ("HTTPS_PROXY", "http://secure:1"),
            ("http_proxy", "http://user:p%40ss@plain:2"),
            ("ALL_PROXY", "socks5h://all:3"),
            ("NO_PROXY", "localhost, example.org,.below.net"),
        ];
        let proxy = |endpoint| network(endpoint, &all).unwrap().proxy.unwrap();
        assert_eq!(proxy("https://huggingface.co").host(), "secure");
        let plain = proxy("http://mirror");
        assert_eq!((plain.host(), plain.port(), plain.password()), ("plain", 2, Some("p@ss")));
        let socks = network("https://huggingface.co", &all[2..]).unwrap().proxy.unwrap();
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
            let error = network("https://h", &[("ALL_PROXY", wrong)]).unwrap_err();
            assert!(error.contains("the proxy in ALL_PROXY cannot be used"), "{error}");
        }
    }

    #[test]
    fn time_limits_are_those_of_the_environment() {
        let limits = |variables: &[(&str, &str)]| {
            let network = network("https://h", variables).unwrap();
            (network.first_answer, network.stall)
        };
        assert_eq!(limits(&[]), (FIRST_ANSWER, STALL));
        let told = [("HF_HUB_ETAG_TIMEOUT", "30"), ("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")];
        assert_eq!(limits(&told), (Duration::from_secs(30), Duration::from_millis(500)));
        assert_eq!(limits(&[("HF_HUB_ETAG_TIMEOUT", "soon")]), (FIRST_ANSWER, STALL));
    }
}
