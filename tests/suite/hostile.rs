//! Small files that claim much: an error at once, without the memory or the time that they claim.

use std::time::{Duration, Instant};

use bert::errors::TextError;
use bert::*;
use serde_json::{Value, json};

use crate::corruption::{assert_little_memory, safetensors, support_zip};
use crate::support::*;

fn config(change: Value) -> Vec<u8> {
    let mut config = json!({"model_type": "bert", "vocab_size": 4, "hidden_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 8,
        "max_position_embeddings": 8});
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

/// The error of loading a head over the vocabulary, which comes soon.
fn refusal(config: Vec<u8>, name: &str, weights: Vec<u8>) -> Error {
    let checkpoint = Checkpoint::from_bytes([("config.json", config), (name, weights)]);
    let start = Instant::now();
    let error = BertForMaskedLM::from_pretrained(&checkpoint, &LoadOptions::new()).unwrap_err();
    let options = LoadOptions::new().with_missing_initialized(0);
    assert!(BertForMaskedLM::from_pretrained(&checkpoint, &options).is_err());
    assert!(BertModel::from_pretrained(&checkpoint, &LoadOptions::new()).is_err());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_little_memory();
    error
}

#[test]
fn sizes_that_a_config_only_states_take_no_memory() {
    let empty = safetensors("{}", 0);
    let heads = config(json!({"hidden_size": 100_000_000, "num_attention_heads": 100_000_000}));
    let error = refusal(heads, "model.safetensors", empty.clone());
    assert_says(&error, &["num_attention_heads is 100000000", "at most 4096"]);
    let pruned: Vec<usize> = (0..100_000).collect();
    let pruned = config(json!({"pruned_heads": {"0": pruned}}));
    let error = refusal(pruned, "model.safetensors", empty.clone());
    assert_says(&error, &["pruned_heads", "heads below 2"]);
    let large = config(json!({"vocab_size": 2_000_000_000, "hidden_size": 100_000,
        "num_attention_heads": 1, "num_hidden_layers": 0, "max_position_embeddings": 2_000_000_000}));
    assert!(matches!(
        refusal(large.clone(), "model.safetensors", empty),
        Error::MissingWeights { .. }
    ));
    // The decoder and the word embeddings are missing or of another shape, and so not equal.
    let decoder =
        r#"{"cls.predictions.decoder.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
    let error = refusal(large, "model.safetensors", safetensors(decoder, 4));
    assert_says(&error, &["cls.predictions.decoder.weight ([1, 1] in place of"]);
}

/// Pickled instructions.
mod pickled {
    pub fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    pub fn integer(number: i32) -> Vec<u8> {
        [b"J", &number.to_le_bytes()[..]].concat()
    }

    /// A storage, remembered as number 5.
    pub fn storage(count: i32) -> Vec<u8> {
        storage_with(count, b"")
    }

    /// A storage whose identity has more parts.
    pub fn storage_with(count: i32, more: &[u8]) -> Vec<u8> {
        let id = [text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text("0"), text("cpu")];
        [b"(".to_vec(), id.concat(), integer(count), more.to_vec(), b"tQq\x05".to_vec()].concat()
    }

    /// A tensor in that storage.
    pub fn tensor(offset: i32, shape: &[i32]) -> Vec<u8> {
        let function = b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec();
        [function, arguments(offset, shape, b""), b"R".to_vec()].concat()
    }

    /// What that tensor is made of.
    pub fn arguments(offset: i32, shape: &[i32], more: &[u8]) -> Vec<u8> {
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product::<i32>());
        let tuple = |numbers: Vec<i32>| {
            let numbers = numbers.into_iter().flat_map(integer);
            [b"(".to_vec(), numbers.collect(), b"t".to_vec()].concat()
        };
        let hooks = b"\x89ccollections\nOrderedDict\n)R".to_vec();
        let place = [integer(offset), tuple(shape.to_vec()), tuple(strides.collect())].concat();
        [b"(h\x05".to_vec(), place, hooks, more.to_vec(), b"t".to_vec()].concat()
    }
}

fn torch_file(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut zip = support_zip::Writer::default();
    zip.add("archive/data.pkl", &[b"\x80\x02", pickle].concat(), 0);
    zip.add("archive/data/0", storage, 0);
    zip.finish()
}

