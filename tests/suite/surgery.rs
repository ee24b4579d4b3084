//! Parameters replaced, counted and saved.

use std::collections::BTreeMap;

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

fn load<M: PreTrainedModel>(folder: &str) -> M {
    M::from_pretrained(fixture(folder), &load_options()).unwrap()
}

#[test]
fn parameters_are_counted_as_transformers_counts_them() {
    // transformers 5.23.0: model.num_parameters() of these fixtures.
    assert_eq!(load::<BertModel>("base").num_parameters(), 29504);
    assert_eq!(load::<BertForPreTraining>("heads/pretraining").num_parameters(), 4038);
}

#[test]
fn a_larger_vocabulary_keeps_old_words_and_gives_new_ones_their_mean() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    let old = model.clone();
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    model.resize_token_embeddings(64).unwrap();
    let (words, old_words) = (model.get_input_embeddings(), old.get_input_embeddings());
    assert_eq!((words.dims(), model.bert.config().vocab_size), (&[64, 16][..], 64));
    assert_same("old words", &words.narrow(0, 0, 60).unwrap(), old_words);
    let mean = old_words.mean(0).unwrap();
    assert_close("new words", &words.get(63).unwrap(), &mean, 1e-6);
    assert_same("a tied decoder follows", model.get_output_embeddings().unwrap(), words);

    let (logits, old_logits) =
        (model.forward(&input).unwrap().logits, old.forward(&input).unwrap().logits);
    assert_close("scores", &logits.narrow(2, 0, 60).unwrap(), &old_logits, 1e-6);
    let mean = old_logits.mean_keepdim(2).unwrap();
    assert_close("new scores", &logits.narrow(2, 63, 1).unwrap(), &mean, 1e-5);
    model.forward(&BertInput::from_ids(ids(&[&[63]]))).unwrap();
}

#[test]
fn a_smaller_vocabulary_cuts_the_last_words_but_never_the_padding() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    let old = model.clone();
    model.resize_token_embeddings(20).unwrap();
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let cut = old.forward(&input).unwrap().logits.narrow(2, 0, 20).unwrap();
    assert_close("scores", &model.forward(&input).unwrap().logits, &cut, 1e-6);
    let error = model.forward(&BertInput::from_ids(ids(&[&[20]]))).unwrap_err();
    assert_says(&error, &["input_ids holds 20", "vocab_size is 20"]);

    let mut at_the_end = load::<BertForMaskedLM>("heads/masked_lm");
    let folder = tempfile::tempdir().unwrap();
    at_the_end.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(r#""pad_token_id": 0"#, r#""pad_token_id": 59"#)).unwrap();
    at_the_end = BertForMaskedLM::from_pretrained(folder.path(), &load_options()).unwrap();
    assert_says(&at_the_end.resize_token_embeddings(20).unwrap_err(), &["pad_token_id is 59"]);
    assert_says(&at_the_end.resize_token_embeddings(0).unwrap_err(), &["vocab_size is 0"]);
    assert_eq!(at_the_end.get_input_embeddings().dim(0).unwrap(), 60);
}

#[test]
fn a_frozen_decoder_gives_the_scores_of_the_matrix_that_is_there_now() {
    let check = |model: &BertForMaskedLM| {
        let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
        let mut trained = model.clone();
        trained.set_trainable(|_| true).unwrap();
        let expected = trained.forward(&input).unwrap().logits;
        assert_close("scores", &model.forward(&input).unwrap().logits, &expected, 1e-5);
    };
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    check(&model);
    model.resize_token_embeddings(64).unwrap();
    check(&model);
    model.set_input_embeddings((model.get_input_embeddings() * 2.).unwrap()).unwrap();
    check(&model);
    model.set_output_embeddings((model.get_input_embeddings() * -1.).unwrap()).unwrap();
    check(&model);
    let vars = model.set_trainable(|name| name.ends_with("predictions.bias")).unwrap();
    let bias = vars.all_vars().remove(0);
    bias.set(&(bias.as_tensor() + 1.).unwrap()).unwrap();
    check(&model);
    model.freeze().unwrap();
    check(&model);
}

