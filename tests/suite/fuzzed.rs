//! What the fuzz targets of `fuzz/` do with bytes. None of it may panic.

// Each target uses one of these.
#![allow(dead_code)]

use std::io::{Cursor, Write};
use std::sync::OnceLock;

use bert::*;

const CONFIG: &[u8] = include_bytes!("../fixtures/files/safetensors/config.json");
const WEIGHTS: &[u8] = include_bytes!("../fixtures/files/safetensors/model.safetensors");

/// Loads a model and runs it.
fn run(files: &[(&str, &[u8])]) {
    let checkpoint = Checkpoint::from_bytes(files.iter().map(|(name, it)| (*name, it.to_vec())));
    let Ok(model) = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new()) else { return };
    let ids = Tensor::new(&[[1u32, 2, 3]], &Device::Cpu).unwrap();
    // A config may ask for more arithmetic than a fuzzer should wait for.
    if model.config().hidden_size <= 64 {
        let _ = model.forward(&BertInput::from_ids(ids));
    }
}

/// The bytes are a `config.json`, beside weights of another one.
pub fn config(bytes: &[u8]) {
    let checkpoint = Checkpoint::from_bytes([("config.json", bytes.to_vec())]);
    if let Ok(config) = checkpoint.config() {
        // What was read can be written and read.
        let written = config.to_json().unwrap();
        assert_eq!(BertConfig::from_json(&written).unwrap().to_json().unwrap(), written);
    }
    run(&[("config.json", bytes), ("model.safetensors", WEIGHTS)]);
}

/// The bytes are a `model.safetensors`.
pub fn safetensors(bytes: &[u8]) {
    run(&[("config.json", CONFIG), ("model.safetensors", bytes)]);
}

/// The bytes are a `pytorch_model.bin`, of either format, or the pickle of one.
pub fn torch(bytes: &[u8]) {
    run(&[("config.json", CONFIG), ("pytorch_model.bin", bytes)]);
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default();
    for (name, content) in [("data.pkl", bytes), ("data/0", &[0; 4096]), ("data/1", &[1; 64])] {
        archive.start_file(format!("archive/{name}"), stored).unwrap();
        archive.write_all(content).unwrap();
    }
    let archive = archive.finish().unwrap().into_inner();
    run(&[("config.json", CONFIG), ("pytorch_model.bin", &archive)]);
}

/// The bytes are a `model.safetensors.index.json`.
pub fn index(bytes: &[u8]) {
    run(&[
        ("config.json", CONFIG),
        ("model.safetensors.index.json", bytes),
        ("a.safetensors", WEIGHTS),
        ("b.safetensors", WEIGHTS),
    ]);
}

/// The bytes are a `tokenizer.json`, or, after a `?`, a `tokenizer_config.json` of the built-in one.
pub fn tokenizer(bytes: &[u8]) {
    let built_in = built_in();
    let (tokenizer, settings) = match bytes.strip_prefix(b"?") {
        Some(settings) => (&*built_in, settings),
        None => (bytes, &b"{}"[..]),
    };
    let files = TokenizerFiles {
        tokenizer: Some(tokenizer),
        tokenizer_config: Some(settings),
        ..TokenizerFiles::default()
    };
    let Ok(tokenizer) = BertTokenizer::from_files(&files) else { return };
    for text in ["hello [MASK] w\u{f6}rld", "", "\u{6771}\u{4eac} $A e\u{301}"] {
        if let Ok(batch) = tokenizer.encode((text, "b"), &EncodeOptions::new()) {
            let _ = tokenizer.decode(&batch.encodings[0].ids);
        }
    }
    let _ = tokenizer.to_files();
}

fn built_in() -> Vec<u8> {
    Checkpoint::built_in().read("tokenizer.json").unwrap().unwrap()
}

/// The built-in tokenizer with more words. A word of two words keeps it from cutting long texts before it
/// encodes them.
fn tokenizer_with(words: &[&str]) -> BertTokenizer {
    let mut tokenizer = BertTokenizer::from_bytes(&built_in()).unwrap();
    tokenizer.add_tokens(words.iter().copied()).unwrap();
    tokenizer
}

