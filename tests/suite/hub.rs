//! The hub, played by a server on loopback: the cache, redirects, broken answers, offline.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bert::*;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::server::{Answer, Request, Server};
use crate::support::*;

const ID: &str = "google-bert/bert-base-uncased";
const COMMIT: &str = "86b5e0934494bd15c9632b12f734a8a67f723594";

/// What the hub answers for a file of a repository: small files directly, weights by a redirect to
/// where large files are stored, which is another host.
fn answer(request: &Request, folder: &Path, weights: &Path) -> Answer {
    let ok = |headers, body: Vec<u8>| Answer { status: 200, headers, body, ..Answer::default() };
    if let Some(name) = request.path.strip_prefix("/storage/") {
        let body = std::fs::read(weights.join(name)).unwrap();
        let range = request.header("range").and_then(|it| it.strip_prefix("bytes="));
        let Some(from) = range.and_then(|it| it.strip_suffix('-')) else { return ok(vec![], body) };
        let from: usize = from.parse().unwrap();
        if from >= body.len() {
            return Answer { status: 416, ..Answer::default() };
        }
        let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
        let headers = vec![("Content-Range", range)];
        return Answer { status: 206, headers, body: body[from..].to_vec(), ..Answer::default() };
    }
    // A repository that was renamed.
    if let Some(rest) = request.path.strip_prefix("/bert-base-uncased/") {
        let to = format!("/{ID}/{rest}");
        return Answer { status: 307, headers: vec![("Location", to)], ..Answer::default() };
    }
    let Some(rest) = request.path.strip_prefix(&format!("/{ID}/resolve/")) else {
        return Answer {
            status: 401,
            headers: vec![("X-Error-Code", "RepoNotFound".to_owned())],
            ..Answer::default()
        };
    };
    let (revision, name) = rest.split_once('/').unwrap();
    let error = |code: &str| Answer {
        status: 404,
        headers: vec![("X-Error-Code", code.to_owned()), ("X-Repo-Commit", COMMIT.to_owned())],
        ..Answer::default()
    };
    if !["main", "v1", COMMIT].contains(&revision) {
        return error("RevisionNotFound");
    }
    if name == "model.safetensors" && weights.join(name).is_file() {
        let content = std::fs::read(weights.join(name)).unwrap();
        return Answer {
            status: 302,
            headers: vec![
                (
                    "Location",
                    format!(
                        "{}://{}/storage/{name}",
                        if request.secure { "https" } else { "http" },
                        request.header("host").unwrap().replace("127.0.0.1", "localhost")
                    ),
                ),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("X-Linked-ETag", format!("\"{}\"", sha256(&content))),
                ("X-Linked-Size", content.len().to_string()),
                ("Content-Length", "0".to_owned()),
            ],
            ..Answer::default()
        };
    }
    match std::fs::read(folder.join(name)) {
        Ok(body) => {
            let etag = format!("W/\"{:040x}\"", body.len());
            ok(vec![("X-Repo-Commit", COMMIT.to_owned()), ("ETag", etag)], body)
        }
        Err(_) => error("EntryNotFound"),
    }
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hub whose only repository is the built-in checkpoint.
fn hub() -> Server {
    let folder = root().join("crates/bert/built-in");
    Server::start(move |request| answer(request, &folder, &folder))
}

fn checkpoint(server: &Server, cache: &Path) -> Checkpoint {
    Checkpoint::from_hub(ID).unwrap().with_endpoint(&server.url).with_cache_dir(cache)
}

fn load(checkpoint: &Checkpoint) -> Result<(BertModel, BertTokenizer)> {
    let model = AutoModel::from_pretrained(checkpoint, &LoadOptions::new())?;
    Ok((model, AutoTokenizer::from_pretrained(checkpoint)?))
}

/// Every file below a folder, links included.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { paths.extend(files(&path)) } else { paths.push(path) }
    }
    paths.sort();
    paths
}

#[test]
fn files_are_downloaded_once_into_the_layout_of_huggingface_hub() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    load(&checkpoint(&server, cache.path())).unwrap();
    let repo = cache.path().join("models--google-bert--bert-base-uncased");
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let weights = repo.join("snapshots").join(COMMIT).join("model.safetensors");
    let link = std::fs::read_link(&weights).unwrap();
    assert!(link.starts_with("../../blobs"), "{}", link.display());
    let original = std::fs::read(root().join("crates/bert/built-in/model.safetensors")).unwrap();
    assert_eq!(std::fs::read(&weights).unwrap(), original);
    assert!(!files(cache.path()).iter().any(|path| path.to_string_lossy().contains("incomplete")));

    let asked = server.requests().len();
    load(&checkpoint(&server, cache.path()).with_local_files_only()).unwrap();
    // What the repository does not have is remembered too.
    load(&checkpoint(&server, cache.path())).unwrap();
    assert_eq!(server.requests().len(), asked, "{:?}", server.requests());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        let plain = cache.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert_eq!(mode(&weights), mode(&plain), "others may read what the umask lets them");
    }
}

