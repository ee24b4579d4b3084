//! Pipelines against those of transformers, on tiny checkpoints.

use bert::*;
use serde_json::{Value, json};

use crate::support::*;

/// A call of a pipeline in Python, and what it returned.
#[derive(serde::Deserialize)]
struct Call {
    pipeline: String,
    model: String,
    input: Value,
    options: Value,
    expected: Value,
}

fn calls(pipeline: &str) -> Vec<Call> {
    let read = |name: &str| -> Vec<Call> {
        let file = std::fs::read(fixture("pipelines").join(name)).unwrap();
        serde_json::from_slice(&file).unwrap()
    };
    let all = read("cases.json").into_iter().chain(read("cases_v4.json"));
    let calls: Vec<Call> = all.filter(|call| call.pipeline == pipeline).collect();
    assert!(calls.len() > 3, "{pipeline}");
    calls
}

impl Call {
    fn folder(&self) -> std::path::PathBuf {
        fixture("pipelines").join(&self.model)
    }

    fn number(&self, option: &str) -> Option<usize> {
        self.options[option].as_u64().map(|number| number as usize)
    }

    fn is(&self, option: &str) -> bool {
        self.options[option] == true
    }

    fn texts(&self, option: &str) -> Option<Vec<String>> {
        match &self.options[option] {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(texts) => {
                Some(texts.iter().map(|it| it.as_str().unwrap().to_owned()).collect())
            }
            _ => None,
        }
    }

    fn text(&self) -> &str {
        self.input.as_str().unwrap()
    }

    fn pair(&self, first: &str, second: &str) -> (String, String) {
        let text = |key: &str| self.input[key].as_str().unwrap().to_owned();
        (text(first), text(second))
    }

    #[track_caller]
    fn check(&self, got: Value) {
        let what = format!("{} {} {} {}", self.pipeline, self.model, self.input, self.options);
        assert_json_close(&what, &got, &self.expected);
    }
}

/// Compares numbers to 1e-5, everything else exactly.
#[track_caller]
pub fn assert_json_close(what: &str, got: &Value, expected: &Value) {
    let differ = || panic!("{what}\n     got {got}\nexpected {expected}");
    match (got, expected) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| assert_json_close(what, a, b));
        }
        (Value::Object(a), Value::Object(b)) if a.keys().all(|key| b.contains_key(key)) => {
            let get = |key| a.get(key).unwrap_or(&Value::Null);
            b.iter().for_each(|(key, b)| assert_json_close(what, get(key), b));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            if (a - b).abs() > 1e-5 * b.abs().max(1.) {
                differ();
            }
        }
        _ if got == expected => {}
        _ => differ(),
    }
}

/// The only one, as transformers returns it; otherwise all.
fn alone_or_all<T: serde::Serialize>(results: &[T]) -> Value {
    match results {
        [result] => json!(result),
        results => json!(results),
    }
}

#[test]
fn masks_are_filled_as_transformers_fills_them() {
    for call in calls("fill-mask") {
        let pipeline = FillMaskPipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let mut options = FillMaskOptions::new();
        options.top_k = call.number("top_k").unwrap_or(5);
        options.targets = call.texts("targets");
        options.truncation = call.options.get("tokenizer_kwargs").is_some();
        call.check(alone_or_all(&pipeline.run(call.text(), &options).unwrap()));
    }
}

#[test]
fn texts_are_classified_as_in_transformers() {
    for call in calls("text-classification") {
        let pipeline =
            TextClassificationPipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let mut options = TextClassificationOptions::new();
        if call.options.get("top_k").is_some() {
            options.top_k = call.number("top_k");
        }
        options.function_to_apply = match call.options["function_to_apply"].as_str() {
            Some("softmax") => Some(FunctionToApply::Softmax),
            Some("sigmoid") => Some(FunctionToApply::Sigmoid),
            Some("none") => Some(FunctionToApply::None),
            _ => None,
        };
        options.truncation = call.is("truncation");
        let labels = match &call.input {
            Value::String(text) => pipeline.run(text, &options),
            _ => pipeline.run(&call.pair("text", "text_pair"), &options),
        }
        .unwrap();
        // With a pair and without top_k, transformers returns the one label.
        let is_alone = call.expected.is_object();
        call.check(if is_alone { alone_or_all(&labels) } else { json!(labels) });
    }
}