/// Three bytes of options, then a text or, with a line break, a pair; as words if the options say so.
pub fn encode(bytes: &[u8]) {
    static TOKENIZERS: OnceLock<[BertTokenizer; 3]> = OnceLock::new();
    let [few, ideograph, uncut] = TOKENIZERS.get_or_init(|| {
        let few = tokenizer_with(&["a<new>", "San"]);
        let ideograph = tokenizer_with(&["a<new>", "San", "\u{4eac}x"]);
        [few, ideograph, tokenizer_with(&["a<new>", "San", "\u{4eac}x", "qzqz qzqz"])]
    });
    let [length, flags, padding, text @ ..] = bytes else { return };
    let content = String::from_utf8_lossy(text);
    let parts: Vec<&str> = match content.split_once('\n') {
        Some((first, second)) if flags & 1 != 0 => vec![first, second],
        _ => vec![&content],
    };
    let words: Vec<Vec<&str>> = parts.iter().map(|part| part.split(' ').collect()).collect();
    let text = match (&parts[..], &words[..]) {
        (_, [words]) if flags & 16 != 0 => Words::from(words).into(),
        (_, [first, second]) if flags & 16 != 0 => Text::WordPair(first.into(), second.into()),
        ([first, second], _) => (*first, *second).into(),
        _ => parts[0].into(),
    };
    let tokenizer = if flags & 8 != 0 { few } else { ideograph };
    let units = if flags & 2 != 0 { OffsetUnit::Bytes } else { OffsetUnit::Characters };
    let mut options = EncodeOptions::new().with_offsets(units);
    options.split_special_tokens = Some(flags & 64 != 0);
    let whole = tokenizer.encode(text, &options).unwrap();
    let shortened = |it: &BertTokenizer| cut(it, text, &options, *length, *flags, *padding);
    let cut = shortened(tokenizer);
    let same_words = std::ptr::eq(tokenizer, ideograph) || !content.contains('\u{4eac}');
    if same_words && !content.to_lowercase().contains("qzqz") {
        assert_eq!(cut, shortened(uncut));
    }
    for encoding in cut.iter().flat_map(|it| &it.encodings).chain(&whole.encodings) {
        let lengths = [encoding.tokens.len(), encoding.type_ids.len(), encoding.offsets.len()];
        assert_eq!(lengths, [encoding.ids.len(); 3]);
        let lengths = [&encoding.attention_mask, &encoding.special_tokens_mask].map(Vec::len);
        assert_eq!(lengths, [encoding.ids.len(); 2]);
        let sources = encoding.sequence_ids.iter().zip(&encoding.word_ids);
        for (&(start, end), (sequence, word)) in encoding.offsets.iter().zip(sources) {
            let Some(sequence) = *sequence else {
                assert_eq!((start, end, *word), (0, 0, None));
                continue;
            };
            let part = match word {
                Some(word) if flags & 16 != 0 => words[sequence][*word as usize],
                _ => parts[sequence],
            };
            assert!(start <= end);
            match units {
                OffsetUnit::Bytes => assert!(part.get(start..end).is_some()),
                OffsetUnit::Characters => assert!(end <= part.chars().count()),
            }
        }
        tokenizer.decode(&encoding.ids).unwrap();
    }
}

/// The encoding with truncation and padding, if that can be.
fn cut(
    tokenizer: &BertTokenizer,
    text: Text,
    options: &EncodeOptions,
    length: u8,
    flags: u8,
    padding: u8,
) -> Option<BatchEncoding> {
    let side = if flags & 4 != 0 { Side::Left } else { Side::Right };
    let mut truncation = Truncation::to(length.into()).with_side(side);
    truncation.overflow = (flags & 32 != 0).then_some(usize::from(padding % 16));
    let options = options.clone().with_truncation(truncation);
    let options = options.with_padding(Padding::Length(padding.into()));
    tokenizer.encode(text, &options).ok()
}
