//! Our numbers against those of transformers in float64, on wide random parameters.

use bert::*;

use crate::support::*;

const CHECKPOINTS: [&str; 13] = [
    "base",
    "sizes",
    "one_head",
    "decoder",
    "act_relu",
    "act_gelu_new",
    "act_gelu_pytorch_tanh",
    "act_quick_gelu",
    "act_silu",
    "act_mish",
    "act_tanh",
    "relative_key",
    "relative_key_query",
];

/// What `output` has under transformers' name for it.
fn field<'a>(output: &'a BaseModelOutputWithPoolingAndCrossAttentions, name: &str) -> &'a Tensor {
    let layer = |layers: &'a Option<LayerOutputs>, index: &str| {
        layers.as_ref().unwrap().get(index.parse().unwrap()).unwrap()
    };
    match name.split_once('.') {
        None if name == "last_hidden_state" => &output.last_hidden_state,
        None if name == "pooler_output" => output.pooler_output.as_ref().unwrap(),
        Some(("hidden_states", index)) => layer(&output.hidden_states, index),
        Some(("attentions", index)) => layer(&output.attentions, index),
        _ => panic!("no output is called {name}"),
    }
}

/// Compares every output of every case of a file; returns how many tensors were compared.
///
/// Attention weights and pooled outputs lie within ±1 and must be `bounded` near.
fn compare(model: &BertModel, file: &str, tolerance: f64, bounded: f64) -> usize {
    let mut compared = 0;
    for (name, case) in cases(&fixture(file)) {
        if name == "cached" || name == "pruned" {
            continue;
        }
        let mut context = ForwardOptions::new().with_padding_states(PaddingStates::Kept);
        if case.expected.contains_key("hidden_states.0") {
            context = context.with_hidden_states(Layers::All).with_attentions(Layers::All);
        }
        if let Some(mask) = case.head_mask {
            context = context.with_head_mask(mask);
        }
        let mut input = case.input;
        input.inputs_embeds = input.inputs_embeds.map(|x| x.to_dtype(model.dtype()).unwrap());
        let output = model.forward_with(&input, &context).unwrap();
        for (output_name, expected) in &case.expected {
            let got = field(&output, output_name);
            assert_eq!(got.dtype(), model.dtype());
            let states = output_name == "last_hidden_state" || output_name.starts_with("hidden");
            let tolerance = if states { tolerance } else { bounded };
            assert_close(&format!("{file} {name} {output_name}"), got, expected, tolerance);
            compared += 1;
        }
    }
    compared
}

#[test]
fn every_case_of_every_checkpoint_equals_transformers() {
    let compared: usize = CHECKPOINTS
        .iter()
        .map(|name| {
            compare(&model(name, DType::F32), &format!("{name}/cases.safetensors"), 1e-5, 1e-5)
        })
        .sum();
    assert_eq!(compared, 131);
}

#[test]
fn float64_is_as_exact_as_the_stored_reference() {
    for name in CHECKPOINTS {
        compare(&model(name, DType::F64), &format!("{name}/cases.safetensors"), 2e-6, 2e-6);
    }
}

#[test]
fn half_precision_is_finite_and_near() {
    for name in CHECKPOINTS {
        compare(&model(name, DType::F16), &format!("{name}/cases.safetensors"), 0.02, 0.01);
        compare(&model(name, DType::BF16), &format!("{name}/cases.safetensors"), 0.15, 0.08);
    }
}

#[test]
fn masks_of_three_dimensions_and_of_heads_equal_transformers_4() {
    assert_eq!(compare(&model("base", DType::F32), "base/v4.safetensors", 1e-5, 1e-5), 27);
}

#[test]
fn a_model_without_a_pooler_has_no_pooled_output() {
    let options = load_options().without_pooling_layer();
    let (model, report) =
        BertModel::from_pretrained_with_report(fixture("base"), &options).unwrap();
    assert_eq!(report.unused, ["pooler.dense.bias", "pooler.dense.weight"]);
    assert_eq!(compare(&model, "base/no_pooler.safetensors", 1e-5, 1e-5), 1);
    let output = model.forward(&BertInput::from_ids(ids(&[&[1, 2, 3]]))).unwrap();
    assert!(output.pooler_output.is_none());
}

