//! What the fuzzers have found interesting, tried again.

use std::fs::File;
use std::io::Read;

use crate::fuzzed;
use crate::support::*;

/// Tries every input of a target's corpus.
fn replay(target: &str, run: fn(&[u8])) {
    let path = root().join(format!("fuzz/corpus/{target}.zip"));
    let mut corpus = zip::ZipArchive::new(File::open(path).unwrap()).unwrap();
    assert!(corpus.len() > 50, "{target} has {} inputs", corpus.len());
    for i in 0..corpus.len() {
        let mut bytes = Vec::new();
        corpus.by_index(i).unwrap().read_to_end(&mut bytes).unwrap();
        run(&bytes);
    }
}

#[test]
fn nothing_that_the_fuzzers_tried_makes_a_panic() {
    std::thread::scope(|scope| {
        scope.spawn(|| replay("config", fuzzed::config));
        scope.spawn(|| replay("tokenizer", fuzzed::tokenizer));
        scope.spawn(|| replay("safetensors", fuzzed::safetensors));
        scope.spawn(|| replay("torch", fuzzed::torch));
        scope.spawn(|| replay("index", fuzzed::index));
        scope.spawn(|| replay("encode", fuzzed::encode));
    });
}