#[test]
fn a_repository_that_is_partly_in_the_cache_stays_at_its_commit() {
    let folder = root().join("crates/bert/built-in");
    let server = Server::start(move |request| answer(request, &folder, &folder));
    let cache = tempfile::tempdir().unwrap();
    AutoConfig::from_pretrained(checkpoint(&server, cache.path())).unwrap();
    AutoTokenizer::from_pretrained(checkpoint(&server, cache.path())).unwrap();
    let first = server.requests();
    assert_eq!(first[0], format!("HEAD /{ID}/resolve/main/config.json"));
    assert_eq!(first[1], format!("GET /{ID}/resolve/{COMMIT}/config.json"));
    assert!(first[2..].iter().all(|request| request.contains(COMMIT)), "{first:?}");
}

#[test]
fn private_repositories_that_were_renamed_are_downloaded_with_the_token() {
    let folder = root().join("crates/bert/built-in");
    let server = Server::start(move |request| {
        if request.header("authorization") != Some("Bearer hf_secret") {
            return Answer { status: 401, ..Answer::default() };
        }
        answer(request, &folder, &folder)
    });
    let cache = tempfile::tempdir().unwrap();
    let old_name = Checkpoint::from_hub("bert-base-uncased").unwrap().with_endpoint(&server.url);
    let old_name = old_name.with_cache_dir(cache.path()).with_token("hf_secret");
    assert_eq!(AutoConfig::from_pretrained(&old_name).unwrap().hidden_size, 128);
}

/// A hub whose answers from the storage are changed.
fn hub_with_storage(change: impl Fn(&Request, &mut Answer) + Send + Sync + 'static) -> Server {
    let folder = root().join("crates/bert/built-in");
    Server::start(move |request| {
        let mut answer = answer(request, &folder, &folder);
        if request.path.starts_with("/storage/") {
            change(request, &mut answer);
        }
        answer
    })
}

fn weights() -> Vec<u8> {
    std::fs::read(root().join("crates/bert/built-in/model.safetensors")).unwrap()
}

/// Cuts the connection after some bytes of the body.
fn cut(answer: &mut Answer, at: usize) {
    answer.headers.push(("Content-Length", answer.body.len().to_string()));
    answer.cut_at = Some(at.min(answer.body.len()));
}

/// The blobs whose download is not over.
fn unfinished(cache: &Path) -> Vec<PathBuf> {
    let mut paths = files(cache);
    paths.retain(|path| path.to_string_lossy().contains("incomplete"));
    paths
}

/// The requests for the weights that a hub with a storage got.
fn downloads(server: &Server) -> usize {
    server.requests().iter().filter(|request| request.starts_with("GET /storage/")).count()
}

