//! Batches without their padding.

use std::collections::BTreeMap;

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

const LENGTHS: [usize; 6] = [5, 1, 24, 3, 17, 8];

/// Some texts, each with ids of its own.
fn texts() -> Vec<Vec<u32>> {
    let text = |(row, length)| (0..length).map(|i| ((7 * row + 11 * i) % 39) as u32 + 1).collect();
    LENGTHS.into_iter().enumerate().map(text).collect()
}

/// A batch of the length of its longest text, or more.
fn padded(texts: &[Vec<u32>], length: usize) -> BertInput {
    let ids = texts.iter().flat_map(|text| (0..length).map(|i| *text.get(i).unwrap_or(&0)));
    let mask = texts.iter().flat_map(|text| (0..length).map(|i| u32::from(i < text.len())));
    let tensor =
        |values: Vec<u32>| Tensor::from_vec(values, (texts.len(), length), &device()).unwrap();
    BertInput::from_ids(tensor(ids.collect())).with_attention_mask(tensor(mask.collect()))
}

fn packed(texts: &[Vec<u32>]) -> PackedInput {
    let mut lengths = vec![0];
    for text in texts {
        lengths.push(lengths[lengths.len() - 1] + text.len());
    }
    PackedInput::new(Tensor::new(texts.concat(), &device()).unwrap(), lengths)
}

fn kept() -> ForwardOptions {
    ForwardOptions::new().with_padding_states(PaddingStates::Kept)
}

/// Each text's states and pooled output, by itself.
fn alone(model: &BertModel, texts: &[Vec<u32>]) -> Vec<(Tensor, Tensor)> {
    texts
        .iter()
        .map(|text| {
            let output = model.forward(&BertInput::from_ids(ids(&[text]))).unwrap();
            (output.last_hidden_state.get(0).unwrap(), output.pooler_output.unwrap())
        })
        .collect()
}

/// Which tokens are padding, as the documentation of `PaddingStates` says.
fn is_padding(model: &BertModel, input: &BertInput, mask: &Tensor) -> Vec<Vec<bool>> {
    let pad = input.pad_token_id.or(model.config().padding_row()).map(f64::from);
    let mask: Vec<Vec<f64>> = mask.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
    let ids = input.input_ids.as_ref().filter(|_| !model.config().is_decoder);
    let ids: Option<Vec<Vec<f64>>> =
        ids.map(|ids| ids.to_dtype(DType::F64).unwrap().to_vec2().unwrap());
    let token = |b: usize, i: usize| ids.as_ref().is_some_and(|ids| Some(ids[b][i]) == pad);
    let row = |(b, row): (usize, &Vec<f64>)| {
        row.iter().enumerate().map(|(i, seen)| *seen == 0. && i > 0 && token(b, i)).collect()
    };
    mask.iter().enumerate().map(row).collect()
}

/// Fails unless padding is zero and every other state is as expected; returns how many there are.
#[track_caller]
fn assert_states(
    what: &str,
    got: &Tensor,
    expected: &Tensor,
    is_padding: &[Vec<bool>],
    tolerance: f64,
) -> usize {
    let mut read = 0;
    for (b, row) in is_padding.iter().enumerate() {
        for (i, is_padding) in row.iter().enumerate() {
            let at = |x: &Tensor| x.get(b).unwrap().get(i).unwrap();
            let what = format!("{what}, row {b}, token {i}");
            if *is_padding {
                assert!(values(&at(got)).iter().all(|x| *x == 0.), "{what} is not zero");
            } else {
                assert_close(&what, &at(got), &at(expected), tolerance);
                read += 1;
            }
        }
    }
    read
}

