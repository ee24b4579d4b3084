//! Checkpoints of another make: they load with what they have, or an error says what they are.

use std::collections::HashMap;
use std::path::Path;

use bert::*;
use serde_json::{Value, json};

use crate::server::{Answer, Server};
use crate::support::*;

type Weights = HashMap<String, Tensor>;

/// A copy of the fixture `base` with other weights and some more fields of its config.
fn folder_with(weights: &Weights, fields: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("base/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(weights, folder.path().join("model.safetensors")).unwrap();
    folder
}

fn base_weights() -> Weights {
    tensors(&fixture("base/model.safetensors"))
}

fn renamed(rename: impl Fn(&str) -> String) -> Weights {
    base_weights().into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
}

/// The recipe for fine-tuning.
fn to_train(folder: &Path) -> Result<BertForSequenceClassification> {
    let options = LoadOptions::new().with_labels(["bad", "good"]).with_missing_initialized(0);
    Ok(BertForSequenceClassification::from_pretrained_trainable(folder, &options)?.0)
}

#[test]
fn fine_tuning_begins_with_a_new_head_and_never_with_a_new_model() {
    assert!(to_train(folder_with(&base_weights(), json!({})).path()).is_ok());
    let mut weights = base_weights();
    weights.retain(|name, _| !name.starts_with("encoder.layer.1."));
    let folder = folder_with(&weights, json!({}));
    let error = to_train(folder.path()).unwrap_err();
    let Error::MissingWeights { missing, .. } = &error else { panic!("{error}") };
    // The head's two are asked for.
    assert_eq!(missing.len(), 16);
    assert!(missing.iter().all(|name| name.contains("encoder.layer.1.")), "{missing:?}");
    assert_says(&error, &["16 of the model's weights", "every BERT has these", "with_report"]);

    let options = LoadOptions::new().with_missing_initialized(0);
    assert!(BertModel::from_pretrained(folder.path(), &options).is_err());
    let (_, report) = BertModel::from_pretrained_with_report(folder.path(), &options).unwrap();
    assert_eq!(report.missing.len(), 16);

    let mut weights = base_weights();
    let words = Tensor::zeros((9, 32), DType::F32, &Device::Cpu).unwrap();
    weights.insert("embeddings.word_embeddings.weight".to_owned(), words);
    let error = to_train(folder_with(&weights, json!({})).path()).unwrap_err();
    assert_says(&error, &["embeddings.word_embeddings.weight ([9, 32] in place of [60, 32])"]);
}

#[test]
fn prefixes_of_wrappers_are_an_error_that_says_how_to_rename_them() {
    for (prefix, bert) in
        [("module.", ""), ("module.", "bert."), ("0.auto_model.", ""), ("a.b.", "")]
    {
        let folder = folder_with(&renamed(|name| format!("{prefix}{bert}{name}")), json!({}));
        let hint = format!("LoadOptions::with_renamed_prefix({prefix:?}, \"\")");
        assert_says(&to_train(folder.path()).unwrap_err(), &[&hint]);
        let error = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
        assert_says(&error, &[&hint]);
        // Not even somebody who reads the report wants new weights for these.
        let options = LoadOptions::new().with_missing_initialized(0);
        let error = BertModel::from_pretrained_with_report(folder.path(), &options).unwrap_err();
        assert_says(&error, &[&hint]);
        let options = LoadOptions::new().with_renamed_prefix(prefix, "");
        assert!(BertModel::from_pretrained(folder.path(), &options).is_ok(), "{prefix}{bert}");
    }
}

#[test]
fn another_architecture_that_calls_itself_bert_is_refused() {
    // MosaicBERT and DNABERT-2: one matrix for queries, keys and values, gated layers, no positions.
    let mut mosaic = Weights::new();
    for (name, tensor) in base_weights() {
        let name = format!("bert.{name}");
        if name.contains("self.query") {
            mosaic.insert(name.replace("query", "Wqkv"), tensor);
        } else if name.contains("intermediate.dense.weight") {
            let gated = name.replace("intermediate.dense", "mlp.gated_layers");
            mosaic.insert(gated, tensor);
        } else if !["self.key", "self.value", "position_emb", "intermediate", "output.dense"]
            .iter()
            .any(|part| name.contains(part))
        {
            mosaic.insert(name, tensor);
        }
    }
    let fields =
        json!({"alibi_starting_size": 512, "auto_map": {"AutoModel": "bert_layers.BertModel"}});
    let folder = folder_with(&mosaic, fields);
    let error = to_train(folder.path()).unwrap_err();
    assert_says(&error, &["architecture is not BERT's", "auto_map", "Python"]);
    assert!(BertModel::from_pretrained(folder.path(), &LoadOptions::new()).is_err());

    // All of BERT's weights, and more that change what it computes.
    for (extra, refused) in [
        ("encoder.layer.0.attention.self.query.lora_A.default.weight", true),
        ("bert.encoder.layer.2.attention.self.layer_norm_q.weight", true),
        ("embeddings.emb_layer.weight", true),
        ("embeddings_project.weight", true),
        ("bert.ln_f.weight", true),
        ("bert.rel_bias.weight", true),
        ("encoder.relative_attention_bias.weight", true),
        ("encoder.layer.3.output.dense.weight", false),
        ("encoder.layer.0.crossattention.self.query.weight", false),
        ("encoder.layer.0.attention.self.distance_embedding.weight", false),
        ("encoder.layer.1.attention.self.query._input_quantizer._amax", false),
        ("bert.encoder.layer.1.attention.self.masked_bias", false),
        // The same weight under another name, and parts of other models.
        ("encoder.layer.0.output.LayerNorm.gamma", false),
        ("bert.teacher.weight_of_another", true),
        ("embeddings.position_ids", false),
        ("linear.weight", false),
        ("cls.predictions.bias", false),
    ] {
        let mut weights = match extra.strip_prefix("bert.") {
            Some(_) => renamed(|name| format!("bert.{name}")),
            None => base_weights(),
        };
        weights.insert(extra.to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        let folder = folder_with(&weights, json!({}));
        let loaded = BertModel::from_pretrained_with_report(folder.path(), &LoadOptions::new());
        match loaded {
            Err(error) if refused => {
                assert_says(&error, &["1 weight that BERT does not use", extra])
            }
            Ok(_) if !refused => {}
            other => panic!("{extra}: {other:?}"),
        }
    }
}

#[test]
fn a_config_may_name_the_file_of_weights() {
    let zeros = || Tensor::zeros((60, 32), DType::F32, &Device::Cpu).unwrap();
    let words = "embeddings.word_embeddings.weight";
    let mut other = base_weights();
    assert!(other.insert(words.to_owned(), zeros()).is_some());
    let folder = folder_with(&base_weights(), json!({"transformers_weights": "v2.safetensors"}));
    let load = || BertModel::from_pretrained(folder.path(), &load_options());
    assert_says(&load().unwrap_err(), &["no v2.safetensors in"]);
    candle_core::safetensors::save(&other, folder.path().join("v2.safetensors")).unwrap();
    let model = load().unwrap();
    assert_same("words", model.get_input_embeddings(), &zeros());
    // What is saved has the usual name, also for Python.
    model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(!config.contains("transformers_weights"));
    assert_same("words", load().unwrap().get_input_embeddings(), &zeros());

    let outside = folder_with(&base_weights(), json!({"transformers_weights": "../x.safetensors"}));
    let error = BertModel::from_pretrained(outside.path(), &load_options()).unwrap_err();
    assert!(matches!(error, Error::FileName { .. }), "{error}");
    for odd in [json!("x.pt"), json!("pytorch_model.bin"), json!(3)] {
        let folder = folder_with(&base_weights(), json!({"transformers_weights": odd}));
        let error = BertModel::from_pretrained(folder.path(), &load_options()).unwrap_err();
        assert_says(&error, &["transformers_weights is", "the name of a .safetensors"]);
    }
    let none = folder_with(&base_weights(), json!({"transformers_weights": null}));
    BertModel::from_pretrained(none.path(), &load_options()).unwrap();
}

#[test]
fn an_untied_decoder_has_the_bias_of_the_head() {
    let folder = fixture("heads/masked_lm");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["tie_word_embeddings"] = false.into();
    let mut weights = tensors(&folder.join("model.safetensors"));
    let words = weights["bert.embeddings.word_embeddings.weight"].clone();
    weights.insert("cls.predictions.decoder.weight".to_owned(), words.affine(-2., 0.5).unwrap());
    let bias = weights["cls.predictions.bias"].clone();
    assert!(!weights.contains_key("cls.predictions.decoder.bias"));
    let scores = |bias: &Tensor| {
        let mut weights = weights.clone();
        weights.insert("cls.predictions.bias".to_owned(), bias.clone());
        let folder = folder_with(&weights, config.clone());
        let model = BertForMaskedLM::from_pretrained(folder.path(), &load_options()).unwrap();
        model.forward(&BertInput::from_ids(ids(&[&[1, 2, 3]]))).unwrap().logits
    };
    let plain = scores(&bias.zeros_like().unwrap());
    assert_close("scores", &scores(&bias), &plain.broadcast_add(&bias).unwrap(), 1e-5);
}

#[test]
fn what_other_models_share_a_file_with_a_bert_is_left_alone() {
    let zeros = || Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let bert = renamed(|name| format!("bert.{name}"));
    for extra in ["encoder.weight", "embeddings.weight", "lstm.encoder.layer.0.x", "decoder.weight"]
    {
        let mut weights = bert.clone();
        weights.insert(extra.to_owned(), zeros());
        let folder = folder_with(&weights, json!({}));
        let (_, report) =
            BertModel::from_pretrained_with_report(folder.path(), &LoadOptions::new()).unwrap();
        assert_eq!(report.unused, [extra]);
        assert!(to_train(folder.path()).is_ok(), "{extra}");
    }
    // Every weight under both names.
    let mut twice = bert.clone();
    twice.extend(base_weights());
    assert!(to_train(folder_with(&twice, json!({})).path()).is_ok());
    // Another classifier, deeper, is not the one that is asked for.
    let mut deeper = bert;
    for part in ["weight", "bias"] {
        deeper.insert(format!("task1.classifier.{part}"), zeros());
    }
    assert!(to_train(folder_with(&deeper, json!({})).path()).is_ok());
}

#[test]
fn a_pooler_that_is_there_is_read_whatever_its_prefix() {
    let expected = pooled(&Checkpoint::from_dir(fixture("base")).unwrap()).unwrap();
    for part in ["pooler", "encoder", "embeddings"] {
        let with_prefix = |name: &str| match name.starts_with(part) {
            true => name.to_owned(),
            false => format!("bert.{name}"),
        };
        let folder = folder_with(&renamed(with_prefix), json!({}));
        let got = pooled(&Checkpoint::from_dir(folder.path()).unwrap()).unwrap();
        assert_same(part, &got, &expected);
        assert!(to_train(folder.path()).is_ok(), "{part}");
    }
    let wrapped = |name: &str| match name.starts_with("pooler") {
        true => format!("module.{name}"),
        false => format!("bert.{name}"),
    };
    let folder = folder_with(&renamed(wrapped), json!({}));
    let hint = "with_renamed_prefix(\"module.\"";
    assert_says(&to_train(folder.path()).unwrap_err(), &[hint]);
    assert_says(&pooled(&Checkpoint::from_dir(folder.path()).unwrap()).unwrap_err(), &[hint]);
}

fn pooled(checkpoint: &Checkpoint) -> Result<Tensor> {
    let model = AutoModel::from_pretrained(checkpoint, &LoadOptions::new())?;
    let output = model.forward(&BertInput::from_ids(ids(&[&[5, 6, 7]])))?;
    Ok(output.pooler_output.unwrap())
}

#[test]
fn a_decoder_made_of_an_encoder_gets_new_cross_attention() {
    let folder =
        folder_with(&base_weights(), json!({"is_decoder": true, "add_cross_attention": true}));
    let options = LoadOptions::new().with_missing_initialized(1);
    assert!(BertLMHeadModel::from_pretrained(folder.path(), &options).is_ok());
    let error = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
    assert_says(&error, &["asks for cross-attention", "with_missing_initialized"]);
    let folder = folder_with(&base_weights(), json!({"position_embedding_type": "relative_key"}));
    let error = BertModel::from_pretrained(folder.path(), &options).unwrap_err();
    assert_says(&error, &["asks for relative positions"]);
}

#[test]
fn thousands_of_unused_weights_take_no_time() {
    let mut weights = base_weights();
    for i in 0..20_000 {
        weights.insert(format!("other.{i}"), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    }
    let folder = folder_with(&weights, json!({}));
    let start = std::time::Instant::now();
    BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn auto_model_leaves_out_a_pooler_that_the_checkpoint_does_not_have() {
    let mut weights = base_weights();
    weights.retain(|name, _| !name.starts_with("pooler"));
    let folder = folder_with(&weights, json!({}));
    let (model, report) =
        AutoModel::from_pretrained_with_report(folder.path(), &LoadOptions::new()).unwrap();
    assert!(report.without_pooler && report.missing.is_empty());
    assert_says(&Said(report.to_string()), &["has no pooler", "no pooler_output"]);
    let input = BertInput::from_ids(ids(&[&[5, 6, 7]]));
    let output = model.forward(&input).unwrap();
    assert!(output.pooler_output.is_none());
    let whole = support_states(&input);
    assert_same("last_hidden_state", &output.last_hidden_state, &whole);

    let error = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
    assert_says(&error, &["without_pooling_layer", "AutoModel", "with_missing_initialized"]);
    let any = AutoModel::from_architecture(folder.path(), &LoadOptions::new()).unwrap();
    assert!(matches!(any, AnyModel::BertModel(_)));
    // A new one when it is asked for.
    let options = LoadOptions::new().with_missing_initialized(1);
    let model = AutoModel::from_pretrained(folder.path(), &options).unwrap();
    assert!(model.forward(&input).unwrap().pooler_output.is_some());
}

fn support_states(input: &BertInput) -> Tensor {
    let model = BertModel::from_pretrained(fixture("base"), &LoadOptions::new()).unwrap();
    model.forward(input).unwrap().last_hidden_state
}

/// A text as an error, for [`assert_says`].
#[derive(Debug)]
struct Said(String);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

#[test]
fn pointers_of_git_lfs_are_recognized_in_place_of_any_file() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 437951328\n";
    let folder = tempfile::tempdir().unwrap();
    let config = std::fs::read(fixture("base/config.json")).unwrap();
    for name in ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"] {
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        std::fs::write(folder.path().join(name), pointer).unwrap();
        let error = AutoModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
        assert_says(&error, &[name, "pointer of Git LFS", "git lfs pull"]);
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    for name in ["tokenizer.json", "vocab.txt", "tokenizer_config.json"] {
        let files = [("vocab.txt", "[UNK]"), (name, pointer)];
        let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes()));
        let error = AutoTokenizer::from_pretrained(Checkpoint::from_bytes(files)).unwrap_err();
        assert_says(&error, &[name, "git lfs pull"]);
    }
}

#[test]
fn weights_of_other_formats_are_named() {
    for (files, parts) in [
        (&["onnx/model.onnx"][..], &["onnx/model.onnx", "ONNX's"][..]),
        (&["tf_model.h5"], &["tf_model.h5", "TensorFlow's", "from_tf=True"]),
        (&["bert_model.ckpt.index", "vocab.txt"], &["TensorFlow's"]),
        (&["flax_model.msgpack"], &["Flax's", "from_flax=True"]),
        (&["adapter_model.safetensors"], &["adapter", "merge_and_unload"]),
        (&["model-q8.gguf"], &["another program"]),
        (&["README.md"], &["holds README.md, config.json"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let error = AutoModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
        assert_says(&error, &["no weights in", "expected model.safetensors"]);
        assert_says(&error, parts);
    }
}

#[test]
fn a_repository_without_weights_is_described_as_the_hub_lists_it() {
    let config = std::fs::read(fixture("base/config.json")).unwrap();
    let commit = "a".repeat(40);
    let listing =
        r#"{"siblings": [{"rfilename": "config.json"}, {"rfilename": "onnx/model.onnx"}]}"#;
    for listed in [true, false] {
        let (config, commit) = (config.clone(), commit.clone());
        let server = Server::start(move |request| {
            let headers = vec![("X-Repo-Commit", commit.clone()), ("ETag", "\"e\"".to_owned())];
            if request.path.ends_with("/config.json") {
                Answer { status: 200, headers, body: config.clone(), ..Answer::default() }
            } else if request.path == "/api/models/owner/name/revision/main" && listed {
                Answer { status: 200, body: listing.into(), ..Answer::default() }
            } else {
                let headers = vec![("X-Repo-Commit", commit.clone())];
                Answer { status: 404, headers, ..Answer::default() }
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::from_hub("owner/name")
            .unwrap()
            .with_cache_dir(cache.path())
            .with_endpoint(&server.url);
        let error = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new()).unwrap_err();
        assert_says(&error, &["no weights in owner/name"]);
        let text = error.to_string();
        assert_eq!(text.contains("which holds config.json, onnx/model.onnx"), listed, "{text}");
        assert_eq!(text.contains("ONNX's"), listed, "{text}");
        assert!(!text.contains("nothing"), "{text}");
    }
}

#[test]
fn torch_files_that_are_no_state_dict_say_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("base/config.json"), folder.path().join("config.json")).unwrap();
    let odd = fixture("files/not_state_dicts");
    for (file, parts) in [
        ("model.bin", ["torch.nn.modules.linear.Linear", "in Python, save model.state_dict()"]),
        ("model_before_1.6.bin", ["torch.nn.modules.linear.Linear", "model.state_dict()"]),
        ("nested.bin", ["under \"state_dict\"", "torch.load(FILE)[\"state_dict\"]"]),
        ("nested_before_1.6.bin", ["under \"state_dict\"", "in Python"]),
    ] {
        std::fs::copy(odd.join(file), folder.path().join("pytorch_model.bin")).unwrap();
        let error = BertModel::from_pretrained(folder.path(), &LoadOptions::new()).unwrap_err();
        assert!(matches!(error, Error::NoStateDict { .. }), "{file}: {error}");
        assert_says(&error, &["not a state dict"]);
        assert_says(&error, &parts);
    }
}

#[test]
fn the_page_about_checkpoints_names_tests_that_there_are() {
    let page = std::fs::read_to_string(root().join("CHECKPOINTS.md")).unwrap();
    let named = page.split('`').filter_map(|part| part.split_once("::"));
    let tests: Vec<_> = named.filter(|(_, test)| test.len() > 20).collect();
    assert!(tests.len() > 30, "{}", tests.len());
    for (module, test) in tests {
        let file = root().join("tests/suite").join(module).with_extension("rs");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("\nfn {test}()")), "{module}::{test}");
    }
}
