//! Every model with a head: scores and losses of transformers in float64.

use bert::errors::ModelError;
use bert::*;

use crate::support::*;

/// Loads a class, runs every case with its labels and compares scores and loss.
fn compare<M>(name: &str)
where
    M: PreTrainedModel + Head,
    M::Labels: CaseLabels,
    M::Output: ModelOutput,
{
    let folder = fixture("heads").join(name);
    let (model, report) = M::from_pretrained_with_report(&folder, &load_options()).unwrap();
    assert_eq!((report.unused.len(), report.missing.len()), (0, 0), "{report}");
    let cases = cases(&folder.join("cases.safetensors"));
    assert!(!cases.is_empty());
    for (case_name, case) in cases {
        let labels = CaseLabels::of(&case);
        let options = &ForwardOptions::new();
        let (loss, output) = model.forward_with_labels(&case.input, &labels, options).unwrap();
        let kept = &ForwardOptions::new().with_padding_states(PaddingStates::Kept);
        let plain = model.forward_with(&case.input, kept).unwrap().items();
        for ((field, output), (_, plain)) in output.items().iter().zip(&plain) {
            assert_same(&format!("{field} without labels"), plain, output);
        }
        let got: Vec<_> = [("loss".to_owned(), loss)].into_iter().chain(output.items()).collect();
        assert_eq!((got.len(), got.len()), (case.expected.len(), plain.len() + 1));
        for (field, got) in got {
            let what = format!("{name} {case_name} {field}");
            let expected = &case.expected[&field];
            let scale = if field == "loss" { values(expected)[0].abs() } else { 1. };
            assert_close(&what, &got, expected, 1e-5 * scale);
        }
    }
    for (dtype, tolerance) in [(DType::F16, 4e-3), (DType::BF16, 3e-2)] {
        compare_in_half_precision::<M>(name, dtype, tolerance);
    }
}

/// Runs every case in F16 or BF16 and compares scores, relative to the largest of a case. Weights and
/// the states of each layer are rounded to 2⁻¹¹ or 2⁻⁸ of them; scores sum up hundreds of such errors.
fn compare_in_half_precision<M>(name: &str, dtype: DType, tolerance: f64)
where
    M: PreTrainedModel + Head,
    M::Output: ModelOutput,
{
    let folder = fixture("heads").join(name);
    let model = M::from_pretrained(&folder, &load_options().with_dtype(dtype)).unwrap();
    for (case_name, mut case) in cases(&folder.join("cases.safetensors")) {
        case.convert(dtype);
        let kept = &ForwardOptions::new().with_padding_states(PaddingStates::Kept);
        for (field, got) in model.forward_with(&case.input, kept).unwrap().items() {
            let expected = &case.expected[&field];
            let largest = values(expected).iter().fold(0f64, |most, x| most.max(x.abs()));
            let what = format!("{name} {case_name} {field} in {dtype:?}");
            assert_close(&what, &got, expected, tolerance * largest);
        }
    }
}

#[test]
fn masked_words_have_the_scores_and_loss_of_transformers() {
    compare::<BertForMaskedLM>("masked_lm");
}

#[test]
fn next_sentences_have_the_scores_and_loss_of_transformers() {
    compare::<BertForNextSentencePrediction>("next_sentence");
}

#[test]
fn texts_have_the_scores_and_losses_of_transformers_for_every_problem_type() {
    for name in ["sequence_classification", "regression", "regression_of_four"] {
        compare::<BertForSequenceClassification>(name);
    }
}

#[test]
fn a_given_problem_type_counts_more_than_what_the_labels_look_like() {
    let folder = fixture("heads/sequence_classification");
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let cases = cases(&folder.join("cases.safetensors"));
    for (problem, case, labels_as) in [
        ("single_label_classification", "one_label", DType::I64),
        // Zeros and ones of an integer dtype would be taken for class ids.
        ("multi_label_classification", "any_labels", DType::I64),
    ] {
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["problem_type"] = problem.into();
        let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
        let files =
            [("config.json", config.to_string().into_bytes()), ("model.safetensors", weights)];
        let checkpoint = Checkpoint::from_bytes(files);
        let model = BertForSequenceClassification::from_pretrained(&checkpoint, &load_options());
        let labels = cases[case].labels["labels"].to_dtype(labels_as).unwrap();
        let context = &ForwardOptions::new();
        let (loss, _) =
            model.unwrap().forward_with_labels(&cases[case].input, &labels, context).unwrap();
        let expected = &cases[case].expected["loss"];
        assert_close(problem, &loss, expected, 1e-5 * values(expected)[0]);
    }
}

