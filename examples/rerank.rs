//! Documents by how well they answer a question.
//!
//!     cargo run --release --example rerank -- --model cross-encoder/ms-marco-MiniLM-L6-v2 \
//!         "How many people live in Berlin?" "Berlin has 3.8 million people." "Berlin is green."

mod common;

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Ranks documents by how well they answer a question.
#[derive(Parser)]
struct Args {
    /// Hub id or folder of a cross-encoder [default: a small untrained checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// The question
    #[arg(default_value = "How many people live in Berlin?")]
    query: String,
    /// The documents
    #[arg(default_values = ["Berlin has 3.8 million people.", "Berlin has many museums."])]
    documents: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let advice = "Try --model cross-encoder/ms-marco-MiniLM-L6-v2.";
    let checkpoint = common::checkpoint(args.model.as_deref(), &[], advice)?;
    let mut options = LoadOptions::new().with_device(best_device());
    if args.model.is_none() {
        options = options.with_labels(["score"]).with_missing_initialized(0);
    }
    let model = CrossEncoder::from_pretrained(&checkpoint, &options)?;
    for ranked in model.rank(&args.query, &args.documents, &CrossEncoderOptions::new())? {
        println!("{:8.3}  {}", ranked.score, ranked.text);
    }
    Ok(())
}
