//! Tokenizers from files: what each file and each class means, as transformers has it.

use std::collections::BTreeMap;

use bert::errors::TextError;
use bert::*;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::*;

fn tokens(batch: &BatchEncoding) -> Vec<String> {
    batch.encodings.iter().map(|encoding| encoding.tokens.join(" ")).collect()
}

/// A tokenizer of these files.
fn load(files: Files) -> Result<BertTokenizer> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    AutoTokenizer::from_pretrained(Checkpoint::from_bytes(files))
}

fn ids_of<'a>(tokenizer: &BertTokenizer, text: impl Into<Text<'a>>) -> Vec<u32> {
    tokenizer.encode(text, &EncodeOptions::new()).unwrap().encodings.remove(0).ids
}

/// What transformers 5.23 makes of folders of every class.
#[derive(Deserialize)]
struct Classes {
    /// Texts and pairs.
    texts: Vec<Vec<String>>,
    /// Files' contents, by index.
    contents: Vec<String>,
    results: Vec<Row>,
    /// Each with a name, its files and the result of each text.
    folders: Vec<(String, BTreeMap<String, usize>, Vec<usize>)>,
}

/// Ids, types, offsets, and the decoded text with and without special tokens.
type Row = (Vec<u32>, Vec<u32>, Vec<(usize, usize)>, [String; 2]);
/// Files' names and contents.
type Files<'a> = &'a [(&'a str, &'a str)];