#[test]
fn a_decoder_continues_from_its_cache() {
    let model = model("decoder", DType::F32);
    let case = cases(&fixture("decoder/cases.safetensors")).remove("cached").unwrap();
    let (all_ids, mask) = (case.input.input_ids.unwrap(), case.input.attention_mask.unwrap());
    let first = |t: &Tensor| t.narrow(1, 0, 5).unwrap();

    let start = model
        .forward(&BertInput::from_ids(first(&all_ids)).with_attention_mask(first(&mask)))
        .unwrap();
    assert_close("start", &start.last_hidden_state, &case.expected["start"], 1e-5);
    let cache = start.past_key_values.unwrap();
    assert_eq!((cache.len(), cache.keys(1).unwrap().dims()), (5, [3, 5, 32].as_slice()));

    let context = ForwardOptions::new().with_cache(cache.clone());
    let rest = BertInput::from_ids(all_ids.narrow(1, 5, 4).unwrap()).with_attention_mask(mask);
    let output = model.forward_with(&rest, &context).unwrap();
    assert_close("rest", &output.last_hidden_state, &case.expected["rest"], 1e-5);
    assert_eq!(output.past_key_values.unwrap().len(), 9);

    // A pass that fails leaves the cache as it was.
    let context = ForwardOptions::new().with_cache(cache.clone());
    let too_long = BertInput::from_ids(ids(&[&[1; 20], &[1; 20], &[1; 20]]));
    assert!(model.forward_with(&too_long, &context).is_err());
    let output = model.forward_with(&rest, &context).unwrap();
    assert_close("after an error", &output.last_hidden_state, &case.expected["rest"], 1e-5);

    let one_row = BertInput::from_ids(ids(&[&[1, 2]]));
    let error = model.forward_with(&one_row, &ForwardOptions::new().with_cache(cache.clone()));
    assert_says(&error.unwrap_err(), &["past_key_values batch size 3", "expected 1"]);
    let error = self::model("base", DType::F32).forward_with(
        &BertInput::from_ids(first(&all_ids)),
        &ForwardOptions::new().with_cache(cache),
    );
    assert_says(&error.unwrap_err(), &["past_key_values layers 2", "expected 3"]);
}

#[test]
fn a_decoder_without_some_layers_still_continues_from_its_cache() {
    let mut model = model("decoder", DType::F32);
    model.encoder.layer.remove(0);
    let all = ids(&[&[1, 2, 3, 4, 5, 6]]);
    let whole = model.forward(&BertInput::from_ids(all.clone())).unwrap().last_hidden_state;
    let part = |start, len| BertInput::from_ids(all.narrow(1, start, len).unwrap());
    let cache = model.forward(&part(0, 4)).unwrap().past_key_values.unwrap();
    let context = ForwardOptions::new()
        .with_cache(cache)
        .with_hidden_states(Layers::Only(vec![-1]))
        .with_attentions(Layers::All);
    let rest = model.forward_with(&part(4, 2), &context).unwrap();
    assert_close("rest", &rest.last_hidden_state, &whole.narrow(1, 4, 2).unwrap(), 1e-6);
    assert_eq!(rest.attentions.unwrap()[0].dims(), [1, 4, 2, 6]);
    assert_same("last", &rest.hidden_states.unwrap()[1], &rest.last_hidden_state);
}

#[test]
fn the_parts_in_sequence_are_the_model_bit_for_bit() {
    let model = model("base", DType::F32);
    let case = cases(&fixture("base/cases.safetensors")).remove("holes").unwrap();

    let embedding_output = model.embeddings.forward(&case.input).unwrap();
    let mask = AttentionMask::new(case.input.attention_mask.as_ref().unwrap()).unwrap();
    let context =
        ForwardOptions::new().with_hidden_states(Layers::All).with_attentions(Layers::All);
    let encoded = model.encoder.forward_with(&embedding_output, &mask, &context).unwrap();
    let pooled = model.pooler.as_ref().unwrap().forward(&encoded.last_hidden_state).unwrap();

    let context =
        ForwardOptions::new().with_hidden_states(Layers::All).with_attentions(Layers::All);
    let whole = model.forward_with(&case.input, &context).unwrap();
    assert_same("last_hidden_state", &encoded.last_hidden_state, &whole.last_hidden_state);
    assert_same("pooler_output", &pooled, whole.pooler_output.as_ref().unwrap());
    let (parts, whole_states) = (encoded.hidden_states.unwrap(), whole.hidden_states.unwrap());
    assert_eq!((parts.len(), whole_states.len()), (4, 4));
    for ((_, part), (_, whole)) in parts.iter().zip(whole_states.iter()) {
        assert_same("hidden_states", part, whole);
    }
    for l in 0..3 {
        let (part, whole) =
            (encoded.attentions.as_ref().unwrap(), whole.attentions.as_ref().unwrap());
        assert_same("attentions", &part[l], &whole[l]);
    }
}

