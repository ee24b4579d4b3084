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
    for past in [1 << 40, usize::MAX] {
        assert_says(&causal(None, past, (1, 1)).unwrap_err(), &["at most 2147483648 pairs"]);
    }
    for new in [(0, 3), (2, 0)] {
        assert!(matches!(causal(None, 0, new), Err(ModelError::EmptyInput { .. })));
    }
    for (b, k) in [(2, 3), (3, 5)] {
        assert!(matches!(causal(mask(b, k), 2, (2, 3)), Err(ModelError::Shape { .. })));
    }
}
