//! Semantic search over the lines of a file.
//!
//!     scripts/fetch-minilm
//!     cargo run --release --example search -- README.md "how do I train it?"

mod common;

use std::path::PathBuf;

use anyhow::{Context, Result};
use bert::*;
use clap::Parser;

/// Finds the lines of a text file that are most like a question.
#[derive(Parser)]
struct Args {
    /// Hub id or folder [default: target/minilm if it is there, or the built-in checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// How many lines
    #[arg(long, default_value_t = 5)]
    top_k: usize,
    /// The file; bytes that are no UTF-8 are replaced
    file: PathBuf,
    /// Questions
    #[arg(required = true)]
    queries: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let model = common::sentence_transformer(args.model.as_deref())?;

    let bytes = std::fs::read(&args.file)
        .with_context(|| format!("cannot read {}", args.file.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let encode = |texts: &[&str], options: SentenceOptions| {
        model.encode_all(texts, &options).collect::<bert::Result<Vec<Vec<f32>>>>()
    };
    let corpus = encode(&lines, SentenceOptions::new().for_documents())?;
    let queries: Vec<&str> = args.queries.iter().map(String::as_str).collect();
    let vectors = encode(&queries, SentenceOptions::new().for_queries())?;
    let hits = semantic_search(&vectors, &corpus, args.top_k, model.similarity_function())?;
    for (query, hits) in queries.iter().zip(hits) {
        println!("{query}");
        for hit in hits {
            println!("  {:6.3}  {}", hit.score, lines[hit.corpus_id]);
        }
    }
    Ok(())
}