#[test]
fn without_padding_every_state_that_is_read_equals_transformers() {
    let mut read = 0;
    for name in ["base", "sizes", "one_head", "act_relu", "act_gelu_new", "act_mish"] {
        let model = model(name, DType::F32);
        for (case_name, case) in cases(&fixture(&format!("{name}/cases.safetensors"))) {
            let Some(mask) = case.input.attention_mask.clone().filter(|mask| mask.rank() == 2)
            else {
                continue;
            };
            let is_padding = is_padding(&model, &case.input, &mask);
            let context = &ForwardOptions::new().with_hidden_states(Layers::All);
            let output = model.forward_with(&case.input, context).unwrap();
            let states = output.hidden_states.unwrap();
            let mut expected: BTreeMap<_, _> = case.expected.into_iter().collect();
            expected.retain(|name, _| !name.starts_with("attentions"));
            for (output_name, expected) in expected {
                let what = format!("{name} {case_name} {output_name}");
                let got = match output_name.split_once('.') {
                    Some((_, layer)) => &states[layer.parse().unwrap()],
                    None if output_name == "pooler_output" => {
                        let pooled = output.pooler_output.as_ref().unwrap();
                        assert_close(&what, pooled, &expected, 2e-5);
                        continue;
                    }
                    None => &output.last_hidden_state,
                };
                read += assert_states(&what, got, &expected, &is_padding, 2e-5);
            }
        }
    }
    assert!(read > 400, "{read} states were compared");
}

#[test]
fn a_text_has_the_same_numbers_alone_padded_packed_and_sorted() {
    for (name, dtype) in [
        ("base", DType::F32),
        ("one_head", DType::F32),
        ("base", DType::F64),
        ("decoder", DType::F32),
        ("relative_key_query", DType::F32),
    ] {
        let (model, texts) = (model(name, dtype), texts());
        let alone = alone(&model, &texts);
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| texts[*i].len());
        let sorted: Vec<_> = order.iter().map(|i| texts[*i].clone()).collect();
        let all: Vec<usize> = (0..texts.len()).collect();
        for (texts, order) in [(&texts, &all), (&sorted, &order)] {
            let one_row = model.forward_packed(&packed(texts)).unwrap();
            let (t, h) = one_row.last_hidden_state.dims2().unwrap();
            assert_eq!((t, h), (LENGTHS.iter().sum(), model.config().hidden_size));
            let (batch, more) = (padded(texts, 24), padded(texts, 24));
            let outputs =
                [model.forward(&batch).unwrap(), model.forward_with(&more, &kept()).unwrap()];
            let mut start = 0;
            for (row, (text, original)) in texts.iter().zip(order).enumerate() {
                let (states, pooled) = &alone[*original];
                let what = format!("{name} {dtype:?}, text {original}");
                let part = one_row.last_hidden_state.narrow(0, start, text.len()).unwrap();
                assert_close(&format!("{what} packed"), &part, states, 5e-6);
                let of_row = |x: &Option<Tensor>| x.as_ref().unwrap().narrow(0, row, 1).unwrap();
                assert_close(&what, &of_row(&one_row.pooler_output), pooled, 5e-6);
                for output in &outputs {
                    let part = output.last_hidden_state.get(row).unwrap();
                    let part = part.narrow(0, 0, text.len()).unwrap();
                    assert_close(&format!("{what} padded"), &part, states, 5e-6);
                    assert_close(&what, &of_row(&output.pooler_output), pooled, 5e-6);
                }
                start += text.len();
            }
        }
    }
}

#[test]
fn a_batch_too_large_for_one_go_has_the_numbers_of_its_texts_alone() {
    // States of 768 numbers: on two threads 1024 tokens go through the layers together.
    let config = BertConfig::from_json(
        r#"{"vocab_size": 40, "hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 160}"#,
    )
    .unwrap();
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
    let mut model = BertModel::load(vb, &config).unwrap();
    model.freeze().unwrap();
    let lengths = [150, 160, 1, 160, 155, 7, 160, 145, 100];
    let text = |(row, length)| (0..length).map(|i| ((7 * row + 11 * i) % 39) as u32 + 1).collect();
    let texts: Vec<Vec<u32>> = lengths.into_iter().enumerate().map(text).collect();
    let one_row = model.forward_packed(&packed(&texts)).unwrap();
    let batch = padded(&texts, 160);
    let whole = model.forward_with(&batch, &kept()).unwrap();
    let unmasked = BertInput { attention_mask: None, ..batch.clone() };
    let unmasked = model.forward(&unmasked).unwrap();
    let batch_alone = model.forward(&batch).unwrap();
    let pooled = model.pooled(&batch).unwrap();
    let mut start = 0;
    for (row, (states, pooled_alone)) in alone(&model, &texts).iter().enumerate() {
        let length = lengths[row];
        let part = one_row.last_hidden_state.narrow(0, start, length).unwrap();
        assert_close(&format!("text {row} packed"), &part, states, 5e-6);
        for output in [&whole, &batch_alone] {
            let part = output.last_hidden_state.get(row).unwrap().narrow(0, 0, length).unwrap();
            assert_close(&format!("text {row} padded"), &part, states, 5e-6);
        }
        if length == 160 {
            let full = unmasked.last_hidden_state.get(row).unwrap();
            assert_close(&format!("text {row} without a mask"), &full, states, 5e-6);
        }
        for all in [one_row.pooler_output.as_ref().unwrap(), &pooled] {
            let part = all.narrow(0, row, 1).unwrap();
            assert_close(&format!("text {row} pooled"), &part, pooled_alone, 5e-6);
        }
        start += length;
    }
}