#[test]
fn chosen_layers_keep_their_index_and_others_are_absent() {
    let model = model("base", DType::F32);
    let input = BertInput::from_ids(ids(&[&[1, 2, 3, 4]]));
    let run = |context: ForwardOptions| model.forward_with(&input, &context).unwrap();
    let all = run(ForwardOptions::new().with_hidden_states(Layers::All)).hidden_states.unwrap();

    let chosen = run(ForwardOptions::new()
        .with_hidden_states(Layers::Only(vec![0, -1]))
        .with_attentions(Layers::Only(vec![-3])));
    let states = chosen.hidden_states.unwrap();
    assert_eq!(states.iter().map(|(i, _)| i).collect::<Vec<_>>(), [0, 3]);
    assert_same("first", &states[0], &all[0]);
    // A layer whose weights are asked for stores them, which rounds differently.
    assert_close("last", &states[3], &all[3], 1e-5);
    assert_same("last is the output", &states[3], &chosen.last_hidden_state);
    assert!(states.get(1).is_none() && states.get(4).is_none());
    assert_eq!(chosen.attentions.unwrap().iter().map(|(i, _)| i).collect::<Vec<_>>(), [0]);

    let plain = model.forward(&input).unwrap();
    assert!(plain.hidden_states.is_none() && plain.attentions.is_none());
    assert!(plain.past_key_values.is_none() && plain.cross_attentions.is_none());

    for (layers, bad) in [(vec![4], "4"), (vec![0, -5], "-5")] {
        let context = ForwardOptions::new().with_hidden_states(Layers::Only(layers));
        let error = model.forward_with(&input, &context).unwrap_err();
        assert_says(&error, &["hidden_states", &format!("layer {bad} "), "-4 to 3"]);
    }
}

#[test]
fn the_output_prints_names_and_shapes_and_skips_what_is_absent() {
    let model = model("base", DType::F32);
    let input = BertInput::from_ids(ids(&[&[1, 2, 3, 4], &[5, 6, 7, 8]]));
    assert_eq!(
        model.forward(&input).unwrap().to_string(),
        "BaseModelOutputWithPoolingAndCrossAttentions\n  \
         last_hidden_state: [2, 4, 32] F32\n  pooler_output: [2, 32] F32\n"
    );
    let context = ForwardOptions::new().with_attentions(Layers::Only(vec![1]));
    let embedded = model.embeddings.forward(&input).unwrap();
    let mask = AttentionMask::all_visible();
    assert_eq!(
        model.encoder.forward_with(&embedded, &mask, &context).unwrap().to_string(),
        "BaseModelOutputWithPastAndCrossAttentions\n  last_hidden_state: [2, 4, 32] F32\n  \
         attentions: 1 of 3\n    [1]: [2, 4, 4, 4] F32\n"
    );
}