#[test]
fn a_download_that_stands_still_is_given_up() {
    let server = hub_with_storage(|_, answer| {
        cut(answer, 0);
        answer.linger = Duration::from_secs(40);
    });
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let env = [("HF_HUB_DOWNLOAD_TIMEOUT", "1")];
    let (ok, _, error) = hello_at(&server.url, home.path(), &env);
    assert!(!ok && error.contains("nothing came for 1 seconds; try again"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_slow_hub_is_waited_for_as_long_as_bytes_come() {
    // Three seconds in all.
    let server = hub_with_storage(|_, answer| answer.pace = Some((30, Duration::from_millis(100))));
    let home = tempfile::tempdir().unwrap();
    let (ok, _, error) = hello_at(&server.url, home.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "1.5")]);
    assert!(ok, "{error}");
}

#[test]
fn a_hub_that_answers_late_is_waited_for_as_long_as_the_environment_says() {
    let folder = root().join("crates/bert/built-in");
    let server = Server::start(move |request| {
        let mut answer = answer(request, &folder, &folder);
        if request.path.ends_with("main/config.json") {
            answer.delay = Duration::from_secs(2);
        }
        answer
    });
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (_, out, error) = hello_at(&server.url, home.path(), &[("HF_HUB_ETAG_TIMEOUT", "0.5")]);
    assert!((out + &error).contains("nothing came for 0.5 seconds"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    let (ok, _, error) = hello_at(&server.url, home.path(), &[("HF_HUB_ETAG_TIMEOUT", "30")]);
    assert!(ok, "{error}");
}

#[test]
fn a_connection_that_breaks_again_and_again_brings_the_file_all_the_same() {
    let server = hub_with_storage(|_, answer| cut(answer, 1_000_000));
    let cache = tempfile::tempdir().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let its_heard = heard.clone();
    let checkpoint = checkpoint(&server, cache.path())
        .with_progress(move |progress| its_heard.lock().unwrap().push(progress));
    load(&checkpoint).unwrap();
    assert_eq!(downloads(&server), 3);
    let file = checkpoint.read("model.safetensors").unwrap().unwrap();
    assert!(file == weights(), "the parts do not make the whole");
    let heard = heard.lock().unwrap();
    let done: Vec<u64> =
        heard.iter().filter(|it| it.file == "model.safetensors").map(|it| it.done).collect();
    assert!(done.is_sorted() && done.last() == Some(&(weights().len() as u64)), "{done:?}");
}

#[test]
fn a_download_that_broke_off_goes_on_in_the_next_process() {
    let broken = Arc::new(Mutex::new(true));
    let (its_broken, ranges) = (broken.clone(), Arc::new(Mutex::new(Vec::new())));
    let its_ranges = ranges.clone();
    let server = hub_with_storage(move |request, answer| {
        its_ranges.lock().unwrap().push(request.header("range").map(str::to_owned));
        match (*its_broken.lock().unwrap(), request.header("range")) {
            (true, None) => cut(answer, 1_000_000),
            (true, Some(_)) => cut(answer, 0),
            (false, _) => {}
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    let part = format!("1000000 of {}", weights().len());
    assert_says(
        &error,
        &["model.safetensors of google-bert/bert-base-uncased", &part, "try again"],
    );
    let left = unfinished(cache.path());
    assert_eq!(std::fs::read(&left[0]).unwrap(), weights()[..1_000_000]);
    assert!(!files(cache.path()).iter().any(|path| path.ends_with("model.safetensors")));
    *broken.lock().unwrap() = false;
    load(&checkpoint(&server, cache.path())).unwrap();
    let range = || Some("bytes=1000000-".to_owned());
    assert_eq!(*ranges.lock().unwrap(), [None, range(), range()]);
    assert!(unfinished(cache.path()).is_empty());
}

#[test]
fn what_is_left_of_a_download_is_replaced_if_it_does_not_fit() {
    // A hub that does not know ranges, or one that does.
    for knows_ranges in [false, true] {
        let server = hub_with_storage(move |_, answer| {
            if !knows_ranges {
                *answer = Answer { status: 200, body: weights(), ..Answer::default() };
            }
        });
        let mut holes = weights();
        holes[1000..2000].fill(0);
        let whole = weights().len();
        for left in [
            vec![b'x'; whole + 1000],
            weights()[..1000].to_vec(),
            Vec::new(),
            weights(),
            // As another program leaves it that downloads several parts at a time.
            holes[..whole - 1000].to_vec(),
            holes,
        ] {
            let cache = tempfile::tempdir().unwrap();
            let repo = cache.path().join("models--google-bert--bert-base-uncased");
            std::fs::create_dir_all(repo.join("blobs")).unwrap();
            let blob = format!("blobs/{}", sha256(&weights()));
            std::fs::write(repo.join(format!("{blob}.incomplete")), left).unwrap();
            load(&checkpoint(&server, cache.path())).unwrap();
            assert!(std::fs::read(repo.join(blob)).unwrap() == weights());
            assert!(unfinished(cache.path()).is_empty());
        }
    }
}

#[test]
fn several_processes_download_a_file_once() {
    let server = hub_with_storage(|_, answer| answer.pace = Some((10, Duration::from_millis(50))));
    let home = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (ok, _, error) = hello_at(&server.url, home.path(), &[]);
                assert!(ok, "{error}");
            });
        }
    });
    assert_eq!(downloads(&server), 1);
}

#[test]
fn a_download_that_is_killed_leaves_a_cache_that_the_next_one_completes() {
    let server = hub_with_storage(|_, answer| answer.pace = Some((50, Duration::from_millis(5))));
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let (mut interrupted, mut home) = (0, tempfile::tempdir().unwrap());
    for kill in 0..30 {
        let mut process = hello_command()
            .envs([("HF_HOME", home.path().as_os_str()), ("HF_ENDPOINT", server.url.as_ref())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Most downloads are interrupted, whatever the machine is doing.
        let (before, start) = (downloads(&server), Instant::now());
        while downloads(&server) == before && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        process.kill().unwrap();
        process.wait().unwrap();
        let weights_left = unfinished(home.path());
        interrupted += usize::from(!weights_left.is_empty());
        // Every third time, the next process is killed too.
        if kill % 3 != 2 {
            let checkpoint = checkpoint(&server, &home.path().join("hub"));
            load(&checkpoint).unwrap_or_else(|error| panic!("kill {kill}: {error}"));
            assert!(checkpoint.read("model.safetensors").unwrap().unwrap() == weights(), "{kill}");
            home = tempfile::tempdir().unwrap();
        }
    }
    assert!(interrupted > 10, "only {interrupted} downloads were interrupted");
}

#[test]
fn a_revision_whose_commit_is_gone_from_the_cache_is_looked_up_again() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    let repo = cache.path().join("models--google-bert--bert-base-uncased");
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "a".repeat(40)).unwrap();
    // And a name whose blob is gone.
    let snapshot = repo.join("snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("config.json")).unwrap();
    load(&checkpoint(&server, cache.path())).unwrap();
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(server.requests()[2..].iter().all(|it| it.contains(COMMIT) || it.contains("storage")));
    load(&checkpoint(&server, cache.path()).with_local_files_only()).unwrap();
}

#[test]
fn a_length_that_only_the_download_says_is_checked_too() {
    let server = Server::start(|request| Answer {
        status: if request.header("range").is_some() { 206 } else { 200 },
        headers: vec![
            ("X-Repo-Commit", COMMIT.to_owned()),
            ("ETag", "\"abc\"".to_owned()),
            // Not what the answer has: the whole is longer than this part.
            ("Content-Range", "bytes 2-3/6".to_owned()),
            match &*request.method {
                "HEAD" => ("Transfer-Encoding", "chunked".to_owned()),
                _ => ("Content-Length", "2".to_owned()),
            },
        ],
        body: b"{}".to_vec(),
        ..Answer::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("models--google-bert--bert-base-uncased/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join("abc.incomplete"), "{ ").unwrap();
    let error = checkpoint(&server, cache.path()).read("a.json").unwrap_err();
    assert_says(&error, &["of 6 bytes"]);
}

#[test]
fn a_commit_that_is_gone_from_the_hub_is_named() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    let repo = cache.path().join("models--google-bert--bert-base-uncased");
    let gone = "a".repeat(40);
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::create_dir_all(repo.join("snapshots").join(&gone)).unwrap();
    std::fs::write(repo.join("refs/main"), &gone).unwrap();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    let repo = repo.display().to_string();
    assert_says(&error, &["the commit aaaa", "is gone from it", "delete ", &repo]);
}

#[test]
fn a_process_that_holds_a_file_and_stands_still_is_not_waited_for() {
    let server = hub();
    let home = tempfile::tempdir().unwrap();
    let locks = home.path().join("hub/.locks/models--google-bert--bert-base-uncased");
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(format!("{}.lock", sha256(&weights())))).unwrap();
    lock.lock().unwrap();
    let (ok, _, error) = hello_at(&server.url, home.path(), &[("HF_HUB_DOWNLOAD_TIMEOUT", "0.5")]);
    assert!(ok, "{error}");
}

#[test]
fn a_proxy_that_cannot_be_used_does_not_keep_from_the_cache() {
    let (server, home) = (hub(), tempfile::tempdir().unwrap());
    assert!(hello_at(&server.url, home.path(), &[]).0);
    let env = [("HTTP_PROXY", "ftp://p:1"), ("HF_HUB_OFFLINE", "1")];
    let (ok, out, error) = hello_at(&server.url, home.path(), &env);
    assert!(ok && out.contains(ID), "{out}{error}");
}

#[test]
#[cfg(unix)]
fn a_link_in_the_place_of_a_record_is_not_written_through() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    let repo = cache.path().join("models--google-bert--bert-base-uncased");
    let records = repo.join(".no_exist").join(COMMIT);
    let victim = cache.path().join("victim");
    std::fs::create_dir_all(&records).unwrap();
    std::fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, records.join("special.json")).unwrap();
    assert!(checkpoint(&server, cache.path()).read("special.json").unwrap().is_none());
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "kept");
}

/// A hub whose certificate an authority of its own has signed, and the authority's certificate.
fn hub_with_its_own_authority() -> (Server, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own_key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let own = rcgen::CertificateParams::new(names).unwrap().signed_by(&own_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], own_key.serialize_der().try_into().unwrap())
        .unwrap();
    let folder = root().join("crates/bert/built-in");
    let answer = move |request: &Request| answer(request, &folder, &folder);
    (Server::start_with(Some(Arc::new(config)), answer), certificate.pem())
}