/// Texts with padding on the right and on the left, a hole, hidden tokens that are no padding, and a
/// row whose tokens are all hidden if `all_hidden`.
fn every_kind_of_hidden_token(all_hidden: bool) -> (BertInput, Tensor) {
    let mut id_rows: Vec<&[u32]> = vec![
        &[2, 7, 8, 3, 0, 0, 0, 0],
        &[0, 0, 0, 2, 9, 5, 7, 3],
        &[2, 9, 0, 5, 4, 3, 0, 0],
        &[2, 7, 8, 3, 4, 4, 4, 4],
        &[2, 6, 4, 4, 3, 0, 4, 0],
        &[2, 9, 8, 7, 6, 5, 4, 3],
    ];
    let mut mask_rows: Vec<&[u32]> = vec![
        &[1, 1, 1, 1, 0, 0, 0, 0],
        &[0, 0, 0, 1, 1, 1, 1, 1],
        &[1, 1, 0, 1, 0, 1, 0, 0],
        &[1, 1, 1, 1, 0, 0, 0, 0],
        &[1, 1, 0, 0, 1, 0, 0, 0],
        &[1; 8],
    ];
    if all_hidden {
        id_rows.push(&[2, 7, 0, 0, 0, 0, 0, 0]);
        mask_rows.push(&[0; 8]);
    }
    let mask = ids(&mask_rows);
    (BertInput::from_ids(ids(&id_rows)).with_attention_mask(mask.clone()), mask)
}

#[test]
fn padding_is_zero_and_other_tokens_are_transformers_whatever_is_asked_for() {
    let exact = model("base", DType::F64);
    for all_hidden in [false, true] {
        let (input, mask) = every_kind_of_hidden_token(all_hidden);
        let everything = kept().with_hidden_states(Layers::All);
        let expected = exact.forward_with(&input, &everything).unwrap();
        let expected_states = expected.hidden_states.unwrap();
        for (dtype, tolerance) in
            [(DType::F64, 1e-12), (DType::F32, 2e-5), (DType::F16, 0.02), (DType::BF16, 0.15)]
        {
            let mut model = model("base", dtype);
            let heads = Tensor::ones(4, DType::F32, &device()).unwrap();
            let zeros = is_padding(&model, &input, &mask);
            assert_eq!(
                zeros.concat().iter().filter(|it| **it).count(),
                11 + 6 * usize::from(all_hidden)
            );
            let requests = [
                ("nothing", ForwardOptions::new()),
                ("attentions", ForwardOptions::new().with_attentions(Layers::All)),
                (
                    "one layer's attentions",
                    ForwardOptions::new().with_attentions(Layers::Only(vec![1])),
                ),
                ("a head mask", ForwardOptions::new().with_head_mask(heads)),
            ];
            for (what, options) in requests {
                for trained in [false, true] {
                    if trained {
                        model
                            .set_trainable(|name| name.ends_with("1.output.dense.weight"))
                            .unwrap();
                    }
                    let what = format!("{what} in {dtype:?}, trained: {trained}");
                    let with_states = options.clone().with_hidden_states(Layers::All);
                    let output = model.forward_with(&input, &with_states).unwrap();
                    let states = output.hidden_states.unwrap();
                    for (l, got) in states.iter() {
                        let what = format!("{what}, hidden_states.{l}");
                        assert_states(&what, got, &expected_states[l], &zeros, tolerance);
                    }
                    let alone = model.forward_with(&input, &options).unwrap();
                    for (got, expected) in [
                        (&output.last_hidden_state, &expected.last_hidden_state),
                        (&alone.last_hidden_state, &expected.last_hidden_state),
                    ] {
                        assert_states(&what, got, expected, &zeros, tolerance);
                    }
                    let pooled = expected.pooler_output.as_ref().unwrap();
                    for got in [&output.pooler_output, &alone.pooler_output] {
                        assert_close(&what, got.as_ref().unwrap(), pooled, tolerance);
                    }
                    let options = options.clone().with_padding_states(PaddingStates::Kept);
                    let kept = model.forward_with(&input, &options).unwrap();
                    assert_close(
                        &what,
                        &kept.last_hidden_state,
                        &expected.last_hidden_state,
                        tolerance,
                    );
                    model.freeze().unwrap();
                }
            }
        }
    }
}

