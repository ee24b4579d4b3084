//! Configs: what transformers reads is read alike, the impossible names its field.

use std::collections::BTreeMap;

use bert::errors::ModelError;
use bert::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::*;

/// Configs, and the labels that transformers 5.23 reads, or null where it makes no `BertModel`.
#[derive(Deserialize)]
struct Configs {
    base: Map<String, Value>,
    configs: Vec<(Map<String, Value>, Labels)>,
}

type Labels = Option<BTreeMap<String, Value>>;

#[test]
fn every_config_that_transformers_makes_a_model_of_is_read_with_its_labels() {
    let file = std::fs::read(fixture("configs.json")).unwrap();
    let Configs { base, configs } = serde_json::from_slice(&file).unwrap();
    let mut read = 0;
    for (fields, labels) in configs {
        let Some(labels) = labels else { continue };
        let mut text = base.clone();
        text.extend(fields.clone());
        let config = BertConfig::from_json(&Value::Object(text).to_string());
        let (field, value) = fields.iter().next().unwrap();
        let refused = match field.as_str() {
            // PyTorch makes tables and layers of nothing, which cannot compute.
            "intermediate_size" | "max_position_embeddings" | "type_vocab_size" => *value == 0,
            "num_hidden_layers" | "num_attention_heads" => *value == -1,
            "classifier_dropout" => value.as_f64().is_some_and(|p| !(0. ..=1.).contains(&p)),
            // Version 5 does not know it; here it counts as in version 4.
            "pruned_heads" => !(value.is_null() || *value == json!({})),
            // Python takes anything for a truth.
            "output_hidden_states" | "output_attentions" | "is_encoder_decoder" => {
                !(value.is_null() || value.is_boolean())
            }
            "chunk_size_feed_forward" => !(value.is_null() || value.is_u64()),
            _ => false,
        };
        if refused {
            assert_says(&config.unwrap_err(), &[field]);
            continue;
        }
        let config = config.unwrap_or_else(|error| panic!("{fields:?}: {error}"));
        let got: BTreeMap<String, String> =
            config.id2label.iter().map(|(id, name)| (id.to_string(), name.clone())).collect();
        let expected = labels.into_iter().map(|(id, name)| match name {
            Value::String(name) => (id, name),
            Value::Null => (id.clone(), format!("LABEL_{id}")),
            other => (id, other.to_string()),
        });
        assert_eq!(got, expected.collect(), "{fields:?}");
        // What is written means the same.
        assert_eq!(BertConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
        read += 1;
    }
    assert!(read > 400, "{read}");
}

#[test]
fn classes_have_names_of_any_kind() {
    let read = |text: &str| BertConfig::from_json(text).unwrap();
    let text = r#"{"id2label": {"0": "neg", "1": "pos"}, "label2id": {"neg": "0", "pos": 1.0}}"#;
    assert_eq!((read(text).label_id("pos").unwrap(), read(text).label2id["neg"]), (1, 0));
    let numbers = read(r#"{"id2label": {"0": 0, "1": 1}, "label2id": {"0": 0, "1": 1}}"#);
    assert_eq!((numbers.num_labels(), &*numbers.id2label[&1]), (2, "1"));
    let odd = read(r#"{"id2label": {"0": "a", "1": null, "-100": "X"}}"#);
    assert_eq!((odd.num_labels(), &*odd.id2label[&1], &*odd.id2label[&-100]), (3, "LABEL_1", "X"));
    let renamed = read(r#"{"id2label": {"0": "a", "1": "b"}, "num_labels": 3}"#);
    assert_eq!((renamed.num_labels(), renamed.label2id["LABEL_2"]), (3, 2));
}

/// The fixture of a sequence classifier with other fields in its config.
fn classifier_with(change: &Value) -> Checkpoint {
    let folder = fixture("heads/sequence_classification");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    config.extend(change.as_object().unwrap().clone());
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    Checkpoint::from_bytes([
        ("config.json", Value::Object(config).to_string().into_bytes()),
        ("model.safetensors", weights),
    ])
}

#[test]
fn only_a_classifier_needs_classes() {
    for change in [json!({"id2label": {}}), json!({"num_labels": 0})] {
        let checkpoint = classifier_with(&change);
        let new = load_options().with_missing_initialized(1);
        BertForMaskedLM::from_pretrained(&checkpoint, &new).unwrap();
        let error = BertForSequenceClassification::from_pretrained(&checkpoint, &load_options());
        assert_says(&error.unwrap_err(), &["id2label is {}"]);
        let error = BertForTokenClassification::from_pretrained(&checkpoint, &load_options());
        assert_says(&error.unwrap_err(), &["id2label is {}"]);
    }
}

#[test]
fn only_the_loss_of_a_sequence_classifier_needs_its_problem_type() {
    for (change, part) in [
        (json!({"num_labels": 1, "problem_type": "single_label_classification"}), "1 label"),
        (json!({"problem_type": "ranking"}), "problem_type is \"ranking\""),
        (json!({"problem_type": 3}), "problem_type is 3"),
    ] {
        let checkpoint = classifier_with(&change);
        let options = load_options().with_missing_initialized(1);
        BertForTokenClassification::from_pretrained(&checkpoint, &options).unwrap();
        let model = BertForSequenceClassification::from_pretrained(&checkpoint, &options).unwrap();
        let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
        model.forward(&input).unwrap();
        let labels = Tensor::new(&[0i64], &device()).unwrap();
        let error = model.forward_with_labels(&input, &labels, &ForwardOptions::new());
        assert_says(&error.unwrap_err(), &[part]);
    }
}

fn config_refusal(text: &str) -> ModelError {
    BertConfig::from_json(text).unwrap_err()
}

#[test]
fn impossible_configs_name_the_field() {
    for (text, parts) in [
        (r#"{"hidden_size": 100}"#, ["hidden_size is 100", "multiple of num_attention_heads, 12"]),
        (r#"{"vocab_size": 0}"#, ["vocab_size is 0", "from 1 to"]),
        (r#"{"num_attention_heads": 0}"#, ["num_attention_heads is 0", "from 1 to"]),
        (r#"{"intermediate_size": 9999999999}"#, ["intermediate_size is 9999999999", "from 1 to"]),
        (r#"{"max_position_embeddings": 0}"#, ["max_position_embeddings is 0", "from 1 to"]),
        (r#"{"type_vocab_size": 0}"#, ["type_vocab_size is 0", "from 1 to"]),
        (r#"{"hidden_act": "no_such"}"#, ["hidden_act is \"no_such\"", "gelu_new"]),
        (r#"{"hidden_act": "xielu"}"#, ["hidden_act is \"xielu\"", "expected one of"]),
        (r#"{"hidden_dropout_prob": 1.5}"#, ["hidden_dropout_prob is 1.5", "between 0 and 1"]),
        (r#"{"classifier_dropout": -0.1}"#, ["classifier_dropout is -0.1", "between 0 and 1"]),
        (r#"{"layer_norm_eps": -1e-12}"#, ["layer_norm_eps is", "at least 0"]),
        (r#"{"pad_token_id": 30522}"#, ["pad_token_id is 30522", "an id from -30522 to 30521"]),
        (r#"{"add_cross_attention": true}"#, ["add_cross_attention is true", "is_decoder"]),
        (r#"{"pruned_heads": {"12": [1]}}"#, ["pruned_heads is layer 12", "layers below 12"]),
        (r#"{"pruned_heads": {"1": [12]}}"#, ["pruned_heads is 1: 12", "heads below 12"]),
        (
            r#"{"pruned_heads": {"0": [1, 0]}, "num_attention_heads": 2}"#,
            ["pruned_heads is 0: all of them", "at least one head left"],
        ),
        (r#"{"num_labels": 9999999999}"#, ["num_labels is 9999999999", "an integer up to"]),
        (r#"{"num_hidden_layers": 999999}"#, ["num_hidden_layers is 999999", "at most"]),
    ] {
        let error = config_refusal(text);
        assert!(matches!(error, ModelError::Config { .. }), "{text}: {error}");
        assert_says(&error, &parts);
    }
}

#[test]
fn numbers_are_read_to_the_last_bit() {
    for text in ["1e-112", "1e-12", "0.02", "1.0000000000000002e-5", "3.0000000000000004e-6"] {
        let json =
            format!(r#"{{"model_type": "bert", "layer_norm_eps": {text}, "other": {text}}}"#);
        let config = BertConfig::from_json(&json).unwrap();
        let expected: f64 = text.parse().unwrap();
        assert_eq!(config.layer_norm_eps, expected);
        assert_eq!(config.other["other"].as_f64(), Some(expected));
        assert_eq!(BertConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
    }
}

#[test]
fn a_config_that_json_cannot_write_is_not_written() {
    let mut config = BertConfig::default();
    config.layer_norm_eps = f64::NAN;
    assert_says(&config.to_json().unwrap_err(), &["layer_norm_eps is NaN"]);
}

#[test]
fn a_config_that_is_no_text_is_an_error() {
    let bytes = b"{\"model_type\": \"bert\", \"id2label\": {\"0\": \"caf\xe9\"}}".to_vec();
    let error = Checkpoint::from_bytes([("config.json", bytes)]).config().unwrap_err();
    assert_says(&error, &["config.json", "invalid utf-8"]);
}

#[test]
fn configs_that_are_not_a_bert_or_not_json_are_errors() {
    assert_says(
        &config_refusal(r#"{"model_type": "roberta"}"#),
        &["\"roberta\"", "expected \"bert\""],
    );
    assert_says(&config_refusal(r#"{"model_type": 3}"#), &["3", "expected \"bert\""]);
    for text in ["", "{", "[]", r#"{"dropout": NaN}"#, r#"{"dropout": -Infinity}"#] {
        assert!(matches!(config_refusal(text), ModelError::ConfigSyntax(_)), "{text}");
    }
    for (text, parts) in [
        (r#"{"hidden_size": "768"}"#, ["hidden_size is \"768\"", "expected usize"]),
        (r#"{"vocab_size": -1}"#, ["vocab_size is -1", "expected usize"]),
        (r#"{"position_embedding_type": "alibi"}"#, ["\"alibi\"", "relative_key_query"]),
    ] {
        let error = config_refusal(text);
        assert!(matches!(error, ModelError::ConfigField { .. }), "{text}");
        assert_says(&error, &parts);
    }
}

#[test]
fn every_part_refuses_an_impossible_config() {
    let weights = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&weights, DType::F32, &device());
    let mut config = BertConfig::default();
    config.num_attention_heads = 0;
    for error in [
        BertModel::load(vb.clone(), &config).unwrap_err(),
        BertEmbeddings::load(vb.clone(), &config).unwrap_err(),
        BertEncoder::load(vb.clone(), &config).unwrap_err(),
        BertLayer::load(vb.clone(), 0, &config).unwrap_err(),
        BertPooler::load(vb, &config).unwrap_err(),
    ] {
        assert_says(&error, &["num_attention_heads is 0"]);
    }
    assert!(weights.data().lock().unwrap().is_empty());
}

#[test]
fn configs_have_the_defaults_of_transformers_and_keep_unknown_keys() {
    let config = BertConfig::from_json("{}").unwrap();
    assert_eq!(config, BertConfig::default());
    assert_eq!((config.vocab_size, config.hidden_size, config.num_labels()), (30522, 768, 2));
    assert_eq!(config.label2id["LABEL_1"], 1);

    let text = r#"{
        "model_type": "bert", "torch_dtype": "float16", "my_key": [1, 2], "temperature": 0.5,
        "id2label": {"0": "no", "1": "maybe", "2": "yes"}, "eos_token_id": [7, 8],
        "unknown": null, "classifier_dropout": null, "pad_token_id": null, "problem_type": "regression",
        "position_embedding_type": "relative_key_query", "num_labels": 3
    }"#;
    let config = BertConfig::from_json(text).unwrap();
    assert_eq!(config.dtype.as_deref(), Some("float16"));
    assert_eq!((config.pad_token_id, config.num_labels()), (None, 3));
    assert_eq!(config.label2id["yes"], 2);
    assert_eq!(config.eos_token_id, Some(TokenIds::Many(vec![7, 8])));
    assert_eq!(config.problem_type, Some(ProblemType::Regression));
    assert_eq!(config.position_embedding_type, PositionEmbeddingType::RelativeKeyQuery);
    assert_eq!(config.other["my_key"].to_string(), "[1,2]");
    assert!(config.other["unknown"].is_null());
    assert_eq!(config.other["temperature"].to_string(), "0.5");
    assert_eq!(BertConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
    assert_eq!(BertConfig::from_json(r#"{"num_labels": 5}"#).unwrap().num_labels(), 5);
    let ids_alone = BertConfig::from_json(r#"{"label2id": {"x": 0}}"#).unwrap();
    assert_eq!(ids_alone.label2id["LABEL_1"], 1);
}
