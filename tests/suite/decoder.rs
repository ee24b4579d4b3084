//! Decoders: cross-attention, caches, losses and generated text, against transformers.

use std::collections::BTreeMap;

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

fn decoder() -> BertLMHeadModel {
    BertLMHeadModel::from_pretrained(fixture("heads/lm"), &load_options()).unwrap()
}

fn all_cases() -> BTreeMap<String, Case> {
    cases(&fixture("heads/lm/cases.safetensors"))
}

fn everything() -> ForwardOptions {
    ForwardOptions::new().with_hidden_states(Layers::All).with_attentions(Layers::All)
}

fn compare(what: &str, output: &CausalLMOutputWithCrossAttentions, case: &Case) {
    for (name, expected) in &case.expected {
        let layer = |layers: &Option<LayerOutputs>, i: &str| {
            layers.as_ref().unwrap()[i.parse::<usize>().unwrap()].clone()
        };
        let got = match name.split_once('.') {
            None if name == "logits" => output.logits.clone(),
            None if name == "loss" => continue,
            Some(("hidden_states", i)) => layer(&output.hidden_states, i),
            Some(("attentions", i)) => layer(&output.attentions, i),
            Some(("cross_attentions", i)) => layer(&output.cross_attentions, i),
            _ => panic!("no output is called {name}"),
        };
        assert_close(&format!("{what} {name}"), &got, expected, 1e-5);
    }
}

#[test]
fn cross_attention_equals_transformers() {
    let (model, cases) = (decoder(), all_cases());
    for name in ["cross", "no_states", "all_states"] {
        let output = model.forward_with(&cases[name].input, &everything()).unwrap();
        compare(name, &output, &cases[name]);
        assert_eq!(output.cross_attentions.is_some(), name != "no_states");
    }
    for (name, case) in self::cases(&fixture("heads/lm/v4.safetensors")) {
        let mut context = ForwardOptions::new().with_attentions(Layers::All);
        if let Some(mask) = &case.head_mask {
            context = context.with_head_mask(mask.clone());
        }
        compare(&name, &model.forward_with(&case.input, &context).unwrap(), &case);
    }
}

