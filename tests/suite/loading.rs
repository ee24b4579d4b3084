//! From files to models: names, missing and damaged files, the hub's absence.

use std::collections::HashMap;
use std::path::Path;

use bert::*;

use crate::support::*;

type Weights = HashMap<String, Tensor>;

/// A copy of the fixture `base` with other weights.
fn folder_with(weights: &Weights) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
    candle_core::safetensors::save(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

fn base_weights() -> Weights {
    tensors(&fixture("base/model.safetensors"))
}

fn load(folder: &Path) -> Result<(BertModel, LoadReport)> {
    BertModel::from_pretrained_with_report(folder, &LoadOptions::new())
}

/// The error of loading a folder, which must not be Candle's.
fn refusal(folder: &Path) -> Error {
    let error = load(folder).map(drop).unwrap_err();
    assert!(!matches!(error, Error::Candle(_)), "{error}");
    error
}

fn output(model: &BertModel) -> Tensor {
    model.forward(&BertInput::from_ids(ids(&[&[5, 6, 7]]))).unwrap().pooler_output.unwrap()
}

#[test]
fn prefixes_and_names_from_tensorflow_make_no_difference() {
    let expected = output(&model("base", DType::F32));
    let prefixed = |name: &str| format!("bert.{name}");
    let legacy = |name: &str| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let renamings: [&dyn Fn(&str) -> String; 3] =
        [&prefixed, &legacy, &|name| prefixed(&legacy(name))];
    for rename in renamings {
        let mut weights: Weights =
            base_weights().into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
        let positions = Tensor::arange(0i64, 24, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        weights.insert(rename("embeddings.position_ids"), positions);
        let (model, report) = load(folder_with(&weights).path()).unwrap();
        assert!(report.unused.is_empty() && report.missing.is_empty(), "{report}");
        assert_same("pooler_output", &output(&model), &expected);
    }
}

#[test]
fn the_report_names_what_was_not_used() {
    let mut weights = base_weights();
    let extra = Tensor::zeros((2, 32), DType::F32, &Device::Cpu).unwrap();
    weights.insert("cls.seq_relationship.weight".to_owned(), extra);
    let (_, report) = load(folder_with(&weights).path()).unwrap();
    assert_eq!(report.unused, ["cls.seq_relationship.weight"]);
    assert_eq!(report.used.len(), 55);
    assert!(
        report.to_string().contains("55 weights of the checkpoint were used, 1 were not: cls.seq")
    );
}

#[test]
fn missing_weights_are_an_error_that_lists_them_all() {
    let mut weights = base_weights();
    weights.retain(|name, _| !name.starts_with("pooler"));
    let folder = folder_with(&weights);
    let error = refusal(folder.path());
    let Error::MissingWeights { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(*missing, ["pooler.dense.weight", "pooler.dense.bias"]);
    assert_says(
        &error,
        &["2 of the model's weights", "pooler.dense.bias", "with_missing_initialized"],
    );
    assert!(
        BertModel::from_pretrained(folder.path(), &LoadOptions::new().without_pooling_layer())
            .is_ok()
    );
}

#[test]
fn missing_weights_are_drawn_when_asked_for() {
    let mut weights = base_weights();
    weights.retain(|name, _| !name.starts_with("pooler") && !name.starts_with("encoder.layer.1."));
    let folder = folder_with(&weights);
    let load = |seed| {
        let options = LoadOptions::new().with_missing_initialized(seed);
        BertModel::from_pretrained_with_report(folder.path(), &options).unwrap()
    };
    let (model, report) = load(1);
    assert_eq!(report.missing.len(), 18);
    assert_same("same seed", &output(&load(1).0), &output(&model));
    assert!(largest_difference(&values(&output(&load(2).0)), &values(&output(&model))).0 > 1e-4);
}

#[test]
fn the_padding_row_is_drawn_as_zeros() {
    let folder = folder_with(&Weights::new());
    let options = LoadOptions::new().with_missing_initialized(1);
    let (model, _) = BertModel::from_pretrained_with_report(folder.path(), &options).unwrap();
    let run = |input: BertInput| model.forward(&input).unwrap().last_hidden_state;
    let zeros = Tensor::zeros((1, 1, 32), DType::F32, &Device::Cpu).unwrap();
    let embedded = run(BertInput::from_embeds(zeros));
    assert_same("padding", &run(BertInput::from_ids(ids(&[&[0]]))), &embedded);
    let other = run(BertInput::from_ids(ids(&[&[1]])));
    assert!(largest_difference(&values(&other), &values(&embedded)).0 > 1e-3);
}

#[test]
fn weights_of_another_shape_are_an_error_with_both_shapes() {
    let mut weights = base_weights();
    let narrow = Tensor::zeros((32, 31), DType::F32, &Device::Cpu).unwrap();
    weights.insert("encoder.layer.2.attention.self.key.weight".to_owned(), narrow);
    let error = refusal(folder_with(&weights).path());
    assert_says(
        &error,
        &["1 weights", "encoder.layer.2.attention.self.key.weight ([32, 31] in place of [32, 32])"],
    );
}

#[test]
fn integer_weights_are_an_error() {
    let mut weights = base_weights();
    let integers = Tensor::zeros((32, 32), DType::U8, &Device::Cpu).unwrap();
    weights.insert("pooler.dense.weight".to_owned(), integers);
    assert_says(&refusal(folder_with(&weights).path()), &["pooler.dense.weight", "U8", "F32"]);
    let error =
        BertModel::from_pretrained(fixture("base"), &LoadOptions::new().with_dtype(DType::U8));
    assert_says(&error.unwrap_err(), &["loaded as U8 on Cpu", "BF16"]);
}

#[test]
fn missing_files_are_named_with_where_they_were_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_says(&refusal(folder.path()), &["no config.json in", path, "holds nothing"]);
    std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
    assert_says(
        &refusal(folder.path()),
        &["no weights in", "model.safetensors, pytorch_model.bin", path, "holds config.json"],
    );
    let error = AutoTokenizer::from_pretrained(folder.path()).unwrap_err();
    assert_says(&error, &["no tokenizer.json or vocab.txt in", path]);

    let nowhere = folder.path().join("nowhere");
    assert_says(&refusal(&nowhere), &["nowhere", "neither a folder nor a hub id"]);
    let error = AutoConfig::from_pretrained("./no/such/folder").unwrap_err();
    assert_says(&error, &["./no/such/folder", "google-bert/bert-base-uncased"]);
}

#[test]
fn configs_of_other_models_and_broken_tokenizers_name_their_file() {
    let folder = folder_with(&base_weights());
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("config.json", r#"{"model_type": "roberta"}"#);
    assert_says(&refusal(folder.path()), &["config.json", "\"roberta\"", "expected \"bert\""]);
    write("config.json", "not json");
    assert_says(&refusal(folder.path()), &["config.json", "cannot be read"]);
    write("tokenizer.json", r#"{"version": "1.0"}"#);
    assert_says(&AutoTokenizer::from_pretrained(folder.path()).unwrap_err(), &["config.json"]);
    write("config.json", "{}");
    let error = AutoTokenizer::from_pretrained(folder.path()).unwrap_err();
    assert_says(&error, &["tokenizer.json", "not a tokenizer.json"]);
}

#[test]
fn damaged_weight_files_are_errors() {
    let folder = folder_with(&base_weights());
    let file = folder.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let check = |bytes: &[u8], part: &str| {
        std::fs::write(&file, bytes).unwrap();
        let error = refusal(folder.path());
        assert!(matches!(error, Error::Safetensors { .. }), "{error}");
        assert_says(&error, &["model.safetensors is not a whole safetensors file", part]);
    };
    check(&[], "0 bytes");
    check(&whole[..7], "7 bytes");
    for length in [8, 100, 8 + header - 1] {
        check(&whole[..length], "its header says");
    }
    for length in [8 + header, whole.len() - 1] {
        check(&whole[..length], "bytes of tensors");
    }
    check(&[&whole[..], &[0]].concat(), "bytes of tensors");
    check(&[&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), "its header says");
    let mut broken = whole.clone();
    broken[8] = b'!';
    check(&broken, "its header cannot be read");
}

#[test]
fn half_precision_files_load_in_any_dtype() {
    let weights: Weights = base_weights()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(DType::BF16).unwrap()))
        .collect();
    let folder = folder_with(&weights);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
        let model =
            BertModel::from_pretrained(folder.path(), &LoadOptions::new().with_dtype(dtype));
        assert_eq!(output(&model.unwrap()).dtype(), dtype);
    }
}

#[test]
fn the_built_in_checkpoint_is_a_checkpoint_like_any_other() {
    let built_in = Checkpoint::built_in();
    let folder = root().join("crates/bert/built-in");
    let (from_bytes, report) =
        AutoModel::from_pretrained_with_report(&built_in, &LoadOptions::new()).unwrap();
    assert!(report.unused.iter().all(|name| name.starts_with("cls.")), "{report}");
    assert!(report.missing.is_empty(), "{report}");
    let from_folder = AutoModel::from_pretrained(&folder, &LoadOptions::new()).unwrap();
    assert_same("pooler_output", &output(&from_bytes), &output(&from_folder));
}

#[test]
fn absent_devices_are_errors() {
    for (name, device) in [("cuda", cuda_device()), ("metal", metal_device())] {
        if let Err(error) = device {
            assert_says(&error, &[name, "use another device"]);
        }
    }
}