#[test]
fn every_class_in_every_layout_of_files_tokenizes_as_transformers_does() {
    let file = std::fs::read(fixture("tokenizer_classes.json")).unwrap();
    let classes: Classes = serde_json::from_slice(&file).unwrap();
    assert!(classes.folders.len() >= 200, "{}", classes.folders.len());
    let mut wrong = Vec::new();
    for (name, files, expected) in &classes.folders {
        let files: Vec<(&str, &str)> =
            files.iter().map(|(file, at)| (&**file, &*classes.contents[*at])).collect();
        let loaded = load(&files).unwrap_or_else(|error| panic!("{name}: {error}"));
        // What is saved means the same.
        let saved = loaded.to_files().unwrap();
        let saved: Vec<_> = saved.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let saved = load(&saved).unwrap_or_else(|error| panic!("{name}, saved: {error}"));
        for (text, at) in classes.texts.iter().zip(expected) {
            let (ids, types, offsets, [decoded, plain]) = &classes.results[*at];
            let text = match text.as_slice() {
                [text] => Text::Single(text),
                [first, second] => Text::Pair(first, second),
                other => panic!("{other:?}"),
            };
            for (name, tokenizer) in [(name.clone(), &loaded), (format!("{name}, saved"), &saved)] {
                let options = EncodeOptions::new().with_offsets(OffsetUnit::Characters);
                let encoding = tokenizer.encode(text, &options).unwrap().encodings.remove(0);
                let got = (&encoding.ids, &encoding.type_ids, &encoding.offsets);
                let texts = [
                    tokenizer.decode(ids).unwrap(),
                    tokenizer
                        .decode_with(ids, &DecodeOptions::new().without_special_tokens())
                        .unwrap(),
                ];
                if got != (ids, types, offsets) || texts != [decoded.clone(), plain.clone()] {
                    wrong.push(format!(
                        "{name}: {text:?}: got {got:?} {texts:?}, expected {:?}",
                        classes.results[*at]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong: {:#?}", wrong.len(), &wrong[..wrong.len().min(8)]);
}

const BERT: &str = r#"{"model_type": "bert"}"#;

/// A tokenizer.json with a template, of a model, a normalizer and a pre-tokenizer.
fn tokenizer_json(vocab: &[&str], parts: Value) -> String {
    let vocab: BTreeMap<&str, usize> = vocab.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let mut file = json!({"model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab,
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}});
    for (key, value) in parts.as_object().unwrap() {
        file[key] = value.clone();
    }
    file.to_string()
}

#[test]
fn a_bert_with_the_tokenizer_of_xlm_r_has_its_pairs() {
    let vocab = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "<mask>"];
    let special = |id| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = |id| json!({"Sequence": {"id": id, "type_id": 0}});
    let (start, end) = (special("<s>"), special("</s>"));
    let template = json!({
        "type": "TemplateProcessing",
        "single": [start, text("A"), end],
        "pair": [start, text("A"), end, end, text("B"), end],
        "special_tokens": {
            "<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]},
            "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]},
        },
    });
    let vocab: BTreeMap<&str, usize> = vocab.iter().enumerate().map(|(i, w)| (*w, i)).collect();
    let file = json!({
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": template,
    });
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "<s>",
        "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}"#;
    let loaded =
        load(&[("tokenizer.json", &file.to_string()), ("tokenizer_config.json", config)]).unwrap();
    let files = loaded.to_files().unwrap();
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    for tokenizer in [&loaded, &load(&files).unwrap()] {
        let pair = tokenizer.encode(("a b", "c"), &EncodeOptions::new()).unwrap();
        assert_eq!(pair.encodings[0].ids, [0, 4, 5, 2, 2, 6, 2]);
        assert_eq!(pair.encodings[0].type_ids, [0; 7]);
        assert_eq!(ids_of(tokenizer, "a b"), [0, 4, 5, 2]);
    }
}

#[test]
fn a_template_and_a_normalizer_of_ones_own_count_for_other_classes() {
    let vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "hello", "world"];
    let special = |id| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let known = |id: &str, at| json!({"id": id, "ids": [at], "tokens": [id]});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single = json!([special("[CLS]"), special("[Q]"), text, special("[SEP]")]);
    let file = tokenizer_json(
        &vocab,
        json!({
            "normalizer": {"type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": true, "strip_accents": null, "lowercase": false},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single,
                "special_tokens": {"[CLS]": known("[CLS]", 2), "[SEP]": known("[SEP]", 3),
                    "[Q]": known("[Q]", 5)}},
        }),
    );
    let ids = |class: &str, text: &str| {
        // A flag of a BertTokenizer that somebody left there.
        let config = format!(r#"{{"tokenizer_class": "{class}", "do_lower_case": true}}"#);
        let files = [("tokenizer.json", &*file), ("tokenizer_config.json", &*config)];
        ids_of(&load(&files).unwrap(), text)
    };
    for class in ["PreTrainedTokenizerFast", "TokenizersBackend", "XLMRobertaTokenizer"] {
        assert_eq!(ids(class, "hello world"), [2, 5, 6, 7, 3], "{class}");
        assert_eq!(ids(class, "HELLO hello"), [2, 5, 1, 6, 3], "{class}");
    }
    for class in ["BertTokenizer", "BertTokenizerFast", "ElectraTokenizer"] {
        assert_eq!(ids(class, "HELLO hello"), [2, 6, 6, 3], "{class}");
    }
}

#[test]
fn a_class_that_needs_another_program_is_an_error_unless_a_tokenizer_json_serves() {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n東京\n都\n";
    let japanese =
        r#"{"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}"#;
    let korean = r#"{"tokenizer_class": "KoBertTokenizer"}"#;
    let cases: [(Files, &[&str]); 4] = [
        (
            &[("vocab.txt", vocab), ("tokenizer_config.json", japanese)],
            &["BertJapaneseTokenizer", "needs mecab", "tokenizer.json"],
        ),
        (&[("vocab.txt", vocab), ("config.json", japanese)], &["BertJapaneseTokenizer", "MeCab"]),
        (&[("tokenizer_config.json", korean)], &["KoBertTokenizer", "tokenizer.json"]),
        (
            &[("vocab.txt", vocab), ("tokenizer_config.json", r#"{"tokenizer_class": "X"}"#)],
            &["class is X", "a program of its own"],
        ),
    ];
    for (files, parts) in cases {
        assert_says(&load(files).unwrap_err(), parts);
    }
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "東京", "都"];
    let file = tokenizer_json(&words, json!({"pre_tokenizer": {"type": "WhitespaceSplit"}}));
    let files = [("tokenizer.json", &*file), ("tokenizer_config.json", japanese)];
    assert_eq!(ids_of(&load(&files).unwrap(), "東京 都"), [5, 6]);
}

#[test]
fn every_named_special_token_is_protected_and_left_out() {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n[BOS]\n[EOS]\nhello\n[IMG]\n[X]\n";
    let map = r#"{"bos_token": "[BOS]", "eos_token": {"content": "[EOS]"}, "image_token": "[IMG]",
        "extra_special_tokens": {"own": "[X]"}}"#;
    let config = r#"{"tokenizer_class": "BertTokenizer"}"#;
    let tokenizer = load(&[
        ("vocab.txt", vocab),
        ("tokenizer_config.json", config),
        ("special_tokens_map.json", map),
    ])
    .unwrap();
    assert_eq!(ids_of(&tokenizer, "[BOS] hello [EOS]"), [2, 5, 7, 6, 3]);
    assert_eq!(ids_of(&tokenizer, "[IMG]hello[X]"), [2, 8, 7, 9, 3]);
    assert_eq!(
        tokenizer
            .decode_with(&[5, 7, 8, 9, 6], &DecodeOptions::new().without_special_tokens())
            .unwrap(),
        "hello"
    );
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token_id()), (Some("[BOS]"), Some(6)));
    assert_eq!(tokenizer.special_token("image_token"), Some("[IMG]"));
    assert_eq!(tokenizer.special_token("own"), Some("[X]"));
}

/// Sixteen words.
const WORDS: &str =
    "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\na\nb\nc\n##s\n[\n]\nx\nz\nnone\n";

#[test]
fn special_tokens_of_several_files_are_put_together_as_in_transformers() {
    // The config, the map, and the texts that are tokens then, with their ids.
    for (config, map, found, size) in [
        (
            json!({"extra_special_tokens": {}, "additional_special_tokens": ["[X]"]}),
            json!({}),
            vec![("[X]", 16)],
            17,
        ),
        (
            json!({"additional_special_tokens": ["[A]"]}),
            json!({"additional_special_tokens": ["[B]"]}),
            vec![("[A]", 16)],
            17,
        ),
        (
            json!({"additional_special_tokens": []}),
            json!({"additional_special_tokens": ["[B]"]}),
            vec![],
            16,
        ),
        (
            json!({"extra_special_tokens": ["[A]"]}),
            json!({"extra_special_tokens": ["[B]"]}),
            vec![("[A]", 16), ("[B]", 17)],
            18,
        ),
        (
            json!({"additional_special_tokens": ["[A]"]}),
            json!({"extra_special_tokens": ["[B]"]}),
            vec![("[A]", 16), ("[B]", 17)],
            18,
        ),
        (
            json!({"extra_special_tokens": {"p": "[A]"}}),
            json!({"additional_special_tokens": ["[B]"]}),
            vec![("[A]", 16), ("[B]", 17)],
            18,
        ),
        (
            json!({"extra_special_tokens": {"p": "[A]"}, "additional_special_tokens": ["[B]"]}),
            json!({}),
            vec![("[A]", 16), ("[B]", 17)],
            18,
        ),
        (json!({"foo_token": "[X]"}), json!({"foo_token": "[Z]"}), vec![("[X]", 16)], 17),
        (
            json!({"foo_token": "[X]"}),
            json!({"image_token": "[Z]"}),
            vec![("[Z]", 16), ("[X]", 17)],
            18,
        ),
        (
            json!({"model_specific_special_tokens": {"image": "[X]"}, "image": "[X]"}),
            json!({}),
            vec![("[X]", 16)],
            17,
        ),
        (json!({"mask_token": null}), json!({}), vec![], 16),
        (json!({"pad_token": "[X]"}), json!({"pad_token": null}), vec![], 16),
    ] {
        let (config, map) = (config.to_string(), map.to_string());
        let tokenizer = load(&[
            ("vocab.txt", WORDS),
            ("config.json", BERT),
            ("tokenizer_config.json", &config),
            ("special_tokens_map.json", &map),
        ])
        .unwrap();
        assert_eq!(tokenizer.vocab_size(), size, "{config} {map}");
        for (text, id) in found {
            assert_eq!(ids_of(&tokenizer, text), [2, id, 3], "{config} {map} {text}");
        }
        let mask =
            if config.contains("mask_token") { vec![2, 11, 1, 12, 3] } else { vec![2, 4, 3] };
        assert_eq!(ids_of(&tokenizer, "[MASK]"), mask, "{config}");
        // Version 4 of transformers cannot read the new name of the list.
        let files = tokenizer.to_files().unwrap();
        let saved: Value = serde_json::from_str(&files[1].1).unwrap();
        assert!(saved.get("extra_special_tokens").is_none());
    }
}

#[test]
fn a_named_token_is_special_and_otherwise_as_its_file_says() {
    let mask = |more: Value| {
        let mut token = json!({"content": "[MASK]"});
        token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"added_tokens_decoder": {"4": token}}).to_string()
    };
    let with =
        |config: &str| load(&[("vocab.txt", WORDS), ("tokenizer_config.json", config)]).unwrap();
    // Special, so not looked for in lower case, unless the file says so.
    let tokenizer = with(&mask(json!({"lstrip": true})));
    assert_eq!(ids_of(&tokenizer, "[mask]"), [2, 11, 1, 12, 3]);
    assert_eq!(
        tokenizer.decode_with(&[5, 4], &DecodeOptions::new().without_special_tokens()).unwrap(),
        "hello"
    );
    let tokenizer = with(&mask(json!({"special": false, "normalized": true})));
    assert_eq!(ids_of(&tokenizer, "[mask]"), [2, 4, 3]);
    let tokenizer = with(&mask(json!({"special": false, "normalized": false})));
    assert_eq!(
        tokenizer.decode_with(&[5, 4], &DecodeOptions::new().without_special_tokens()).unwrap(),
        "hello"
    );
    // A token of another class's tokenizer.json becomes special too.
    let words: Vec<&str> = WORDS.lines().collect();
    let token = json!({"id": 4, "content": "[MASK]", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": false});
    let file = tokenizer_json(&words, json!({"added_tokens": [token]}));
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}"#;
    let tokenizer = load(&[("tokenizer.json", &file), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!(
        tokenizer.decode_with(&[5, 4], &DecodeOptions::new().without_special_tokens()).unwrap(),
        "hello"
    );
    // The last of two names says how the token is matched.
    let config =
        r#"{"foo_token": {"__type": "AddedToken", "content": "[MASK]", "single_word": true}}"#;
    assert_eq!(ids_of(&with(config), "b[MASK]c"), [2, 8, 11, 1, 12, 9, 3]);
    let config = r#"{"split_special_tokens": true}"#;
    assert_eq!(ids_of(&with(config), "[MASK]"), [2, 11, 1, 12, 3]);
    assert_eq!(with("{}").decode(&[]).unwrap(), "");
}

#[test]
fn a_named_token_is_matched_as_another_file_says() {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"];
    let file = tokenizer_json(&words, json!({}));
    let config = r#"{"tokenizer_class": "BertTokenizer", "mask_token": "[MASK]",
        "added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": true, "special": true}}}"#;
    let tokenizer = load(&[("tokenizer.json", &file), ("tokenizer_config.json", config)]).unwrap();
    let encoding = tokenizer.encode("a [MASK]", &EncodeOptions::new()).unwrap().encodings.remove(0);
    assert_eq!(encoding.ids, [2, 5, 4, 3]);
    assert_eq!(encoding.offsets[2], (1, 8));
}