#[test]
fn names_and_storages_that_a_torch_file_repeats_are_not_copied() {
    use pickled::{storage, tensor, text};
    // A name of a megabyte in twenty thousand dicts.
    let name = [text(&"n".repeat(1 << 20)), b"q\x00".to_vec(), storage(1)].concat();
    let dicts = b"}h\x00h\x01s".repeat(20_000);
    let pickle = [name, tensor(0, &[1]), b"q\x01".to_vec(), dicts, b".".to_vec()].concat();
    let error = refusal(config(json!({})), "pytorch_model.bin", torch_file(&pickle, &[0; 4]));
    assert!(matches!(error, Error::MissingWeights { .. }), "{error}");

    // A storage of a megabyte that a thousand matrices share.
    let matrices =
        (0..1000).flat_map(|i| [text(&format!("w{i}")), tensor(0, &[512, 512])].concat());
    let pickle = [storage(512 * 512), b"}(".to_vec(), matrices.collect(), b"u.".to_vec()].concat();
    let file = torch_file(&pickle, &[0; 4 << 18]);
    let error = refusal(config(json!({})), "pytorch_model.bin", file);
    assert_says(&error, &["more than 3 times as large as the file"]);

    // More values than a model has.
    let pickle = [storage(1), tensor(0, &[1]), b"q\x01".to_vec(), b"}".repeat(1 << 20)].concat();
    let error = refusal(config(json!({})), "pytorch_model.bin", torch_file(&pickle, &[0; 4]));
    assert_says(&error, &["more values than any model"]);
}

#[test]
fn a_shape_whose_zeros_hide_its_size_is_an_error() {
    let (big, folder) = (1u64 << 32, tempfile::tempdir().unwrap());
    for shape in [[0, big, big], [big, 0, big], [big, big, 0]] {
        let header = json!({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}});
        let path = folder.path().join("x.safetensors");
        std::fs::write(&path, safetensors(&header.to_string(), 0)).unwrap();
        assert!(matches!(load_tensors(&path), Err(Error::Safetensors { .. })), "{shape:?}");
    }
}

#[test]
fn a_storage_that_holds_all_weights_is_read_piece_by_piece() {
    let weights = tensors(&fixture("base/model.safetensors"));
    let (mut entries, mut storage) = (Vec::new(), Vec::new());
    for (name, tensor) in &weights {
        let shape: Vec<i32> = tensor.dims().iter().map(|size| *size as i32).collect();
        entries.push(pickled::text(name));
        entries.push(pickled::tensor(storage.len() as i32 / 4, &shape));
        let elements = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        storage.extend(elements.iter().flat_map(|element| element.to_le_bytes()));
    }
    let count = storage.len() as i32 / 4;
    let pickle = [pickled::storage(count), b"}(".to_vec(), entries.concat(), b"u.".to_vec()];
    let files = |storage: &[u8]| {
        let config = std::fs::read(fixture("base/config.json")).unwrap();
        let file = torch_file(&pickle.concat(), storage);
        Checkpoint::from_bytes([("config.json", config), ("pytorch_model.bin", file)])
    };
    let run = |checkpoint: &Checkpoint| {
        let model = BertModel::from_pretrained(checkpoint, &LoadOptions::new())?;
        let output = model.forward(&BertInput::from_ids(ids(&[&[5, 6, 7]])))?;
        Ok::<_, Error>(output.last_hidden_state)
    };
    let expected = run(&Checkpoint::from_dir(fixture("base")).unwrap()).unwrap();
    assert_same("flat", &run(&files(&storage)).unwrap(), &expected);
    // The checksum counts for pieces as well.
    let mut zip = files(&storage);
    let bytes = zip.read("pytorch_model.bin").unwrap().unwrap();
    let at = bytes.windows(64).position(|window| *window == storage[4096..4160]).unwrap();
    let mut damaged = bytes;
    damaged[at] ^= 1;
    let config = std::fs::read(fixture("base/config.json")).unwrap();
    zip = Checkpoint::from_bytes([("config.json", config), ("pytorch_model.bin", damaged)]);
    assert!(matches!(run(&zip).unwrap_err(), Error::TorchFile { .. }));
}

/// The tensors of a state dict, as the word embeddings of a model of four words of eight numbers.
fn words_of(name: &str, file: Vec<u8>) -> Result<Vec<f64>> {
    let files = [("config.json", config(json!({"num_hidden_layers": 0}))), (name, file)];
    let options = LoadOptions::new().with_missing_initialized(0);
    let loaded = BertModel::from_pretrained_with_report(Checkpoint::from_bytes(files), &options);
    let (model, report) = loaded?;
    assert_eq!(report.used, ["embeddings.word_embeddings.weight"]);
    Ok(values(model.get_input_embeddings()))
}