#[test]
fn tokens_are_labeled_and_grouped_as_in_transformers() {
    for call in calls("token-classification") {
        let pipeline =
            TokenClassificationPipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let strategy = match call.options["aggregation_strategy"].as_str() {
            Some("simple") => AggregationStrategy::Simple,
            Some("first") => AggregationStrategy::First,
            Some("average") => AggregationStrategy::Average,
            Some("max") => AggregationStrategy::Max,
            _ => AggregationStrategy::None,
        };
        let mut options = TokenClassificationOptions::new().with_aggregation_strategy(strategy);
        options.stride = call.number("stride");
        options.truncation = true;
        if let Some(labels) = call.texts("ignore_labels") {
            options.ignore_labels = labels;
        }
        if let Some(delimiter) = call.options["delimiter"].as_str() {
            options.delimiter = delimiter.to_owned();
        }
        let entities = match &call.input {
            Value::String(text) => pipeline.run(text, &options),
            words => {
                let words: Vec<String> = serde_json::from_value(words.clone()).unwrap();
                pipeline.run(Words::from(&words), &options)
            }
        };
        let entities = json!(entities.unwrap());
        // Words are a batch of one for transformers.
        call.check(if call.input.is_array() { json!([entities]) } else { entities });
    }
}

#[test]
fn labels_without_training_are_those_of_transformers() {
    for call in calls("zero-shot-classification") {
        let pipeline =
            ZeroShotClassificationPipeline::from_pretrained(&*call.folder(), &load_options())
                .unwrap();
        let mut options = ZeroShotClassificationOptions::new().with_truncation();
        options.multi_label = call.is("multi_label");
        if let Some(template) = call.options["hypothesis_template"].as_str() {
            options.hypothesis_template = template.to_owned();
        }
        // A single text is a list with commas.
        let labels = match &call.options["candidate_labels"] {
            Value::String(list) => {
                let labels = list.split(',').map(|it| it.trim().to_owned());
                labels.filter(|label| !label.is_empty()).collect()
            }
            _ => call.texts("candidate_labels").unwrap(),
        };
        call.check(json!(pipeline.run(call.text(), &labels, &options).unwrap()));
    }
}

#[test]
fn features_are_those_of_transformers() {
    for call in calls("feature-extraction") {
        let pipeline =
            FeatureExtractionPipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let mut options = FeatureExtractionOptions::new();
        options.truncation = call.options.get("tokenize_kwargs").is_some();
        call.check(json!([pipeline.run(call.text(), &options).unwrap()]));
    }
}

#[test]
fn next_sentences_have_the_probabilities_of_transformers() {
    for call in calls("next-sentence") {
        let pipeline =
            NextSentencePipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let pair = call.pair("text", "text_pair");
        let both = pipeline.run(&pair, &NextSentenceOptions::new()).unwrap();
        call.check(json!([both.is_next, both.not_next]));
    }
}

#[test]
fn answers_are_those_of_transformers() {
    for call in calls("question-answering") {
        let pipeline =
            QuestionAnsweringPipeline::from_pretrained(&*call.folder(), &load_options()).unwrap();
        let mut options = QuestionAnsweringOptions::new();
        options.top_k = call.number("top_k").unwrap_or(1);
        options.max_answer_len = call.number("max_answer_len").unwrap_or(15);
        options.max_seq_len = call.number("max_seq_len");
        options.doc_stride = call.number("doc_stride");
        options.handle_impossible_answer = call.is("handle_impossible_answer");
        options.align_to_words = call.options["align_to_words"] != false;
        let pair = call.pair("question", "context");
        let answers = pipeline.run(&pair, &options).unwrap();
        call.check(alone_or_all(&answers));
        let options = options.with_offsets(OffsetUnit::Bytes);
        for (bytes, characters) in pipeline.run(&pair, &options).unwrap().iter().zip(&answers) {
            assert_eq!(pair.1[bytes.start..bytes.end], bytes.answer);
            assert_eq!(bytes.answer, characters.answer);
        }
    }
}

