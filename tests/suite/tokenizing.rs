//! Texts to ids, with the built-in vocabulary.

use bert::errors::TextError;
use bert::*;

use crate::support::*;

fn tokenizer() -> BertTokenizer {
    AutoTokenizer::from_pretrained(Checkpoint::built_in()).unwrap()
}

/// The built-in `tokenizer.json`.
fn built_in_file() -> serde_json::Value {
    let path = root().join("crates/bert/built-in/tokenizer.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The tokenizer of a `tokenizer.json` and a `tokenizer_config.json`.
fn with_config(file: &serde_json::Value, config: &str) -> BertTokenizer {
    let json = file.to_string();
    let files = TokenizerFiles {
        tokenizer: Some(json.as_bytes()),
        tokenizer_config: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    };
    BertTokenizer::from_files(&files).unwrap()
}

fn tokens(batch: &BatchEncoding) -> Vec<String> {
    batch.encodings.iter().map(|encoding| encoding.tokens.join(" ")).collect()
}

#[test]
fn a_text_gets_its_special_tokens() {
    let batch = tokenizer().encode("Hello, my dog is cute", &EncodeOptions::new()).unwrap();
    let encoding = &batch.encodings[0];
    assert_eq!(encoding.tokens, ["[CLS]", "hello", ",", "my", "dog", "is", "cute", "[SEP]"]);
    assert_eq!(encoding.special_tokens_mask, [1, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(encoding.type_ids, [0; 8]);
    assert_eq!(encoding.attention_mask, [1; 8]);
    assert_eq!(encoding.offsets[1..4], [(0, 5), (5, 6), (7, 9)]);
    assert_eq!(encoding.offsets[7], (0, 0));
    let bare = EncodeOptions::new().without_special_tokens();
    assert_eq!(tokens(&tokenizer().encode("my dog", &bare).unwrap()), ["my dog"]);
}

#[test]
fn a_pair_is_told_apart_by_its_types() {
    let batch = tokenizer().encode(("my dog", "is"), &EncodeOptions::new()).unwrap();
    assert_eq!(tokens(&batch), ["[CLS] my dog [SEP] is [SEP]"]);
    assert_eq!(batch.encodings[0].type_ids, [0, 0, 0, 0, 1, 1]);
    let batch = tokenizer().encode(("my dog", ""), &EncodeOptions::new()).unwrap();
    assert_eq!(tokens(&batch), ["[CLS] my dog [SEP] [SEP]"]);
    assert_eq!(batch.encodings[0].type_ids, [0, 0, 0, 0, 1]);
}

#[test]
fn no_printable_ascii_text_is_unknown() {
    let ascii: String = (' '..='~').collect();
    let texts = [ascii.clone(), ascii.replace(' ', ""), "z".repeat(500), "Q9".repeat(300)];
    let batch = tokenizer().encode_batch(&texts, &EncodeOptions::new()).unwrap();
    let singles: Vec<String> = ascii.chars().map(String::from).collect();
    let each = tokenizer().encode_batch(&singles, &EncodeOptions::new()).unwrap();
    for encoding in batch.encodings.iter().chain(&each.encodings) {
        assert!(!encoding.tokens.contains(&"[UNK]".to_owned()), "{:?}", encoding.tokens);
    }
}

#[test]
fn a_word_limit_of_its_own_is_saved_so_that_transformers_keeps_it() {
    let mut file = built_in_file();
    let word = "z".repeat(150);
    for (limit, class) in [(100, "BertTokenizer"), (120, "PreTrainedTokenizerFast")] {
        file["model"]["max_input_chars_per_word"] = limit.into();
        let tokenizer = with_config(&file, r#"{"tokenizer_class": "BertTokenizer"}"#);
        let [_, (_, config)] = tokenizer.to_files().unwrap();
        assert!(config.contains(&format!("\"tokenizer_class\": \"{class}\"")), "{config}");
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save_pretrained(folder.path()).unwrap();
        let saved = AutoTokenizer::from_pretrained(folder.path()).unwrap();
        let encode = |it: &BertTokenizer| it.encode(&*word, &EncodeOptions::new()).unwrap();
        assert_eq!(encode(&saved), encode(&tokenizer));
    }
}

#[test]
fn padding_fills_to_the_asked_length_on_the_asked_side() {
    let tokenizer = tokenizer();
    let texts = ["my dog is cute", "my"];
    let run = |options: EncodeOptions| tokens(&tokenizer.encode_batch(texts, &options).unwrap());
    let plain = EncodeOptions::new();
    assert_eq!(run(plain.clone()), ["[CLS] my dog is cute [SEP]", "[CLS] my [SEP]"]);
    let longest = plain.clone().with_padding(Padding::Longest);
    assert_eq!(run(longest.clone())[1], "[CLS] my [SEP] [PAD] [PAD] [PAD]");
    let left = longest.clone().with_padding_side(Side::Left);
    assert_eq!(run(left)[1], "[PAD] [PAD] [PAD] [CLS] my [SEP]");
    let rounded = longest.with_pad_to_multiple_of(4);
    assert_eq!(run(rounded)[0], "[CLS] my dog is cute [SEP] [PAD] [PAD]");
    let fixed = plain.with_padding(Padding::Length(5));
    assert_eq!(run(fixed), ["[CLS] my dog is cute [SEP]", "[CLS] my [SEP] [PAD] [PAD]"]);
}

#[test]
fn padding_is_masked() {
    let options = EncodeOptions::new().with_padding(Padding::Longest);
    let batch = tokenizer().encode_batch(["my dog", "my"], &options).unwrap();
    assert_eq!(batch.encodings[1].attention_mask, [1, 1, 1, 0]);
    assert_eq!(batch.encodings[1].special_tokens_mask, [1, 0, 1, 1]);
    assert_eq!(batch.encodings[1].ids[3], 0);
}

#[test]
fn truncation_cuts_what_was_asked() {
    let tokenizer = tokenizer();
    let run = |text: Text, truncation: Truncation| {
        let options = EncodeOptions::new().with_truncation(truncation);
        tokenizer.encode_batch([text], &options).map(|batch| tokens(&batch).remove(0))
    };
    let single = Text::Single("one two three four");
    let pair = Text::Pair("one two three four", "five six");
    assert_eq!(run(single, Truncation::to(4)).unwrap(), "[CLS] one two [SEP]");
    assert_eq!(run(single, Truncation::to(2)).unwrap(), "[CLS] [SEP]");
    assert_eq!(run(single, Truncation::to(6)).unwrap(), "[CLS] one two three four [SEP]");
    assert_eq!(
        run(single, Truncation::to(4).with_side(Side::Left)).unwrap(),
        "[CLS] three four [SEP]"
    );
    assert_eq!(run(pair, Truncation::to(7)).unwrap(), "[CLS] one two [SEP] five six [SEP]");
    let only = |strategy, length| Truncation::to(length).with_strategy(strategy);
    assert_eq!(
        run(pair, only(TruncationStrategy::OnlyFirst, 6)).unwrap(),
        "[CLS] one [SEP] five six [SEP]"
    );
    assert_eq!(
        run(pair, only(TruncationStrategy::OnlySecond, 8)).unwrap(),
        "[CLS] one two three four [SEP] five [SEP]"
    );

    let error = run(single, Truncation::to(1)).unwrap_err();
    assert!(matches!(error, TextError::MaxLength { got: 1, special: 2 }), "{error}");
    for (text, truncation) in [
        (pair, only(TruncationStrategy::OnlySecond, 5)),
        (pair, only(TruncationStrategy::OnlyFirst, 4)),
        (single, only(TruncationStrategy::OnlySecond, 4)),
    ] {
        let error = run(text, truncation).unwrap_err();
        assert_says(&error, &["cannot be truncated", "LongestFirst"]);
    }
}

#[test]
fn truncation_and_padding_in_the_file_are_ignored() {
    let mut file = built_in_file();
    file["truncation"] = serde_json::json!(
        {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = serde_json::json!({
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    let tokenizer = BertTokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    let batch = tokenizer.encode("my dog is cute", &EncodeOptions::new()).unwrap();
    assert_eq!(tokens(&batch), ["[CLS] my dog is cute [SEP]"]);
}

#[test]
fn sides_are_those_of_the_config_or_else_of_the_file() {
    let mut file = built_in_file();
    file["truncation"] = serde_json::json!(
        {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = serde_json::json!({
        "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
    let encoded = |config: &str| {
        let tokenizer = with_config(&file, config);
        let options = EncodeOptions::new().with_padding(Padding::Longest);
        let options = options.with_truncation(Truncation::to(4));
        tokens(&tokenizer.encode_batch(["my dog is cute", "my"], &options).unwrap())
    };
    // As in transformers 5.24, for both classes.
    for class in ["BertTokenizer", "PreTrainedTokenizerFast"] {
        let left = encoded(&format!(r#"{{"tokenizer_class": "{class}"}}"#));
        assert_eq!(left, ["[CLS] is cute [SEP]", "[PAD] [CLS] my [SEP]"], "{class}");
    }
    let right = encoded(r#"{"truncation_side": "right", "padding_side": "right"}"#);
    assert_eq!(right, ["[CLS] my dog [SEP]", "[CLS] my [SEP] [PAD]"]);
}

#[test]
fn old_files_say_the_most_tokens_under_another_name() {
    for (config, expected) in [
        (r#"{"max_len": 20}"#, Some(20)),
        (r#"{"max_len": 20, "model_max_length": 30}"#, Some(30)),
        (r#"{"max_len": 20, "model_max_length": null}"#, None),
        ("{}", None),
    ] {
        let tokenizer = with_config(&built_in_file(), config);
        assert_eq!(tokenizer.model_max_length(), expected, "{config}");
    }
}

#[test]
fn offsets_count_characters_or_bytes() {
    let run = |unit| {
        let options = EncodeOptions::new().with_offsets(unit).without_special_tokens();
        tokenizer().encode("é my", &options).unwrap().encodings[0].offsets.clone()
    };
    assert_eq!(run(OffsetUnit::Characters), [(0, 1), (2, 4)]);
    assert_eq!(run(OffsetUnit::Bytes), [(0, 2), (3, 5)]);
}

#[test]
fn ragged_and_empty_batches_make_no_tensor() {
    let tokenizer = tokenizer();
    let plain = EncodeOptions::new();
    let ragged = tokenizer.encode_batch(["my dog", "my", "my dog"], &plain).unwrap();
    let error = ragged.to_input(&device()).unwrap_err();
    assert_says(&error, &["text 0 has 4 tokens and text 1 has 3", "Padding::Longest"]);
    let none: [&str; 0] = [];
    let error = tokenizer.encode_batch(none, &plain).unwrap().to_input(&device()).unwrap_err();
    assert!(matches!(error, TextError::EmptyBatch), "{error}");
}

#[test]
fn input_tensors_have_one_row_per_text() {
    let options = EncodeOptions::new().with_padding(Padding::Longest);
    let batch = tokenizer().encode_batch([("my", "dog"), ("is", "my cat")], &options).unwrap();
    let input = batch.to_input(&device()).unwrap();
    let rows = |t: Option<Tensor>| t.unwrap().to_vec2::<u32>().unwrap();
    assert_eq!(rows(input.input_ids)[1], batch.encodings[1].ids);
    assert_eq!(rows(input.token_type_ids), [[0, 0, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]]);
    assert_eq!(rows(input.attention_mask), [[1, 1, 1, 1, 1, 0], [1; 6]]);
}

#[test]
fn ids_decode_to_text() {
    let tokenizer = tokenizer();
    let batch = tokenizer.encode("Hello, my dogs", &EncodeOptions::new()).unwrap();
    let ids = &batch.encodings[0].ids;
    assert_eq!(tokenizer.decode(ids).unwrap(), "[CLS] hello, my dogs [SEP]");
    assert_eq!(
        tokenizer.decode_with(ids, &DecodeOptions::new().without_special_tokens()).unwrap(),
        "hello, my dogs"
    );
    assert_eq!(tokenizer.token_to_id("[CLS]"), Some(2));
    assert_eq!(tokenizer.id_to_token(3).as_deref(), Some("[SEP]"));
    assert_eq!(tokenizer.token_to_id("no such token"), None);
}

#[test]
fn spaces_before_marks_are_removed_when_asked() {
    let tokenizer = tokenizer();
    let ids = ["my", "dog", "is", "cute"].map(|token| tokenizer.token_to_id(token).unwrap());
    let dot = tokenizer.token_to_id(".").unwrap();
    let ids = [&ids[..], &[dot]].concat();
    let with =
        |clean_up| tokenizer.decode_with(&ids, &DecodeOptions::new().with_clean_up(clean_up));
    assert_eq!(with(true).unwrap(), "my dog is cute.");
    let string = tokenizer.convert_tokens_to_string(["my", "dog", "##s"]).unwrap();
    assert_eq!(string, "my dogs");
    assert_eq!(tokenizer.convert_tokens_to_string([""; 0]).unwrap(), "");
}

#[test]
fn words_have_indices() {
    let words = ["EU", "rejects", "", "German"];
    let batch = tokenizer().encode(Words::from(&words[..]), &EncodeOptions::new()).unwrap();
    let encoding = &batch.encodings[0];
    let first = encoding.word_ids.iter().position(|word| *word == Some(1)).unwrap();
    assert_eq!(encoding.offsets[first].0, 0, "offsets count from the word's start");
    assert_eq!((encoding.word_ids[0], encoding.sequence_ids[0]), (None, None));
    let given: Vec<u32> = encoding.word_ids.iter().flatten().copied().collect();
    assert!(given.is_sorted() && given.contains(&3) && !given.contains(&2), "{given:?}");
    assert!(encoding.sequence_ids[1..encoding.len() - 1].iter().all(|it| *it == Some(0)));
    let strings = words.map(str::to_owned).to_vec();
    let pair = Text::WordPair(Words::Borrowed(&words), Words::Owned(&strings));
    let pair = tokenizer().encode(pair, &EncodeOptions::new()).unwrap().encodings.remove(0);
    let second = pair.sequence_ids.iter().filter(|it| **it == Some(1)).count();
    assert_eq!(second, given.len());
}

#[test]
fn the_rest_of_a_long_text_makes_further_pieces() {
    let tokenizer = tokenizer();
    let options = EncodeOptions::new().with_truncation(Truncation::to(5).with_overflow(1));
    let batch = tokenizer.encode_batch(["one two three four five", "my"], &options).unwrap();
    let expected = ["[CLS] one two three [SEP]", "[CLS] three four five [SEP]", "[CLS] my [SEP]"];
    assert_eq!(tokens(&batch), expected);
    assert_eq!(batch.overflow_to_sample_mapping, [0, 0, 1]);
}

#[test]
fn pieces_that_would_not_advance_are_an_error() {
    let tokenizer = tokenizer();
    let error = |text: Text, truncation: Truncation| {
        let options = EncodeOptions::new().with_truncation(truncation);
        tokenizer.encode_batch([text], &options).unwrap_err()
    };
    let one = error("my dog is cute".into(), Truncation::to(5).with_overflow(3));
    assert!(matches!(one, TextError::Stride { row: 0, got: 3, room: 3 }), "{one}");
    // Where nothing is cut, nothing is in the way.
    let options = EncodeOptions::new().with_truncation(Truncation::to(5).with_overflow(3));
    assert_eq!(tokenizer.encode("my dog", &options).unwrap().encodings.len(), 1);
    let pair = ("one two three", "four five six").into();
    let both = error(pair, Truncation::to(7).with_overflow(2));
    assert!(matches!(both, TextError::Stride { got: 2, room: 2, .. }), "{both}");
    let second = Truncation::to(8).with_strategy(TruncationStrategy::OnlySecond);
    let second = error(pair, second.with_overflow(4));
    assert_says(&second, &["pieces of 2", "stride of 4", "longer max_length"]);
}

#[test]
fn special_tokens_that_a_user_typed_can_be_split() {
    let mut tokenizer = tokenizer();
    let run = |tokenizer: &BertTokenizer, split| {
        let options = EncodeOptions::new().with_split_special_tokens(split);
        tokens(&tokenizer.encode("my [SEP] dog<new>", &options).unwrap()).remove(0)
    };
    let split = run(&tokenizer, true);
    assert!(split.starts_with("[CLS] my [ ") && split.matches("[SEP]").count() == 1, "{split}");
    assert!(run(&tokenizer, false).contains("my [SEP] dog"));
    tokenizer.add_tokens(["<new>"]).unwrap();
    for split in [true, false] {
        assert!(
            run(&tokenizer, split).contains("dog <new> [SEP]"),
            "added words are no special ones"
        );
    }
}

#[test]
fn the_config_says_how_long_a_text_may_be() {
    for (value, expected) in [
        ("512", Some(512)),
        ("1000000000000000019884624838656", None),
        ("1e30", None),
        ("64.0", Some(64)),
        ("0", None),
        ("null", None),
        ("\"long\"", None),
    ] {
        let config = format!("{{\"model_max_length\": {value}}}");
        let length = with_config(&built_in_file(), &config).model_max_length();
        assert_eq!(length, expected, "{value}");
    }
}

#[test]
fn long_pairs_are_cut_without_combining_what_was_cut_off() {
    let long = "my dog ".repeat(20_000);
    let options = EncodeOptions::new().with_truncation(Truncation::to(9));
    let start = std::time::Instant::now();
    let batch = tokenizer().encode((long.as_str(), long.as_str()), &options).unwrap();
    assert_eq!(tokens(&batch), ["[CLS] my dog my [SEP] my dog my [SEP]"]);
    assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
}

#[test]
fn absurd_padding_and_padding_without_a_token_are_errors() {
    let huge = EncodeOptions::new().with_padding(Padding::Length(usize::MAX));
    let multiple =
        EncodeOptions::new().with_padding(Padding::Longest).with_pad_to_multiple_of(1 << 40);
    for options in [huge, multiple] {
        let error = tokenizer().encode("my dog", &options).unwrap_err();
        assert!(matches!(error, TextError::PaddingLength { .. }), "{error}");
    }
    let file = br#"{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#;
    let tokenizer = BertTokenizer::from_bytes(file).unwrap();
    let options = EncodeOptions::new().with_padding(Padding::Longest);
    let error = tokenizer.encode_batch(["a a", "a"], &options).unwrap_err();
    assert!(matches!(error, TextError::NoPadToken), "{error}");
}