#[test]
fn heads_pass_on_what_the_model_below_them_keeps() {
    let everything =
        || ForwardOptions::new().with_hidden_states(Layers::All).with_attentions(Layers::All);
    let folder = fixture("heads/token_classification");
    let model = BertForTokenClassification::from_pretrained(&folder, &load_options()).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let output = model.forward_with(&input, &everything()).unwrap();
    let below = model.bert.forward_with(&input, &everything()).unwrap();
    let (states, attentions) = (output.hidden_states.unwrap(), output.attentions.unwrap());
    assert_eq!((states.iter().count(), attentions.iter().count()), (2, 1));
    assert_same("states", &states[1], &below.hidden_states.unwrap()[1]);
    assert_same("attentions", &attentions[0], &below.attentions.unwrap()[0]);
}

#[test]
fn heads_start_from_a_varmap_and_get_gradients() {
    let config = BertConfig::from_json(
        r#"{"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 6,
            "num_hidden_layers": 1, "max_position_embeddings": 4, "initializer_range": 0.5}"#,
    )
    .unwrap();
    let vars = candle_nn::VarMap::new();
    let vb = || candle_nn::VarBuilder::from_varmap(&vars, DType::F32, &device());
    let model = BertForPreTraining::load(vb(), &config).unwrap();
    assert!(model.has_tied_decoder());
    let labels = PreTrainingLabels {
        labels: Tensor::new(&[[1i64, -100, 3]], &device()).unwrap(),
        next_sentence_label: Tensor::new(&[1i64], &device()).unwrap(),
    };
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let (loss, _) = model.forward_with_labels(&input, &labels, &ForwardOptions::new()).unwrap();
    let gradients = loss.backward().unwrap();
    let vars = vars.data().lock().unwrap();
    assert_eq!(vars.keys().filter(|name| name.starts_with("cls.")).count(), 7);
    for (name, var) in vars.iter() {
        assert!(name.starts_with("cls.") || name.starts_with("bert."), "{name}");
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert!(values(gradient).iter().all(|g| g.is_finite()), "{name}");
    }
}

#[test]
fn tokens_have_the_scores_and_loss_of_transformers() {
    compare::<BertForTokenClassification>("token_classification");
}

#[test]
fn choices_have_the_scores_and_loss_of_transformers() {
    compare::<BertForMultipleChoice>("multiple_choice");
}

#[test]
fn pre_training_has_the_scores_and_loss_of_transformers() {
    compare::<BertForPreTraining>("pretraining");
}

#[test]
fn answers_have_the_scores_and_loss_of_transformers() {
    compare::<BertForQuestionAnswering>("question_answering");
}

#[test]
fn auto_classes_load_the_class_of_their_name() {
    let folder = fixture("heads/token_classification");
    let model = AutoModelForTokenClassification::from_pretrained(&folder, &load_options()).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3]]));
    let output = model.forward(&input).unwrap();
    assert_eq!(output.to_string(), "TokenClassifierOutput\n  logits: [1, 3, 4] F32\n");
}

