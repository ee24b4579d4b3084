//! Vectors of texts against sentence-transformers, on tiny checkpoints.

use std::collections::BTreeMap;

use bert::*;
use serde_json::{Value, json};

use crate::pipelines::assert_json_close;
use crate::support::*;

/// A call in Python, and what it returned.
#[derive(serde::Deserialize)]
struct Call {
    kind: String,
    model: Option<String>,
    call: String,
    input: Value,
    options: Value,
    expected: Value,
}

fn calls(kind: &str, calls: &[&str]) -> Vec<Call> {
    let file = std::fs::read(fixture("sentences/cases.json")).unwrap();
    let all: Vec<Call> = serde_json::from_slice(&file).unwrap();
    let found: Vec<Call> =
        all.into_iter().filter(|it| it.kind == kind && calls.contains(&&*it.call)).collect();
    for name in calls {
        assert!(found.iter().any(|call| call.call == *name), "{kind}.{name}");
    }
    found
}

impl Call {
    fn checkpoint(&self) -> Checkpoint {
        let name = self.model.as_deref().unwrap();
        Checkpoint::from_dir(fixture("sentences").join(name)).unwrap()
    }

    /// The texts; one alone is a list of one.
    fn texts(&self) -> Vec<String> {
        texts(&self.input)
    }

    fn number(&self, option: &str) -> Option<usize> {
        self.options[option].as_u64().map(|number| number as usize)
    }

    fn options(&self) -> SentenceOptions {
        let mut options = match &*self.call {
            "encode_query" => SentenceOptions::new().for_queries(),
            "encode_document" => SentenceOptions::new().for_documents(),
            _ => SentenceOptions::new(),
        };
        options.prompt = self.options["prompt"].as_str().map(str::to_owned);
        options.prompt_name = self.options["prompt_name"].as_str().map(str::to_owned);
        options.normalize_embeddings = self.options["normalize_embeddings"] == true;
        options.truncate_dim = self.number("truncate_dim");
        options.max_active_dims = self.number("max_active_dims");
        options
    }

    #[track_caller]
    fn check(&self, got: Value) {
        let what = format!("{} {:?} {} {}", self.kind, self.model, self.call, self.options);
        // One text alone has one vector.
        let got = if self.input.is_string() { got[0].clone() } else { got };
        assert_json_close(&what, &got, &self.expected);
    }
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        texts => serde_json::from_value(texts.clone()).unwrap(),
    }
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    serde_json::from_value(value.clone()).unwrap()
}

fn function(name: &str) -> SimilarityFunction {
    match name.trim_start_matches("pairwise_") {
        "cos_sim" => SimilarityFunction::Cosine,
        "dot_score" => SimilarityFunction::Dot,
        "euclidean_sim" => SimilarityFunction::Euclidean,
        "manhattan_sim" => SimilarityFunction::Manhattan,
        name => SimilarityFunction::from_name(name).unwrap(),
    }
}

fn precision(name: &str) -> EmbeddingPrecision {
    match name {
        "int8" => EmbeddingPrecision::Int8,
        "uint8" => EmbeddingPrecision::Uint8,
        "binary" => EmbeddingPrecision::Binary,
        "ubinary" => EmbeddingPrecision::Ubinary,
        other => panic!("{other}"),
    }
}