#[test]
fn an_authority_of_ones_own_is_trusted_where_the_environment_names_it() {
    let (server, authority) = hub_with_its_own_authority();
    let home = tempfile::tempdir().unwrap();
    let (pem, empty) = (home.path().join("authority.pem"), home.path().join("empty.pem"));
    std::fs::write(&pem, authority).unwrap();
    std::fs::write(&empty, "").unwrap();
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        let cache = tempfile::tempdir().unwrap();
        let env = [(variable, pem.to_str().unwrap())];
        let (ok, out, error) = hello_at(&server.url, cache.path(), &env);
        assert!(ok && out.contains(ID), "{out}{error}");
        let env = [(variable, empty.to_str().unwrap())];
        let (_, out, error) = hello_at(&server.url, home.path(), &env);
        let all = out + &error;
        assert!(all.contains(variable) && all.contains("it has no certificate"), "{all}");
    }
    let (_, out, error) = hello_at(&server.url, home.path(), &[]);
    let all = out + &error;
    assert!(all.contains("invalid peer certificate") && all.contains("SSL_CERT_FILE"), "{all}");
}

#[test]
fn a_proxy_is_used_as_the_environment_says_and_never_passed_by() {
    let server = hub();
    let proxy = server.address.to_string();
    for (variable, value, seen) in [
        ("HTTP_PROXY", format!("http://{proxy}"), "CONNECT hub.invalid:80"),
        ("ALL_PROXY", format!("socks5h://{proxy}"), "SOCKS hub.invalid"),
        ("all_proxy", format!("socks5h://{proxy}"), "SOCKS hub.invalid"),
    ] {
        let (home, before) = (tempfile::tempdir().unwrap(), server.requests().len());
        let (ok, out, error) = hello_at("http://hub.invalid", home.path(), &[(variable, &value)]);
        assert!(ok && out.contains(ID), "{out}{error}");
        assert_eq!(server.requests()[before], seen);
    }
    for (variable, value) in
        [("HTTP_PROXY", "http://127.0.0.1:1"), ("ALL_PROXY", "socks5://127.0.0.1:1")]
    {
        let (home, before) = (tempfile::tempdir().unwrap(), server.requests().len());
        let (_, out, error) = hello_at(&server.url, home.path(), &[(variable, value)]);
        assert!((out + &error).contains("hub cannot be reached"));
        assert_eq!(server.requests().len(), before, "passed by {value}");
        // A host that is excepted, or a proxy of the other scheme.
        let env = [(variable, value), ("NO_PROXY", "127.0.0.1,localhost")];
        let (ok, _, error) = hello_at(&server.url, home.path(), &env);
        assert!(ok, "{error}");
    }
    let home = tempfile::tempdir().unwrap();
    let (ok, _, error) =
        hello_at(&server.url, home.path(), &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    assert!(ok, "{error}");
    let other = tempfile::tempdir().unwrap();
    let before = server.requests().len();
    let (_, out, error) = hello_at(&server.url, other.path(), &[("HTTP_PROXY", "ftp://p:1")]);
    let all = out + &error;
    assert!(all.contains("the proxy in HTTP_PROXY cannot be used"), "{all}");
    assert_eq!(server.requests().len(), before);
}

#[test]
fn a_vocabulary_without_its_settings_is_not_guessed_at() {
    let folder = fixture("tokenizers/cased");
    let broken = Arc::new(Mutex::new(true));
    let its_broken = broken.clone();
    let server = Server::start(move |request| {
        if request.path.contains("tokenizer_config") && *its_broken.lock().unwrap() {
            return Answer { status: 503, ..Answer::default() };
        }
        answer(request, &folder, &folder)
    });
    let cache = tempfile::tempdir().unwrap();
    let error = AutoTokenizer::from_pretrained(checkpoint(&server, cache.path())).unwrap_err();
    assert_says(&error, &["tokenizer_config.json", "503"]);
    *broken.lock().unwrap() = false;
    let tokenizer = AutoTokenizer::from_pretrained(checkpoint(&server, cache.path())).unwrap();
    let batch = tokenizer.encode("HELLO", &EncodeOptions::new()).unwrap();
    assert_eq!(batch.encodings[0].tokens, ["[CLS]", "HELLO", "[SEP]"]);
}

#[test]
fn revisions_that_are_paths_are_refused() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    for revision in ["../../evil", "/etc/passwd", "", "a//b", "a?b", "a b"] {
        let checkpoint = checkpoint(&server, cache.path()).with_revision(revision);
        let error = AutoConfig::from_pretrained(&checkpoint).unwrap_err();
        assert_says(&error, &["is not the name of a branch, tag or commit"]);
    }
    assert!(server.requests().is_empty());
}

