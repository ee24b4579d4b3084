//! The example that reproduces the notebook, as a user runs it.

use crate::hub::hello;
use crate::support::*;

/// Runs `hello` offline, with an empty cache.
fn offline(args: &[&str]) -> (bool, String, String) {
    let home = tempfile::tempdir().unwrap();
    hello(args, &[("HF_HOME", home.path().to_str().unwrap()), ("HF_HUB_OFFLINE", "1")])
}

#[test]
fn hello_without_a_network_runs_the_built_in_checkpoint_and_says_so() {
    let (ok, out, error) = offline(&[]);
    assert!(ok, "{error}");
    assert!(
        out.starts_with("The hub cannot be reached (HF_HUB_OFFLINE is set); running the built-in")
    );
    for part in [
        r#"["[CLS]", "hello", ",", "my", "dog", "is", "cute", "[SEP]"]"#,
        "BaseModelOutputWithPoolingAndCrossAttentions\n",
        "last_hidden_state: [1, 8, 128] F32\n",
        "pooler_output: [1, 128] F32\n",
        "My [MASK] is barking: dog (",
    ] {
        assert!(out.contains(part), "{out}");
    }
    assert!(!out.contains("hidden_states"));
}

#[test]
fn hello_prints_batches_pairs_hidden_states_and_attentions() {
    let (ok, out, error) = offline(&[
        "--text",
        "my dog",
        "--text",
        "the cat is here",
        "--text-pair",
        "yes",
        "--dtype",
        "bf16",
        "--device",
        "cpu",
        "--output-hidden-states",
        "--output-attentions",
    ]);
    assert!(ok, "{error}");
    for part in [
        "last_hidden_state: [2, 8, 128] BF16",
        "hidden_states: 5 of 5",
        "[4]: [2, 8, 128] BF16",
        "attentions: 4 of 4",
        "[3]: [2, 4, 8, 8] BF16",
    ] {
        assert!(out.contains(part), "{out}");
    }
}

#[test]
fn hello_with_a_model_that_cannot_be_had_is_an_error() {
    for (model, part) in [
        ("google-bert/bert-base-uncased", "HF_HUB_OFFLINE is set"),
        ("./no/such/folder", "neither a folder nor a hub id"),
        ("tests", "no config.json in tests"),
    ] {
        let (ok, _, error) = offline(&["--model", model]);
        assert!(!ok && error.contains(part), "{error}");
    }
    if !cfg!(any(feature = "cuda", feature = "metal")) {
        for device in ["cuda", "metal"] {
            let (ok, _, error) = offline(&["--device", device]);
            assert!(!ok && error.contains("built without the feature"), "{error}");
        }
    }
}

#[test]
fn hello_runs_a_checkpoint_without_a_pooler() {
    let folder = tempfile::tempdir().unwrap();
    let mut weights = tensors(&fixture("base/model.safetensors"));
    weights.retain(|name, _| !name.starts_with("pooler"));
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    let copy = |name: &str, to: &str| std::fs::copy(fixture(name), folder.path().join(to)).unwrap();
    copy("base/config.json", "config.json");
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n";
    std::fs::write(folder.path().join("vocab.txt"), vocab).unwrap();
    let (ok, out, error) = offline(&["--model", folder.path().to_str().unwrap()]);
    assert!(ok, "{error}");
    assert!(out.contains("The checkpoint has no pooler"), "{out}");
    assert!(out.contains("last_hidden_state: [1, 8, 32]"), "{out}");
    assert!(!out.contains("pooler_output:"), "{out}");
}

#[test]
#[ignore = "needs scripts/fetch-minilm"]
fn hello_runs_minilm() {
    let folder = root().join("target/minilm");
    for dtype in ["f32", "f16", "bf16"] {
        let args = ["--model", folder.to_str().unwrap(), "--dtype", dtype];
        let (ok, out, error) = offline(&args);
        assert!(ok, "{error}");
        assert!(out.contains("[101, 7592, 1010, 2026, 3899, 2003, 10140, 102]"), "{out}");
        assert!(out.contains("last_hidden_state: [1, 8, 384]"), "{out}");
    }
}
