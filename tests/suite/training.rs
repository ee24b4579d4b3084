//! Models that train: PyTorch's numbers after ten steps, dropout, freezing.

use std::collections::HashMap;

use bert::errors::TrainingError;
use bert::*;

use crate::support::*;

const STEPS: u64 = 10;

/// The fixture of ten steps of `folder`, and the schedule that it was made with.
fn ten_steps(folder: &str) -> (HashMap<String, Tensor>, Schedule) {
    let schedule = if folder.ends_with("masked_lm") { Schedule::linear } else { Schedule::cosine };
    let fixture = tensors(&fixture(folder).join("ten_steps.safetensors"));
    (fixture, schedule(1e-2, 2, STEPS).unwrap())
}

fn optimizer(vars: &VarMap) -> AdamW {
    AdamW::new(vars, AdamWOptions::new().with_weight_decay(0.1)).unwrap()
}

fn batch(fixture: &HashMap<String, Tensor>, step: u64) -> (BertInput, &Tensor) {
    let part = |name| &fixture[&format!("{step}/{name}")];
    let input = BertInput::from_ids(part("input_ids").clone())
        .with_attention_mask(part("attention_mask").clone());
    (input, part("labels"))
}

/// A class whose labels are one tensor.
trait Labeled: PreTrainedModel + Head<Labels = Tensor> {
    fn loss_of(&self, input: &BertInput, labels: &Tensor, options: &ForwardOptions) -> Tensor {
        self.forward_with_labels(input, labels, options).unwrap().0
    }
}

impl<M: PreTrainedModel + Head<Labels = Tensor>> Labeled for M {}

fn logits<M: Head>(model: &M, input: &BertInput) -> Tensor
where
    M::Output: ModelOutput,
{
    model.forward(input).unwrap().items().remove(0).1
}

/// Steps of training; the losses.
fn train<M: Labeled>(
    model: &M,
    vars: &VarMap,
    optimizer: &mut AdamW,
    folder: &str,
    steps: std::ops::Range<u64>,
) -> Vec<f64> {
    let (fixture, schedule) = ten_steps(folder);
    let norms = values(&fixture["norms"]);
    let mut gradients = Gradients::new(vars);
    steps
        .map(|step| {
            let (input, labels) = batch(&fixture, step);
            let loss = model.loss_of(&input, labels, &ForwardOptions::new());
            gradients.accumulate(&loss).unwrap();
            let norm = gradients.clip_norm(1.).unwrap();
            let expected = norms[step as usize];
            assert!((norm / expected - 1.).abs() < 1e-4, "norm {norm}, PyTorch {expected}");
            optimizer.step(&mut gradients, schedule.learning_rate(step)).unwrap();
            values(&loss)[0]
        })
        .collect()
}

fn assert_trained<M: Labeled>(model: &M, losses: &[f64], folder: &str, tolerance: f64) {
    let (mut fixture, _) = ten_steps(folder);
    for (step, expected) in values(&fixture["losses"]).iter().enumerate() {
        let error = (losses[step] / expected - 1.).abs();
        assert!(error < tolerance, "{folder} step {step}: {}, PyTorch {expected}", losses[step]);
    }
    model
        .for_each_parameter(|name, got| {
            let expected = fixture.remove(&format!("final/{name}")).unwrap();
            let largest = values(&expected).iter().fold(0f64, |a, b| a.max(b.abs()));
            assert_close(name, &got.tensor()?, &expected, tolerance * largest);
            Ok(())
        })
        .unwrap();
    assert!(!fixture.keys().any(|key| key.starts_with("final/")), "{:?}", fixture.keys());
}

fn load<M: Labeled>(folder: &str, dtype: DType) -> (M, VarMap) {
    M::from_pretrained_trainable(fixture(folder), &load_options().with_dtype(dtype)).unwrap()
}