#[test]
fn ten_thousand_added_words_take_less_than_a_second() {
    let words: Vec<String> = (0..10_000).map(|i| format!("word{i}")).collect();
    let added = |first: usize| -> serde_json::Map<String, Value> {
        words.iter().enumerate().map(|(i, word)| (word.clone(), (first + i).into())).collect()
    };
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
    let start = std::time::Instant::now();
    let text = json!(added(6)).to_string();
    let tokenizer =
        load(&[("vocab.txt", vocab), ("added_tokens.json", &text), ("config.json", BERT)]).unwrap();
    assert_eq!(ids_of(&tokenizer, "a word0 word9999"), [2, 5, 6, 10_005, 3]);
    // Once more, with the words in tokenizer.json and in the config.
    let files = tokenizer.to_files().unwrap();
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(ids_of(&load(&files).unwrap(), "a word0 word9999"), [2, 5, 6, 10_005, 3]);
    // Each of the two has a second.
    assert!(start.elapsed().as_secs_f32() < 2., "{:?}", start.elapsed());
}

#[test]
fn words_that_are_equal_in_lower_case_have_the_lowest_id() {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n";
    let added = r#"{"Covid": 7, "COVID": 8, "covid": 9, "Caf\u00e9": 11, "cafe": 10}"#;
    let files = [("vocab.txt", vocab), ("added_tokens.json", added), ("config.json", BERT)];
    // The library's hash tables differ from tokenizer to tokenizer.
    for _ in 0..20 {
        let mut tokenizer = load(&files).unwrap();
        assert_eq!(ids_of(&tokenizer, "a Covid COVID covid b"), [2, 5, 7, 7, 7, 6, 3]);
        assert_eq!(ids_of(&tokenizer, "cafe Café"), [2, 10, 10, 3]);
        assert_eq!(tokenizer.token_to_id("COVID"), Some(8));
        assert_eq!(tokenizer.id_to_token(9).as_deref(), Some("covid"));
        assert_eq!(tokenizer.vocab_size(), 12);
        tokenizer.add_tokens(["COVId", "New", "new"]).unwrap();
        assert_eq!(ids_of(&tokenizer, "covid NEW"), [2, 7, 13, 3]);
    }
}

