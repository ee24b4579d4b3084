//! Bad configs and inputs are errors with the way out, never panics.

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

fn refusal(input: BertInput) -> ModelError {
    model("base", DType::F32).forward(&input).unwrap_err()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::U32, &device()).unwrap()
}

#[test]
fn ids_or_embeds_but_not_both_or_neither() {
    assert!(matches!(refusal(BertInput::default()), ModelError::NoInput));
    let both = BertInput {
        inputs_embeds: Some(Tensor::zeros((1, 4, 32), DType::F32, &device()).unwrap()),
        ..BertInput::from_ids(zeros(&[1, 4]))
    };
    assert!(matches!(refusal(both), ModelError::TwoInputs));
}

#[test]
fn ids_beyond_their_tables_are_named_with_their_place() {
    let plain = || BertInput::from_ids(zeros(&[2, 4]));
    let bad = |id: u32| ids(&[&[0, 0, 0, 0], &[0, 0, id, 0]]);
    assert_says(
        &refusal(BertInput::from_ids(bad(60))),
        &["input_ids holds 60 at (1, 2)", "vocab_size", "0 to 59"],
    );
    assert_says(
        &refusal(plain().with_token_type_ids(bad(2))),
        &["token_type_ids holds 2 at (1, 2)", "type_vocab_size"],
    );
    assert_says(
        &refusal(plain().with_position_ids(bad(24))),
        &["position_ids holds 24 at (1, 2)", "max_position_embeddings", "0 to 23"],
    );
    let negative = Tensor::new(&[[3i64, -1]], &device()).unwrap();
    assert_says(&refusal(BertInput::from_ids(negative)), &["input_ids holds -1 at (0, 1)"]);
}

#[test]
fn every_integer_dtype_is_accepted_for_ids() {
    let model = model("base", DType::F32);
    let expected = model.forward(&BertInput::from_ids(ids(&[&[7, 3, 59]]))).unwrap();
    for dtype in [DType::I64, DType::U8] {
        let input = BertInput::from_ids(ids(&[&[7, 3, 59]]).to_dtype(dtype).unwrap());
        let got = model.forward(&input).unwrap();
        assert_same("last_hidden_state", &got.last_hidden_state, &expected.last_hidden_state);
    }
    let floats = zeros(&[1, 4]).to_dtype(DType::F32).unwrap();
    assert_says(&refusal(BertInput::from_ids(floats)), &["input_ids has dtype F32", "U32 or I64"]);
}

#[test]
fn more_tokens_than_positions_is_an_error() {
    let error = refusal(BertInput::from_ids(zeros(&[1, 25])));
    assert_says(&error, &["25 tokens per row", "24 positions", "truncate first"]);
    let model = model("base", DType::F32);
    assert!(model.forward(&BertInput::from_ids(zeros(&[1, 24]))).is_ok());
    // Given positions may repeat, so there may be more tokens than positions.
    assert!(
        model
            .forward(&BertInput::from_ids(zeros(&[1, 25])).with_position_ids(zeros(&[1, 25])))
            .is_ok()
    );
}

#[test]
fn empty_batches_and_rows_are_errors() {
    for shape in [[0, 4], [2, 0], [0, 0]] {
        let error = refusal(BertInput::from_ids(zeros(&shape)));
        assert!(matches!(error, ModelError::EmptyInput { .. }), "{error}");
    }
    let embeds = Tensor::zeros((2, 0, 32), DType::F32, &device()).unwrap();
    assert!(matches!(refusal(BertInput::from_embeds(embeds)), ModelError::EmptyInput { .. }));
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let plain = || BertInput::from_ids(zeros(&[3, 4]));
    let floats = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device()).unwrap();
    for (input, name, got) in [
        (BertInput::from_ids(zeros(&[4])), "input_ids", "[4]"),
        (BertInput::from_ids(zeros(&[1, 4, 2])), "input_ids", "[1, 4, 2]"),
        (BertInput::from_embeds(floats(&[1, 4])), "inputs_embeds", "[1, 4]"),
        (BertInput::from_embeds(floats(&[1, 4, 31])), "inputs_embeds", "[1, 4, 31]"),
        (plain().with_token_type_ids(zeros(&[3, 5])), "token_type_ids", "[3, 5]"),
        (plain().with_token_type_ids(zeros(&[2, 4])), "token_type_ids", "[2, 4]"),
        (plain().with_position_ids(zeros(&[4])), "position_ids", "[4]"),
        (plain().with_attention_mask(zeros(&[4])), "attention_mask", "[4]"),
        (plain().with_attention_mask(zeros(&[3, 5])), "attention_mask", "[3, 5]"),
        (plain().with_attention_mask(zeros(&[1, 4])), "attention_mask", "[1, 4]"),
        (plain().with_attention_mask(zeros(&[3, 4, 5])), "attention_mask", "[3, 4, 5]"),
        (plain().with_attention_mask(zeros(&[3, 2, 4, 4])), "attention_mask", "[3, 2, 4, 4]"),
        (plain().with_attention_mask(floats(&[3, 1, 5, 4])), "attention_mask", "[3, 1, 5, 4]"),
        // Where every key is visible no mask is needed, but it must fit all the same.
        (
            plain().with_attention_mask(zeros(&[3, 5]).ones_like().unwrap()),
            "attention_mask",
            "[3, 5]",
        ),
    ] {
        let error = refusal(input);
        assert!(matches!(error, ModelError::Shape { .. }), "{error}");
        assert_says(&error, &[&format!("{name} has shape {got}"), "expected ["]);
    }
    let model = model("base", DType::F32);
    let error = model.encoder.forward(&floats(&[1, 2, 31]), &AttentionMask::all_visible());
    assert_says(&error.unwrap_err(), &["hidden_states has shape [1, 2, 31]", "[B, S, 32]"]);
    let error = model.pooler.as_ref().unwrap().forward(&floats(&[2, 32]));
    assert_says(&error.unwrap_err(), &["hidden_states has shape [2, 32]", "[B, S, 32]"]);
}