/// Ten steps, then the same with a stop in the middle, then frozen.
fn ten_steps_are_those_of_pytorch<M: Labeled>(folder: &str)
where
    M::Output: ModelOutput,
{
    let (mut model, vars) = load::<M>(folder, DType::F64);
    let losses = train(&model, &vars, &mut optimizer(&vars), folder, 0..STEPS);
    assert_trained(&model, &losses, folder, 1e-5);

    // Saved and reloaded after four steps, model and optimizer.
    let (first, vars) = load::<M>(folder, DType::F64);
    let mut before = optimizer(&vars);
    let mut losses = train(&first, &vars, &mut before, folder, 0..4);
    let saved = tempfile::tempdir().unwrap();
    first.save_pretrained(saved.path(), &SaveOptions::new()).unwrap();
    let state = saved.path().join("optimizer.safetensors");
    save_tensors(&before.state().unwrap(), &state).unwrap();
    let options = load_options().with_dtype(DType::F64);
    let (second, vars) = M::from_pretrained_trainable(saved.path(), &options).unwrap();
    let mut after = optimizer(&vars);
    after.restore(&load_tensors(&state).unwrap()).unwrap();
    losses.extend(train(&second, &vars, &mut after, folder, 4..STEPS));
    assert_trained(&second, &losses, folder, 1e-5);

    let (fixture, _) = ten_steps(folder);
    let (input, _) = batch(&fixture, 0);
    let trainable = logits(&model, &input);
    assert!(trainable.track_op());
    model.freeze().unwrap();
    assert_trained(&model, &losses, folder, 1e-5);
    let frozen = logits(&model, &input);
    assert!(!frozen.track_op(), "a frozen model remembers nothing for gradients");
    assert_close("frozen", &frozen, &trainable, 1e-12);
    assert_eq!(model.num_trainable_parameters(), 0);
}

#[test]
fn ten_steps_of_classification_are_those_of_pytorch() {
    ten_steps_are_those_of_pytorch::<BertForSequenceClassification>(
        "heads/sequence_classification",
    );
}

#[test]
fn ten_steps_of_masked_words_are_those_of_pytorch() {
    ten_steps_are_those_of_pytorch::<BertForMaskedLM>("heads/masked_lm");
}

