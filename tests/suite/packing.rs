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
        |values: Vec<u32>| Tensor::from_vec(values, (texts.len(), length), &Device::Cpu).unwrap();
    BertInput::from_ids(tensor(ids.collect())).with_attention_mask(tensor(mask.collect()))
}

fn packed(texts: &[Vec<u32>]) -> PackedInput {
    let mut lengths = vec![0];
    for text in texts {
        lengths.push(lengths[lengths.len() - 1] + text.len());
    }
    PackedInput::new(Tensor::new(texts.concat(), &Device::Cpu).unwrap(), lengths)
}

fn kept() -> ForwardContext {
    ForwardContext::new().with_padding_states(PaddingStates::Kept)
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
            let rows: Vec<Vec<f64>> = mask.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            if rows.iter().any(|row| row.iter().all(|x| *x == 0.)) {
                continue; // Its queries see everything: nothing is left out.
            }
            let context = &mut ForwardContext::new().with_hidden_states(Layers::All);
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
                for (b, row) in rows.iter().enumerate() {
                    for (i, visible) in row.iter().enumerate() {
                        let at = |x: &Tensor| x.get(b).unwrap().get(i).unwrap();
                        if *visible == 1. || i == 0 {
                            assert_close(&what, &at(got), &at(&expected), 2e-5);
                            read += 1;
                        } else {
                            assert!(values(&at(got)).iter().all(|x| *x == 0.), "{what} {b} {i}");
                        }
                    }
                }
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
                [model.forward(&batch).unwrap(), model.forward_with(&more, &mut kept()).unwrap()];
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
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let mut model = BertModel::load(vb, &config).unwrap();
    model.freeze().unwrap();
    let lengths = [150, 160, 1, 160, 155, 7, 160, 145, 100];
    let text = |(row, length)| (0..length).map(|i| ((7 * row + 11 * i) % 39) as u32 + 1).collect();
    let texts: Vec<Vec<u32>> = lengths.into_iter().enumerate().map(text).collect();
    let one_row = model.forward_packed(&packed(&texts)).unwrap();
    let batch = padded(&texts, 160);
    let whole = model.forward_with(&batch, &mut kept()).unwrap();
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

#[test]
fn padding_is_zero_unless_its_states_are_asked_for() {
    let (mut model, texts) = (model("base", DType::F32), texts());
    let input = padded(&texts, 24);
    let zeros = model.forward(&input).unwrap().last_hidden_state;
    let states = model.forward_with(&input, &mut kept()).unwrap().last_hidden_state;
    let behind = |x: &Tensor| values(&x.get(0).unwrap().narrow(0, LENGTHS[0], 4).unwrap());
    assert!(behind(&zeros).iter().all(|x| *x == 0.) && behind(&states).iter().all(|x| *x != 0.));
    // Attentions, a head mask and training need every row.
    let heads = Tensor::ones(4, DType::F32, &Device::Cpu).unwrap();
    for mut context in [
        ForwardContext::new().with_attentions(Layers::All),
        ForwardContext::new().with_head_mask(heads),
    ] {
        let output = model.forward_with(&input, &mut context).unwrap();
        assert_close("whole batch", &output.last_hidden_state, &states, 1e-5);
    }
    let words = model.get_input_embeddings();
    let ids = input.input_ids.as_ref().unwrap();
    let vectors = words.index_select(&ids.flatten_all().unwrap(), 0).unwrap();
    let vectors =
        candle_core::Var::from_tensor(&vectors.reshape((texts.len(), 24, ())).unwrap()).unwrap();
    let prompt = BertInput::from_embeds(vectors.as_tensor().clone())
        .with_attention_mask(input.attention_mask.clone().unwrap());
    let prompted = model.forward(&prompt).unwrap().last_hidden_state;
    assert_close("trained vectors", &prompted, &states, 1e-5);
    model.set_trainable(|name| name == "encoder.layer.1.output.dense.weight").unwrap();
    let trained = model.forward(&input).unwrap().last_hidden_state;
    assert_close("one matrix trained", &trained, &states, 1e-5);
    model.freeze().unwrap();
    let frozen = model.forward(&input).unwrap().last_hidden_state;
    assert_close("frozen again", &frozen, &zeros, 1e-5);
}

#[test]
fn hidden_first_tokens_and_holes_in_a_mask_change_no_visible_state() {
    let model = model("base", DType::F32);
    let mask = ids(&[&[0, 0, 1, 1, 1], &[1, 0, 1, 0, 1], &[0, 1, 0, 0, 0], &[1, 1, 1, 1, 1]]);
    let input = BertInput::from_ids(ids(&[&[4, 5, 6, 7, 8], &[9, 1, 2, 3, 4], &[5; 5], &[6; 5]]))
        .with_attention_mask(mask.clone());
    let output = model.forward(&input).unwrap();
    let whole = model.forward_with(&input, &mut kept()).unwrap();
    let visible: Vec<Vec<u32>> = mask.to_vec2().unwrap();
    for (b, row) in visible.iter().enumerate() {
        for i in (0..5).filter(|i| row[*i] == 1 || *i == 0) {
            let at = |x: &Tensor| x.get(b).unwrap().get(i).unwrap();
            let (got, expected) = (at(&output.last_hidden_state), at(&whole.last_hidden_state));
            assert_close(&format!("row {b} token {i}"), &got, &expected, 1e-5);
        }
    }
    let pooled = model.pooled(&input).unwrap();
    assert_close("pooled", &pooled, &whole.pooler_output.unwrap(), 5e-6);
    assert_close("pooled", &pooled, &output.pooler_output.unwrap(), 5e-6);
}

#[test]
fn packed_tokens_have_types_positions_and_hidden_states_of_their_own() {
    for name in ["base", "relative_key"] {
        let (model, texts) = (model(name, DType::F32), texts());
        let types: Vec<Vec<u32>> =
            texts.iter().map(|text| (0..text.len()).map(|i| (i % 2) as u32).collect()).collect();
        let types_in_a_row = Tensor::new(types.concat(), &Device::Cpu).unwrap();
        let input = packed(&texts).with_token_type_ids(types_in_a_row);
        let context = &mut ForwardContext::new().with_hidden_states(Layers::Only(vec![0, -1]));
        let output = model.forward_packed_with(&input, context).unwrap();
        let states = output.hidden_states.unwrap();
        assert!(states.get(1).is_none() && states.len() > 2);
        assert_same("last", &states[states.len() - 1], &output.last_hidden_state);
        let mut start = 0;
        for (text, types) in texts.iter().zip(&types) {
            let input = BertInput::from_ids(ids(&[text])).with_token_type_ids(ids(&[types]));
            let context = &mut ForwardContext::new().with_hidden_states(Layers::All);
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
    let tokens = |count: usize| Tensor::zeros(count, DType::U32, &Device::Cpu).unwrap();
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
    let context = &mut ForwardContext::new().with_cache(start.past_key_values.unwrap());
    let error = decoder.forward_packed_with(&packed(&texts()), context).unwrap_err();
    assert_says(&error, &["cache of 2 tokens", "forward_with"]);
}

#[test]
fn losses_and_answers_count_the_padding_as_transformers_does() {
    let model = BertForTokenClassification::from_pretrained(
        &fixture("heads/token_classification"),
        &LoadOptions::new(),
    )
    .unwrap();
    let input = padded(&texts()[..2], 5);
    let labels = Tensor::zeros((2, 5), DType::I64, &Device::Cpu).unwrap();
    let of = |context: &mut ForwardContext| {
        model.forward_with_labels(&input, &labels, context).unwrap().loss.unwrap()
    };
    assert_same("loss", &of(&mut ForwardContext::new()), &of(&mut kept()));
    let answers = BertForQuestionAnswering::from_pretrained(
        &fixture("heads/question_answering"),
        &LoadOptions::new(),
    )
    .unwrap();
    let plain = answers.forward(&input).unwrap();
    let whole = answers.forward_with(&input, &mut kept()).unwrap();
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
