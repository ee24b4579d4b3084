//! Labeled texts: from a file, or made up so that only the order of words tells the label.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;

/// A text, perhaps with a second one, and the name of its class.
#[derive(Clone, Debug)]
pub struct Example {
    pub text: String,
    pub text_pair: Option<String>,
    pub label: String,
}

/// A row of a file, with its label as it is written there.
#[derive(Deserialize)]
struct Row<L> {
    #[serde(alias = "sentence", alias = "sentence1")]
    text: String,
    #[serde(default, alias = "sentence2")]
    text_pair: Option<String>,
    label: L,
}

impl<L> Row<L> {
    fn into_example(self, name: impl FnOnce(L) -> Result<String>) -> Result<Example> {
        let Self { text, text_pair, label } = self;
        Ok(Example { text, text_pair, label: name(label)? })
    }
}

/// A class is called by a name or a whole number.
fn class_name(label: Value) -> Result<String> {
    match label {
        Value::String(name) if !name.is_empty() => Ok(name),
        Value::Number(id) if id.is_u64() => Ok(id.to_string()),
        other => bail!("label is {other}, expected the name of a class or a whole number"),
    }
}

/// Reads a file: `.tsv` with a header that names the columns, or `.jsonl` with an object per line.
/// Columns and keys: `text`, `label` and, for pairs, `text_pair`.
pub fn read(path: &Path) -> Result<Vec<Example>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let examples: Vec<Example> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("tsv") => {
            let mut reader = csv::ReaderBuilder::new();
            let mut reader = reader.delimiter(b'\t').quoting(false).from_reader(text.as_bytes());
            let read = |(i, row): (usize, Result<Row<String>, csv::Error>)| {
                // In a table, `true` and `-1` are names like others.
                let name = |label| class_name(Value::String(label));
                let example = row.map_err(anyhow::Error::from).and_then(|it| it.into_example(name));
                example.with_context(|| format!("{} row {}", path.display(), i + 1))
            };
            reader.deserialize().enumerate().map(read).collect::<Result<_>>()?
        }
        Some("jsonl") => {
            let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            let read = |(i, line)| {
                let row = serde_json::from_str(line).map_err(anyhow::Error::from);
                let example = row.and_then(|row: Row<Value>| row.into_example(class_name));
                example.with_context(|| format!("{} line {}", path.display(), i + 1))
            };
            lines.map(read).collect::<Result<_>>()?
        }
        _ => bail!("{}: expected a file that ends in .tsv or .jsonl", path.display()),
    };
    ensure!(!examples.is_empty(), "{} has no examples", path.display());
    Ok(examples)
}

/// The classes of some examples: numbers in their order, or else names in theirs.
pub fn classes(examples: &[Example]) -> Vec<String> {
    let mut classes: Vec<String> = examples.iter().map(|example| example.label.clone()).collect();
    classes.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), name.clone()));
    classes.dedup();
    classes
}

/// Sentences about an animal that does something to another one: is the one who does it tame or
/// wild? "The dog followed the wolf" and "the wolf was followed by the dog" have a tame one, and
/// exchanging the two animals changes the answer but not the words.
pub fn generate(count: usize, seed: u64) -> Vec<Example> {
    const TAME: &[&str] = &["dog", "cat", "horse", "cow", "pig", "sheep", "chicken", "duck"];
    const WILD: &[&str] = &["bear", "lion", "tiger", "wolf", "rabbit", "frog", "snake", "mouse"];
    const DONE: &[&str] =
        &["found", "caught", "heard", "followed", "helped", "met", "hit", "led", "visited", "left"];
    const LOOKS: &[&str] =
        &["", "old", "young", "big", "small", "black", "white", "happy", "hungry"];
    const PLACES: &[&str] = &[
        "",
        "in the garden",
        "near the river",
        "at night",
        "in the morning",
        "again",
        "last week",
    ];
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = HashSet::new();
    let mut examples = Vec::new();
    while examples.len() < count {
        let mut pick = |words: &[&'static str]| *words.choose(&mut generator).unwrap_or(&"");
        let animals = [pick(TAME), pick(WILD)];
        let (looks, done, place) = ([pick(LOOKS), pick(LOOKS)], pick(DONE), pick(PLACES));
        let (tame_first, passive) = (generator.random::<bool>(), generator.random::<bool>());
        let (first, second) = if tame_first { (0, 1) } else { (1, 0) };
        let verb = if passive { format!("was {done} by") } else { done.to_owned() };
        let words =
            ["the", looks[0], animals[first], &verb, "the", looks[1], animals[second], place];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let text = words.join(" ");
        if seen.insert(text.clone()) {
            let label = if tame_first != passive { "tame" } else { "wild" };
            examples.push(Example { text, text_pair: None, label: label.to_owned() });
        }
    }
    examples
}