#[test]
fn a_question_has_no_answers_even_where_it_has_special_tokens() {
    let folder = fixture("pipelines/answers");
    let pipeline = QuestionAnsweringPipeline::from_pretrained(folder, &load_options()).unwrap();
    // All answers of one token: "a", "happy" and "dog". The second `[CLS]` would be one more.
    let options = QuestionAnsweringOptions::new().with_top_k(99).with_max_answer_len(1);
    let pair = ("[CLS] who [CLS] is [SEP] it?", "a happy dog");
    let answers = pipeline.run(pair, &options.without_alignment()).unwrap();
    let mut words: Vec<&str> = answers.iter().map(|it| &*it.answer).collect();
    words.sort_unstable();
    assert_eq!(words, ["a", "dog", "happy"]);
}

fn classifier() -> TextClassificationPipeline {
    let folder = fixture("pipelines/three_labels");
    TextClassificationPipeline::from_pretrained(&folder, &load_options()).unwrap()
}

fn tagger() -> TokenClassificationPipeline {
    TokenClassificationPipeline::from_pretrained(fixture("pipelines/ner"), &load_options()).unwrap()
}

fn mask_filler() -> FillMaskPipeline {
    FillMaskPipeline::from_pretrained(fixture("pipelines/masked_lm"), &load_options()).unwrap()
}

/// Texts of very different lengths.
fn many_texts() -> Vec<String> {
    let words = ["the", "dog", "is", "happy", "in", "a", "big", "city", "caf\u{e9}", "?"];
    let text =
        |i: usize| -> Vec<&str> { (0..i * 7 % 13).map(|j| words[(i + 3 * j) % 10]).collect() };
    (0..600).map(|i| text(i).join(" ")).collect()
}

#[test]
fn a_text_has_the_same_result_alone_and_among_others_in_any_order() {
    let classifier = classifier();
    let options = TextClassificationOptions::new().with_all();
    let texts = many_texts();
    let run = |texts: &[String]| -> Vec<Vec<Classification>> {
        classifier.run_all(texts, &options).collect::<Result<_>>().unwrap()
    };
    let scores = |labels: &[Classification]| {
        let mut scores: Vec<(String, f32)> =
            labels.iter().map(|it| (it.label.clone(), it.score)).collect();
        scores.sort_by(|a, b| a.0.cmp(&b.0));
        scores
    };
    let together = run(&texts);
    assert_eq!(together.len(), texts.len());
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    for (a, b) in together.iter().zip(run(&reversed).iter().rev()) {
        for (a, b) in scores(a).iter().zip(scores(b)) {
            assert!((a.1 - b.1).abs() < 1e-6, "{a:?} and {b:?}");
        }
    }
    for (text, labels) in texts.iter().zip(&together).step_by(7) {
        let alone = classifier.run(text, &options).unwrap();
        for (a, b) in scores(&alone).iter().zip(scores(labels)) {
            assert!((a.1 - b.1).abs() < 1e-6, "{text:?}: {a:?} and {b:?}");
        }
    }
}

#[test]
fn eight_threads_share_a_pipeline() {
    let (tagger, texts) = (tagger(), many_texts());
    let options = TokenClassificationOptions::new()
        .with_aggregation_strategy(AggregationStrategy::First)
        .with_stride(4);
    let run = || -> Vec<Vec<Entity>> {
        tagger.run_all(&texts[..60], &options).collect::<Result<_>>().unwrap()
    };
    let expected = run();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(run(), expected));
        }
    });
}

#[test]
fn texts_are_read_when_their_results_are_asked_for() {
    let read = std::cell::Cell::new(0);
    let endless = std::iter::repeat_with(|| {
        read.set(read.get() + 1);
        "the dog is happy"
    });
    let classifier = classifier();
    let options = TextClassificationOptions::new();
    let first: Vec<_> = classifier.run_all(endless, &options).take(3).collect();
    assert_eq!(first.len(), 3);
    assert!(first.iter().all(|labels| labels.as_ref().unwrap().len() == 1));
    assert!(read.get() <= 1024, "{}", read.get());
    let none: [&str; 0] = [];
    assert_eq!(classifier.run_all(none, &options).count(), 0);
}