#[test]
fn embeddings_can_be_replaced_and_untied() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let before = model.forward(&input).unwrap().logits;
    let table = (model.get_input_embeddings() * 2.).unwrap();
    model.set_input_embeddings(table.clone()).unwrap();
    assert_same("decoder", model.get_output_embeddings().unwrap(), &table);
    let tied = model.forward(&input).unwrap().logits;
    assert!(values(&tied) != values(&before));

    model.set_output_embeddings((&table * 0.).unwrap()).unwrap();
    assert!(!model.has_tied_decoder());
    assert_same("words", model.get_input_embeddings(), &table);
    let bias_alone = model.forward(&input).unwrap().logits;
    assert_same(
        "bias",
        &bias_alone.get(0).unwrap().get(0).unwrap(),
        &bias_alone.get(0).unwrap().get(2).unwrap(),
    );
    model.resize_token_embeddings(62).unwrap();
    assert_eq!(model.get_output_embeddings().unwrap().dims(), [62, 16]);

    // Untied stays untied, through a file as well.
    let folder = tempfile::tempdir().unwrap();
    model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
    let (again, report) =
        BertForMaskedLM::from_pretrained_with_report(folder.path(), &load_options()).unwrap();
    assert!(!again.has_tied_decoder() && report.unused.is_empty(), "{report}");
    assert_same(
        "again",
        &again.forward(&input).unwrap().logits,
        &model.forward(&input).unwrap().logits,
    );
}

#[test]
fn replaced_tables_are_nobody_elses() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    let vars = VarMap::new();
    let init = candle_nn::Init::Const(1.);
    let var = vars.get((60, 16), "teacher", init, DType::F32, &device()).unwrap();
    model.set_input_embeddings((&var * 2.).unwrap()).unwrap();
    model.set_output_embeddings(var).unwrap();
    assert_eq!(model.num_trainable_parameters(), 0);
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    assert!(!model.forward(&input).unwrap().logits.track_op());
}

#[test]
fn a_model_of_parameters_that_were_computed_from_variables_can_be_frozen() {
    let folder = fixture("base");
    let factor = candle_core::Var::new(1f32, &device()).unwrap();
    let merged = tensors(&folder.join("model.safetensors")).into_iter();
    let merged = merged.map(|(name, x)| (name, x.broadcast_mul(&factor).unwrap())).collect();
    let vb = candle_nn::VarBuilder::from_tensors(merged, DType::F32, &device());
    let mut model = BertModel::load(vb, load::<BertModel>("base").config()).unwrap();
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let states = |model: &BertModel| model.forward(&input).unwrap().last_hidden_state;
    assert!(states(&model).sum_all().unwrap().backward().unwrap().get(&factor).is_some());
    let error = model.resize_token_embeddings(70).unwrap_err();
    assert!(matches!(error, ModelError::Trainable { .. }), "{error}");
    model.freeze().unwrap();
    let expected = states(&load("base"));
    assert!(!states(&model).track_op());
    factor.set(&Tensor::new(2f32, &device()).unwrap()).unwrap();
    assert_same("frozen", &states(&model), &expected);
}

#[test]
fn a_head_whose_words_were_resized_below_it_says_so() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    model.bert.resize_token_embeddings(64).unwrap();
    let error = model.forward(&BertInput::from_ids(ids(&[&[3]]))).unwrap_err();
    let advice = "call resize_token_embeddings on the model with the head";
    assert_says(&error, &["cls.predictions.bias has shape [60]", "[64]", advice]);
    let folder = tempfile::tempdir().unwrap();
    let error = model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap_err();
    assert_says(&error, &["cls.predictions", "64 words", advice]);
}

#[test]
fn layers_that_were_taken_away_are_not_saved() {
    let mut model = load::<BertModel>("base");
    model.encoder.layer.truncate(2);
    let folder = tempfile::tempdir().unwrap();
    model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
    let (again, report) =
        BertModel::from_pretrained_with_report(folder.path(), &load_options()).unwrap();
    assert_eq!((again.encoder.layer.len(), report.unused.len()), (2, 0));
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let [got, expected] =
        [again, model].map(|model| model.forward(&input).unwrap().last_hidden_state);
    assert_same("two layers", &got, &expected);
}