#[test]
fn ten_steps_in_f32_have_the_losses_of_pytorch() {
    let folder = "heads/sequence_classification";
    let (model, vars) = load::<BertForSequenceClassification>(folder, DType::F32);
    let losses = train(&model, &vars, &mut optimizer(&vars), folder, 0..STEPS);
    let (fixture, _) = ten_steps(folder);
    for (got, expected) in losses.iter().zip(values(&fixture["losses"])) {
        assert!((got / expected - 1.).abs() < 1e-4, "{got}, PyTorch {expected}");
    }
    model
        .for_each_parameter(|name, got| {
            // The gradient of a key's bias is rounding, of which Adam makes whole steps.
            if !name.ends_with("key.bias") {
                let expected = &fixture[&format!("final/{name}")];
                let largest = values(expected).iter().fold(0f64, |a, b| a.max(b.abs()));
                assert_close(name, &got.tensor()?, expected, 1e-4 * largest);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_frozen_model_keeps_its_numbers_when_the_variables_move_on() {
    let folder = "heads/sequence_classification";
    let (model, vars) = load::<BertForSequenceClassification>(folder, DType::F32);
    let mut frozen = model.clone();
    frozen.freeze().unwrap();
    let (fixture, _) = ten_steps(folder);
    let (input, _) = batch(&fixture, 3);
    let before = logits(&frozen, &input);
    train(&model, &vars, &mut optimizer(&vars), folder, 0..2);
    assert_same("frozen", &logits(&frozen, &input), &before);
    assert!(values(&logits(&model, &input)) != values(&before));
}

#[test]
fn only_chosen_parameters_learn() {
    let folder = "heads/sequence_classification";
    let mut model =
        BertForSequenceClassification::from_pretrained(fixture(folder), &load_options()).unwrap();
    let all = model.num_parameters();
    let vars = model.set_trainable(|name| !name.starts_with("bert.embeddings.")).unwrap();
    assert!(model.num_trainable_parameters() < all && model.num_parameters() == all);
    let before = tensors(&fixture(folder).join("model.safetensors"));
    let (fixture, _) = ten_steps(folder);
    let (input, labels) = batch(&fixture, 0);
    let mut gradients = Gradients::new(&vars);
    gradients.accumulate(&model.loss_of(&input, labels, &ForwardOptions::new())).unwrap();
    assert_eq!(gradients.missing().count(), 0);
    optimizer(&vars).step(&mut gradients, 1e-2).unwrap();
    model
        .for_each_parameter(|name, got| {
            let moved = values(&got.tensor()?) != values(&before[name]);
            assert_eq!(moved, !name.starts_with("bert.embeddings."), "{name}");
            Ok(())
        })
        .unwrap();
    // And all of them again.
    let vars = model.set_trainable(|_| true).unwrap();
    assert_eq!(model.num_trainable_parameters(), all);
    gradients = Gradients::new(&vars);
    gradients.accumulate(&model.loss_of(&input, labels, &ForwardOptions::new())).unwrap();
    assert_eq!(gradients.missing().count(), 0);
}

#[test]
fn parts_of_a_batch_learn_what_the_whole_batch_learns() {
    let (model, vars) = load::<BertForMaskedLM>("heads/masked_lm", DType::F64);
    let options = ForwardOptions::new();
    let input = |rows: &[&[u32]]| BertInput::from_ids(ids(rows));
    let labels = |rows: &[&[i64]]| {
        let width = rows[0].len();
        Tensor::from_vec(rows.concat(), (rows.len(), width), &device()).unwrap()
    };
    let rows: [&[u32]; 3] = [&[5, 6, 7, 8], &[9, 10, 11, 12], &[13, 14, 15, 16]];
    let learned: [&[i64]; 3] = [&[-100, 3, -100, -100], &[4, 5, -100, 6], &[-100, 7, 8, -100]];
    let mut whole = Gradients::new(&vars);
    whole.accumulate(&model.loss_of(&input(&rows), &labels(&learned), &options)).unwrap();
    let mut parts = Gradients::new(&vars);
    for part in [0..1, 1..3] {
        let labels = labels(&learned[part.clone()]);
        let loss = model.loss_of(&input(&rows[part]), &labels, &options);
        parts.accumulate_mean(&loss, counted_labels(&labels).unwrap()).unwrap();
    }
    let mut compared = 0;
    for name in vars.data().lock().unwrap().keys() {
        let Some(expected) = whole.get(name) else { continue };
        let (got, expected) = (values(parts.get(name).unwrap()), values(expected));
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() < 1e-12, "{name}: {got}, expected {expected}");
        }
        compared += got.len();
    }
    assert!(compared > 1000);
}

#[test]
fn weights_of_half_precision_learn_from_small_steps() {
    let (model, vars) =
        load::<BertForSequenceClassification>("heads/sequence_classification", DType::BF16);
    let weights = |name: &str| values(&vars.data().lock().unwrap()[name].as_tensor().clone());
    let name = "bert.encoder.layer.0.attention.self.value.weight";
    let before = weights(name);
    let input = BertInput::from_ids(ids(&[&[5, 6, 7, 8], &[9, 10, 11, 12]]));
    let labels = Tensor::new(&[0i64, 1], &device()).unwrap();
    let mut optimizer = AdamW::new(&vars, AdamWOptions::new().with_weight_decay(0.)).unwrap();
    let mut gradients = Gradients::new(&vars);
    for _ in 0..100 {
        let loss = model.loss_of(&input, &labels, &ForwardOptions::new());
        gradients.accumulate(&loss).unwrap();
        optimizer.step(&mut gradients, 2e-5).unwrap();
    }
    let moved = weights(name).iter().zip(&before).filter(|(a, b)| a != b).count();
    assert!(moved * 10 > before.len() * 9, "{moved} of {} moved", before.len());
}

#[test]
fn saved_tensors_begin_at_a_multiple_of_their_dtypes_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tensors.safetensors");
    let tensor = |count: usize, dtype| Tensor::ones(count, dtype, &Device::Cpu).unwrap();
    let tensors = HashMap::from([
        ("a".to_owned(), tensor(3, DType::F16)),
        ("b".to_owned(), tensor(3, DType::F32)),
        ("c".to_owned(), tensor(2, DType::F64)),
        ("d".to_owned(), tensor(1, DType::BF16)),
    ]);
    save_tensors(&tensors, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let header: serde_json::Value =
        serde_json::from_slice(&bytes[8..8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1])])
            .unwrap();
    for (name, tensor) in &tensors {
        let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
        assert_eq!(start % tensor.dtype().size_in_bytes(), 0, "{name}");
        assert_eq!(values(&load_tensors(&path).unwrap()[name]), values(tensor));
    }
}