#[test]
fn the_class_that_a_checkpoint_names_is_loaded() {
    let options = load_options();
    let load = |folder: &str| AutoModel::from_architecture(fixture(folder), &options).unwrap();
    assert!(matches!(load("base"), AnyModel::BertModel(_)));
    assert!(matches!(load("heads/lm"), AnyModel::BertLMHeadModel(_)));
    assert!(matches!(load("heads/masked_lm"), AnyModel::BertForMaskedLM(_)));
    assert!(matches!(load("heads/pretraining"), AnyModel::BertForPreTraining(_)));
    assert!(matches!(load("heads/next_sentence"), AnyModel::BertForNextSentencePrediction(_)));
    assert!(matches!(load("heads/regression"), AnyModel::BertForSequenceClassification(_)));
    assert!(matches!(load("heads/token_classification"), AnyModel::BertForTokenClassification(_)));
    assert!(matches!(load("heads/question_answering"), AnyModel::BertForQuestionAnswering(_)));
    assert!(matches!(load("heads/multiple_choice"), AnyModel::BertForMultipleChoice(_)));
    let other =
        Checkpoint::from_bytes([("config.json", br#"{"architectures": ["BertForX"]}"# as &[u8])]);
    let error = AutoModel::from_architecture(other, &options).unwrap_err();
    assert_says(&error, &["the class BertForX", "BertModel, BertForPreTraining"]);
}

#[test]
fn labels_that_do_not_fit_are_errors() {
    let options = load_options();
    let folder = fixture("heads/sequence_classification");
    let model = BertForSequenceClassification::from_pretrained(&folder, &options).unwrap();
    let input = BertInput::from_ids(ids(&[&[1, 2, 3], &[4, 5, 6]]));
    let refusal = |labels: Tensor| {
        model.forward_with_labels(&input, &labels, &ForwardOptions::new()).unwrap_err()
    };
    let integers = |values: &[i64]| Tensor::new(values, &device()).unwrap();
    assert_says(&refusal(integers(&[0, 4])), &["label 4 at index 1", "0 to 3 or -100"]);
    assert_says(&refusal(integers(&[-1, 0])), &["label -1 at index 0"]);
    assert_says(&refusal(integers(&[0, 1, 2])), &["labels has shape [3]", "expected [2]"]);
    assert!(matches!(refusal(integers(&[-100, -100])), ModelError::NoLabels { .. }));
    let floats = Tensor::zeros((2, 3), DType::F32, &device()).unwrap();
    assert_says(&refusal(floats), &["labels has shape [2, 3]", "expected [2, 4]"]);

    let folder = fixture("heads/token_classification");
    let tagger = BertForTokenClassification::from_pretrained(&folder, &options).unwrap();
    let floats = Tensor::zeros((2, 3), DType::F32, &device()).unwrap();
    let error = tagger.forward_with_labels(&input, &floats, &ForwardOptions::new());
    assert_says(&error.unwrap_err(), &["labels has dtype F32", "class ids"]);

    let folder = fixture("heads/multiple_choice");
    let chooser = BertForMultipleChoice::from_pretrained(&folder, &options).unwrap();
    assert_says(
        &chooser.forward(&input).unwrap_err(),
        &["input_ids has shape [2, 3]", "[B, C, S]"],
    );
    assert!(matches!(chooser.forward(&BertInput::default()), Err(ModelError::NoInput)));
    let cube = |b, c| Tensor::ones((b, c, 4), DType::U32, &device()).unwrap();
    let swapped = BertInput::from_ids(cube(2, 3)).with_attention_mask(cube(3, 2));
    let error = chooser.forward(&swapped).unwrap_err();
    assert_says(&error, &["attention_mask has shape [3, 2, 4]", "[2, 3, S]"]);
}

#[test]
fn a_head_without_the_pooler_it_needs_says_so() {
    let folder = fixture("heads/sequence_classification");
    let mut model =
        BertForSequenceClassification::from_pretrained(&folder, &load_options()).unwrap();
    model.bert.pooler = None;
    let error = model.forward(&BertInput::from_ids(ids(&[&[1, 2]]))).unwrap_err();
    assert!(matches!(error, ModelError::NoPooler), "{error}");
}

#[test]
fn losses_are_finite_and_right_in_half_precision() {
    for dtype in [DType::F16, DType::BF16] {
        let folder = fixture("heads/masked_lm");
        let model =
            BertForMaskedLM::from_pretrained(&folder, &load_options().with_dtype(dtype)).unwrap();
        let case = cases(&folder.join("cases.safetensors")).remove("words").unwrap();
        let labels = &case.labels["labels"];
        let (loss, _) =
            model.forward_with_labels(&case.input, labels, &ForwardOptions::new()).unwrap();
        assert_eq!(loss.dtype(), DType::F32);
        assert_close("loss", &loss, &case.expected["loss"], 0.05);
    }
}
