//! The hub, played by a server on loopback: the cache, redirects, broken answers, offline.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bert::*;

use crate::server::{Answer, Request, Server};
use crate::support::*;

const ID: &str = "google-bert/bert-base-uncased";
const COMMIT: &str = "86b5e0934494bd15c9632b12f734a8a67f723594";

/// What the hub answers for a file of a repository: small files directly, weights by a redirect to
/// where large files are stored, which is another host.
fn answer(request: &Request, folder: &Path, weights: &Path) -> Answer {
    let ok = |headers, body: Vec<u8>| Answer { status: 200, headers, body, ..Answer::default() };
    if let Some(name) = request.path.strip_prefix("/storage/") {
        return ok(vec![], std::fs::read(weights.join(name)).unwrap());
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
        let bytes = std::fs::metadata(weights.join(name)).unwrap().len();
        return Answer {
            status: 302,
            headers: vec![
                (
                    "Location",
                    format!(
                        "http://{}/storage/{name}",
                        request.header("host").unwrap().replace("127.0.0.1", "localhost")
                    ),
                ),
                ("X-Repo-Commit", COMMIT.to_owned()),
                ("X-Linked-ETag", format!("\"{:064x}\"", bytes)),
                ("X-Linked-Size", bytes.to_string()),
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

#[test]
fn a_download_that_stands_still_is_given_up() {
    let folder = root().join("crates/bert/built-in");
    let server = Server::start(move |request| {
        let mut answer = answer(request, &folder, &folder);
        if request.path.starts_with("/storage/") {
            answer.headers.push(("Content-Length", answer.body.len().to_string()));
            answer.cut_at = Some(1000);
            answer.linger = Duration::from_secs(40);
        }
        answer
    });
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    assert_says(&error, &["no data came for 15 seconds", "try again"]);
    assert!(start.elapsed() < Duration::from_secs(35));
    assert!(!files(cache.path()).iter().any(|path| path.to_string_lossy().contains("incomplete")));
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
fn a_broken_download_leaves_nothing_under_its_name_and_the_next_one_is_whole() {
    let folder = root().join("crates/bert/built-in");
    let broken = Arc::new(Mutex::new(true));
    let its_broken = broken.clone();
    let server = Server::start(move |request| {
        let mut answer = answer(request, &folder, &folder);
        if request.path.starts_with("/storage/") && *its_broken.lock().unwrap() {
            answer.headers.push(("Content-Length", answer.body.len().to_string()));
            answer.cut_at = Some(answer.body.len() / 2);
        }
        answer
    });
    let cache = tempfile::tempdir().unwrap();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    assert_says(&error, &["model.safetensors of google-bert/bert-base-uncased", "try again"]);
    for path in files(cache.path()) {
        let name = path.to_string_lossy();
        assert!(!name.contains("model.safetensors") && !name.contains("incomplete"), "{name}");
    }
    *broken.lock().unwrap() = false;
    load(&checkpoint(&server, cache.path())).unwrap();
}

#[test]
fn a_body_that_is_shorter_than_announced_is_not_kept() {
    let folder = root().join("crates/bert/built-in");
    let server = Server::start(move |request| {
        let mut answer = answer(request, &folder, &folder);
        if request.path.starts_with("/storage/") {
            answer.body.truncate(1000);
        }
        answer
    });
    let cache = tempfile::tempdir().unwrap();
    let error = load(&checkpoint(&server, cache.path())).unwrap_err();
    assert_says(&error, &["1000 of 2591808 bytes received"]);
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
fn a_hub_that_does_not_answer_is_given_up_after_five_seconds() {
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
    assert_says(&error, &["config.json", "cannot be reached", "timeout"]);
    // A second question is not asked.
    assert!(AutoTokenizer::from_pretrained(&checkpoint).is_err());
    let waited = start.elapsed();
    assert!((4..9).contains(&waited.as_secs()), "waited {waited:?}");
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

/// Runs the example `hello` with this environment; returns success, standard output and error.
pub fn hello(args: &[&str], env: &[(&str, &str)]) -> (bool, String, String) {
    let mut command = Command::new(example("hello"));
    command.args(args);
    for name in [
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_TOKEN_PATH",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
    ] {
        command.env_remove(name);
    }
    let output = command.current_dir(root()).envs(env.iter().copied()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
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
        (vec![("HF_TOKEN", "")], "Bearer hf_home"),
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
        assert_eq!(seen.lock().unwrap()[0].as_deref(), Some(expected));
    }
}

#[test]
#[cfg(unix)]
fn a_full_disk_is_an_error_and_leaves_nothing_broken() {
    let (server, home) = (hub(), tempfile::tempdir().unwrap());
    // No file may grow beyond a megabyte, which the weights do.
    let script = format!("trap '' XFSZ; ulimit -f 1024; exec {}", example("hello").display());
    let output = Command::new("bash")
        .args(["-c", &script])
        .envs([("HF_HOME", home.path().to_str().unwrap()), ("HF_ENDPOINT", &server.url)])
        .env_remove("HF_HUB_OFFLINE")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("cannot write to the hub's cache"),
        "{error}"
    );
    for path in files(home.path()) {
        let name = path.to_string_lossy();
        assert!(!name.contains("model.safetensors") && !name.contains("incomplete"), "{name}");
    }
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