#[test]
fn a_mask_that_does_not_fit_a_layer_or_is_to_be_learned_is_an_error() {
    let layer = &model("base", DType::F32).encoder.layer[0];
    let x = Tensor::zeros((2, 5, 32), DType::F32, &device()).unwrap();
    let mask = |mask: &Tensor| AttentionMask::new(mask).unwrap();
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &device()).unwrap();
    for fits in [&[2, 5][..], &[2, 5, 5], &[1, 1, 1, 5], &[2, 4, 5, 5]] {
        layer.forward(&x, &mask(&ones(fits))).unwrap();
    }
    for odd in [&[2, 1][..], &[1, 5], &[2, 5, 1], &[2, 3, 5, 5]] {
        let error = layer.forward(&x, &mask(&ones(odd))).unwrap_err();
        assert_says(&error, &["mask has shape", "expected [2, 5]"]);
    }
    let learned = candle_core::Var::from_tensor(&ones(&[1, 1, 3, 3])).unwrap();
    let row = candle_core::Var::from_tensor(&ones(&[1, 3])).unwrap();
    for mask in [learned.as_tensor(), row.as_tensor()] {
        for name in ["base", "decoder"] {
            let input = BertInput::from_ids(ids(&[&[1, 2, 3]])).with_attention_mask(mask.clone());
            let error = model(name, DType::F32).forward(&input).unwrap_err();
            assert_says(&error, &["attention_mask needs a gradient", "detach"]);
        }
    }
    // A comparison has no gradient.
    let compared = row.as_tensor().ge(0f32).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]])).with_attention_mask(compared);
    model("base", DType::F32).forward(&input).unwrap();
}

#[test]
fn training_drops_and_evaluation_does_not() {
    let model = model("base", DType::F32);
    let input = BertInput::from_ids(ids(&[&[1, 2, 3, 4]]));
    let train = |seed| {
        model.forward_with(&input, &ForwardOptions::training(seed)).unwrap().last_hidden_state
    };
    assert_same("same seed", &train(5), &train(5));
    let plain = model.forward(&input).unwrap().last_hidden_state;
    for other in [train(6), plain] {
        assert!(largest_difference(&values(&train(5)), &values(&other)).0 > 1e-2);
    }
}

#[test]
fn pruned_heads_are_masked_heads_and_smaller() {
    let case = cases(&fixture("base/v4.safetensors")).remove("pruned").unwrap();
    let mut pruned = model("base", DType::F32);
    pruned.prune_heads(&[(0, vec![1]), (2, vec![0, 3])].into()).unwrap();
    let context = &ForwardOptions::new().with_padding_states(PaddingStates::Kept);
    let output = pruned.forward_with(&case.input, context).unwrap();
    for (name, expected) in &case.expected {
        assert_close(name, field(&output, name), expected, 1e-5);
    }
    let mask =
        Tensor::new(&[[1f32, 0., 1., 1.], [1., 1., 1., 1.], [0., 1., 1., 0.]], &device()).unwrap();
    let masked = model("base", DType::F32)
        .forward_with(&case.input, &ForwardOptions::new().with_head_mask(mask))
        .unwrap();
    assert_close("masked", &output.last_hidden_state, &masked.last_hidden_state, 1e-5);
    let attentions = &ForwardOptions::new().with_attentions(Layers::All);
    let attentions = pruned.forward_with(&case.input, attentions).unwrap().attentions.unwrap();
    assert_eq!(
        (attentions[0].dims()[1], attentions[1].dims()[1], attentions[2].dims()[1]),
        (3, 4, 2)
    );
    assert_eq!(pruned.config().pruned_heads, [(0, vec![1]), (2, vec![0, 3])].into());

    // A mask for each head still fits, and so does a head mask.
    let scores = Tensor::rand(-1f32, 1., (1, 4, 9, 9), &device()).unwrap();
    let by_head =
        BertInput::from_ids(case.input.input_ids.clone().unwrap()).with_attention_mask(scores);
    let silenced =
        Tensor::new(&[[1f32, 0., 1., 1.], [1., 1., 1., 1.], [0., 1., 1., 0.]], &device()).unwrap();
    let context = || ForwardOptions::new().with_head_mask(silenced.clone());
    let small = pruned.forward_with(&by_head, &context()).unwrap().last_hidden_state;
    let full = model("base", DType::F32).forward_with(&by_head, &context()).unwrap();
    assert_close("by head", &small, &full.last_hidden_state, 1e-5);
    let first = pruned.pooled(&by_head).unwrap();
    let expected = pruned.forward(&by_head).unwrap().pooler_output.unwrap();
    assert_close("first tokens", &first, &expected, 1e-5);
    // One number for all heads, which are no neighbors in memory.
    let half = |mask: Tensor| {
        let options = ForwardOptions::new().with_head_mask(mask);
        pruned.forward_with(&case.input, &options).unwrap().last_hidden_state
    };
    let halves = Tensor::full(0.5f32, 4, &device()).unwrap();
    let spread = Tensor::full(0.5f32, 1, &device()).unwrap().broadcast_as(4).unwrap();
    assert_close("halves", &half(spread), &half(halves), 1e-6);

    // Again and further; and what cannot be, which changes nothing.
    pruned.prune_heads(&[(2, vec![0, 1])].into()).unwrap();
    assert_eq!(pruned.config().pruned_heads[&2], [0, 1, 3]);
    for (layer, heads, part) in
        [(3, vec![0], "3 layers"), (0, vec![4], "4 heads"), (2, vec![2], "no head would be left")]
    {
        let error = pruned.prune_heads(&[(1, vec![0]), (layer, heads)].into()).unwrap_err();
        assert_says(&error, &[&format!("of layer {layer}"), part]);
    }
    assert!(!pruned.config().pruned_heads.contains_key(&1));
}

