//! Long texts of which only the beginning counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bert::*;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::support::*;

/// What texts are made of.
#[rustfmt::skip]
const PIECES: [&str; 34] = [
    " ", "  ", "            ", "\n", "\t", "\u{a0}", "\u{3000}", "a", "hello", "world", "unaffable", "wörld",
    "e\u{301}", "\u{301}", ".", "'s", "\u{6771}", "\u{4eac}", "[MASK]", "<new>", "\u{200d}", "\u{fe0f}",
    "xyzzy", "hellololos", "helssssssssssssssssq", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u{308}\u{308}\u{308}\u{308}\u{308}\u{308}\u{308}", "\r\n", "\u{1f600}", "\u{ac00}",
    "!", "?!", "([{<", "=\u{338}",
];

/// A text of a few of these pieces, so that some texts have many tokens per byte and others few.
fn text(random: &mut ChaCha8Rng, pieces: usize) -> String {
    let kinds: Vec<&str> = (0..random.random_range(1..6))
        .map(|_| *PIECES.choose(random).unwrap())
        .chain([" "])
        .collect();
    (0..pieces).map(|_| *kinds.choose(random).unwrap()).collect()
}

/// Every tokenizer of the fixture of classes.
fn tokenizers() -> Vec<(String, BertTokenizer)> {
    let file = std::fs::read(fixture("tokenizer_classes.json")).unwrap();
    let classes: Value = serde_json::from_slice(&file).unwrap();
    let folders = classes["folders"].as_array().unwrap().iter().map(|folder| {
        let files: BTreeMap<String, Vec<u8>> = (folder[1].as_object().unwrap().iter())
            .map(|(name, at)| {
                let text = &classes["contents"][at.as_u64().unwrap() as usize];
                (name.clone(), text.as_str().unwrap().as_bytes().to_vec())
            })
            .collect();
        let tokenizer = AutoTokenizer::from_pretrained(Checkpoint::from_bytes(files)).unwrap();
        (folder[0].as_str().unwrap().to_owned(), tokenizer)
    });
    folders.collect()
}

/// The same tokenizer, which encodes all of every text: a word of two words may reach over every cut.
fn uncut(tokenizer: &BertTokenizer) -> BertTokenizer {
    let mut uncut = tokenizer.clone();
    uncut.add_tokens(["two words"]).unwrap();
    uncut
}

#[test]
fn what_remains_of_a_long_text_is_what_remains_of_its_whole_encoding() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let strategies = [
        TruncationStrategy::LongestFirst,
        TruncationStrategy::OnlyFirst,
        TruncationStrategy::OnlySecond,
    ];
    let mut cut = 0;
    for (name, mut tokenizer) in tokenizers() {
        if random.random() {
            tokenizer = tokenizer.with_lowercase().unwrap();
        }
        let uncut = uncut(&tokenizer);
        for _ in 0..20 {
            let lengths = [(); 2].map(|()| *[3, 50, 200, 600].choose(&mut random).unwrap());
            let texts = lengths.map(|pieces| text(&mut random, pieces));
            let words = [0, 1].map(|i| texts[i].split(' ').collect::<Vec<_>>());
            let [first, second] = [0, 1].map(|i| Words::from(&words[i]));
            let text = match random.random_range(0..4) {
                0 => Text::Single(&texts[0]),
                1 => Text::Pair(&texts[0], &texts[1]),
                2 => Text::Words(first),
                _ => Text::WordPair(first, second),
            };
            let truncation = Truncation::to(random.random_range(3..24))
                .with_strategy(*strategies.choose(&mut random).unwrap())
                .with_side(*[Side::Right, Side::Right, Side::Left].choose(&mut random).unwrap());
            // Without special tokens, all tokens come from the texts.
            let options = EncodeOptions::new().without_special_tokens();
            let options = options.with_truncation(truncation);
            let encode = |tokenizer: &BertTokenizer| {
                let encoded = tokenizer.encode(text, &options);
                encoded.map(|batch| batch.encodings).map_err(|error| error.to_string())
            };
            let expected = encode(&uncut);
            cut += usize::from(expected.is_ok() && lengths[0] > 100);
            assert_eq!(encode(&tokenizer), expected, "{name}: {text:?} {truncation:?}");
        }
    }
    assert!(cut > 200, "{cut}");
}

#[test]
fn words_that_a_normalizer_joins_are_not_cut_apart() {
    for (content, pre_tokenizer) in [
        ("", r#"{"type": "WhitespaceSplit"}"#),
        ("\u{2581}", r#"{"type": "BertPreTokenizer"}"#),
        ("\u{2581}", r#"{"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"}"#),
    ] {
        let json = format!(
            r#"{{"version": "1.0", "added_tokens": [], "model": {{"type": "WordPiece",
            "unk_token": "u", "continuing_subword_prefix": "", "max_input_chars_per_word": 99,
            "vocab": {{"u": 0, "a": 1, "aa": 2, "\u2581": 3}}}}, "normalizer": {{"type": "Replace",
            "pattern": {{"Regex": " {{2,}}"}}, "content": "{content}"}},
            "pre_tokenizer": {pre_tokenizer}}}"#
        );
        let tokenizer = BertTokenizer::from_bytes(json.as_bytes()).unwrap();
        let text = "a a  a a  a  a    ".repeat(30);
        for length in 1..30 {
            let options = EncodeOptions::new().with_truncation(Truncation::to(length));
            let encode = |tokenizer: &BertTokenizer| tokenizer.encode(&*text, &options).unwrap();
            assert_eq!(encode(&tokenizer), encode(&uncut(&tokenizer)), "{content} {pre_tokenizer}");
        }
    }
}

#[test]
#[ignore = "is measured by the next test"]
fn sixteen_megabytes_are_cut_to_512_tokens() {
    if !is_alone() {
        return;
    }
    let tokenizer = AutoTokenizer::from_pretrained(Checkpoint::built_in()).unwrap();
    let options = EncodeOptions::new().with_truncation(Truncation::to(512));
    let words = ["word ", "wörld, ", "\u{6771}\u{4eac}", "hello\n", "!?"];
    let texts = words.map(|word| word.repeat((16 << 20) / word.len()));
    let short = words.map(|word| word.repeat(2000));
    let before = memory("VmHWM");
    for (text, short) in texts.iter().zip(&short) {
        let start = Instant::now();
        let cut = tokenizer.encode(text.as_str(), &options).unwrap();
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        assert_eq!(cut.encodings[0].ids.len(), 512);
        assert_eq!(cut, tokenizer.encode(short.as_str(), &options).unwrap());
    }
    let grown = memory("VmHWM") - before;
    assert!(grown < 100 << 10, "{grown} kB more");
}

#[test]
#[cfg(target_os = "linux")]
fn a_text_of_sixteen_megabytes_takes_neither_long_nor_much_memory() {
    run_alone("long_texts::sixteen_megabytes_are_cut_to_512_tokens");
}
