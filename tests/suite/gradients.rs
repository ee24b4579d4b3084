//! Gradients of every class against PyTorch's, parameter by parameter.

use bert::*;

use crate::support::*;

/// Loads a class in F64, computes the loss of a case and compares every parameter's gradient.
fn compare<M: PreTrainedModel + Parameters>(
    folder: &str,
    case: &str,
    loss: impl Fn(&M, &Case, &ForwardOptions) -> Tensor,
) {
    let folder = fixture(folder);
    let options = load_options().with_dtype(DType::F64);
    let (model, vars) = M::from_pretrained_trainable(&folder, &options).unwrap();
    let mut case = cases(&folder.join("cases.safetensors")).remove(case).unwrap();
    case.convert(DType::F64);
    let mut gradients = Gradients::new(&vars);
    gradients.accumulate(&loss(&model, &case, &ForwardOptions::new())).unwrap();

    let mut names = Vec::new();
    let mut expected = tensors(&folder.join("gradients.safetensors"));
    model
        .for_each_parameter(|name, _| {
            let got = gradients.get(name);
            match (got, expected.remove(name)) {
                (Some(got), Some(expected)) => {
                    let norm = norm(&expected);
                    // Softmax does not see a constant added to every score, which is all that a
                    // key's bias does: its gradient is rounding.
                    let scale = if norm < 1e-12 { 1e-6 } else { norm };
                    assert_close(name, got, &expected, 2e-6 * scale);
                    assert!(norm < 1e-12 || self::norm(got) > 0.);
                    names.push(format!("{name}: {norm:.3e}"));
                }
                (None, None) => names.push(format!("{name}: none")),
                (got, expected) => {
                    panic!("{name}: {:?}, PyTorch {:?}", got.is_some(), expected.is_some())
                }
            }
            Ok(())
        })
        .unwrap();
    assert!(expected.is_empty(), "no such parameters: {:?}", expected.keys());
    println!("{}, {} parameters\n  {}", M::CLASS, names.len(), names.join("\n  "));
}

fn norm(tensor: &Tensor) -> f64 {
    values(tensor).iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The sum of all elements, each with a weight of its own: LayerNorm's plain sum is constant.
fn weighed(x: &Tensor) -> Tensor {
    let weights: Vec<f64> = (0..x.elem_count()).map(|i| (i as f64).sin()).collect();
    let weights = Tensor::from_vec(weights, x.dims(), x.device()).unwrap();
    (x * weights).unwrap().sum_all().unwrap()
}

/// [`compare`] for the loss of a class with a head.
fn compare_loss<M>(folder: &str, case: &str)
where
    M: PreTrainedModel + Head,
    M::Labels: CaseLabels,
{
    compare::<M>(folder, case, |model, case, options| {
        model.forward_with_labels(&case.input, &CaseLabels::of(case), options).unwrap().0
    });
}

#[test]
fn masked_words_have_the_gradients_of_pytorch() {
    compare_loss::<BertForMaskedLM>("heads/masked_lm", "words");
}

#[test]
fn next_sentences_have_the_gradients_of_pytorch() {
    compare_loss::<BertForNextSentencePrediction>("heads/next_sentence", "labels");
}

#[test]
fn texts_have_the_gradients_of_pytorch() {
    compare_loss::<BertForSequenceClassification>("heads/sequence_classification", "one_label");
    compare_loss::<BertForSequenceClassification>("heads/regression", "numbers");
}

#[test]
fn tokens_have_the_gradients_of_pytorch() {
    compare_loss::<BertForTokenClassification>("heads/token_classification", "tags");
}

#[test]
fn choices_have_the_gradients_of_pytorch() {
    compare_loss::<BertForMultipleChoice>("heads/multiple_choice", "choice");
}

#[test]
fn answers_have_the_gradients_of_pytorch() {
    compare_loss::<BertForQuestionAnswering>("heads/question_answering", "answers");
}

#[test]
fn pretraining_has_the_gradients_of_pytorch() {
    compare_loss::<BertForPreTraining>("heads/pretraining", "both");
}

#[test]
fn decoders_with_cross_attention_have_the_gradients_of_pytorch() {
    compare::<BertLMHeadModel>("heads/lm", "cross", |model, case, context| {
        let labels = case.input.input_ids.as_ref().unwrap();
        model.forward_with_labels(&case.input, labels, context).unwrap().0
    });
}

#[test]
fn the_bare_model_has_the_gradients_of_pytorch_with_each_kind_of_positions() {
    for (folder, case) in
        [("base", "right"), ("relative_key", "padded"), ("relative_key_query", "padded")]
    {
        compare::<BertModel>(folder, case, |model, case, context| {
            let input = BertInput { token_type_ids: None, ..case.input.clone() };
            let output = model.forward_with(&input, context).unwrap();
            let pooled = weighed(&output.pooler_output.unwrap());
            (weighed(&output.last_hidden_state) + pooled).unwrap()
        });
    }
}

#[test]
fn activations_have_a_gradient_that_agrees_with_small_steps() {
    let x = [-3.1f64, -0.9, -0.2, 0.3, 1.4, 4.2];
    for name in Activation::names() {
        let config = format!(
            r#"{{"vocab_size": 9, "hidden_size": 6, "num_attention_heads": 1, "intermediate_size": 6,
                "num_hidden_layers": 1, "max_position_embeddings": 4, "hidden_act": "{name}"}}"#
        );
        let activation = BertConfig::from_json(&config).unwrap().activation().unwrap();
        let at = |x: &Tensor| bert_kernels::activate(x, activation).unwrap();
        let var = candle_core::Var::new(&x, &device()).unwrap();
        let store = at(&var).sum_all().unwrap().backward().unwrap();
        // Where an activation is flat on both sides, Candle may have none.
        let got = values(&store.get(&var).cloned().unwrap_or(var.zeros_like().unwrap()));
        let step = 1e-5;
        let ahead = values(&at(&(var.as_detached_tensor() + step).unwrap()));
        let behind = values(&at(&(var.as_detached_tensor() - step).unwrap()));
        for (i, got) in got.iter().enumerate() {
            let expected = (ahead[i] - behind[i]) / (2. * step);
            assert!(
                (got - expected).abs() < 1e-5,
                "{name} at {}: {got}, expected {expected}",
                x[i]
            );
        }
    }
}
