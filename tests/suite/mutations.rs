//! Every file of a checkpoint, damaged at random: an error or a checkpoint, never a panic, and neither
//! minutes nor gigabytes. The same seed makes the same damage.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bert::*;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::support::*;

/// Flips of bits, and edits of each other kind, of a file.
const FEW: usize = 100;
const MANY: usize = 1000;
/// The longest that a damaged file may keep a program busy.
const SLOW: Duration = Duration::from_secs(5);

type Files = BTreeMap<String, Vec<u8>>;

fn read(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).unwrap()
}

/// A checkpoint of the given files of weights, with a tokenizer of all files.
fn checkpoint(folder: &str, weights: &[&str]) -> Files {
    let classes: Value = serde_json::from_slice(&read("tokenizer_classes.json")).unwrap();
    let with = "wordpiece, BertTokenizer, both without None";
    let folders = classes["folders"].as_array().unwrap();
    let tokenizer = folders.iter().find(|it| it[0] == with).unwrap()[1].as_object().unwrap();
    let mut files: Files = tokenizer
        .iter()
        .map(|(name, at)| {
            let text = classes["contents"][at.as_u64().unwrap() as usize].as_str().unwrap();
            (name.clone(), text.as_bytes().to_vec())
        })
        .collect();
    for name in weights.iter().chain(&["config.json"]) {
        files.insert((*name).to_owned(), read(&format!("files/{folder}/{name}")));
    }
    files
}

/// Loads a checkpoint and uses what was loaded. What it returns does not matter.
fn use_checkpoint(files: Files, tokenizer_alone: bool) {
    let checkpoint = Checkpoint::from_bytes(files);
    if let Ok(tokenizer) = AutoTokenizer::from_pretrained(&checkpoint) {
        let options = EncodeOptions::new().with_padding(Padding::Longest);
        let texts = [("hello [MASK] w\u{f6}rld", "a<new>"), ("", "\u{6771}")];
        if let Ok(batch) = tokenizer.encode_batch(texts, &options) {
            for encoding in &batch.encodings {
                let _ = tokenizer.decode(&encoding.ids);
            }
        }
        let _ = tokenizer.to_files();
    }
    if tokenizer_alone {
        return;
    }
    let _ = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new());
    if let Ok(model) = BertForPreTraining::from_pretrained(&checkpoint, &LoadOptions::new()) {
        let _ = model.forward(&BertInput::from_ids(ids(&[&[1, 2, 3]])));
    }
}

/// Values that stand for others.
fn odd_values() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1 << 31),
        json!(1e300),
        json!(""),
        json!("\u{0}\u{10ffff}"),
        json!("x".repeat(100_000)),
        json!([]),
        json!({}),
        json!([[[]]]),
        json!({"": {"": ""}}),
    ]
}

