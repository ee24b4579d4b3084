//! Real weights and the vocabulary of bert-base-uncased, against transformers.
//!
//! Needs the folder that `scripts/fetch-minilm` makes; `scripts/check` runs both.

use std::path::PathBuf;

use bert::*;
use serde_json::Value;

use crate::support::*;

fn folder() -> PathBuf {
    let folder = root().join("target/minilm");
    assert!(folder.is_dir(), "{} is not there: run scripts/fetch-minilm", folder.display());
    folder
}

/// The texts, and what transformers makes of each.
fn rows() -> Vec<Value> {
    serde_json::from_slice(&std::fs::read(fixture("minilm.json")).unwrap()).unwrap()
}

fn texts() -> Vec<String> {
    rows().iter().map(|row| row["text"].as_str().unwrap().to_owned()).collect()
}

fn options() -> EncodeOptions {
    EncodeOptions::new().with_truncation(Truncation::to(512))
}

#[test]
#[ignore = "needs scripts/fetch-minilm"]
fn minilm_ids_offsets_and_decoded_texts_equal_transformers() {
    let tokenizer = AutoTokenizer::from_pretrained(folder()).unwrap();
    let batch = tokenizer.encode_batch(&texts(), &options()).unwrap();
    let rows = rows();
    assert!(rows.len() >= 12 && batch.encodings.len() == rows.len());
    for (encoding, row) in batch.encodings.iter().zip(&rows) {
        let text = &row["text"];
        assert_eq!(serde_json::json!(encoding.ids), row["ids"], "{text}");
        assert_eq!(serde_json::json!(encoding.offsets), row["offsets"], "{text}");
        assert_eq!(serde_json::json!(encoding.special_tokens_mask), row["special_tokens_mask"]);
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), row["decoded"].as_str().unwrap());
    }
    assert_eq!(batch.encodings[0].ids, [101, 7592, 1010, 2026, 3899, 2003, 10140, 102]);
    let uncut = tokenizer.encode(&texts()[12], &EncodeOptions::new()).unwrap();
    assert!(uncut.encodings[0].len() > 700);
}

#[test]
#[ignore = "needs scripts/fetch-minilm"]
fn minilm_embeddings_equal_transformers_alone_and_padded() {
    let (model, report) =
        AutoModel::from_pretrained_with_report(folder(), &load_options()).unwrap();
    assert_eq!((report.used.len(), report.unused.len()), (103, 0));
    let tokenizer = AutoTokenizer::from_pretrained(folder()).unwrap();
    let expected = tensors(&fixture("minilm.safetensors"));
    let check = |i: usize, output: &BaseModelOutputWithPoolingAndCrossAttentions, row, length| {
        let states = output.last_hidden_state.get(row).unwrap().narrow(0, 0, length).unwrap();
        let mean = states.mean(0).unwrap();
        let pooled = output.pooler_output.as_ref().unwrap().get(row).unwrap();
        assert_close(&format!("mean of text {i}"), &mean, &expected[&format!("{i}/mean")], 1e-5);
        assert_close(
            &format!("pooled text {i}"),
            &pooled,
            &expected[&format!("{i}/pooler_output")],
            1e-5,
        );
    };
    let texts = texts();
    let lengths: Vec<usize> = tokenizer
        .encode_batch(&texts, &options())
        .unwrap()
        .encodings
        .iter()
        .map(Encoding::len)
        .collect();
    for (i, text) in texts.iter().enumerate() {
        let input = tokenizer.encode(text, &options()).unwrap().to_input(&device()).unwrap();
        check(i, &model.forward(&input).unwrap(), 0, lengths[i]);
    }
    let padded = options().with_padding(Padding::Longest);
    let input = tokenizer.encode_batch(&texts, &padded).unwrap().to_input(&device()).unwrap();
    let output = model.forward(&input).unwrap();
    for (i, length) in lengths.iter().enumerate() {
        check(i, &output, i, *length);
    }
}

#[test]
#[ignore = "needs scripts/fetch-minilm"]
fn minilm_vectors_equal_sentence_transformers_alone_and_in_batches() {
    let model = SentenceTransformer::from_pretrained(folder(), &load_options()).unwrap();
    let texts = std::fs::read(fixture("minilm_vectors.json")).unwrap();
    let texts: Vec<String> = serde_json::from_slice(&texts).unwrap();
    assert!(texts.len() >= 200);
    let expected: Vec<Vec<f32>> =
        tensors(&fixture("minilm_vectors.safetensors"))["vectors"].to_vec2().unwrap();
    let options = SentenceOptions::new();
    let together: Vec<Vec<f32>> =
        model.encode_all(&texts, &options).collect::<Result<_>>().unwrap();
    for ((text, expected), vector) in texts.iter().zip(&expected).zip(&together) {
        for vector in [vector, &model.encode(text, &options).unwrap()] {
            let cosine = |a: &[f32], b: &[f32]| -> f64 {
                let dot = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                };
                dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
            };
            assert!(cosine(vector, expected) >= 0.999_999, "{text:?}");
        }
    }
}