#[test]
fn nothing_is_padding_without_ids_under_masks_by_query_and_for_another_padding_id() {
    let model = model("base", DType::F32);
    let (input, mask) = every_kind_of_hidden_token(false);
    let whole = model.forward_with(&input, &kept()).unwrap().last_hidden_state;
    let tokens = input.input_ids.as_ref().unwrap();
    let (b, s) = tokens.dims2().unwrap();
    let words = model.get_input_embeddings().index_select(&tokens.flatten_all().unwrap(), 0);
    let vectors = BertInput::from_embeds(words.unwrap().reshape((b, s, ())).unwrap())
        .with_attention_mask(mask.clone());
    let by_query = mask.unsqueeze(1).unwrap().broadcast_as((b, s, s)).unwrap();
    let by_query = input.clone().with_attention_mask(by_query.contiguous().unwrap());
    let other_pad = input.clone().with_pad_token_id(50);
    for (what, input) in [("vectors", vectors), ("by query", by_query), ("50", other_pad)] {
        let got = model.forward(&input).unwrap().last_hidden_state;
        assert_close(what, &got, &whole, 2e-5);
    }
    let pad_is_four = input.with_pad_token_id(4);
    let zeros = is_padding(&model, &pad_is_four, &mask);
    assert!(zeros[3][4] && !zeros[0][4]);
    assert_states(
        "4",
        &model.forward(&pad_is_four).unwrap().last_hidden_state,
        &whole,
        &zeros,
        2e-5,
    );
    let decoder = crate::support::model("decoder", DType::F32);
    let (input, _) = every_kind_of_hidden_token(false);
    let got = decoder.forward(&input).unwrap().last_hidden_state;
    assert_same("decoder", &got, &decoder.forward_with(&input, &kept()).unwrap().last_hidden_state);
}

#[test]
fn nothing_is_padding_after_the_tokens_of_a_cache() {
    let model = model("base", DType::F32);
    let mask = |values: &[f32]| Tensor::new(values, &device()).unwrap().unsqueeze(0).unwrap();
    let pass = |options: ForwardOptions| {
        let start = BertInput::from_ids(ids(&[&[5, 6]])).with_attention_mask(mask(&[1., 0.]));
        let cache = options.clone().with_cache(KeyValueCache::new());
        let cache = model.forward_with(&start, &cache).unwrap().past_key_values.unwrap();
        let rest =
            BertInput::from_ids(ids(&[&[7, 0]])).with_attention_mask(mask(&[1., 0., 1., 1.]));
        model.forward_with(&rest, &options.with_cache(cache)).unwrap().last_hidden_state
    };
    assert_same("cache", &pass(ForwardOptions::new()), &pass(kept()));
}