/// Every value of a JSON document.
fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
    found.push(at.clone());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(key, value)| pointers(value, format!("{at}/{}", escape(key)), found));
        }
        Value::Array(values) => {
            values
                .iter()
                .enumerate()
                .for_each(|(i, value)| pointers(value, format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

/// A JSON document with one value replaced, removed, or moved to where another one was.
fn edited(document: &Value, random: &mut ChaCha8Rng) -> Value {
    let (mut edited, mut all) = (document.clone(), Vec::new());
    pointers(document, String::new(), &mut all);
    let at = all.choose(random).unwrap();
    let other = document.pointer(all.choose(random).unwrap()).unwrap().clone();
    let (parent, key) = at.rsplit_once('/').unwrap_or(("", ""));
    match random.random_range(0..4) {
        0 => match edited.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                let key = key.replace("~1", "/").replace("~0", "~");
                fields.remove(&key);
            }
            Some(Value::Array(values)) => {
                if let Ok(i) = key.parse::<usize>() {
                    values.remove(i);
                }
            }
            _ => edited = json!(null),
        },
        1 => *edited.pointer_mut(at).unwrap() = other,
        _ => *edited.pointer_mut(at).unwrap() = odd_values().choose(random).unwrap().clone(),
    }
    edited
}

/// Bytes with a part removed, repeated, or replaced.
fn spliced(whole: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let start = random.random_range(0..bytes.len());
    let end = (start + random.random_range(1..40)).min(bytes.len());
    match random.random_range(0..4) {
        0 => drop(bytes.drain(start..end)),
        1 => {
            let part = bytes[start..end].to_vec();
            let at = random.random_range(0..=bytes.len());
            bytes.splice(at..at, part);
        }
        2 => bytes[start..end].fill(*[0, 0xff, b'9'].choose(random).unwrap()),
        _ => random.fill(&mut bytes[start..end]),
    }
    bytes
}

/// Damages one file of a checkpoint; returns how many times.
fn damage(files: &Files, name: &str, times: usize, cuts: usize) -> usize {
    let whole = &files[name];
    let mut random = ChaCha8Rng::seed_from_u64(name.len() as u64);
    let document = serde_json::from_slice(whole).ok();
    let mut damaged: Vec<(String, Vec<u8>)> = (0..whole.len())
        .step_by(whole.len().div_ceil(cuts).max(1))
        .map(|length| (format!("cut at {length}"), whole[..length].to_vec()))
        .collect();
    for i in 0..times {
        let (at, bit) = (random.random_range(0..whole.len()), random.random_range(0..8));
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        damaged.push((format!("bit {bit} of byte {at}"), bytes));
        let bytes = match &document {
            Some(document) => edited(document, &mut random).to_string().into_bytes(),
            None => spliced(whole, &mut random),
        };
        damaged.push((format!("edit {i}"), bytes));
    }
    let count = damaged.len();
    let is_tokenizers =
        !name.contains("model.") && !name.contains("model-") && name != "config.json";
    for (what, bytes) in damaged {
        let mut files = files.clone();
        files.insert(name.to_owned(), bytes.clone());
        if name == "vocab.txt" {
            files.remove("tokenizer.json");
        }
        let start = Instant::now();
        let used = catch_unwind(AssertUnwindSafe(|| use_checkpoint(files, is_tokenizers)));
        let took = start.elapsed();
        if used.is_err() || took > SLOW {
            let kept = std::env::temp_dir().join(format!("damaged-{name}"));
            std::fs::write(&kept, bytes).unwrap();
            panic!("{name}, {what}: {took:?}, panicked: {}, kept as {kept:?}", used.is_err());
        }
    }
    count
}

/// Damages every file of a checkpoint of each kind.
fn damage_all(times: usize, cuts: usize) -> usize {
    let mut count = 0;
    let plain = checkpoint("safetensors", &["model.safetensors"]);
    for name in plain.keys() {
        count += damage(&plain, name, times, cuts);
    }
    for (folder, weights, damaged) in [
        ("bin", &["pytorch_model.bin"][..], "pytorch_model.bin"),
        ("bin_before_1.6", &["pytorch_model.bin"], "pytorch_model.bin"),
        (
            "bin_sharded",
            &[
                "pytorch_model.bin.index.json",
                "pytorch_model-00001-of-00003.bin",
                "pytorch_model-00002-of-00003.bin",
                "pytorch_model-00003-of-00003.bin",
            ],
            "pytorch_model.bin.index.json",
        ),
    ] {
        count += damage(&checkpoint(folder, weights), damaged, times, cuts);
    }
    count
}

#[test]
fn damaged_files_give_errors_and_no_panic() {
    assert!(damage_all(FEW, 200) > 2000);
}

#[test]
#[ignore = "takes minutes: run by scripts/check with a limit on memory"]
fn many_damaged_files_give_errors_and_no_panic() {
    let cuts = usize::MAX;
    assert!(damage_all(MANY, cuts) > 20_000);
}
