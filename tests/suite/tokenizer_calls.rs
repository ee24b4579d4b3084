//! The whole tokenizer call: awkward texts with many arguments, as in transformers.

use bert::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::*;

/// A text, or its words, and what may stand beside it.
struct Given {
    text: String,
    other: String,
    words: Vec<String>,
    other_words: Vec<String>,
}

impl Given {
    fn new(text: &str, other: &str) -> Self {
        let words = |text: &str| {
            let characters = |part: &str| part.chars().collect::<Vec<_>>();
            let halves = text.split(' ').flat_map(|part| {
                let part = characters(part);
                let at = part.len().min(7);
                [part[..at].iter().collect(), part[at..].iter().collect()]
            });
            // Python splits at these too.
            let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
            let whole = text.split(is_space).filter(|word| !word.is_empty()).map(str::to_owned);
            halves.chain(whole).collect::<Vec<String>>()
        };
        let pair = if other.is_empty() { " " } else { other };
        Self {
            text: text.to_owned(),
            other: pair.to_owned(),
            words: words(text),
            other_words: words(other),
        }
    }

    fn text(&self, form: &str) -> Text<'_> {
        match form {
            "single" => (&self.text).into(),
            "pair" => (&*self.text, &*self.other).into(),
            "words" => Words::from(&self.words).into(),
            "word_pair" => Text::WordPair((&self.words).into(), (&self.other_words).into()),
            other => panic!("{other}"),
        }
    }
}

fn options(call: &Value) -> EncodeOptions {
    let number = |key: &str| call[key].as_u64().map(|number| number as usize);
    let mut options = EncodeOptions::new();
    options.add_special_tokens = call["add_special_tokens"] != false;
    options.split_special_tokens = call["split_special_tokens"].as_bool();
    options.padding = match &call["padding"] {
        Value::Bool(true) => Padding::Longest,
        Value::String(_) => Padding::Length(number("max_length").unwrap()),
        _ => Padding::None,
    };
    options.padding_side = call["padding_side"].as_str().map(|_| Side::Left);
    options.pad_to_multiple_of = number("pad_to_multiple_of").unwrap_or(1);
    options.truncation = call.get("truncation").map(|strategy| {
        let truncation =
            Truncation::to(number("max_length").unwrap()).with_strategy(match strategy.as_str() {
                Some("only_first") => TruncationStrategy::OnlyFirst,
                Some("only_second") => TruncationStrategy::OnlySecond,
                _ => TruncationStrategy::LongestFirst,
            });
        match number("stride") {
            Some(stride) => truncation.with_overflow(stride),
            None => truncation,
        }
    });
    options
}

/// A digest of what the call returns, as `make.py` makes it.
fn digest(tokenizer: &BertTokenizer, text: Text, options: &EncodeOptions) -> String {
    let Ok(batch) = tokenizer.encode(text, options) else { return "error".to_owned() };
    assert!(batch.overflow_to_sample_mapping.iter().all(|row| *row == 0));
    assert_eq!(batch.overflow_to_sample_mapping.len(), batch.encodings.len());
    let rows: Vec<Value> = batch
        .encodings
        .iter()
        .map(|it| {
            json!([
                it.ids,
                it.tokens,
                it.type_ids,
                it.attention_mask,
                it.special_tokens_mask,
                it.offsets,
                it.word_ids,
                it.sequence_ids
            ])
        })
        .collect();
    // Python escapes this one.
    let content = Value::from(rows).to_string().replace('\u{7f}', "\\u007f");
    let digest = Sha256::digest(content.as_bytes());
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tokenizer(name: &str, settings: &Value) -> BertTokenizer {
    let folder = fixture(if name == "cased" { "tokenizers/cased" } else { "tokenizers/uncased" });
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(folder.join("tokenizer_config.json")).unwrap())
            .unwrap();
    for (key, value) in settings.as_object().unwrap() {
        config[key] = value.clone();
    }
    let vocab = std::fs::read(folder.join("vocab.txt")).unwrap();
    let config = config.to_string();
    let files = TokenizerFiles {
        vocab: Some(&vocab),
        tokenizer_config: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    };
    BertTokenizer::from_files(&files).unwrap()
}

fn calls() -> Value {
    let file = std::fs::read(fixture("tokenizers/calls.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

#[test]
fn a_call_returns_what_transformers_returns() {
    let calls = calls();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let texts: Vec<String> = serde_json::from_value(calls["texts"].clone()).unwrap();
    assert!(texts.len() >= 150);
    let given: Vec<Given> = (0..texts.len())
        .map(|i| Given::new(&texts[i], &texts[(i + texts.len() - 5) % texts.len()]))
        .collect();
    let mut compared = 0;
    for (name, settings) in calls["tokenizers"].as_object().unwrap() {
        let tokenizer = tokenizer(name, settings);
        for (call, digests) in list(&calls["calls"]).iter().zip(list(&calls["digests"][name])) {
            let (form, options) = (call[0].as_str().unwrap(), options(&call[1]));
            for (given, expected) in given.iter().zip(list(&digests)) {
                let got = digest(&tokenizer, given.text(form), &options);
                assert_eq!(got, expected, "{name} {call} {:?}", given.text(form));
                compared += 1;
            }
        }
    }
    assert!(compared > 14_000);
}

#[test]
fn a_hundred_thousand_characters_are_encoded_as_in_transformers() {
    let calls = calls();
    let long = &calls["long"];
    let times = long["times"].as_u64().unwrap() as usize;
    let given = Given::new(&long["text"].as_str().unwrap().repeat(times), "a b");
    assert!(given.text.chars().count() > 100_000);
    let tokenizer = tokenizer("uncased", &json!({}));
    for (call, expected) in
        calls["calls"].as_array().unwrap().iter().zip(long["digests"].as_array().unwrap())
    {
        let mut arguments = call[1].clone();
        if arguments.get("max_length").is_some() {
            arguments["max_length"] = 384.into();
        }
        let text = given.text(call[0].as_str().unwrap());
        assert_eq!(digest(&tokenizer, text, &options(&arguments)), *expected, "{call}");
    }
}