#[test]
fn a_text_that_is_too_long_is_an_error_unless_told_otherwise() {
    let long = "the dog is happy ".repeat(700_000);
    assert!(long.len() > 10_000_000);
    let start = std::time::Instant::now();
    let way_out = ["text 0 has more tokens than the", "that the checkpoint allows", "_truncation"];
    let plain = TextClassificationOptions::new();
    assert_says(&classifier().run(&long, &plain).unwrap_err(), &way_out);
    assert_eq!(classifier().run(&long, &plain.with_truncation()).unwrap().len(), 1);
    let plain = TokenClassificationOptions::new();
    assert_says(&tagger().run(&long, &plain).unwrap_err(), &[way_out[0], "with_stride"]);
    assert!(tagger().run(&long, &plain.with_truncation()).is_ok());
    let masked = format!("[MASK] {long}");
    let plain = FillMaskOptions::new();
    assert_says(&mask_filler().run(&masked, &plain).unwrap_err(), &way_out);
    assert_eq!(mask_filler().run(&masked, &plain.with_truncation()).unwrap().len(), 1);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());

    // The row counts from the first text, not from those that were read together.
    let texts = (0..700).map(|i| if i == 611 { &*long } else { "a dog" });
    let plain = TextClassificationOptions::new();
    let results: Vec<_> = classifier().run_all(texts, &plain).collect();
    assert_eq!(results.len(), 612, "it ends after the first error");
    assert!(results[..611].iter().all(|labels| labels.is_ok()));
    assert_says(results[611].as_ref().unwrap_err(), &["text 611 has more tokens"]);
}

#[test]
fn options_and_texts_that_cannot_be_are_errors_with_a_way_out() {
    let mut fill_mask = mask_filler();
    let error = fill_mask.run("no mask", &FillMaskOptions::new()).unwrap_err();
    assert_says(&error, &["text 0 has no [MASK]"]);
    let targets = FillMaskOptions::new().with_targets(["", " "]);
    assert_says(&fill_mask.run("[MASK]", &targets).unwrap_err(), &["at least one word"]);
    // A word that the tokenizer has and the model has not.
    fill_mask.tokenizer.add_tokens(["wolfgang"]).unwrap();
    let unknown = FillMaskOptions::new().with_targets(["wolfgang"]);
    let error = fill_mask.run("[MASK]", &unknown).unwrap_err();
    assert_says(&error, &["target is \"wolfgang\"", "resize_token_embeddings"]);
    let none = FillMaskOptions::new().with_top_k(0);
    assert_says(&fill_mask.run("[MASK]", &none).unwrap_err(), &["top_k is 0, expected 1 or more"]);

    let error = TextClassificationPipeline::from_pretrained(
        fixture("pipelines/masked_lm"),
        &load_options(),
    );
    assert_says(&error.unwrap_err(), &["classifier.weight"]);

    let folder = fixture("pipelines/three_labels");
    let zero_shot = ZeroShotClassificationPipeline::from_pretrained(&folder, &load_options());
    let options = ZeroShotClassificationOptions::new();
    let error = zero_shot.unwrap().run("a dog", &["animals"], &options).unwrap_err();
    assert_says(&error, &["positive", "entail", "natural-language inference"]);
    let folder = fixture("pipelines/nli");
    let zero_shot =
        ZeroShotClassificationPipeline::from_pretrained(&folder, &load_options()).unwrap();
    let none: [&str; 0] = [];
    assert_says(
        &zero_shot.run("a dog", &none, &options).unwrap_err(),
        &["candidate_labels is none"],
    );
    let template = options.clone().with_hypothesis_template("it is");
    assert_says(&zero_shot.run("a dog", &["x"], &template).unwrap_err(), &["\"it is\"", "{}"]);
    let label = "dog ".repeat(99);
    let error = zero_shot.run("a", &[&label], &options.with_truncation()).unwrap_err();
    assert_says(&error, &["text 0 does not fit", "shorten the text or the label"]);

    let error = tagger().run(("a", "b"), &TokenClassificationOptions::new()).unwrap_err();
    assert_says(&error, &["text 0 is a pair"]);
    let wide = TokenClassificationOptions::new().with_stride(22);
    let long = "a dog ".repeat(30);
    assert_says(
        &tagger().run(&long, &wide).unwrap_err(),
        &["text 0 does not fit", "smaller stride"],
    );
    assert!(tagger().run("a dog", &wide).is_ok());

    let folder = fixture("pipelines/next_sentence");
    let next = NextSentencePipeline::from_pretrained(&folder, &load_options()).unwrap();
    let error = next.run("alone", &NextSentenceOptions::new()).unwrap_err();
    assert_says(&error, &["text 0 is a single text", "(first, second)"]);

    let folder = fixture("pipelines/answers");
    let answers = QuestionAnsweringPipeline::from_pretrained(&folder, &load_options()).unwrap();
    let run = |options| answers.run(("who is it?", "a dog"), &options).unwrap_err();
    let options = QuestionAnsweringOptions::new();
    assert_says(&run(options.clone().with_top_k(0)), &["top_k is 0"]);
    assert_says(&run(options.clone().with_max_answer_len(0)), &["max_answer_len is 0"]);
    let long = options.clone().with_max_seq_len(99);
    assert_says(&run(long), &["max_seq_len is 99", "at most 48"]);
    let narrow = options.clone().with_max_seq_len(9).with_doc_stride(5);
    assert!(answers.run(("who?", "a dog"), &narrow).is_ok());
    let error = answers.run(("who?", &*"a dog ".repeat(30)), &narrow).unwrap_err();
    assert_says(&error, &["text 0 does not fit", "smaller doc_stride"]);
    assert_eq!(answers.run(("who?", ""), &options).unwrap(), []);
}