#[test]
fn embeds_of_another_dtype_are_an_error() {
    let embeds = Tensor::zeros((1, 4, 32), DType::F16, &device()).unwrap();
    let error = refusal(BertInput::from_embeds(embeds));
    assert_says(&error, &["inputs_embeds has dtype F16", "expected F32", "to_dtype"]);
}

#[test]
fn masks_hold_zeros_and_ones_unless_they_are_additive() {
    let mask = |values: [f32; 4]| {
        let mask = Tensor::new(&[values], &device()).unwrap();
        BertInput::from_ids(zeros(&[1, 4])).with_attention_mask(mask)
    };
    for bad in [-10000., 0.5, 2., f32::NAN] {
        let error = refusal(mask([1., bad, 1., 1.]));
        assert_says(&error, &["attention_mask of shape [1, 4]", "0 for hidden", "[B, 1, S, S]"]);
    }
    let additive = |value: f32| {
        let mask = Tensor::new(&[[[[0., value, 0., 0.]]]], &device()).unwrap();
        BertInput::from_ids(zeros(&[1, 4])).with_attention_mask(mask)
    };
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(matches!(refusal(additive(bad)), ModelError::MaskValue { .. }));
    }
    let model = model("base", DType::F32);
    let kept = &ForwardOptions::new().with_padding_states(PaddingStates::Kept);
    let hidden = model.forward_with(&mask([1., 0., 1., 1.]), kept).unwrap().last_hidden_state;
    let minus_infinity = model.forward(&additive(f32::NEG_INFINITY)).unwrap().last_hidden_state;
    assert_same("−∞ hides a key", &minus_infinity, &hidden);
}

#[test]
fn a_mask_of_minus_infinity_everywhere_is_not_nan() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mask = Tensor::full(f32::NEG_INFINITY, (2, 1, 3, 3), &device()).unwrap();
        let input = BertInput::from_ids(zeros(&[2, 3])).with_attention_mask(mask);
        let output = model("base", dtype).forward(&input).unwrap();
        assert!(values(&output.last_hidden_state).iter().all(|x| x.is_finite()));
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
        (r#"{"num_labels": 0}"#, ["num_labels is 0", "from 1 to"]),
        (r#"{"num_labels": 9999999999}"#, ["num_labels is 9999999999", "from 1 to"]),
        (r#"{"id2label": {}}"#, ["id2label is 0", "from 1 to"]),
        (r#"{"num_hidden_layers": 999999}"#, ["num_hidden_layers is 999999", "at most"]),
        (
            r#"{"num_labels": 1, "problem_type": "single_label_classification"}"#,
            ["problem_type", "regression"],
        ),
    ] {
        let error = config_refusal(text);
        assert!(matches!(error, ModelError::Config { .. }), "{text}: {error}");
        assert_says(&error, &parts);
    }
}

#[test]
fn configs_that_are_not_a_bert_or_not_json_are_errors() {
    assert_says(
        &config_refusal(r#"{"model_type": "roberta"}"#),
        &["\"roberta\"", "expected \"bert\""],
    );
    assert_says(&config_refusal(r#"{"model_type": 3}"#), &["3", "expected \"bert\""]);
    for text in ["", "{", "[]"] {
        assert!(matches!(config_refusal(text), ModelError::ConfigSyntax(_)), "{text}");
    }
    for (text, parts) in [
        (r#"{"hidden_size": "768"}"#, ["hidden_size is \"768\"", "expected usize"]),
        (r#"{"vocab_size": -1}"#, ["vocab_size is -1", "expected usize"]),
        (r#"{"problem_type": "guess"}"#, ["problem_type is \"guess\"", "regression"]),
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
        "position_embedding_type": "relative_key_query", "num_labels": 9
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

#[test]
fn the_lowest_number_of_a_masks_dtype_hides_a_whole_row() {
    // transformers' masks are filled with it, whatever the dtype.
    let model = model("base", DType::F32);
    let run = |mask: Tensor| {
        let input = BertInput::from_ids(ids(&[&[5, 6, 7]])).with_attention_mask(mask);
        model.forward(&input).unwrap().last_hidden_state
    };
    let hidden = run(Tensor::zeros((1, 3), DType::U32, &device()).unwrap());
    let lowest = |value: f32, dtype| {
        Tensor::full(value, (1, 1, 3, 3), &device()).unwrap().to_dtype(dtype).unwrap()
    };
    assert_same("F16", &run(lowest(-65504., DType::F16)), &hidden);
    assert_same("BF16", &run(lowest(f32::from_bits(0xff7f_0000), DType::BF16)), &hidden);
    assert_same("F32", &run(lowest(f32::MIN, DType::F32)), &hidden);
}

#[test]
fn causal_masks_need_tokens_and_the_right_shape() {
    let mask = |b, k| Some(Tensor::ones((b, k), DType::U32, &device()).unwrap());
    let causal = |mask: Option<Tensor>, past, new| AttentionMask::causal(mask.as_ref(), past, new);
    assert!(causal(mask(2, 5), 2, (2, 3)).is_ok());
    for new in [(0, 3), (2, 0)] {
        assert!(matches!(causal(None, 0, new), Err(ModelError::EmptyInput { .. })));
    }
    for (b, k) in [(2, 3), (3, 5)] {
        assert!(matches!(causal(mask(b, k), 2, (2, 3)), Err(ModelError::Shape { .. })));
    }
}