#[test]
fn pruned_heads_follow_their_layers_when_others_are_taken_away() {
    for taken in [0, 1, 2] {
        let mut model = load::<BertModel>("base");
        model.prune_heads(&BTreeMap::from([(1, vec![0, 3]), (2, vec![1])])).unwrap();
        model.encoder.layer.remove(taken);
        let folder = tempfile::tempdir().unwrap();
        model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
        let again = BertModel::from_pretrained(folder.path(), &load_options()).unwrap();
        let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
        let [got, expected] =
            [again, model].map(|model| model.forward(&input).unwrap().last_hidden_state);
        assert_same(&format!("without layer {taken}"), &got, &expected);
    }
}

#[test]
fn answers_have_a_first_and_a_last_token_and_nothing_else() {
    let options = load_options().with_labels(["a", "b", "c"]).with_missing_initialized(0);
    let error = BertForQuestionAnswering::from_pretrained(fixture("base"), &options).unwrap_err();
    assert_says(&error, &["id2label is 3 classes", "expected 2"]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut model = load::<BertForMaskedLM>("heads/masked_lm");
    let wrong = Tensor::zeros((61, 16), DType::F32, &device()).unwrap();
    let error = model.set_input_embeddings(wrong).unwrap_err();
    assert_says(&error, &["[61, 16]", "[60, 16]", "resize_token_embeddings"]);
    let wrong = Tensor::zeros((60, 16), DType::F64, &device()).unwrap();
    assert_says(&model.set_output_embeddings(wrong).unwrap_err(), &["F64", "F32"]);
    let table = model.get_input_embeddings().clone();
    let mut bare = load::<BertModel>("base");
    let words = bare.get_input_embeddings().clone();
    assert!(bare.get_output_embeddings().is_none());
    assert!(matches!(bare.set_output_embeddings(words), Err(ModelError::NoDecoder)));

    model
        .set_trainable(|name| {
            name.ends_with("pooler.dense.bias") || name.ends_with("word_embeddings.weight")
        })
        .unwrap();
    for error in [
        model.resize_token_embeddings(61).unwrap_err(),
        model.set_input_embeddings(table.clone()).unwrap_err(),
        model.set_output_embeddings(table).unwrap_err(),
        model.bert.prune_heads(&BTreeMap::from([(0, vec![0])])).unwrap_err(),
    ] {
        assert_says(&error, &["is trained", "freeze()", "set_trainable()"]);
    }
    model.freeze().unwrap();
    model.resize_token_embeddings(61).unwrap();
}

/// Saves a model that transformers saved and compares the two folders.
fn saved_as_transformers_does<M: PreTrainedModel + Parameters>(folder: &str) {
    let model = load::<M>(folder);
    let saved = tempfile::tempdir().unwrap();
    model.save_pretrained(saved.path(), &SaveOptions::new()).unwrap();
    let weights = |path: &std::path::Path| tensors(&path.join("model.safetensors"));
    let (got, mut expected) = (weights(saved.path()), weights(&fixture(folder)));
    for (name, got) in &got {
        assert_same(name, got, &expected.remove(name).unwrap_or_else(|| panic!("{name}")));
    }
    assert!(expected.is_empty(), "{:?}", expected.keys());
    let config = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path.join("config.json")).unwrap();
        serde_json::from_str::<BTreeMap<String, serde_json::Value>>(&text).unwrap()
    };
    let (got, expected) = (config(saved.path()), config(&fixture(folder)));
    for (key, expected) in expected {
        assert_eq!(got[&key], expected, "{folder} {key}");
    }
}

#[test]
fn what_is_saved_has_the_names_values_and_settings_that_transformers_saves() {
    saved_as_transformers_does::<BertForMaskedLM>("heads/masked_lm");
    saved_as_transformers_does::<BertForPreTraining>("heads/pretraining");
    saved_as_transformers_does::<BertForSequenceClassification>("heads/sequence_classification");
    saved_as_transformers_does::<BertForSequenceClassification>("heads/regression");
    saved_as_transformers_does::<BertForTokenClassification>("heads/token_classification");
    saved_as_transformers_does::<BertForQuestionAnswering>("heads/question_answering");
    saved_as_transformers_does::<BertForMultipleChoice>("heads/multiple_choice");
    saved_as_transformers_does::<BertForNextSentencePrediction>("heads/next_sentence");
    saved_as_transformers_does::<BertLMHeadModel>("heads/lm");
    saved_as_transformers_does::<BertModel>("relative_key");
}