#[test]
fn revisions_and_renamed_repositories_are_followed() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    let tagged = checkpoint(&server, cache.path()).with_revision("v1");
    AutoConfig::from_pretrained(&tagged).unwrap();
    let repo = cache.path().join("models--google-bert--bert-base-uncased");
    assert_eq!(std::fs::read_to_string(repo.join("refs/v1")).unwrap(), COMMIT);
    let asked = server.requests().len();
    AutoConfig::from_pretrained(checkpoint(&server, cache.path()).with_revision(COMMIT)).unwrap();
    assert_eq!(server.requests().len(), asked, "a commit in the cache needs no network");

    let old_name = Checkpoint::from_hub("bert-base-uncased").unwrap();
    let old_name = old_name.with_endpoint(&server.url).with_cache_dir(cache.path());
    assert_eq!(AutoConfig::from_pretrained(&old_name).unwrap().hidden_size, 128);

    let error = AutoConfig::from_pretrained(checkpoint(&server, cache.path()).with_revision("v9"));
    assert_says(
        &error.unwrap_err(),
        &["config.json of google-bert/bert-base-uncased", "no revision \"v9\""],
    );
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let folder = root().join("crates/bert/built-in");
    let storage = {
        let folder = folder.clone();
        Server::start(move |request| {
            assert_eq!(request.header("authorization"), None);
            answer(request, &folder, &folder)
        })
    };
    let elsewhere = storage.url.replace("127.0.0.1", "localhost");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let its_seen = seen.clone();
    let server = Server::start(move |request| {
        its_seen.lock().unwrap().push(request.header("authorization").map(str::to_owned));
        let mut answer = answer(request, &folder, &folder);
        for (name, value) in &mut answer.headers {
            if *name == "Location" {
                *value = format!("{elsewhere}/storage/model.safetensors");
            }
        }
        answer
    });
    let cache = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&server, cache.path()).with_token(" hf_secret\n");
    AutoModel::from_pretrained(&checkpoint, &LoadOptions::new()).unwrap();
    assert!(seen.lock().unwrap().iter().all(|token| token.as_deref() == Some("Bearer hf_secret")));
    assert_eq!(storage.requests(), ["GET /storage/model.safetensors"]);
    assert!(!format!("{checkpoint:?}").contains("secret"));
}

