//! Every kind of file that holds a checkpoint, written by PyTorch and transformers.

use std::path::{Path, PathBuf};

use bert::*;

use crate::support::*;

fn folder(name: &str) -> PathBuf {
    fixture("files").join(name)
}

fn load(folder: &Path) -> Result<(BertForPreTraining, LoadReport)> {
    BertForPreTraining::from_pretrained_with_report(folder, &LoadOptions::new())
}

/// Compares a model with head, and the bare model of the same files, with transformers.
fn compare(name: &str, cases_file: &str, tolerance: f64) -> LoadReport {
    let (model, report) = load(&folder(name)).unwrap();
    let case = cases(&fixture("files").join(cases_file)).remove("case").unwrap();
    let kept = &ForwardOptions::new().with_padding_states(PaddingStates::Kept);
    let output = model.forward_with(&case.input, kept).unwrap();
    let bare = AutoModel::from_pretrained(folder(name), &LoadOptions::new()).unwrap();
    let bare = bare.forward_with(&case.input, kept).unwrap();
    for (field, got) in [
        ("prediction_logits", &output.prediction_logits),
        ("seq_relationship_logits", &output.seq_relationship_logits),
        ("last_hidden_state", &bare.last_hidden_state),
        ("pooler_output", bare.pooler_output.as_ref().unwrap()),
    ] {
        assert_close(&format!("{name} {field}"), got, &case.expected[field], tolerance);
    }
    assert_eq!((report.unused.len(), report.missing.len(), report.mismatched.len()), (0, 0, 0));
    report
}

#[test]
fn every_kind_of_file_gives_the_numbers_of_transformers() {
    for name in ["safetensors", "sharded", "bin", "bin_sharded", "bin_before_1.6", "bin_parameters"]
    {
        let report = compare(name, "cases.safetensors", 1e-5);
        assert!(report.converted.is_empty() && report.renamed.is_empty(), "{name}");
        assert_eq!(report.tied.len(), 2, "{name}");
        assert!(
            report
                .to_string()
                .contains("decoder.weight is shared with bert.embeddings.word_embeddings")
        );
    }
    let report = compare("bin_half", "cases.safetensors", 1e-2);
    assert_eq!(report.converted, [(Conversion { from: DType::F16, to: DType::F32 }, 32)]);
    assert!(report.to_string().contains("32 weights were converted from F16 to F32"));
}

#[test]
fn a_decoder_of_its_own_is_read_as_it_is() {
    let report = compare("untied", "untied/cases.safetensors", 1e-5);
    assert!(report.tied.is_empty());
}

#[test]
fn a_bare_model_loads_into_one_with_heads_when_new_heads_are_asked_for() {
    let error = load(&fixture("base")).unwrap_err();
    assert_says(&error, &["cls.predictions.bias", "with_missing_initialized"]);
    let options = LoadOptions::new().with_missing_initialized(3);
    let (model, report) =
        BertForPreTraining::from_pretrained_with_report(fixture("base"), &options).unwrap();
    assert_eq!(report.missing.len(), 7);
    assert!(report.missing.iter().all(|name| name.starts_with("cls.")));
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let output = model.forward(&input).unwrap();
    assert_eq!(output.prediction_logits.dims(), [1, 3, 60]);
    assert_eq!(output.seq_relationship_logits.dims(), [1, 2]);
    assert!(
        output.to_string().starts_with("BertForPreTrainingOutput\n  prediction_logits: [1, 3, 60]")
    );
}

#[test]
fn bytes_in_memory_are_a_checkpoint() {
    let read = |file: &str| std::fs::read(folder("sharded").join(file)).unwrap();
    let names: Vec<String> = std::fs::read_dir(folder("sharded"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let checkpoint = Checkpoint::from_bytes(names.iter().map(|name| (name.clone(), read(name))));
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let run = |checkpoint: Checkpoint| {
        let model = AutoModel::from_pretrained(checkpoint, &LoadOptions::new()).unwrap();
        model.forward(&input).unwrap().last_hidden_state
    };
    assert_same("states", &run(checkpoint), &run(Checkpoint::from_dir(folder("sharded")).unwrap()));
    let error = Checkpoint::from_bytes([("config.json", b"{}" as &[u8])]);
    let error = AutoModel::from_pretrained(error, &LoadOptions::new()).unwrap_err();
    assert_says(&error, &["no weights in a checkpoint in memory", "holds config.json"]);
}

#[test]
fn torch_files_in_memory_are_a_checkpoint_too() {
    let read = |file: &str| std::fs::read(folder("bin").join(file)).unwrap();
    let files = ["config.json", "pytorch_model.bin"].map(|name| (name, read(name)));
    let options = LoadOptions::new();
    let model =
        BertForPreTraining::from_pretrained(Checkpoint::from_bytes(files), &options).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let expected = load(&folder("bin")).unwrap().0.forward(&input).unwrap().prediction_logits;
    assert_same("scores", &model.forward(&input).unwrap().prediction_logits, &expected);
}

#[test]
fn safetensors_come_before_torch_files_and_tokenizer_json_before_vocab_txt() {
    let both = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("safetensors").join(file), both.path().join(file)).unwrap();
    }
    let tokenizer = root().join("crates/bert/built-in/tokenizer.json");
    std::fs::copy(tokenizer, both.path().join("tokenizer.json")).unwrap();
    for file in ["pytorch_model.bin", "model.safetensors.index.json", "vocab.txt"] {
        std::fs::write(both.path().join(file), "this is no checkpoint").unwrap();
    }
    load(both.path()).unwrap();
    AutoTokenizer::from_pretrained(both.path()).unwrap();
}