/// A fixture in memory, one of its files changed.
fn changed(name: &str, file: &str, change: impl Fn(&mut Value)) -> Checkpoint {
    let entries = std::fs::read_dir(fixture("pipelines").join(name)).unwrap();
    let files = entries.map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut content = std::fs::read(&path).unwrap();
        if name == file {
            let mut value = serde_json::from_slice(&content).unwrap();
            change(&mut value);
            content = value.to_string().into_bytes();
        }
        (name, content)
    });
    Checkpoint::from_bytes(files)
}

#[test]
fn a_model_that_reads_no_types_gets_none() {
    let pair = ("the dog is happy", "a sad cat");
    let options = TextClassificationOptions::new().with_all();
    let run = |checkpoint: Checkpoint| {
        let pipeline = TextClassificationPipeline::from_pretrained(checkpoint, &load_options());
        pipeline.unwrap().run(pair, &options).unwrap()
    };
    let without = |names: Value| {
        changed("three_labels", "tokenizer_config.json", |config| {
            config["model_input_names"] = names.clone();
        })
    };
    let usual = run(without(json!(["input_ids", "token_type_ids", "attention_mask"])));
    assert_eq!(usual, classifier().run(pair, &options).unwrap());
    let plain = run(without(json!(["input_ids", "attention_mask"])));
    // As transformers 5.23 has it.
    assert_eq!(plain[0].label, "positive");
    assert!((plain[0].score - 0.4209).abs() > 1e-3 && (plain[0].score - 0.4415).abs() < 1e-4);
    let distil = changed("three_labels", "tokenizer_config.json", |config| {
        config["tokenizer_class"] = "DistilBertTokenizer".into();
    });
    assert_eq!(run(distil), plain);
}

#[test]
fn a_target_is_cut_on_the_side_where_texts_are() {
    let word = |side: &str| {
        let checkpoint = changed("masked_lm", "tokenizer_config.json", |config| {
            config["truncation_side"] = side.into();
        });
        let pipeline = FillMaskPipeline::from_pretrained(checkpoint, &load_options()).unwrap();
        let options = FillMaskOptions::new().with_targets(["unhappily"]);
        pipeline.run("[MASK]", &options).unwrap()[0][0].token_str.clone()
    };
    // As in transformers 5.24.
    assert_eq!([word("right"), word("left")], ["un", "##ly"]);
}