#[test]
fn the_callback_hears_how_far_a_download_is() {
    let (server, cache) = (hub(), tempfile::tempdir().unwrap());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let its_heard = heard.clone();
    let checkpoint = checkpoint(&server, cache.path())
        .with_progress(move |progress| its_heard.lock().unwrap().push(progress));
    load(&checkpoint).unwrap();
    let heard = heard.lock().unwrap();
    let weights: Vec<_> = heard.iter().filter(|p| p.file == "model.safetensors").collect();
    assert!(weights.len() > 1 && weights.windows(2).all(|pair| pair[0].done < pair[1].done));
    assert_eq!(Some(weights.last().unwrap().done), weights[0].total);
}

#[test]
fn a_body_that_is_shorter_than_announced_is_not_kept() {
    let server = hub_with_storage(|_, answer| {
        *answer = Answer { status: 200, body: weights()[..1000].to_vec(), ..Answer::default() };
    });
    let cache = tempfile::tempdir().unwrap();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    let part = format!("after 1000 of {} bytes", weights().len());
    assert_says(&error, &[&part, "another number of bytes"]);
    assert!(!files(cache.path()).iter().any(|path| path.ends_with("model.safetensors")));
}

#[test]
fn refusals_say_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    for (status, code, parts) in [
        (401, "", ["401", "HF_TOKEN"]),
        (403, "GatedRepo", ["gated", "HF_TOKEN"]),
        (404, "RepoNotFound", ["404", "check its name"]),
        (404, "EntryNotFound", ["no config.json in google-bert/bert-base-uncased", "config.json"]),
        (418, "", ["418", "cannot get"]),
        (503, "", ["503", "cannot be reached"]),
        (429, "", ["429", "cannot be reached"]),
        (200, "", ["X-Repo-Commit", "check HF_ENDPOINT"]),
    ] {
        let server = Server::start(move |_| Answer {
            status,
            headers: vec![("X-Error-Code", code.to_owned())],
            ..Answer::default()
        });
        let error = AutoConfig::from_pretrained(checkpoint(&server, cache.path())).unwrap_err();
        assert_says(&error, &parts);
    }
    assert!(files(cache.path()).is_empty());
}