#[test]
fn logits_at_padding_are_those_of_a_zero_state() {
    let folder = fixture("heads/token_classification");
    let tagger = BertForTokenClassification::from_pretrained(&folder, &load_options()).unwrap();
    let (input, mask) = every_kind_of_hidden_token(false);
    let zeros = is_padding(&tagger.bert, &input, &mask);
    let whole = tagger.forward_with(&input, &kept()).unwrap().logits;
    let bias = tensors(&folder.join("model.safetensors")).remove("classifier.bias").unwrap();
    let attentions = ForwardOptions::new().with_attentions(Layers::All);
    for options in [ForwardOptions::new(), attentions] {
        let logits = tagger.forward_with(&input, &options).unwrap().logits;
        for (b, row) in zeros.iter().enumerate() {
            for (i, is_padding) in row.iter().enumerate() {
                let at = |x: &Tensor| x.get(b).unwrap().get(i).unwrap();
                let expected = if *is_padding { bias.clone() } else { at(&whole) };
                assert_close(&format!("row {b}, token {i}"), &at(&logits), &expected, 2e-5);
            }
        }
    }
    let labels = Tensor::zeros((6, 8), DType::I64, &device()).unwrap();
    let options = ForwardOptions::new().with_hidden_states(Layers::All);
    let (_, output) = tagger.forward_with_labels(&input, &labels, &options).unwrap();
    assert_close("with labels", &output.logits, &whole, 2e-5);
    let states = output.hidden_states.unwrap();
    let last = &states[states.len() - 1];
    let expected = tagger.bert.forward_with(&input, &kept()).unwrap().last_hidden_state;
    assert_states("states with labels", last, &expected, &zeros, 2e-5);
}

#[test]
fn answers_read_padding_and_their_states_are_zeros_all_the_same() {
    let folder = fixture("heads/question_answering");
    let model = BertForQuestionAnswering::from_pretrained(&folder, &load_options()).unwrap();
    let (input, mask) = every_kind_of_hidden_token(false);
    let whole = model.forward_with(&input, &kept()).unwrap();
    let zeros = ForwardOptions::new()
        .with_padding_states(PaddingStates::Zeros)
        .with_hidden_states(Layers::All);
    for options in [ForwardOptions::new().with_hidden_states(Layers::All), zeros] {
        let output = model.forward_with(&input, &options).unwrap();
        assert_same("start", &output.start_logits, &whole.start_logits);
        assert_same("end", &output.end_logits, &whole.end_logits);
        let expected = model.bert.forward_with(&input, &kept()).unwrap().last_hidden_state;
        let states = output.hidden_states.unwrap();
        let last = &states[states.len() - 1];
        let is_padding = is_padding(&model.bert, &input, &mask);
        assert_states("states", last, &expected, &is_padding, 2e-5);
    }
}

#[test]
fn hidden_first_tokens_and_holes_in_a_mask_change_no_visible_state() {
    let model = model("base", DType::F32);
    let mask = ids(&[&[0, 0, 1, 1, 1], &[1, 0, 1, 0, 1], &[0, 1, 0, 0, 0], &[1, 1, 1, 1, 1]]);
    for rows in [[&[4, 5, 6, 7, 8], &[9, 1, 2, 3, 4], &[5; 5], &[6; 5]], [&[0; 5]; 4]] {
        let rows = rows.map(|row: &[u32; 5]| &row[..]);
        let input = BertInput::from_ids(ids(&rows)).with_attention_mask(mask.clone());
        let output = model.forward(&input).unwrap();
        let whole = model.forward_with(&input, &kept()).unwrap();
        let zeros = is_padding(&model, &input, &mask);
        let (got, expected) = (&output.last_hidden_state, &whole.last_hidden_state);
        assert_states("states", got, expected, &zeros, 1e-5);
        let pooled = model.pooled(&input).unwrap();
        assert_close("pooled", &pooled, &whole.pooler_output.unwrap(), 5e-6);
        assert_close("pooled", &pooled, &output.pooler_output.unwrap(), 5e-6);
    }
}

#[test]
fn packed_tokens_have_types_positions_and_hidden_states_of_their_own() {
    for name in ["base", "relative_key"] {
        let (model, texts) = (model(name, DType::F32), texts());
        let types: Vec<Vec<u32>> =
            texts.iter().map(|text| (0..text.len()).map(|i| (i % 2) as u32).collect()).collect();
        let types_in_a_row = Tensor::new(types.concat(), &device()).unwrap();
        let input = packed(&texts).with_token_type_ids(types_in_a_row);
        let context = &ForwardOptions::new().with_hidden_states(Layers::Only(vec![0, -1]));
        let output = model.forward_packed_with(&input, context).unwrap();
        let states = output.hidden_states.unwrap();
        assert!(states.get(1).is_none() && states.len() > 2);
        assert_same("last", &states[states.len() - 1], &output.last_hidden_state);
        let mut start = 0;
        for (text, types) in texts.iter().zip(&types) {
            let input = BertInput::from_ids(ids(&[text])).with_token_type_ids(ids(&[types]));
            let context = &ForwardOptions::new().with_hidden_states(Layers::All);
            let alone = model.forward_with(&input, context).unwrap();
            let embedded = alone.hidden_states.unwrap()[0].get(0).unwrap();
            let part = |x: &Tensor| x.narrow(0, start, text.len()).unwrap();
            assert_close("embeddings", &part(&states[0]), &embedded, 5e-6);
            let last = alone.last_hidden_state.get(0).unwrap();
            assert_close("states", &part(&output.last_hidden_state), &last, 5e-6);
            start += text.len();
        }
    }
}