#[test]
fn a_config_with_pruned_heads_loads_the_smaller_weights() {
    let config = BertConfig::from_json(
        r#"{"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 6,
            "num_hidden_layers": 2, "max_position_embeddings": 4, "pruned_heads": {"1": [0, 2]}}"#,
    )
    .unwrap();
    let vars = candle_nn::VarMap::new();
    let vb = candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
    let model = BertModel::load(vb, &config).unwrap();
    let shape = |name: &str| vars.data().lock().unwrap()[name].dims().to_vec();
    assert_eq!(shape("encoder.layer.1.attention.self.key.weight"), [4, 8]);
    assert_eq!(shape("encoder.layer.1.attention.output.dense.weight"), [8, 4]);
    assert_eq!(shape("encoder.layer.0.attention.self.key.weight"), [8, 8]);
    assert!(model.forward(&BertInput::from_ids(ids(&[&[1, 2]]))).is_ok());
}

#[test]
fn head_masks_of_another_shape_are_errors() {
    let model = model("base", DType::F32);
    let input = BertInput::from_ids(ids(&[&[1, 2]]));
    for shape in [&[3][..], &[2, 4], &[1, 4, 1, 1]] {
        let mask = Tensor::ones(shape, DType::F32, &device()).unwrap();
        let error = model.forward_with(&input, &ForwardOptions::new().with_head_mask(mask));
        assert_says(&error.unwrap_err(), &["head_mask has shape", "[4] or [3, 4]"]);
    }
}

#[test]
fn feed_forward_chunks_change_no_number() {
    let text = std::fs::read_to_string(fixture("base/config.json")).unwrap();
    let chunked = text.replace("\"chunk_size_feed_forward\": 0", "\"chunk_size_feed_forward\": 3");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), chunked).unwrap();
    std::fs::copy(fixture("base/model.safetensors"), folder.path().join("model.safetensors"))
        .unwrap();
    let chunked = BertModel::from_pretrained(folder.path(), &load_options()).unwrap();
    assert_eq!(chunked.config().chunk_size_feed_forward, 3);
    assert!(compare(&chunked, "base/cases.safetensors", 1e-5, 1e-5) > 50);
    let error = chunked.forward(&BertInput::from_ids(ids(&[&[1, 2, 3, 4]]))).unwrap_err();
    assert_says(&error, &["4 tokens", "chunks of 3", "pad to a multiple"]);
}

#[test]
fn the_pooled_output_alone_is_that_of_the_whole_pass() {
    for name in ["base", "sizes", "relative_key", "decoder"] {
        let model = model(name, DType::F32);
        for (case_name, case) in cases(&fixture(&format!("{name}/cases.safetensors"))) {
            if case_name == "cached" {
                continue;
            }
            let whole = model.forward(&case.input).unwrap().pooler_output.unwrap();
            let alone = model.pooled(&case.input).unwrap();
            assert_close(&format!("{name} {case_name}"), &alone, &whole, 5e-6);
        }
    }
    let bare = load_options().without_pooling_layer();
    let bare = BertModel::from_pretrained(fixture("base"), &bare).unwrap();
    let error = bare.pooled(&BertInput::from_ids(ids(&[&[1]]))).unwrap_err();
    assert!(matches!(error, bert::errors::ModelError::NoPooler));
}