#[test]
fn relative_positions_of_a_decoder_equal_transformers_with_and_without_cache() {
    for kind in ["relative_key", "relative_key_query"] {
        let text = std::fs::read_to_string(fixture(kind).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["is_decoder"] = true.into();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let weights = fixture(kind).join("model.safetensors");
        std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
        let model = BertModel::from_pretrained(folder.path(), &load_options()).unwrap();
        let case = cases(&fixture(kind).join("decoder.safetensors")).remove("causal").unwrap();
        let expected = &case.expected["last_hidden_state"];
        let whole = model.forward(&case.input).unwrap().last_hidden_state;
        assert_close(kind, &whole, expected, 1e-5);
        let ids = case.input.input_ids.unwrap();
        let part = |start, len| BertInput::from_ids(ids.narrow(1, start, len).unwrap());
        let mut cache = model.forward(&part(0, 4)).unwrap().past_key_values;
        for (start, len) in [(4, 3), (7, 1), (8, 1)] {
            let context = ForwardOptions::new().with_cache(cache.unwrap());
            let output = model.forward_with(&part(start, len), &context).unwrap();
            let expected = expected.narrow(1, start, len).unwrap();
            assert_close(kind, &output.last_hidden_state, &expected, 1e-5);
            cache = output.past_key_values;
        }
    }
}

#[test]
fn the_next_words_have_the_loss_of_transformers() {
    let case = &all_cases()["loss"];
    let labels = &case.labels["labels"];
    let (loss, output) =
        decoder().forward_with_labels(&case.input, labels, &ForwardOptions::new()).unwrap();
    let expected = &case.expected["loss"];
    assert_close("loss", &loss, expected, 1e-5 * values(expected)[0]);
    compare("loss", &output, case);
}

#[test]
fn the_last_scores_alone_are_those_of_the_whole_pass() {
    let case = &all_cases()["last"];
    let output = decoder().forward_last(&case.input, 2, &ForwardOptions::new()).unwrap();
    assert_eq!(output.logits.dims(), [3, 2, 60]);
    compare("last", &output, case);
}

#[test]
fn a_second_pass_with_the_cache_equals_transformers() {
    let (model, cases) = (decoder(), all_cases());
    let whole = &cases["cross"].input;
    let first = |t: &Option<Tensor>| t.as_ref().unwrap().narrow(1, 0, 4).unwrap();
    let mut start = BertInput::from_ids(first(&whole.input_ids))
        .with_attention_mask(first(&whole.attention_mask));
    start.encoder_hidden_states = whole.encoder_hidden_states.clone();
    start.encoder_attention_mask = whole.encoder_attention_mask.clone();
    let cache = model.forward(&start).unwrap().past_key_values.unwrap();
    let rest = &cases["rest"];
    let output = model.forward_with(&rest.input, &everything().with_cache(cache)).unwrap();
    compare("rest", &output, rest);
}

fn generated(model: &BertLMHeadModel, input: &BertInput, options: &GenerationConfig) -> Tensor {
    model.generate(input, options).unwrap().to_dtype(DType::I64).unwrap()
}

#[test]
fn greedy_text_is_that_of_transformers_with_and_without_cache() {
    let (model, case) = (decoder(), all_cases().remove("generate").unwrap());
    let plain = BertInput::from_ids(case.input.input_ids.clone().unwrap());
    let padded = plain.clone().with_attention_mask(case.input.attention_mask.clone().unwrap());
    let types = plain.input_ids.as_ref().unwrap().ones_like().unwrap();
    let typed = plain.clone().with_token_type_ids(types);
    let informed = BertInput { attention_mask: None, ..case.input.clone() };
    for options in [GenerationConfig::new(6), GenerationConfig::new(6).without_cache()] {
        for (name, input) in
            [("plain", &plain), ("padded", &padded), ("typed", &typed), ("informed", &informed)]
        {
            assert_same(name, &generated(&model, input, &options), &case.expected[name]);
        }
    }
}

#[test]
fn without_a_mask_the_padding_token_is_padding_unless_it_ends_texts() {
    // As transformers 5.24 continues these prompts.
    let padded = BertInput::from_ids(ids(&[&[0, 0, 0, 7, 9], &[5, 6, 7, 8, 9]]));
    let inside = BertInput::from_ids(ids(&[&[5, 0, 7, 8]]));
    let new = |model: &BertLMHeadModel, input: &BertInput| -> Vec<Vec<i64>> {
        let all = generated(model, input, &GenerationConfig::new(6));
        all.narrow(1, all.dim(1).unwrap() - 6, 6).unwrap().to_vec2().unwrap()
    };
    let rest = vec![27; 6];
    assert_eq!(new(&decoder(), &padded), [vec![7, 7, 38, 38, 7, 27], rest.clone()]);
    assert_eq!(new(&decoder(), &inside), [rest]);
    let ends = decoder_with(serde_json::json!({"eos_token_id": [0, 57]}));
    assert_eq!(new(&ends, &inside), [[27, 27, 27, 27, 27, 9]]);
    assert_eq!(new(&decoder(), &inside.with_pad_token_id(3)), [[27, 27, 27, 27, 27, 9]]);
    // A row that has ended is filled with what is padding for the call.
    let both = BertInput::from_ids(ids(&[&[3, 3, 3, 7, 9], &[5, 6, 7, 8, 9]])).with_pad_token_id(3);
    let ends = decoder_with(serde_json::json!({"eos_token_id": 7}));
    let filled = new(&ends, &both);
    assert_eq!(filled[0], [7, 3, 3, 3, 3, 3]);
    assert_ne!(filled[1][1..], [3; 5]);
    // A padding token that the model does not have fills nothing.
    let beyond = BertInput::from_ids(ids(&[&[3, 3, 3, 7, 9], &[5, 6, 7, 8, 9]]));
    assert_eq!(new(&ends, &beyond.with_pad_token_id(99)).len(), 2);
    let right = BertInput::from_ids(ids(&[&[5, 0]]));
    let error = decoder().generate(&right, &GenerationConfig::new(1)).unwrap_err();
    assert_says(&error, &["last token of a row is 0", "if pad_token_id is a word"]);
}

#[test]
fn a_decoder_without_layers_continues_texts_too() {
    let model = decoder_with(serde_json::json!({"num_hidden_layers": 0}));
    let prompt = BertInput::from_ids(ids(&[&[5, 6, 7]]));
    let text = |options| generated(&model, &prompt, &options);
    let expected = text(GenerationConfig::new(4).without_cache());
    assert_same("with a cache", &text(GenerationConfig::new(4)), &expected);
}

#[test]
fn settings_of_generation_are_those_of_the_call_and_two_tokens_of_the_config() {
    let settings =
        serde_json::json!({"repetition_penalty": 5., "max_length": 4, "do_sample": true});
    let prompt = BertInput::from_ids(ids(&[&[5, 6, 7]]));
    let text = |model: BertLMHeadModel| generated(&model, &prompt, &GenerationConfig::new(6));
    assert_same("text", &text(decoder_with(settings)), &text(decoder()));
}

#[test]
fn text_ends_at_the_end_token() {
    let case = all_cases().remove("generate").unwrap();
    let stop = values(&case.expected["stop"])[0] as i64;
    let model = decoder_with(serde_json::json!({"eos_token_id": stop}));
    let plain = BertInput::from_ids(case.input.input_ids.clone().unwrap());
    let got = generated(&model, &plain, &GenerationConfig::new(6));
    assert_same("stopped", &got, &case.expected["stopped"]);
}

/// The fixture with other settings in its config.
fn decoder_with(change: serde_json::Value) -> BertLMHeadModel {
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("heads/lm/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let weights = fixture("heads/lm/model.safetensors");
    std::fs::copy(weights, folder.path().join("model.safetensors")).unwrap();
    BertLMHeadModel::from_pretrained(folder.path(), &load_options()).unwrap()
}

#[test]
fn a_row_has_the_tokens_it_has_alone_whenever_its_neighbors_end() {
    // Of 24 positions the first row has 22, and the second 2 after its padding.
    let long: Vec<u32> = (0..22).map(|i| 5 + i % 50).collect();
    let short = [vec![0; 20], vec![7, 9]].concat();
    let mask = [vec![1u32; 22], [vec![0; 20], vec![1, 1]].concat()].concat();
    let mask = Tensor::from_vec(mask, (2, 22), &device()).unwrap();
    let both = BertInput::from_ids(ids(&[&long, &short])).with_attention_mask(mask);
    let alone = |row: &[u32]| BertInput::from_ids(ids(&[row]));
    let first = generated(&decoder(), &alone(&long), &GenerationConfig::new(1));
    let end = values(&first)[22] as i64;
    let config = serde_json::json!({"eos_token_id": [-1, end], "pad_token_id": null});
    let model = decoder_with(config);
    for options in [
        GenerationConfig::new(12),
        GenerationConfig::new(12).without_cache(),
        GenerationConfig::new(12).with_sampling(Sampling::new(3).with_temperature(2.)),
    ] {
        let got = values(&generated(&model, &both, &options));
        let width = got.len() / 2;
        let expected = values(&generated(&model, &alone(&[7, 9]), &options.clone()));
        if options.sampling.is_none() {
            assert_eq!(got[22] as i64, end);
            // Padding is the end token, because the config has none.
            assert!(got[22..width].iter().all(|id| *id as i64 == end), "{got:?}");
            assert_eq!(got[width + 20..], expected[..width - 20]);
        }
        assert!(got.iter().all(|id| (0. ..60.).contains(id)), "{got:?}");
    }
    // A row that has all positions ends there; without an end token it is refused at once.
    let all = generated(&model, &alone(&[7, 9]), &GenerationConfig::new(100));
    assert!(all.dims()[1] <= 25, "{:?}", all.dims());
}

#[test]
fn what_is_drawn_for_a_row_does_not_depend_on_when_others_end() {
    let options = GenerationConfig::new(8).with_sampling(Sampling::new(9).with_temperature(3.));
    let rows: [&[u32]; 3] = [&[7, 9, 11], &[8, 10, 12], &[13, 14, 15]];
    let free = values(&generated(&decoder(), &BertInput::from_ids(ids(&rows)), &options));
    // The first token that the first row draws now ends it.
    let end = free[3] as i64;
    let model = decoder_with(serde_json::json!({"eos_token_id": end, "pad_token_id": 0}));
    let stopped = values(&generated(&model, &BertInput::from_ids(ids(&rows)), &options));
    let width = stopped.len() / 3;
    for row in 1..3 {
        let (free, stopped) = (&free[11 * row..], &stopped[width * row..][..width]);
        let until = stopped[3..].iter().position(|id| *id as i64 == end).map_or(width, |at| at + 4);
        assert_eq!(stopped[..until], free[..until], "row {row}");
    }
}

#[test]
fn sampling_is_seeded_and_narrow_settings_are_greedy() {
    let (model, case) = (decoder(), all_cases().remove("generate").unwrap());
    let input = BertInput::from_ids(case.input.input_ids.clone().unwrap());
    let run = |sampling: Sampling| {
        let cached = GenerationConfig::new(6).with_sampling(sampling);
        let text = generated(&model, &input, &cached);
        assert_same("cache", &generated(&model, &input, &cached.without_cache()), &text);
        values(&text)
    };
    let greedy = values(&case.expected["plain"]);
    assert_eq!(run(Sampling::new(1).with_top_k(1)), greedy);
    assert_eq!(run(Sampling::new(2).with_top_p(1e-9)), greedy);
    assert_eq!(run(Sampling::new(3).with_temperature(1e-6)), greedy);
    let hot = |seed| run(Sampling::new(seed).with_temperature(3.).with_top_k(40).with_top_p(0.95));
    assert_eq!(hot(4), hot(4));
    assert_ne!(hot(4), hot(5));
}

#[test]
fn sampled_words_come_as_often_as_their_probability_says() {
    let (model, case) = (decoder(), all_cases().remove("generate").unwrap());
    let prompt = case.input.input_ids.unwrap().narrow(0, 0, 1).unwrap();
    let logits = model.forward(&BertInput::from_ids(prompt.clone())).unwrap().logits;
    let last = logits.get(0).unwrap().get(6).unwrap();
    let expected = values(&candle_nn::ops::softmax_last_dim(&last).unwrap());
    let batch = BertInput::from_ids(prompt.repeat((4000, 1)).unwrap());
    let options = GenerationConfig::new(1).with_sampling(Sampling::new(7));
    let drawn = model.generate(&batch, &options).unwrap().narrow(1, 7, 1).unwrap();
    let mut counts = vec![0.; expected.len()];
    values(&drawn).iter().for_each(|token| counts[*token as usize] += 1. / 4000.);
    assert!(largest_difference(&counts, &expected).0 < 0.04, "{counts:?} is not {expected:?}");
}

#[test]
fn what_cannot_be_generated_is_an_error() {
    let (model, prompt) = (decoder(), BertInput::from_ids(ids(&[&[1, 2, 3]])));
    for (sampling, part) in [
        (Sampling::new(1).with_temperature(0.), "temperature is 0"),
        (Sampling::new(1).with_temperature(f64::NAN), "temperature is NaN"),
        (Sampling::new(1).with_top_k(0), "top_k is 0"),
        (Sampling::new(1).with_top_p(1.5), "top_p is 1.5"),
    ] {
        let error = model.generate(&prompt, &GenerationConfig::new(1).with_sampling(sampling));
        assert_says(&error.unwrap_err(), &[part, "expected"]);
    }
    let error = model.generate(&prompt, &GenerationConfig::new(100)).unwrap_err();
    assert_says(&error, &["1 tokens per row after 24 cached", "24 positions"]);
    let one = &GenerationConfig::new(1);
    let right = Tensor::new(&[[1u32, 1, 0]], &device()).unwrap();
    let error = model.generate(&prompt.clone().with_attention_mask(right), one).unwrap_err();
    assert_says(&error, &["the mask of the last token of a row is 0", "pad on the left"]);
    let half = Tensor::new(&[[0.5f32, 1., 1.]], &device()).unwrap();
    let error = model.generate(&prompt.clone().with_attention_mask(half), one).unwrap_err();
    assert!(matches!(error, ModelError::MaskValue { .. }), "{error}");
    let positions = prompt.clone().with_position_ids(ids(&[&[0, 1, 2]]));
    let error = model.generate(&positions, one).unwrap_err();
    assert_says(&error, &["generate cannot continue position_ids"]);
    let outside = BertInput::from_ids(ids(&[&[1, 60]]));
    let error = model.generate(&outside, &GenerationConfig::new(0)).unwrap_err();
    assert_says(&error, &["input_ids holds 60"]);
    let floats = Tensor::new(&[[1.7f32]], &device()).unwrap();
    let error = model.generate(&BertInput::from_ids(floats), one).unwrap_err();
    assert!(matches!(error, ModelError::DType { .. }), "{error}");
    let mut weights = tensors(&fixture("heads/lm/model.safetensors"));
    let nan = Tensor::full(f32::NAN, 60, &device()).unwrap();
    weights.insert("cls.predictions.bias".to_owned(), nan);
    let folder = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&weights, folder.path().join("model.safetensors")).unwrap();
    std::fs::copy(fixture("heads/lm/config.json"), folder.path().join("config.json")).unwrap();
    let broken = BertLMHeadModel::from_pretrained(folder.path(), &load_options()).unwrap();
    for options in
        [GenerationConfig::new(1), GenerationConfig::new(1).with_sampling(Sampling::new(1))]
    {
        let error = broken.generate(&prompt, &options).unwrap_err();
        assert_says(&error, &["score is NaN", "a finite number"]);
    }
    let error = model.generate(&BertInput::default(), &GenerationConfig::new(1)).unwrap_err();
    assert!(matches!(error, ModelError::NoInput), "{error}");
    let encoder = BertLMHeadModel::from_pretrained(fixture("heads/masked_lm"), &load_options());
    let error = encoder.unwrap().generate(&prompt, &GenerationConfig::new(1)).unwrap_err();
    assert!(matches!(error, ModelError::NotADecoder), "{error}");
}

#[test]
fn encoder_states_that_do_not_fit_are_errors() {
    let model = decoder();
    let prompt = || BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let states = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &device()).unwrap();
    let mask = |shape: &[usize]| Tensor::ones(shape, DType::U32, &device()).unwrap();
    for shape in [&[1, 5, 15][..], &[2, 5, 16], &[1, 0, 16], &[5, 16]] {
        let error = model.forward(&prompt().with_encoder_hidden_states(states(shape))).unwrap_err();
        assert_says(&error, &["encoder_hidden_states has shape", "[1, K, 16]"]);
    }
    let with_states = || prompt().with_encoder_hidden_states(states(&[1, 5, 16]));
    let error = model.forward(&with_states().with_encoder_attention_mask(mask(&[1, 4])));
    assert_says(&error.unwrap_err(), &["encoder_attention_mask has shape [1, 4]", "[1, 5]"]);
    let error = model.forward(&with_states().with_encoder_attention_mask(mask(&[5]))).unwrap_err();
    assert_says(&error, &["encoder_attention_mask has shape [5]", "[B, K]"]);
    let half = states(&[1, 5, 16]).to_dtype(DType::F16).unwrap();
    let error = model.forward(&prompt().with_encoder_hidden_states(half)).unwrap_err();
    assert_says(&error, &["encoder_hidden_states has dtype F16", "F32"]);
    let error = model.forward(&prompt().with_encoder_attention_mask(mask(&[1, 5]))).unwrap_err();
    assert!(matches!(error, ModelError::NoEncoderStates), "{error}");
    let plain = self::model("base", DType::F32);
    let wide = prompt().with_encoder_hidden_states(states(&[1, 5, 32]));
    assert!(matches!(plain.forward(&wide), Err(ModelError::NoCrossAttention)));
}

