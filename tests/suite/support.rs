//! Fixtures and comparisons.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use bert::{
    AnswerSpans, BertInput, BertModel, DType, Device, LoadOptions, PreTrainedModel,
    PreTrainingLabels, Tensor,
};

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of a fixture checkpoint.
pub fn fixture(name: &str) -> PathBuf {
    root().join("tests/fixtures").join(name)
}

/// Where the suite computes: `BERT_TEST_DEVICE` is `cuda`, `metal` or, by default, `cpu`.
pub fn device() -> Device {
    match std::env::var("BERT_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => bert::cuda_device().unwrap(),
        Ok("metal") => bert::metal_device().unwrap(),
        Ok(name) => panic!("BERT_TEST_DEVICE is {name}; expected cpu, cuda or metal"),
    }
}

/// Loads onto [`device`].
pub fn load_options() -> LoadOptions {
    LoadOptions::new().with_device(device())
}

/// A fixture checkpoint as a model.
pub fn model(name: &str, dtype: DType) -> BertModel {
    BertModel::from_pretrained(fixture(name), &load_options().with_dtype(dtype)).unwrap()
}

/// The tensors of a safetensors file.
pub fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &device()).unwrap()
}

/// One input and what transformers computes from it.
#[derive(Default)]
pub struct Case {
    pub input: BertInput,
    pub head_mask: Option<Tensor>,
    pub labels: BTreeMap<String, Tensor>,
    pub expected: BTreeMap<String, Tensor>,
}

impl Case {
    /// Converts floating-point inputs to the dtype of a model.
    pub fn convert(&mut self, dtype: DType) {
        let inputs = [&mut self.input.inputs_embeds, &mut self.input.encoder_hidden_states];
        for tensor in inputs.into_iter().flatten() {
            *tensor = tensor.to_dtype(dtype).unwrap();
        }
    }
}

/// What a class learns from, as a case has it.
pub trait CaseLabels {
    fn of(case: &Case) -> Self;
}

impl CaseLabels for Tensor {
    fn of(case: &Case) -> Self {
        case.labels["labels"].clone()
    }
}

impl CaseLabels for AnswerSpans {
    fn of(case: &Case) -> Self {
        Self {
            start_positions: case.labels["start_positions"].clone(),
            end_positions: case.labels["end_positions"].clone(),
        }
    }
}

impl CaseLabels for PreTrainingLabels {
    fn of(case: &Case) -> Self {
        Self {
            labels: case.labels["labels"].clone(),
            next_sentence_label: case.labels["next_sentence_label"].clone(),
        }
    }
}

/// The cases of a fixture file by name.
pub fn cases(path: &Path) -> BTreeMap<String, Case> {
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for (key, tensor) in tensors(path) {
        let (case, field) = key.split_once('/').unwrap();
        let case = cases.entry(case.to_owned()).or_default();
        match field {
            "input_ids" => case.input.input_ids = Some(tensor),
            "inputs_embeds" => case.input.inputs_embeds = Some(tensor),
            "attention_mask" => case.input.attention_mask = Some(tensor),
            "token_type_ids" => case.input.token_type_ids = Some(tensor),
            "position_ids" => case.input.position_ids = Some(tensor),
            "encoder_hidden_states" => case.input.encoder_hidden_states = Some(tensor),
            "encoder_attention_mask" => case.input.encoder_attention_mask = Some(tensor),
            "head_mask" => case.head_mask = Some(tensor),
            field => match field.split_once('/').unwrap() {
                ("expected", field) => drop(case.expected.insert(field.to_owned(), tensor)),
                ("label", field) => drop(case.labels.insert(field.to_owned(), tensor)),
                _ => panic!("{key} is no part of a case"),
            },
        }
    }
    cases
}

/// The elements of a tensor in f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest |got − expected| and its place. NaN counts as infinitely large.
pub fn largest_difference(got: &[f64], expected: &[f64]) -> (f64, usize) {
    assert_eq!(got.len(), expected.len());
    let mut worst = (0., 0);
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (got - expected).abs();
        let difference = if difference.is_nan() { f64::INFINITY } else { difference };
        if difference > worst.0 {
            worst = (difference, i);
        }
    }
    worst
}

/// Fails unless the tensors have one shape and differ by no more than `tolerance` anywhere.
#[track_caller]
pub fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (difference, at) = largest_difference(&values(got), &values(expected));
    assert!(
        difference <= tolerance,
        "{what}: max |Δ| = {difference:e} at element {at} of {:?}, tolerance {tolerance:e}",
        got.dims()
    );
}

/// Fails unless the tensors have the same bits.
#[track_caller]
pub fn assert_same(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dtype(), expected.dtype(), "{what}");
    assert_close(what, got, expected, 0.);
}

/// Fails unless the error's text holds each of `parts`.
#[track_caller]
pub fn assert_says(error: &dyn std::error::Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// `[B, S]` ids, all within a fixture's vocabulary.
pub fn ids(rows: &[&[u32]]) -> Tensor {
    let flat: Vec<u32> = rows.iter().flat_map(|row| row.iter().copied()).collect();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &device()).unwrap()
}

/// The program of an example: `cargo test` builds them beside the folder that this program is in.
pub fn example(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let program = program.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(
        program.exists(),
        "{} is not there: run cargo test, which builds it",
        program.display()
    );
    program
}

const ALONE: &str = "BERT_TEST_ALONE";

/// Runs an ignored test in a process of its own, because it measures the process.
pub fn run_alone(test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", test])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let texts = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success() && texts[0].contains("1 passed"), "{}", texts.concat());
}

/// Whether [`run_alone`] has started this process.
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// A number of `/proc/self/status`, in kB: `VmRSS` is what this process has, `VmHWM` the most it had.
pub fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