#[test]
fn the_padding_row_learns_from_a_tied_decoder_only() {
    let (model, vars) =
        load::<BertForSequenceClassification>("heads/sequence_classification", DType::F32);
    let input = BertInput::from_ids(ids(&[&[3, 0, 5]]));
    let labels = Tensor::new(&[1u32], &device()).unwrap();
    let mut gradients = Gradients::new(&vars);
    gradients.accumulate(&model.loss_of(&input, &labels, &ForwardOptions::new())).unwrap();
    let rows = |gradients: &Gradients| {
        let gradient = gradients.get("bert.embeddings.word_embeddings.weight").unwrap();
        let sums = gradient.sqr().unwrap().sum(1).unwrap();
        values(&sums)
    };
    let of_classes = rows(&gradients);
    assert!(of_classes[0] == 0. && of_classes[3] > 0. && of_classes[4] == 0.);

    let (model, vars) = load::<BertForMaskedLM>("heads/masked_lm", DType::F32);
    let labels = Tensor::new(&[[7u32, 0, 5]], &device()).unwrap();
    let mut gradients = Gradients::new(&vars);
    gradients.accumulate(&model.loss_of(&input, &labels, &ForwardOptions::new())).unwrap();
    assert!(rows(&gradients)[0] > 0.);
}

