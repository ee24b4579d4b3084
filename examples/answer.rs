//! Answers from a text.
//!
//!     cargo run --release --example answer -- --model deepset/bert-base-cased-squad2 \
//!         "Where does Wolfgang live?" "My name is Wolfgang and I live in Berlin."

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Finds the answer to a question in a text.
#[derive(Parser)]
struct Args {
    /// Hub id or folder of a BERT for question answering, like deepset/bert-base-cased-squad2
    #[arg(long)]
    model: String,
    /// How many answers
    #[arg(long, default_value_t = 3)]
    top_k: usize,
    /// The question
    question: String,
    /// The text
    text: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let options = LoadOptions::new().with_device(best_device());
    let pipeline = QuestionAnsweringPipeline::from_pretrained(&args.model, &options)?;
    let options = QuestionAnsweringOptions::new().with_top_k(args.top_k).with_impossible_answer();
    for answer in pipeline.run((&*args.question, &*args.text), &options)? {
        let text = if answer.answer.is_empty() { "(no answer)" } else { &answer.answer };
        println!("{:6.2} %  {text}", 100. * answer.score);
    }
    Ok(())
}