#[test]
fn names_that_would_leave_the_cache_are_refused() {
    for (commit, etag) in [("../../evil", "\"abc\""), (COMMIT, "\"../../evil\""), (COMMIT, "\"\"")]
    {
        let server = Server::start(move |_| Answer {
            status: 200,
            headers: vec![("X-Repo-Commit", commit.to_owned()), ("ETag", etag.to_owned())],
            ..Answer::default()
        });
        let cache = tempfile::tempdir().unwrap();
        let error = AutoConfig::from_pretrained(checkpoint(&server, cache.path())).unwrap_err();
        assert_says(&error, &["no valid X-Repo-Commit and ETag"]);
        assert!(files(cache.path()).is_empty());
    }
}

#[test]
fn names_with_signs_that_an_address_reserves_are_escaped() {
    let server = Server::start(move |request| {
        let found = request.path.ends_with("/two%20words/a%3Fb%23c%25-%C3%A9.json");
        Answer {
            status: if found { 200 } else { 404 },
            headers: vec![
                ("X-Error-Code", "EntryNotFound".to_owned()),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("ETag", "\"abc\"".to_owned()),
            ],
            body: b"{}".to_vec(),
            ..Answer::default()
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let checkpoint = checkpoint(&server, cache.path());
    let read = |name| checkpoint.read(name).unwrap();
    assert_eq!(read("two words/a?b#c%-é.json").unwrap(), b"{}");
    assert!(read("two words.json").is_none());
}

#[test]
fn a_hub_that_does_not_answer_is_asked_once() {
    let server = Server::start(|_| Answer {
        status: 200,
        delay: Duration::from_secs(60),
        ..Answer::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let checkpoint = checkpoint(&server, cache.path());
    let error = AutoConfig::from_pretrained(&checkpoint).unwrap_err();
    assert!(matches!(error, Error::HubUnreachable { .. }), "{error}");
    assert_says(&error, &["config.json", "cannot be reached", "nothing came for 10 seconds"]);
    assert!(AutoTokenizer::from_pretrained(&checkpoint).is_err());
    let waited = start.elapsed();
    assert!((9..18).contains(&waited.as_secs()), "waited {waited:?}");
}

#[test]
fn nobody_at_the_address_is_told_at_once() {
    let cache = tempfile::tempdir().unwrap();
    let nobody = Checkpoint::from_hub(ID).unwrap().with_endpoint("http://127.0.0.1:1");
    let error = AutoConfig::from_pretrained(nobody.with_cache_dir(cache.path())).unwrap_err();
    assert_says(
        &error,
        &["config.json of google-bert/bert-base-uncased", "pass the path of a folder"],
    );
}

#[test]
fn without_the_network_only_the_cache_counts() {
    let cache = tempfile::tempdir().unwrap();
    let offline =
        Checkpoint::from_hub(ID).unwrap().with_cache_dir(cache.path()).with_local_files_only();
    let error = AutoConfig::from_pretrained(&offline).unwrap_err();
    let Error::HubUnreachable { reason, .. } = &error else { panic!("{error}") };
    assert_eq!(reason, "local_files_only is set");
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error() {
    let (server, folder) = (hub(), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = AutoConfig::from_pretrained(checkpoint(&server, &file)).unwrap_err();
    assert!(matches!(error, Error::Cache { .. }), "{error}");
    assert_says(&error, &["cannot write to the hub's cache", "HF_HOME"]);
}

/// The example `hello` without what the environment says of the hub.
fn hello_command() -> Command {
    let mut command = without_hub(Command::new(example("hello")));
    command.current_dir(root());
    command
}

fn without_hub(mut command: Command) -> Command {
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_ETAG_TIMEOUT",
        "HF_HUB_DOWNLOAD_TIMEOUT",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// Runs the example `hello` with this environment; returns success, standard output and error.
pub fn hello(args: &[&str], env: &[(&str, &str)]) -> (bool, String, String) {
    let output = hello_command().args(args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// The same with the hub at `endpoint` and its cache in `home`.
fn hello_at(endpoint: &str, home: &Path, env: &[(&str, &str)]) -> (bool, String, String) {
    let own = [("HF_HOME", home.to_str().unwrap()), ("HF_ENDPOINT", endpoint)];
    hello(&[], &[&own, env].concat())
}

#[test]
fn the_environment_says_where_the_hub_and_the_cache_are() {
    let (server, home) = (hub(), tempfile::tempdir().unwrap());
    let path = home.path().to_str().unwrap();
    let (ok, out, error) = hello(&[], &[("HF_HOME", path), ("HF_ENDPOINT", &server.url)]);
    assert!(ok && out.contains("google-bert/bert-base-uncased"), "{out}{error}");
    assert!(home.path().join("hub/models--google-bert--bert-base-uncased").is_dir());

    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let (ok, out, error) = hello(&[], &[("HF_HOME", path), (variable, "1")]);
        assert!(ok && out.starts_with("google-bert/bert-base-uncased\n"), "{out}{error}");
        let elsewhere = tempfile::tempdir().unwrap();
        let elsewhere = elsewhere.path().to_str().unwrap();
        let (ok, out, _) = hello(&[], &[("HF_HUB_CACHE", elsewhere), (variable, "true")]);
        assert!(ok && out.contains(&format!("{variable} is set")), "{out}");
        assert!(out.contains("running the built-in checkpoint"), "{out}");
    }
}

#[test]
fn the_environment_says_which_token_to_show() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().to_str().unwrap();
    std::fs::write(home.path().join("token"), "hf_home\n").unwrap();
    let other = home.path().join("other");
    std::fs::write(&other, "hf_other").unwrap();
    let other = other.to_str().unwrap();
    for (env, expected) in [
        (vec![], "Bearer hf_home"),
        (vec![("HF_TOKEN_PATH", other)], "Bearer hf_other"),
        (vec![("HF_TOKEN_PATH", other), ("HF_TOKEN", " hf_variable ")], "Bearer hf_variable"),
        (vec![("HUGGING_FACE_HUB_TOKEN", "hf_old")], "Bearer hf_old"),
        (vec![("HF_TOKEN", "")], "Bearer hf_home"),
        (vec![("HF_TOKEN", "hf_variable"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], ""),
    ] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let its_seen = seen.clone();
        let server = Server::start(move |request| {
            its_seen.lock().unwrap().push(request.header("authorization").map(str::to_owned));
            Answer { status: 404, ..Answer::default() }
        });
        let (ok, _, error) =
            hello(&[], &[&[("HF_HOME", path), ("HF_ENDPOINT", &server.url)], &env[..]].concat());
        assert!(!ok && error.contains("no config.json"), "{error}");
        assert_eq!(seen.lock().unwrap()[0].as_deref().unwrap_or_default(), expected);
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_leaves_nothing_broken() {
    let (server, home) = (hub(), tempfile::tempdir().unwrap());
    // No file may grow beyond a megabyte, which the weights do.
    let script = format!("trap '' XFSZ; ulimit -f 1024; exec {}", example("hello").display());
    let output = without_hub(Command::new("bash"))
        .args(["-c", &script])
        .envs([("HF_HOME", home.path().to_str().unwrap()), ("HF_ENDPOINT", &server.url)])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("cannot write to the hub's cache"),
        "{error}"
    );
    assert!(!files(home.path()).iter().any(|path| path.ends_with("model.safetensors")));
    // Once there is room, it goes on from where it was.
    let (ok, _, error) = hello_at(&server.url, home.path(), &[]);
    assert!(ok, "{error}");
    assert!(unfinished(home.path()).is_empty());
}

/// Runs Python with huggingface_hub on this cache; returns its standard output.
fn python(program: &str, home: &str, endpoint: &str) -> String {
    let interpreter = root().join("target/hub-venv/bin/python");
    assert!(interpreter.exists(), "no {}: run scripts/check", interpreter.display());
    let output = Command::new(interpreter)
        .args(["-c", program])
        .envs([("HF_HOME", home), ("HF_ENDPOINT", endpoint), ("HF_HUB_DISABLE_XET", "1")])
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs huggingface_hub: run by scripts/check"]
fn a_cache_that_python_made_serves_us_and_the_other_way_round() {
    let download = format!(
        "from huggingface_hub import hf_hub_download\n\
         for name in ('config.json', 'tokenizer.json', 'model.safetensors'):\n    \
             print(hf_hub_download({ID:?}, name, local_files_only=LOCAL))"
    );
    let (server, home) = (hub(), tempfile::tempdir().unwrap());
    let path = home.path().to_str().unwrap();
    python(&download.replace("LOCAL", "False"), path, &server.url);
    let (ok, out, error) = hello(&[], &[("HF_HOME", path), ("HF_HUB_OFFLINE", "1")]);
    assert!(ok && out.starts_with("google-bert/bert-base-uncased\n"), "{out}{error}");

    let ours = tempfile::tempdir().unwrap();
    load(&checkpoint(&server, &ours.path().join("hub"))).unwrap();
    let found =
        python(&download.replace("LOCAL", "True"), ours.path().to_str().unwrap(), &server.url);
    assert_eq!(found.lines().count(), 3);
}