/// A model whose every probability of dropout is `p`.
fn dropping(p: f64, field: &str) -> BertForSequenceClassification {
    let text =
        std::fs::read_to_string(fixture("heads/sequence_classification/config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for each in ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"] {
        config[each] = if each == field || field == "all" { p.into() } else { 0.0.into() };
    }
    let weights =
        std::fs::read(fixture("heads/sequence_classification/model.safetensors")).unwrap();
    let files = [("config.json", config.to_string().into_bytes()), ("model.safetensors", weights)];
    let checkpoint = Checkpoint::from_bytes(files);
    BertForSequenceClassification::from_pretrained(&checkpoint, &load_options()).unwrap()
}

#[test]
fn each_kind_of_dropout_acts_in_training_and_only_there() {
    let input = BertInput::from_ids(ids(&[&[3, 1, 5, 2]]));
    for field in ["hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"] {
        let model = dropping(0.3, field);
        let run =
            |context: &ForwardOptions| values(&model.forward_with(&input, context).unwrap().logits);
        let plain = run(&ForwardOptions::new());
        assert_eq!(plain, run(&ForwardOptions::new()));
        assert_ne!(plain, run(&ForwardOptions::training(1)), "{field}");
        assert_eq!(run(&ForwardOptions::training(1)), run(&ForwardOptions::training(1)));
        assert_ne!(run(&ForwardOptions::training(1)), run(&ForwardOptions::training(2)));
    }
}

#[test]
fn over_many_seeds_each_attention_weight_is_kept_as_often_as_the_config_says() {
    let model = dropping(0.25, "attention_probs_dropout_prob");
    let input = BertInput::from_ids(ids(&[&[3, 1, 5]]));
    let weights = |context: ForwardOptions| {
        let context = &context.with_attentions(Layers::All);
        values(&model.forward_with(&input, context).unwrap().attentions.unwrap()[0])
    };
    let plain = weights(ForwardOptions::new());
    const SEEDS: u64 = 2000;
    let mut kept = vec![0.; plain.len()];
    for seed in 0..SEEDS {
        for (i, got) in weights(ForwardOptions::training(seed)).iter().enumerate() {
            assert!(*got == 0. || (got / plain[i] - 1. / 0.75).abs() < 1e-5);
            kept[i] += f64::from(u8::from(*got != 0.)) / SEEDS as f64;
        }
    }
    // Five standard deviations of the mean of 2000 draws.
    assert!(kept.iter().all(|kept| (kept - 0.75).abs() < 0.05), "{kept:?}");
}

#[test]
fn the_same_seed_gives_the_same_losses() {
    let model = dropping(0.1, "all");
    let losses = |seed| {
        let mut model = model.clone();
        let vars = model.set_trainable(|_| true).unwrap();
        let (mut optimizer, mut gradients) = (optimizer(&vars), Gradients::new(&vars));
        let (fixture, schedule) = ten_steps("heads/sequence_classification");
        let context = &ForwardOptions::training(seed);
        (0..4)
            .map(|step| {
                let (input, labels) = batch(&fixture, step);
                let loss = model.loss_of(&input, labels, context);
                gradients.accumulate(&loss).unwrap();
                optimizer.step(&mut gradients, schedule.learning_rate(step)).unwrap();
                values(&loss)[0]
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(5), losses(5));
    assert_ne!(losses(5), losses(6));
    // One context draws anew for every pass.
    let input = BertInput::from_ids(ids(&[&[3, 1, 5, 2]]));
    let context = &ForwardOptions::training(5);
    let pass = || values(&model.forward_with(&input, context).unwrap().logits);
    assert_ne!(pass(), pass());
}

#[test]
fn new_models_are_drawn_as_the_config_says_and_the_same_for_a_seed() {
    let config = AutoConfig::from_pretrained(fixture("base")).unwrap();
    let new = |seed| BertModel::from_config(&config, seed, &load_options()).unwrap();
    let (a, b) = (new(1), new(1));
    let words = a.get_input_embeddings();
    assert_same("words", words, b.get_input_embeddings());
    assert!(values(words) != values(new(2).get_input_embeddings()));
    let drawn = values(words);
    let deviation = (drawn.iter().map(|x| x * x).sum::<f64>() / drawn.len() as f64).sqrt();
    assert!((deviation / config.initializer_range - 1.).abs() < 0.1, "{deviation}");
    assert_eq!(values(&words.get(0).unwrap()), vec![0.; 32], "the padding row");
    a.for_each_parameter(|name, parameter| {
        let parameter = &parameter.tensor()?;
        if name.ends_with("bias") {
            assert!(values(parameter).iter().all(|x| *x == 0.), "{name}");
        } else if name.ends_with("LayerNorm.weight") {
            assert!(values(parameter).iter().all(|x| *x == 1.), "{name}");
        }
        Ok(())
    })
    .unwrap();
    assert!(BertForMaskedLM::from_config(&config, 1, &load_options()).unwrap().has_tied_decoder());
}

#[test]
fn training_that_cannot_work_says_why() {
    let folder = "heads/sequence_classification";
    let (model, vars) = load::<BertForSequenceClassification>(folder, DType::F32);
    let mut optimizer = optimizer(&vars);
    let mut gradients = Gradients::new(&vars);
    assert_says(
        &Schedule::linear(f64::NAN, 1, 2).unwrap_err(),
        &["learning_rate is NaN", "finite"],
    );
    let error = optimizer.step(&mut gradients, f64::NAN).unwrap_err();
    assert_says(&error, &["learning_rate is NaN"]);

    let input = BertInput::from_ids(ids(&[&[3, 1], &[5, 2]]));
    let context = &ForwardOptions::new();
    let words = Tensor::new(&[[0.5f32, 1.], [0., 1.]], &device()).unwrap();
    let error = model.forward_with_labels(&input, &words, context).unwrap_err();
    assert_says(&error, &["labels has shape [2, 2]", "[2, 4]"]);
    let classes = Tensor::new(&[0u32, 4], &device()).unwrap();
    let error = model.forward_with_labels(&input, &classes, context).unwrap_err();
    assert_says(&error, &["label 4 at index 1", "0 to 3"]);

    let mut frozen = model.clone();
    frozen.freeze().unwrap();
    let labels = Tensor::new(&[0u32, 1], &device()).unwrap();
    let error = gradients.accumulate(&frozen.loss_of(&input, &labels, context)).unwrap_err();
    assert!(matches!(error, TrainingError::NoGradients { parameters: 25 }), "{error}");

    let mut config = model.bert.config().clone();
    config.set_labels(["calm", "angry"]);
    assert_eq!((config.num_labels(), config.label_id("angry").unwrap()), (2, 1));
    let error = config.label_id("sad").unwrap_err();
    assert_says(&error, &["\"sad\"", "id2label", "calm, angry"]);
}
