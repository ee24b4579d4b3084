//! How similar texts are.
//!
//!     scripts/fetch-minilm
//!     cargo run --release --example similarity -- "A cat sleeps." "A kitten naps." "Stocks fell."

mod common;

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Prints how similar each text is to each other one.
#[derive(Parser)]
struct Args {
    /// Hub id or folder [default: target/minilm if it is there, or the built-in checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// Texts
    #[arg(default_values = ["A cat is asleep.", "The kitten naps.", "Stock prices fell again."])]
    texts: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let model = common::sentence_transformer(args.model.as_deref())?;
    let options = SentenceOptions::new();
    let vectors: Vec<Vec<f32>> =
        model.encode_all(&args.texts, &options).collect::<bert::Result<_>>()?;
    for (text, row) in args.texts.iter().zip(model.similarity(&vectors, &vectors)?) {
        let row: Vec<String> = row.iter().map(|similarity| format!("{similarity:6.3}")).collect();
        println!("{}  {text}", row.join(" "));
    }
    Ok(())
}