#[test]
fn lines_of_white_space_and_repeated_lines_keep_their_ids() {
    let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\u{2028}\n\u{3000}\ncat\ndog\n";
    let mut tokenizer = load(&[("vocab.txt", vocab), ("config.json", BERT)]).unwrap();
    assert_eq!(ids_of(&tokenizer, "dog cat"), [2, 8, 7, 3]);
    assert_eq!(tokenizer.vocab_size(), 9);
    tokenizer.add_tokens(["newword"]).unwrap();
    assert_eq!(tokenizer.token_to_id("newword"), Some(9));
    // As in Python, \r\n and \r end lines, other white space belongs to the word.
    let vocab = "[PAD]\r\n[UNK]\r[CLS]\n[SEP]\n[MASK]\ncat\ncat\u{3000}\n\n\ndog\ndog\n";
    let mut tokenizer = load(&[("vocab.txt", vocab), ("config.json", BERT)]).unwrap();
    assert_eq!(ids_of(&tokenizer, "cat dog"), [2, 5, 10, 3]);
    tokenizer.add_tokens(["newword"]).unwrap();
    assert_eq!(tokenizer.token_to_id("newword"), Some(11));
    let files = tokenizer.to_files().unwrap();
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    assert_eq!(ids_of(&load(&files).unwrap(), "cat newword"), [2, 5, 11, 3]);
}