#[test]
fn scores_that_are_no_numbers_are_shown() {
    let folder = fixture("pipelines/answers");
    let mut pipeline = QuestionAnsweringPipeline::from_pretrained(folder, &load_options()).unwrap();
    let nan = Tensor::new(&[f32::NAN; 2], &Device::Cpu).unwrap();
    pipeline.model.replace_parameters(&[("qa_outputs.bias".to_owned(), nan)].into()).unwrap();
    for options in [
        QuestionAnsweringOptions::new(),
        QuestionAnsweringOptions::new().with_impossible_answer().with_top_k(99),
    ] {
        let answers = pipeline.run(("who?", "a dog"), &options).unwrap();
        assert!(!answers.is_empty());
        assert!(answers.iter().all(|answer| answer.score.is_nan()), "{answers:?}");
    }
}

#[test]
fn entailment_is_found_by_either_name_of_a_label() {
    let run = |checkpoint| {
        let options = ZeroShotClassificationOptions::new();
        let pipeline =
            ZeroShotClassificationPipeline::from_pretrained(checkpoint, &load_options()).unwrap();
        pipeline.run("the dog lives in a big city.", &["sports", "music"], &options).unwrap()
    };
    let unnamed = changed("nli", "config.json", |config| {
        config["id2label"] = json!({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"});
    });
    assert_eq!(run(unnamed), run(Checkpoint::from_dir(fixture("pipelines/nli")).unwrap()));
}

#[test]
fn thousands_of_labels_have_the_scores_that_they_have_alone() {
    let folder = fixture("pipelines/nli");
    let pipeline =
        ZeroShotClassificationPipeline::from_pretrained(folder, &load_options()).unwrap();
    let labels: Vec<String> = (0..1100).map(|i| format!("dog {i}")).collect();
    let options = ZeroShotClassificationOptions::new().with_multi_label();
    let texts = ["the dog is happy", "a cat"];
    let results = pipeline.run_all(texts, &labels, &options).collect::<Result<Vec<_>>>().unwrap();
    assert_eq!(results.len(), 2);
    for (text, all) in texts.iter().zip(results) {
        assert_eq!(all.labels.len(), labels.len());
        for at in [0, 500, 1099] {
            let alone = pipeline.run(text, &[&all.labels[at]], &options).unwrap();
            assert!((alone.scores[0] - all.scores[at]).abs() < 1e-6, "{text} {}", all.labels[at]);
        }
    }
    let long = "very ".repeat(90);
    let results: Vec<_> = pipeline.run_all(["a cat", &*long], &labels, &options).collect();
    assert_eq!((results.len(), results[0].is_ok()), (2, true));
    assert_says(results[1].as_ref().unwrap_err(), &["text 1 has more tokens"]);
}

#[test]
fn options_need_not_outlive_the_call_and_texts_come_in_many_forms() {
    let classifier = classifier();
    let results = classifier.run_all(["a dog"], &TextClassificationOptions::new());
    assert_eq!(results.count(), 1);
    let options = TextClassificationOptions::new();
    let count = |results: &mut dyn Iterator<Item = Result<Vec<Classification>>>| {
        results.map(|labels| labels.unwrap().len()).sum::<usize>()
    };
    let pairs = vec![("a".to_owned(), "dog".to_owned()), ("a".to_owned(), "cat".to_owned())];
    assert_eq!(count(&mut classifier.run_all(&pairs, &options)), 2);
    assert_eq!(count(&mut classifier.run_all(pairs, &options)), 2);
    let texts = vec![std::borrow::Cow::Borrowed("a dog"), "a cat".to_owned().into()];
    assert_eq!(count(&mut classifier.run_all(texts, &options)), 2);
    let words = [vec!["a", "dog"], vec!["a", "cat"], vec![]];
    assert_eq!(count(&mut classifier.run_all(words.iter().map(Words::from), &options)), 3);
}