#[test]
fn caches_of_other_states_dtypes_and_widths_are_errors() {
    let model = decoder();
    let states = |k| Tensor::ones((1, k, 16), DType::F32, &device()).unwrap();
    let prompt = |k| BertInput::from_ids(ids(&[&[1, 2]])).with_encoder_hidden_states(states(k));
    let cache = model.forward(&prompt(5)).unwrap().past_key_values.unwrap();
    let run = |model: &BertLMHeadModel, input: &BertInput| {
        model.forward_with(input, &ForwardOptions::new().with_cache(cache.clone()))
    };
    assert!(run(&model, &prompt(5)).is_ok());
    let error = run(&model, &prompt(7)).unwrap_err();
    assert_says(&error, &["past_key_values encoder states 5", "expected 7"]);
    let half = load_options().with_dtype(DType::F16);
    let half = BertLMHeadModel::from_pretrained(fixture("heads/lm"), &half).unwrap();
    let plain = BertInput::from_ids(ids(&[&[1, 2]]));
    assert_says(&run(&half, &plain).unwrap_err(), &["past_key_values has dtype F32", "F16"]);
    let wider = self::model("decoder", DType::F32);
    let error = wider.forward_with(&plain, &ForwardOptions::new().with_cache(cache.clone()));
    assert_says(&error.unwrap_err(), &["past_key_values hidden size 16", "expected 32"]);
}

