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
    /// Hub id or folder of a cross-encoder [default: the built-in checkpoint, which says how likely a
    /// document follows the question]
    #[arg(long)]
    model: Option<String>,
    /// The question
    #[arg(default_value = "Where does Anna live?")]
    query: String,
    /// The documents
    #[arg(default_values = ["Anna lives in Paris.", "Tom is a baker.", "It is raining."])]
    documents: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let load = LoadOptions::new().with_device(best_device());
    let Some(name) = args.model else {
        let advice = "For other texts pass --model cross-encoder/ms-marco-MiniLM-L6-v2.";
        let checkpoint = common::checkpoint(None, &[], advice)?;
        let pipeline = NextSentencePipeline::from_pretrained(&checkpoint, &load)?;
        let pairs = args.documents.iter().map(|document| (args.query.as_str(), document.as_str()));
        let scores = pipeline.run_all(pairs, &NextSentenceOptions::new());
        let scores = scores.collect::<bert::Result<Vec<_>>>()?;
        let mut ranked: Vec<_> = scores.iter().zip(&args.documents).collect();
        ranked.sort_by(|(one, _), (two, _)| two.is_next.total_cmp(&one.is_next));
        for (score, text) in ranked {
            println!("{:8.3}  {text}", score.is_next);
        }
        return Ok(());
    };
    let model = CrossEncoder::from_pretrained(&name, &load)?;
    for ranked in model.rank(&args.query, &args.documents, &CrossEncoderOptions::new())? {
        println!("{:8.3}  {}", ranked.score, ranked.text);
    }
    Ok(())
}