#[test]
fn lengths_that_do_not_fit_their_tokens_are_errors() {
    let model = model("base", DType::F32);
    let tokens = |count: usize| Tensor::zeros(count, DType::U32, &device()).unwrap();
    for lengths in
        [vec![], vec![0], vec![0, 4], vec![1, 5], vec![0, 3, 3, 5], vec![0, 6], vec![0, 4, 2, 5]]
    {
        let error = model.forward_packed(&PackedInput::new(tokens(5), lengths)).unwrap_err();
        assert_says(&error, &["cumulative_lengths", "rise from 0 to 5"]);
    }
    let positions = model.config().max_position_embeddings;
    let long = PackedInput::new(tokens(positions + 2), vec![0, 1, positions + 2]);
    assert_says(&model.forward_packed(&long).unwrap_err(), &["truncate"]);
    let empty = PackedInput::new(tokens(0), vec![0]);
    assert!(matches!(model.forward_packed(&empty), Err(ModelError::EmptyInput { .. })));
    let square = PackedInput::new(ids(&[&[1, 2]]), vec![0, 2]);
    assert_says(&model.forward_packed(&square).unwrap_err(), &["input_ids", "[T]"]);
    let types = PackedInput::new(tokens(3), vec![0, 3]).with_token_type_ids(tokens(2));
    assert_says(&model.forward_packed(&types).unwrap_err(), &["token_type_ids", "[3]"]);
    let decoder = crate::support::model("decoder", DType::F32);
    let start = decoder.forward(&BertInput::from_ids(ids(&[&[1, 2]]))).unwrap();
    let context = &ForwardOptions::new().with_cache(start.past_key_values.unwrap());
    let error = decoder.forward_packed_with(&packed(&texts()), context).unwrap_err();
    assert_says(&error, &["cache of 2 tokens", "forward_with"]);
}

#[test]
fn losses_and_answers_count_the_padding_as_transformers_does() {
    let model = BertForTokenClassification::from_pretrained(
        fixture("heads/token_classification"),
        &load_options(),
    )
    .unwrap();
    let input = padded(&texts()[..2], 5);
    let labels = Tensor::zeros((2, 5), DType::I64, &device()).unwrap();
    let of =
        |context: &ForwardOptions| model.forward_with_labels(&input, &labels, context).unwrap().0;
    assert_same("loss", &of(&ForwardOptions::new()), &of(&kept()));
    let answers = BertForQuestionAnswering::from_pretrained(
        fixture("heads/question_answering"),
        &load_options(),
    )
    .unwrap();
    let plain = answers.forward(&input).unwrap();
    let whole = answers.forward_with(&input, &kept()).unwrap();
    assert_same("scores", &plain.start_logits, &whole.start_logits);
}

#[test]
fn callers_at_the_same_time_get_their_own_numbers() {
    let (model, texts) = (model("base", DType::F32), texts());
    let expected = model.forward(&padded(&texts, 24)).unwrap().last_hidden_state;
    let first = model.forward(&padded(&texts[..1], 5)).unwrap().last_hidden_state;
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..4)
            .map(|caller| {
                let (model, texts, expected, first) = (&model, &texts, &expected, &first);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let (input, expected) = match caller % 2 {
                            0 => (padded(texts, 24), expected),
                            _ => (padded(&texts[..1], 5), first),
                        };
                        let got = model.forward(&input).unwrap().last_hidden_state;
                        assert_same("states", &got, expected);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
    });
}