#[test]
fn a_config_that_unties_an_absent_decoder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"tie_word_embeddings": false, "vocab_size": 2147483647, "hidden_size": 2147483640,
        "num_attention_heads": 1, "num_hidden_layers": 0}"#;
    std::fs::write(folder.path().join("config.json"), text).unwrap();
    let nothing = std::collections::HashMap::<String, Tensor>::new();
    candle_core::safetensors::save(&nothing, folder.path().join("model.safetensors")).unwrap();
    let error = load(folder.path()).unwrap_err();
    let Error::MissingWeights { missing, .. } = &error else { panic!("{error}") };
    assert!(missing.contains(&"cls.predictions.decoder.weight".to_owned()));
}

#[test]
fn files_of_a_varmap_load() {
    let config = AutoConfig::from_pretrained(fixture("base")).unwrap();
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let mut made = BertModel::load(vb, &config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    vars.save(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_json().unwrap()).unwrap();
    let loaded = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let run = |model: &BertModel| model.forward(&input).unwrap().last_hidden_state;
    assert_close("before it is frozen", &run(&loaded), &run(&made), 1e-5);
    made.freeze().unwrap();
    assert_same("states", &run(&loaded), &run(&made));
}

#[test]
fn foreign_prefixes_are_renamed_when_asked_for() {
    let weights = tensors(&fixture("base/model.safetensors"));
    let foreign: std::collections::HashMap<String, Tensor> =
        weights.into_iter().map(|(name, tensor)| (format!("student.{name}"), tensor)).collect();
    let folder = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&foreign, folder.path().join("model.safetensors")).unwrap();
    std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
    let load = |options| BertModel::from_pretrained_with_report(folder.path(), &options);
    assert_says(&load(LoadOptions::new()).unwrap_err(), &["student.", "55 of the model's weights"]);
    let (_, report) = load(LoadOptions::new().with_renamed_prefix("student.", "")).unwrap();
    assert_eq!((report.renamed.len(), report.unused.len()), (55, 0));
    let two = LoadOptions::new()
        .with_renamed_prefix("student.pooler.dense.weight", "pooler.dense.bias")
        .with_renamed_prefix("student.", "");
    assert_says(
        &load(two).unwrap_err(),
        &["pooler.dense.weight", "are the same parameter", "with_renamed_prefix"],
    );
}

#[test]
fn mismatched_weights_are_drawn_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(fixture("base/config.json")).unwrap();
    let wider = config.replace("\"vocab_size\": 60", "\"vocab_size\": 70");
    std::fs::write(folder.path().join("config.json"), wider).unwrap();
    std::fs::copy(fixture("base/model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let load = |options| BertModel::from_pretrained_with_report(folder.path(), &options);
    let error = load(LoadOptions::new()).unwrap_err();
    assert_says(
        &error,
        &["word_embeddings.weight ([60, 32] in place of [70, 32])", "with_missing_initialized"],
    );
    let (_, report) = load(LoadOptions::new().with_missing_initialized(1)).unwrap();
    let mismatch = &report.mismatched[0];
    assert_eq!((&mismatch.got[..], &mismatch.expected[..]), (&[60, 32][..], &[70, 32][..]));
    assert!(report.to_string().starts_with("54 weights of the checkpoint were used."), "{report}");
    assert!(report.to_string().contains("in another shape: embeddings.word_embeddings.weight"));
}

#[test]
fn broken_indices_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
    for (index, parts) in [
        ("", ["is not an index", "EOF"]),
        ("{}", ["is not an index", "weight_map"]),
        (r#"{"weight_map": {}}"#, ["is not an index", "no files"]),
        (
            r#"{"weight_map": {"a": "../a.safetensors"}}"#,
            ["is not an index", "not the name of a file"],
        ),
        (r#"{"weight_map": {"a": "a.safetensors"}}"#, ["no a.safetensors in", "config.json"]),
    ] {
        std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        let error = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
        assert_says(&error, &parts);
    }
}