fn bytes(embeddings: QuantizedEmbeddings) -> Vec<Vec<i32>> {
    let wide = |rows: Vec<Vec<i32>>| rows;
    match embeddings {
        QuantizedEmbeddings::Signed(rows) => {
            wide(rows.iter().map(|row| row.iter().map(|x| i32::from(*x)).collect()).collect())
        }
        QuantizedEmbeddings::Unsigned(rows) => {
            wide(rows.iter().map(|row| row.iter().map(|x| i32::from(*x)).collect()).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    for call in calls("SentenceTransformer", &["encode", "encode_query", "encode_document"]) {
        let model =
            SentenceTransformer::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let (texts, options) = (call.texts(), call.options());
        if call.options["output_value"] == "token_embeddings" {
            let tokens = texts.iter().map(|text| model.encode_tokens(text, &options).unwrap());
            call.check(json!(tokens.collect::<Vec<_>>()));
            continue;
        }
        let vectors: Result<Vec<Vec<f32>>> = model.encode_all(&texts, &options).collect();
        if call.number("truncate_dim") == Some(99) {
            // Nothing is cut there. It is an error here.
            assert_says(&vectors.unwrap_err(), &["truncate_dim is 99, expected 1 to"]);
            continue;
        }
        let vectors = vectors.unwrap();
        match call.options["precision"].as_str() {
            None => {
                for (text, vector) in texts.iter().zip(&vectors) {
                    let alone = model.encode(text, &options).unwrap();
                    assert_json_close("alone", &json!(alone), &json!(vector));
                }
                call.check(json!(vectors));
            }
            Some(name) => {
                let got = bytes(quantize_embeddings(&vectors, precision(name), None).unwrap());
                let expected: Vec<Vec<i32>> = match call.input.is_string() {
                    true => vec![serde_json::from_value(call.expected.clone()).unwrap()],
                    false => serde_json::from_value(call.expected.clone()).unwrap(),
                };
                // The last bits of a vector may put it into the next step.
                let most = if name.ends_with("int8") { 1 } else { 0 };
                for (got, expected) in got.concat().iter().zip(expected.concat()) {
                    assert!((got - expected).abs() <= most, "{name}: {got} and {expected}");
                }
            }
        }
    }
}

#[test]
fn vectors_are_as_similar_as_in_sentence_transformers() {
    for call in calls("SentenceTransformer", &["similarity", "similarity_pairwise"]) {
        let model =
            SentenceTransformer::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let options = SentenceOptions::new();
        let encode = |key: &str, options: SentenceOptions| -> Vec<Vec<f32>> {
            model.encode_all(texts(&call.input[key]), &options).collect::<Result<_>>().unwrap()
        };
        let a = encode("queries", options.clone().for_queries());
        let b = encode("documents", options.for_documents());
        let name = call.options["similarity_fn_name"].as_str();
        let function = name.map_or(model.similarity_function(), function);
        call.check(match &*call.call {
            "similarity" => json!(function.matrix(&a, &b).unwrap()),
            _ => json!(function.pairwise(&a, &b).unwrap()),
        });
        if name.is_none() {
            assert_eq!(model.similarity(&a, &b).unwrap(), function.matrix(&a, &b).unwrap());
        }
    }
}

#[test]
fn searches_and_smaller_vectors_are_those_of_sentence_transformers() {
    let names = ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"];
    for call in calls("util", &names) {
        let (a, b) = (vectors(&call.input["a"]), vectors(&call.input["b"]));
        call.check(json!(function(&call.call).matrix(&a, &b).unwrap()));
    }
    for call in
        calls("util", &names.map(|name| format!("pairwise_{name}")).each_ref().map(|it| &**it))
    {
        let (a, b) = (vectors(&call.input["a"]), vectors(&call.input["b"]));
        call.check(json!(function(&call.call).pairwise(&a, &b).unwrap()));
    }
    for call in calls("util", &["semantic_search"]) {
        let queries = match &call.input["query_embeddings"] {
            one if one[0].is_number() => json!([one]),
            many => many.clone(),
        };
        let (queries, corpus) = (vectors(&queries), vectors(&call.input["corpus_embeddings"]));
        let function = function(call.options["score_function"].as_str().unwrap_or("cos_sim"));
        let top_k = call.number("top_k").unwrap_or(10);
        call.check(json!(semantic_search(&queries, &corpus, top_k, function).unwrap()));
    }
    for call in calls("util", &["quantize_embeddings"]) {
        let embeddings = vectors(&call.input["embeddings"]);
        let ranges: Option<Vec<(f32, f32)>> =
            match (&call.input["ranges"], &call.input["calibration_embeddings"]) {
                (Value::Array(ranges), _) => {
                    let ranges = vectors(&json!(ranges));
                    Some(ranges[0].iter().copied().zip(ranges[1].iter().copied()).collect())
                }
                (_, Value::Array(others)) => Some(value_ranges(&vectors(&json!(others))).unwrap()),
                _ => None,
            };
        let precision = precision(call.options["precision"].as_str().unwrap());
        let got = quantize_embeddings(&embeddings, precision, ranges.as_deref()).unwrap();
        assert_eq!(json!(bytes(got)), call.expected, "{}", call.options);
    }
}

#[test]
fn pairs_are_scored_and_ranked_as_in_sentence_transformers() {
    for call in calls("CrossEncoder", &["predict", "rank"]) {
        let model = CrossEncoder::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let mut options = CrossEncoderOptions::new();
        options.apply_softmax = call.options["apply_softmax"] == true;
        options.prompt = call.options["prompt"].as_str().map(str::to_owned);
        options.prompt_name = call.options["prompt_name"].as_str().map(str::to_owned);
        options.top_k = call.number("top_k");
        if call.options.get("activation_fn").is_some() {
            continue;
        }
        if call.call == "rank" {
            let query = call.input["query"].as_str().unwrap();
            let ranked = model.rank(query, &texts(&call.input["documents"]), &options).unwrap();
            let with_text = call.options["return_documents"] == true;
            let ranked = ranked.iter().map(|it| match with_text {
                true => json!(it),
                false => json!({"corpus_id": it.corpus_id, "score": it.score}),
            });
            call.check(json!(ranked.collect::<Vec<_>>()));
            continue;
        }
        let one = call.input[0].is_string();
        let pairs: Vec<(String, String)> = match one {
            true => vec![serde_json::from_value(call.input.clone()).unwrap()],
            false => serde_json::from_value(call.input.clone()).unwrap(),
        };
        let scores: Vec<Vec<f32>> =
            model.predict_all(pairs, &options).collect::<Result<_>>().unwrap();
        let scores: Vec<Value> = scores
            .into_iter()
            .map(|scores| if scores.len() == 1 { json!(scores[0]) } else { json!(scores) })
            .collect();
        call.check(if one { scores[0].clone() } else { json!(scores) });
    }
}

fn as_map(vector: &SparseVector) -> Value {
    vector.iter().map(|(index, value)| (index.to_string(), json!(value))).collect()
}

#[test]
fn sparse_vectors_are_those_of_sentence_transformers() {
    for call in calls("SparseEncoder", &["encode", "encode_query", "encode_document", "decode"]) {
        let model = SparseEncoder::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let vectors: Vec<SparseVector> =
            model.encode_all(call.texts(), &call.options()).collect::<Result<_>>().unwrap();
        if call.call == "decode" {
            let top_k = call.number("top_k").unwrap_or(usize::MAX);
            let words: Vec<_> = vectors.iter().map(|it| model.decode(it, top_k)).collect();
            call.check(json!(words));
        } else {
            call.check(vectors.iter().map(as_map).collect());
        }
    }
    for call in calls("SparseEncoder", &["similarity"]) {
        let model = SparseEncoder::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let encode = |key: &str| -> Vec<SparseVector> {
            let options = SentenceOptions::new();
            model.encode_all(texts(&call.input[key]), &options).collect::<Result<_>>().unwrap()
        };
        let (a, b) = (encode("queries"), encode("documents"));
        match call.options["similarity_fn_name"].as_str() {
            None => call.check(json!(model.similarity(&a, &b).unwrap())),
            Some(name) => {
                let width = model.model().bert.config().vocab_size;
                let dense = |all: &[SparseVector]| -> Vec<Vec<f32>> {
                    all.iter().map(|it| it.to_dense(width)).collect()
                };
                call.check(json!(function(name).matrix(&dense(&a), &dense(&b)).unwrap()));
            }
        }
    }
}

#[test]
fn vectors_of_tokens_are_those_of_sentence_transformers() {
    for call in calls("MultiVectorEncoder", &["encode", "encode_query", "encode_document"]) {
        if call.options.get("token_pooling").is_some() {
            continue;
        }
        let model =
            MultiVectorEncoder::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let vectors: Vec<Vec<Vec<f32>>> =
            model.encode_all(call.texts(), &call.options()).collect::<Result<_>>().unwrap();
        call.check(json!(vectors));
    }
    for call in calls("MultiVectorEncoder", &["similarity"]) {
        if call.options.get("similarity_fn_name").is_some() {
            continue;
        }
        let model =
            MultiVectorEncoder::from_pretrained(call.checkpoint(), &load_options()).unwrap();
        let encode = |key: &str, options: SentenceOptions| -> Vec<Vec<Vec<f32>>> {
            model.encode_all(texts(&call.input[key]), &options).collect::<Result<_>>().unwrap()
        };
        let queries = encode("queries", SentenceOptions::new().for_queries());
        let documents = encode("documents", SentenceOptions::new().for_documents());
        let scores = model.similarity(&queries, &documents).unwrap();
        call.check(json!(scores));
    }
}

fn model(name: &str) -> SentenceTransformer {
    let folder = fixture("sentences").join(name);
    SentenceTransformer::from_pretrained(folder, &load_options()).unwrap()
}

/// The files of a fixture, some of them replaced or taken away.
fn files(name: &str, changes: &[(&str, Option<&str>)]) -> BTreeMap<String, Vec<u8>> {
    let folder = fixture("sentences").join(name);
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.clone()];
    while let Some(current) = folders.pop() {
        for entry in std::fs::read_dir(current).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    for (name, content) in changes {
        match content {
            Some(content) => drop(files.insert((*name).to_owned(), content.as_bytes().to_vec())),
            None => drop(files.remove(*name)),
        }
    }
    files
}

/// These files as a checkpoint in memory.
fn with_files(name: &str, changes: &[(&str, Option<&str>)]) -> Checkpoint {
    Checkpoint::from_bytes(files(name, changes))
}

#[test]
fn a_checkpoint_in_memory_and_one_with_its_transformer_in_a_folder_are_the_same() {
    let options = SentenceOptions::new();
    let expected = model("dense_tanh").encode("hot water", &options).unwrap();
    let in_memory = with_files("dense_tanh", &[]);
    let in_memory = SentenceTransformer::from_pretrained(in_memory, &load_options()).unwrap();
    assert_eq!(in_memory.encode("hot water", &options).unwrap(), expected);

    let folder = tempfile::tempdir().unwrap();
    let from = fixture("sentences/dense_tanh");
    let inner = folder.path().join("0_Transformer");
    std::fs::create_dir(&inner).unwrap();
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        if path.is_dir() {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            for file in std::fs::read_dir(&path).unwrap() {
                let file = file.unwrap().path();
                let to = folder.path().join(name).join(file.file_name().unwrap());
                std::fs::copy(file, to).unwrap();
            }
        } else {
            std::fs::copy(&path, inner.join(name)).unwrap();
        }
    }
    let modules = std::fs::read_to_string(from.join("modules.json")).unwrap();
    let modules = modules.replacen("\"path\": \"\"", "\"path\": \"0_Transformer\"", 1);
    std::fs::write(folder.path().join("modules.json"), modules).unwrap();
    let moved = SentenceTransformer::from_pretrained(folder.path(), &load_options()).unwrap();
    assert_eq!(moved.encode("hot water", &options).unwrap(), expected);
}

#[test]
fn without_the_network_a_module_may_lack_a_config_that_it_does_not_need() {
    let (cache, commit) = (tempfile::tempdir().unwrap(), "0123456789abcdef");
    let repo = cache.path().join("models--some--model");
    let snapshot = repo.join("snapshots").join(commit);
    let write = |path: std::path::PathBuf, content: &[u8]| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    write(repo.join("refs/main"), commit.as_bytes());
    for (name, content) in files("mean", &[("2_Normalize/config.json", None)]) {
        write(snapshot.join(name), &content);
    }
    let load = || {
        let checkpoint = Checkpoint::from_hub("some/model").unwrap();
        let checkpoint = checkpoint.with_cache_dir(cache.path()).with_local_files_only();
        SentenceTransformer::from_pretrained(checkpoint, &load_options())
    };
    let options = SentenceOptions::new();
    let encode = |model: SentenceTransformer| model.encode("a dog", &options).unwrap();
    assert_eq!(encode(load().unwrap()), encode(model("mean")));
    std::fs::remove_file(snapshot.join("1_Pooling/config.json")).unwrap();
    assert_says(&load().unwrap_err(), &["1_Pooling/config.json", "local_files_only"]);
}

#[test]
fn without_modules_json_vectors_are_means_and_a_note_says_so() {
    let mut plain = model("plain");
    assert!(plain.note().unwrap().contains("no modules.json"));
    assert!(model("mean").note().is_none());
    let options = SentenceOptions::new();
    let mean = plain.encode("hot water", &options).unwrap();
    let tokens = plain.encode_tokens("hot water", &options).unwrap();
    let sum = |i: usize| tokens.iter().map(|token| token[i]).sum::<f32>() / tokens.len() as f32;
    assert_json_close("mean", &json!(mean), &json!((0..mean.len()).map(sum).collect::<Vec<_>>()));
    plain.set_pooling([PoolingMode::Cls, PoolingMode::LastToken]).unwrap();
    assert!(plain.note().is_none());
    let both = plain.encode("hot water", &options).unwrap();
    let expected = [&tokens[0][..], &tokens[tokens.len() - 1]].concat();
    assert_json_close("first and last", &json!(both), &json!(expected));
}

#[test]
fn vectors_do_not_depend_on_neighbors_order_or_threads() {
    let (model, options) = (model("weightedmean"), SentenceOptions::new());
    let words = ["the", "water", "is", "hot", "how", "long", "caf\u{e9}", "?"];
    let text =
        |i: usize| -> Vec<&str> { (0..i * 5 % 31).map(|j| words[(i + 3 * j) % 8]).collect() };
    let texts: Vec<String> = (0..700).map(|i| text(i).join(" ")).collect();
    let encode = |texts: &[String]| -> Vec<Vec<f32>> {
        model.encode_all(texts, &options).collect::<Result<_>>().unwrap()
    };
    let together = encode(&texts);
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!(together.iter().zip(encode(&reversed).iter().rev()).all(|(a, b)| close(a, b)));
    for (text, vector) in texts.iter().zip(&together).step_by(23) {
        assert!(close(&model.encode(text, &options).unwrap(), vector), "{text:?}");
    }
    std::thread::scope(|scope| {
        for part in 0..8 {
            let (texts, together, encode) = (&texts, &together, &encode);
            scope.spawn(move || {
                let rows = part * 80..part * 80 + 80;
                let own = encode(&texts[rows.clone()]);
                assert!(own.iter().zip(&together[rows]).all(|(a, b)| close(a, b)));
            });
        }
    });
}

#[test]
fn vectors_come_as_texts_are_read_and_progress_is_told() {
    let model = model("mean");
    let read = std::cell::Cell::new(0);
    let endless = std::iter::repeat_with(|| {
        read.set(read.get() + 1);
        "hot water"
    });
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let its_told = told.clone();
    let options =
        SentenceOptions::new().with_progress(move |texts| its_told.lock().unwrap().push(texts));
    let vectors: Vec<_> = model.encode_all(endless, &options).take(1500).collect();
    assert_eq!(vectors.len(), 1500);
    assert!(read.get() < 4096, "{}", read.get());
    let told = told.lock().unwrap();
    assert!(told.is_sorted() && told.len() > 1 && told[told.len() - 1] >= 1500, "{told:?}");
}

#[test]
fn odd_texts_have_vectors() {
    let (model, options) = (model("short"), SentenceOptions::new());
    let long = "how long is the day ".repeat(520_000);
    assert!(long.len() > 10_000_000);
    let start = std::time::Instant::now();
    let cut = model.encode(&long, &options).unwrap();
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    assert_eq!(cut, model.encode(&long[..2000], &options).unwrap());
    // What is no UTF-8 is replaced before, as Python's `errors="replace"` does it.
    let invalid = String::from_utf8_lossy(b"hot \xff\xfe water");
    for text in ["", "\0", "\u{200d}", &invalid] {
        assert!(model.encode(text, &options).unwrap().iter().all(|x| x.is_finite()), "{text:?}");
    }
}

#[test]
fn checkpoints_and_options_that_cannot_be_are_errors_with_a_way_out() {
    let load = |changes: &[(&str, Option<&str>)]| {
        let checkpoint = with_files("dense_tanh", changes);
        SentenceTransformer::from_pretrained(checkpoint, &load_options()).map(drop).unwrap_err()
    };
    let module = |class: &str, path: &str| {
        format!(
            r#"[{{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}},
            {{"idx": 1, "name": "1", "path": "{path}", "type": "{class}"}}]"#
        )
    };
    let modules = |content: &str| load(&[("modules.json", Some(content))]);
    let odd = module("sentence_transformers.models.CNN", "1_CNN");
    assert_says(&modules(&odd), &["module CNN", "Pooling", "Dense"]);
    assert_says(&modules("{"), &["modules.json cannot be used"]);
    assert_says(&modules("[]"), &["modules.json", "no module"]);
    let outside = module("sentence_transformers.models.Pooling", "../../etc");
    assert_says(&modules(&outside), &["../../etc"]);
    let first = r#"[{"path": "", "type": "sentence_transformers.models.BoW"}]"#;
    assert_says(&modules(first), &["first module is BoW", "Transformer"]);
    let pooling = |content| load(&[("1_Pooling/config.json", Some(content))]);
    assert_says(&pooling(r#"{"pooling_mode": "best"}"#), &["1_Pooling/config.json", "best"]);
    let dense = |content: &str| load(&[("2_Dense/config.json", Some(content))]);
    assert_says(
        &dense(r#"{"in_features": 9, "out_features": 3}"#),
        &["linear.weight", "expected [3, 9]"],
    );
    let odd = r#"{"in_features": 9, "out_features": 3, "activation_function": "torch.nn.Odd"}"#;
    assert_says(&dense(odd), &["torch.nn.Odd", "Tanh"]);
    assert_says(
        &load(&[("2_Dense/config.json", None)]),
        &["2_Dense/config.json", "does not exist"],
    );
    assert_says(&load(&[("2_Dense/model.safetensors", None)]), &["2_Dense", "model.safetensors"]);

    let model = model("prompts");
    let run = |options| model.encode("water", &options).unwrap_err();
    let options = SentenceOptions::new();
    assert_says(
        &run(options.clone().with_prompt_name("no")),
        &["prompt \"no\"", "passage", "query"],
    );
    for dim in [0, 1000] {
        assert_says(
            &run(options.clone().with_truncate_dim(dim)),
            &["truncate_dim is", "expected 1 to"],
        );
    }
    let mut model = model.clone();
    for length in [0, 2, 1 << 20] {
        assert_says(
            &model.set_max_seq_length(length).unwrap_err(),
            &["max_seq_length is", "3 to 64"],
        );
    }
    let none: [PoolingMode; 0] = [];
    assert_says(&model.set_pooling(none).unwrap_err(), &["pooling modes is none"]);
    model.set_max_seq_length(4).unwrap();
    assert_eq!(model.encode_tokens("how long is the day", &options).unwrap().len(), 4);

    let dot = SimilarityFunction::Dot;
    assert_says(
        &dot.between(&[1.], &[1., 2.]).unwrap_err(),
        &["width of a vector is 2, expected 1"],
    );
    assert_says(&dot.pairwise(&[[1.]], &[]).unwrap_err(), &["number of vectors is 0, expected 1"]);
    let one = quantize_embeddings(&[[1., 2.]], EmbeddingPrecision::Int8, None).unwrap_err();
    assert_says(&one, &["ranges", "value_ranges"]);
    let folder = fixture("sentences/cross_three");
    let model = CrossEncoder::from_pretrained(folder, &load_options()).unwrap();
    let error = model.rank("a", &["b"], &CrossEncoderOptions::new()).unwrap_err();
    assert_says(&error, &["labels is 3, expected 1", "predict"]);
    let folder = fixture("sentences/plain");
    let error = MultiVectorEncoder::from_pretrained(folder, &load_options()).map(drop).unwrap_err();
    assert_says(&error, &["modules.json", "artifact.metadata"]);
    let none: [[f32; 2]; 0] = [];
    assert_says(&max_sim(&[[1., 2.]], &none).unwrap_err(), &["vectors is 0"]);
}

#[test]
fn what_would_change_vectors_and_is_not_known_is_an_error() {
    let load = |changes: &[(&str, &str)]| {
        let changes: Vec<_> = changes.iter().map(|(name, text)| (*name, Some(*text))).collect();
        let checkpoint = with_files("dense_tanh", &changes);
        SentenceTransformer::from_pretrained(checkpoint, &load_options()).map(drop).unwrap_err()
    };
    let settings = |text| load(&[("sentence_bert_config.json", text)]);
    for text in [
        r#"{"processing_kwargs": {"text": {"truncation": false}}}"#,
        r#"{"config_kwargs": {"hidden_act": "relu"}}"#,
        r#"{"tokenizer_args": {"truncation_side": "left"}}"#,
        r#"{"modality_config": {"text": {"method_output_name": ["hidden_states", -2]}}}"#,
    ] {
        assert_says(&settings(text), &["sentence_bert_config.json"]);
    }
    let config = |text| load(&[("config_sentence_transformers.json", text)]);
    assert_says(&config(r#"{"model_type": "CrossEncoder"}"#), &["this is a CrossEncoder"]);
    let dense = r#"{"in_features": 16, "out_features": 12, "module_output_name": "projected"}"#;
    assert_says(&load(&[("2_Dense/config.json", dense)]), &["module_output_name", "projected"]);
    let foreign = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "custom_st.Pooling"}]"#;
    assert_says(&load(&[("modules.json", foreign)]), &["custom_st.Pooling"]);
    let normalize = r#"{"path": "", "type": "sentence_transformers.models.Normalize"}"#;
    let transformer = r#"{"path": "", "type": "sentence_transformers.models.Transformer"}"#;
    let many = format!("[{transformer}{}]", format!(",{normalize}").repeat(2000));
    assert_says(&load(&[("modules.json", &many)]), &["2001 modules", "at most 64"]);
    let checkpoint = with_files("cls", &[("1_Pooling/config.json", None)]);
    let error = SentenceTransformer::from_pretrained(checkpoint, &load_options()).map(drop);
    assert_says(&error.unwrap_err(), &["1_Pooling/config.json", "does not exist"]);
    let dense = fixture("sentences/dense_tanh");
    let error = MultiVectorEncoder::from_pretrained(dense, &load_options()).map(drop).unwrap_err();
    assert_says(&error, &["this is a SentenceTransformer"]);

    let options = SentenceOptions::new();
    let error = model("mean").encode("a", &options.clone().with_max_active_dims(3)).unwrap_err();
    assert_says(&error, &["max_active_dims is 3", "SentenceTransformer does not have it"]);
    let folder = fixture("sentences/sparse_max");
    let sparse = SparseEncoder::from_pretrained(folder, &load_options()).unwrap();
    for options in [options.clone().with_truncate_dim(3), options.with_normalized_embeddings()] {
        assert_says(
            &sparse.encode("a", &options).unwrap_err(),
            &["SparseEncoder does not have it"],
        );
    }
    for (indices, values) in [(vec![1, 2], vec![1.]), (vec![2, 2], vec![1., 2.])] {
        assert_says(&SparseVector::new(indices, values).unwrap_err(), &["ind"]);
    }
    let (a, b) =
        (SparseVector::new(vec![1, 7], vec![2., 3.]), SparseVector::new(vec![7], vec![5.]));
    assert_eq!(a.unwrap().dot(&b.unwrap()), 15.);
}

#[test]
fn late_interaction_checkpoints_of_pylate_are_known_without_their_type() {
    let options = SentenceOptions::new().for_queries();
    let load = |changes: &[(&str, Option<&str>)]| {
        MultiVectorEncoder::from_pretrained(with_files("multi_pylate", changes), &load_options())
    };
    let expected = load(&[]).unwrap().encode("hot water", &options).unwrap();
    let config = std::fs::read_to_string(fixture(
        "sentences/multi_pylate/config_sentence_transformers.json",
    ));
    let mut config: Value = serde_json::from_str(&config.unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("model_type");
    // Its prompt may have the mark already.
    config["prompts"] = json!({"query": "[Q] ", "document": null});
    let changed = config.to_string();
    let changes = [("config_sentence_transformers.json", Some(&*changed))];
    assert_eq!(load(&changes).unwrap().encode("hot water", &options).unwrap(), expected);
    // A mark that is no token stays text.
    config["query_prefix"] = "hot: ".into();
    let changed = config.to_string();
    let changes = [("config_sentence_transformers.json", Some(&*changed))];
    assert_eq!(load(&changes).unwrap().encode("hot water", &options).unwrap().len(), 9);
}

#[test]
fn scores_in_half_precision_become_probabilities_and_weights_in_single_precision() {
    let half = load_options().with_dtype(DType::BF16);
    let encode = |tokenizer: &BertTokenizer, text: Text| {
        tokenizer.encode(text, &EncodeOptions::new()).unwrap().to_packed(&device()).unwrap()
    };
    let model = CrossEncoder::from_pretrained(fixture("sentences/cross_one"), &half).unwrap();
    let pair = ("how long is the day", "the day is hot");
    let input = encode(&model.tokenizer, pair.into());
    let logit = values(&model.model.forward_packed(&input).unwrap().logits)[0];
    let score = model.predict(pair, &CrossEncoderOptions::new()).unwrap()[0];
    assert!((f64::from(score) - 1. / (1. + (-logit).exp())).abs() < 1e-6, "{score} of {logit}");

    for name in ["sparse_max", "sparse_sum"] {
        let model = SparseEncoder::from_pretrained(fixture("sentences").join(name), &half).unwrap();
        let text = "how long is the day";
        let input = encode(model.tokenizer(), text.into());
        let scores = model.model().forward_packed(&input).unwrap().logits;
        let (tokens, words) = scores.dims2().unwrap();
        let scores = values(&scores);
        let options = SentenceOptions::new().with_max_active_dims(words);
        let vector = model.encode(text, &options).unwrap().to_dense(words);
        for (word, got) in vector.iter().enumerate() {
            let grown = (0..tokens).map(|i| scores[i * words + word].max(0.).ln_1p());
            let expected = match name {
                "sparse_max" => grown.fold(0., f64::max),
                _ => grown.map(f64::ln_1p).sum(),
            };
            let apart = (f64::from(*got) - expected).abs();
            assert!(apart <= 1e-6 * expected.max(1e-3), "{name}: {got} and {expected}");
        }
    }
}

#[test]
fn functions_of_other_packages_do_not_hide_those_of_the_config() {
    let (own, torch) = ("my_package.Own", "torch.nn.modules.linear.Identity");
    let score = |first: &str, second: Value, third: Value| {
        let read = |file: &str| -> Value {
            let path = fixture("sentences/cross_one").join(file);
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
        };
        let mut settings = read("config_sentence_transformers.json");
        settings["activation_fn"] = first.into();
        let mut config = read("config.json");
        config["sentence_transformers"] = second;
        config["sbert_ce_default_activation_function"] = third;
        let (settings, config) = (settings.to_string(), config.to_string());
        let changes = [
            ("config_sentence_transformers.json", Some(&*settings)),
            ("config.json", Some(&*config)),
        ];
        let checkpoint = with_files("cross_one", &changes);
        let model = CrossEncoder::from_pretrained(checkpoint, &load_options()).unwrap();
        model.predict(("a", "b"), &CrossEncoderOptions::new()).unwrap()[0]
    };
    let plain = score(torch, Value::Null, Value::Null);
    let probability = score("torch.nn.Sigmoid", Value::Null, Value::Null);
    assert!((probability - 1. / (1. + (-plain).exp())).abs() < 1e-6);
    // As CrossEncoder.get_default_activation_fn of sentence-transformers 6.2 has it.
    assert_eq!(score(own, json!({"activation_fn": torch}), Value::Null), plain);
    assert_eq!(score(own, Value::Null, json!(torch)), plain);
    assert_eq!(score(own, json!({"activation_fn": null}), json!(torch)), probability);
    assert_eq!(score(own, json!({"activation_fn": own}), json!(torch)), probability);
}

#[test]
fn a_prompt_that_leaves_no_token_leaves_the_last_one() {
    let model = model("prompt_excluded");
    // "caf" is three tokens, and "cafe" is one.
    let options = SentenceOptions::new().with_prompt("caf");
    let tokens = model.encode_tokens("e", &options).unwrap();
    let vector = model.encode("e", &options).unwrap();
    assert_eq!((tokens.len(), vector.len()), (3, 6 * tokens[2].len()));
    for part in vector.chunks(tokens[2].len()) {
        part.iter().zip(&tokens[2]).for_each(|(x, y)| assert!((x - y).abs() < 1e-6, "{x} {y}"));
    }
}

#[test]
fn a_text_without_tokens_is_named_with_its_row() {
    let path = fixture("sentences/mean/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    tokenizer["post_processor"] = Value::Null;
    let tokenizer = tokenizer.to_string();
    let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}"#;
    let changes = [("tokenizer.json", Some(&*tokenizer)), ("tokenizer_config.json", Some(config))];
    let checkpoint = with_files("mean", &changes);
    let model = SentenceTransformer::from_pretrained(checkpoint, &load_options()).unwrap();
    for row in [0, 2, 530] {
        let texts = (0..600).map(|i| match i {
            _ if i == row => String::new(),
            _ => "the day is hot ".repeat(1 + i % 7),
        });
        let results: Vec<_> = model.encode_all(texts, &SentenceOptions::new()).collect();
        let error = results.last().unwrap().as_ref().unwrap_err();
        assert_says(error, &[&format!("text {row} has no tokens")]);
    }
}

#[test]
fn what_is_no_number_is_not_similar() {
    let (nan, one) = (vec![f32::NAN, 1.], vec![1., 2.]);
    for function in [
        SimilarityFunction::Cosine,
        SimilarityFunction::Dot,
        SimilarityFunction::Euclidean,
        SimilarityFunction::Manhattan,
    ] {
        assert!(function.between(&nan, &one).unwrap().is_nan(), "{function:?}");
    }
    // One by one as all at once, whatever the numbers.
    let odd = [&[0., 0.], &[f32::INFINITY, 1.], &[3e38, 3e38], &[1e-30, 1e-30], &[1., 2.]];
    let all = SimilarityFunction::Cosine.matrix(&odd, &odd).unwrap();
    for (a, row) in odd.iter().zip(all) {
        let each = SimilarityFunction::Cosine.pairwise(&[*a; 5], &odd.map(|it| it)).unwrap();
        let bits = |row: Vec<f32>| -> Vec<u32> { row.iter().map(|x| x.to_bits()).collect() };
        assert_eq!(bits(row), bits(each), "{a:?}");
    }
    assert!(max_sim(&[&one], &[&one, &nan, &one]).unwrap().is_nan());
    let hits = semantic_search(&[&one], &[&nan, &one], 2, SimilarityFunction::Cosine).unwrap();
    assert_eq!((hits[0][0].corpus_id, hits[0][1].corpus_id), (1, 0));
    assert!(hits[0][1].score.is_nan());
}

#[test]
fn half_precision_is_pooled_in_single_precision() {
    let text = "how long is the day and the water ".repeat(9);
    let vector = |dtype| {
        let options = load_options().with_dtype(dtype);
        let folder = fixture("sentences/weightedmean");
        let model = SentenceTransformer::from_pretrained(folder, &options).unwrap();
        model.encode(&text, &SentenceOptions::new()).unwrap()
    };
    let expected = vector(DType::F32);
    // Modules after the transformer have kernels in half precision too.
    for name in ["dense_tanh", "dense_residual", "multi_fixed"] {
        let checkpoint = fixture("sentences").join(name);
        let half = load_options().with_dtype(DType::BF16);
        let encode = |options: &LoadOptions| -> Vec<f32> {
            let plain = SentenceOptions::new();
            match name {
                "multi_fixed" => MultiVectorEncoder::from_pretrained(&checkpoint, options)
                    .and_then(|model| Ok(model.encode(&text, &plain)?.concat()))
                    .unwrap(),
                _ => SentenceTransformer::from_pretrained(&checkpoint, options)
                    .and_then(|model| model.encode(&text, &plain))
                    .unwrap(),
            }
        };
        for (x, y) in encode(&half).iter().zip(encode(&load_options())) {
            assert!((x - y).abs() < 0.1 * y.abs().max(1.), "{name}: {x} and {y}");
        }
    }
    for (dtype, tolerance) in [(DType::F16, 0.02), (DType::BF16, 0.1)] {
        for (x, y) in vector(dtype).iter().zip(&expected) {
            assert!((x - y).abs() < tolerance * y.abs().max(1.), "{dtype:?}: {x} and {y}");
        }
    }
}