#[test]
fn tensors_are_what_pytorch_would_make_or_an_error() {
    use pickled::{arguments, integer, storage, storage_with, tensor, text};
    let numbers: Vec<u8> = (0..40).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let name = text("embeddings.word_embeddings.weight");
    let dict = |storage: Vec<u8>, tensor: Vec<u8>| {
        [storage, b"}".to_vec(), name.clone(), tensor, b"s.".to_vec()].concat()
    };
    let expected = |first: i32| (first..first + 32).map(f64::from).collect::<Vec<_>>();
    let zip =
        |tensor| words_of("pytorch_model.bin", torch_file(&dict(storage(40), tensor), &numbers));
    assert_eq!(zip(tensor(3, &[4, 8])).unwrap(), expected(3));
    // A tensor with attributes is rebuilt by way of another function.
    let (outer, inner) =
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(", b"ctorch._utils\n_rebuild_tensor_v2\n");
    let class = b"ctorch.nn.parameter\nParameter\n";
    let with_attributes = [&outer[..], inner, class, &arguments(5, &[4, 8], b""), b"}tR"].concat();
    assert_eq!(zip(with_attributes).unwrap(), expected(5));
    // A negated view keeps the numbers of what it views.
    let negated =
        [&inner[..], &arguments(3, &[4, 8], &[b"}", &text("neg")[..], b"\x88s"].concat()), b"R"];
    assert_says(&zip(negated.concat()).unwrap_err(), &["negated or conjugated"]);

    // Before PyTorch 1.6 a storage could be a part of another one, and others than tensors' were stored.
    let magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}q\x00.";
    let view = [b"(".to_vec(), text("view"), integer(4), integer(36), b"t".to_vec()].concat();
    let other =
        b"(X\x07\0\0\0storagectorch\nLongStorage\nX\x01\0\0\09X\x03\0\0\0cpuK\x01NtQ0".to_vec();
    let pickle = [other, dict(storage_with(40, &view), tensor(2, &[4, 8]))].concat();
    let keys = [b"\x80\x02](".to_vec(), text("9"), text("0"), b"e.".to_vec()].concat();
    let storages = [&1u64.to_le_bytes()[..], &[0; 8], &40u64.to_le_bytes(), &numbers].concat();
    let file = [&magic[..], b"\x80\x02", &pickle, &keys, &storages].concat();
    assert_eq!(words_of("pytorch_model.bin", file).unwrap(), expected(6));
}

#[test]
fn tokenizers_that_would_panic_are_errors() {
    let whole = std::fs::read(root().join("crates/bert/built-in/tokenizer.json")).unwrap();
    let whole = serde_json::from_slice::<serde_json::Value>(&whole).unwrap().to_string();
    let with = |old: &str, new: &str| {
        let changed = whole.replacen(old, new, 1);
        assert_ne!(changed, whole, "{old}");
        BertTokenizer::from_bytes(changed.as_bytes())
    };
    let cut = whole.find("\"decoder\"").unwrap() + 25;
    for (loaded, part) in [
        (BertTokenizer::from_bytes(&whole.as_bytes()[..cut]), "not a tokenizer.json"),
        (
            with(r#"{"SpecialToken":{"id":"[CLS]""#, r#"{"SpecialToken":{"id":"[CLR]""#),
            "\"[CLR]\", which its special_tokens do not define",
        ),
        (with(r#""FixedLength","length":64"#, r#""FixedLength","length":0"#), "length 0"),
        (with(r#""ids":[2]"#, r#""ids":[2,3]"#), "\"[CLS]\", which"),
    ] {
        let error = loaded.unwrap_err();
        assert!(matches!(error, TextError::Syntax(_)), "{error}");
        assert_says(&error, &[part]);
    }
    let decoder = r###""decoder":{"type":"WordPiece","prefix":"##","cleanup":true}"###;
    let strip = r#""decoder":{"type":"Strip","content":"e","start":0,"stop":9}"#;
    let tokenizer = with(decoder, strip).unwrap();
    let id = tokenizer.token_to_id("e").unwrap();
    assert_says(&tokenizer.decode(&[id]).unwrap_err(), &["damaged", "panicked"]);

    // A special token that looks like a text of a template.
    let vocab = "[PAD]\n[UNK]\n$B\n[SEP]\na:0\n";
    let config = r#"{"tokenizer_class": "BertTokenizer", "cls_token": "$B", "sep_token": "a:0"}"#;
    let files = [("vocab.txt", vocab), ("tokenizer_config.json", config)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes()));
    let tokenizer = AutoTokenizer::from_pretrained(Checkpoint::from_bytes(files)).unwrap();
    let batch = tokenizer.encode("x", &EncodeOptions::new()).unwrap();
    assert_eq!(batch.encodings[0].ids, [2, 1, 4]);

    // Added words that cannot be added leave the tokenizer as it was.
    let mut tokenizer = BertTokenizer::from_bytes(whole.as_bytes()).unwrap();
    let size = tokenizer.vocab_size();
    if tokenizer.add_tokens(["\u{301}"]).is_err() {
        assert_eq!(tokenizer.vocab_size(), size);
    }
}