#[test]
fn special_tokens_may_be_in_added_tokens_json_alone() {
    let added = r#"{"[PAD]": 2, "[UNK]": 3, "[CLS]": 4, "[SEP]": 5, "[MASK]": 6}"#;
    let files = [("vocab.txt", "a\nb\n"), ("added_tokens.json", added), ("config.json", BERT)];
    let tokenizer = load(&files).unwrap();
    assert_eq!(ids_of(&tokenizer, "a b"), [4, 0, 1, 5]);
    assert_eq!(ids_of(&tokenizer, "a other"), [4, 0, 3, 5]);
    // Those that no file has get ids of their own, but for [UNK].
    let tokenizer = load(&[("vocab.txt", "[UNK]\na\n"), ("config.json", BERT)]).unwrap();
    assert_eq!(ids_of(&tokenizer, "a [MASK]"), [4, 1, 5, 2]);
}

#[test]
fn flags_that_the_config_lacks_are_those_of_tokenizer_json() {
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Hello", "hello"];
    let normalizer = json!({"type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": true, "strip_accents": null, "lowercase": false});
    let file = tokenizer_json(&words, json!({"normalizer": normalizer}));
    let ids = |config: &str| {
        let files = [("tokenizer.json", &*file), ("tokenizer_config.json", config)];
        ids_of(&load(&files).unwrap(), "Hello hello")
    };
    assert_eq!(ids(r#"{"tokenizer_class": "BertTokenizer"}"#), [2, 5, 6, 3]);
    assert_eq!(ids(r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": true}"#), [2, 6, 6, 3]);
}

#[test]
fn added_words_are_found_inside_of_others_unless_they_are_single() {
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nove\nite\noverwrite\n";
    let files =
        [("vocab.txt", words), ("added_tokens.json", r#"{"rwr": 8}"#), ("config.json", BERT)];
    assert_eq!(ids_of(&load(&files).unwrap(), "overwrite"), [2, 5, 8, 6, 3]);
    let config = r#"{"added_tokens_decoder": {"8": {"content": "rwr", "single_word": true}}}"#;
    let tokenizer = load(&[("vocab.txt", words), ("tokenizer_config.json", config)]).unwrap();
    assert_eq!(ids_of(&tokenizer, "overwrite rwr"), [2, 7, 8, 3]);
}

/// What transformers makes of awkward texts with vocabularies in several settings.
fn expected() -> (Vec<String>, serde_json::Map<String, serde_json::Value>) {
    let file = std::fs::read(fixture("tokenizers/expected.json")).unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&file).unwrap();
    let texts = serde_json::from_value(file["texts"].take()).unwrap();
    (texts, file["ids"].as_object().unwrap().clone())
}

#[test]
fn folders_of_every_setting_tokenize_as_transformers_does() {
    let (texts, settings) = expected();
    assert!(texts.len() >= 100 && settings.len() == 10);
    for (name, rows) in settings {
        let tokenizer = AutoTokenizer::from_pretrained(fixture("tokenizers").join(&name)).unwrap();
        let rows: Vec<Vec<u32>> = serde_json::from_value(rows).unwrap();
        let batch = tokenizer.encode_batch(&texts, &EncodeOptions::new()).unwrap();
        for ((text, encoding), ids) in texts.iter().zip(&batch.encodings).zip(&rows) {
            assert_eq!(&encoding.ids, ids, "{name}: {text:?} became {:?}", encoding.tokens);
        }
        let pair = tokenizer.encode(("a b", "c"), &EncodeOptions::new()).unwrap();
        assert_eq!(pair.encodings[0].ids, rows[texts.len()], "{name}");
        assert_eq!(pair.encodings[0].type_ids, [0, 0, 0, 0, 1, 1], "{name}");
    }
}

#[test]
fn tokenizer_config_counts_more_than_tokenizer_json() {
    let file = std::fs::read(root().join("crates/bert/built-in/tokenizer.json")).unwrap();
    let run = |config: &str| {
        let files = TokenizerFiles {
            tokenizer: Some(&file),
            tokenizer_config: Some(config.as_bytes()),
            ..TokenizerFiles::default()
        };
        let options = EncodeOptions::new().without_special_tokens();
        let batch =
            BertTokenizer::from_files(&files).unwrap().encode("My dog é", &options).unwrap();
        tokens(&batch).remove(0)
    };
    assert_eq!(run("{}"), "my dog e");
    assert_eq!(run(r#"{"do_lower_case": false}"#), "[UNK] dog [UNK]");
    assert_eq!(run(r#"{"do_lower_case": false, "strip_accents": true}"#), "[UNK] dog e");
    assert_eq!(run(r#"{"strip_accents": false}"#), "my dog [UNK]");
}

#[test]
fn tokenizer_files_that_contradict_each_other_are_errors() {
    let vocab = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n" as &[u8];
    let build = |files: TokenizerFiles| BertTokenizer::from_files(&files).unwrap_err();
    let none = TokenizerFiles::default();
    assert!(matches!(build(none), TextError::NoVocabulary));
    let with =
        |config| TokenizerFiles { vocab: Some(vocab), tokenizer_config: Some(config), ..none };
    assert_says(&build(with(b"{")), &["tokenizer_config.json cannot be used"]);
    let decoder = br#"{"added_tokens_decoder": {"17": {"content": "<new>"}}}"#;
    assert_says(&build(with(decoder)), &["\"<new>\" has the id 17", "but 6 in the vocabulary"]);
    let short = TokenizerFiles { vocab: Some(b"a\nb\n"), ..none };
    assert_says(&build(short), &["the vocabulary cannot be used", "[UNK]"]);
}