#[test]
fn shards_hold_what_one_file_holds_and_replace_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let files = || {
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let (one, other) = (load::<BertModel>("base"), {
        let mut model = load::<BertModel>("base");
        let table = (model.get_input_embeddings() * 2.).unwrap();
        model.set_input_embeddings(table).unwrap();
        model
    });
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    one.save_pretrained(path, &SaveOptions::new()).unwrap();
    assert_eq!(files(), ["config.json", "model.safetensors", "notes.txt"]);

    other.save_pretrained(path, &SaveOptions::new().with_max_shard_size(50_000)).unwrap();
    let names = files();
    assert!(names.contains(&"model.safetensors.index.json".to_owned()), "{names:?}");
    assert!(names.contains(&"model-00001-of-00003.safetensors".to_owned()), "{names:?}");
    assert!(!names.contains(&"model.safetensors".to_owned()), "{names:?}");
    for name in names.iter().filter(|name| name.starts_with("model-")) {
        assert!(path.join(name).metadata().unwrap().len() < 55_000, "{name}");
    }
    let loaded = BertModel::from_pretrained(path, &load_options()).unwrap();
    assert_same("words", loaded.get_input_embeddings(), other.get_input_embeddings());
    other.save_pretrained(path, &SaveOptions::new().with_max_shard_size(90_000)).unwrap();
    let shards = || files().into_iter().filter(|name| name.starts_with("model-")).count();
    assert_eq!(shards(), 2, "those of the earlier save go");

    one.save_pretrained(path, &SaveOptions::new()).unwrap();
    let loaded = BertModel::from_pretrained(path, &load_options()).unwrap();
    assert_same("words", loaded.get_input_embeddings(), one.get_input_embeddings());
    assert_eq!(files(), ["config.json", "model.safetensors", "notes.txt"]);
    assert_eq!(std::fs::read_to_string(path.join("notes.txt")).unwrap(), "mine");
}

#[test]
fn half_precision_is_saved_as_it_is() {
    for (dtype, name) in
        [(DType::BF16, "bfloat16"), (DType::F16, "float16"), (DType::F64, "float64")]
    {
        let model = model("base", dtype);
        let folder = tempfile::tempdir().unwrap();
        model.save_pretrained(folder.path(), &SaveOptions::new()).unwrap();
        let config = AutoConfig::from_pretrained(folder.path()).unwrap();
        assert_eq!(config.dtype.as_deref(), Some(name));
        let options = load_options().with_dtype(dtype);
        let (again, report) =
            BertModel::from_pretrained_with_report(folder.path(), &options).unwrap();
        assert!(report.converted.is_empty(), "{report}");
        assert_same(name, again.get_input_embeddings(), model.get_input_embeddings());
    }
}

#[test]
fn a_saved_tokenizer_gives_the_same_ids() {
    for entry in std::fs::read_dir(fixture("tokenizers")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.display();
        let mut tokenizer = AutoTokenizer::from_pretrained(&folder).unwrap();
        let words = tokenizer.vocab_size();
        assert_eq!(tokenizer.add_tokens(["<brandnew>"]).unwrap(), 1);
        assert_eq!(tokenizer.vocab_size(), words + 1);
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save_pretrained(saved.path()).unwrap();
        let again = AutoTokenizer::from_pretrained(saved.path()).unwrap();
        for text in
            ["Hello, my dog is CUTE", "Caf\u{e9} \u{6211}\u{7231}", "a <brandnew>word b <Cls>"]
        {
            let options = EncodeOptions::new();
            let ids = |tokenizer: &BertTokenizer| {
                tokenizer.encode(text, &options).unwrap().encodings[0].ids.clone()
            };
            assert_eq!(ids(&again), ids(&tokenizer), "{name}: {text}");
            if text.contains("brandnew") {
                assert!(ids(&again).contains(&(words as u32)), "{name}");
            }
        }
    }
}

#[test]
fn a_save_that_cannot_be_written_says_so_and_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "a file").unwrap();
    let error = load::<BertModel>("base").save_pretrained(&file, &SaveOptions::new()).unwrap_err();
    assert_says(&error, &["cannot save to", "file", "choose another folder"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "a file");
}