#[test]
fn a_bad_label_is_named_with_its_own_index() {
    let labels = Tensor::new(&[[1i64, 2, 99]], &device()).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let error = decoder().forward_with_labels(&input, &labels, &ForwardOptions::new());
    assert_says(&error.unwrap_err(), &["label 99 at index 2"]);
    // The first label of a row is no next token.
    let labels = Tensor::new(&[[1i64, -100, -100]], &device()).unwrap();
    let error = decoder().forward_with_labels(&input, &labels, &ForwardOptions::new());
    assert_says(
        &error.unwrap_err(),
        &["no label counts: all are -100", "first in a decoder's row"],
    );
}

#[test]
fn scores_at_chosen_places_are_those_of_the_whole_pass() {
    let folder = fixture("heads/masked_lm");
    let model = BertForMaskedLM::from_pretrained(&folder, &load_options()).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3], &[4, 5, 6]]));
    let all = model.forward(&input).unwrap().logits;
    let chosen = model.scores_at(&input, &[(1, 2), (0, 0), (1, 2)]).unwrap();
    for (i, (row, token)) in [(1, 2), (0, 0), (1, 2)].into_iter().enumerate() {
        let expected = all.get(row).unwrap().get(token).unwrap();
        assert_close("scores", &chosen.get(i).unwrap(), &expected, 1e-6);
    }
    assert_eq!(model.scores_at(&input, &[]).unwrap().dims(), [0, 60]);
    let error = model.scores_at(&input, &[(0, 3)]).unwrap_err();
    assert_says(&error, &["row 0, token 3", "2 rows of 3 tokens"]);
}
