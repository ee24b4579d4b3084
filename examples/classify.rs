//! Labels of texts.
//!
//!     cargo run --release --example classify -- --model textattack/bert-base-uncased-SST-2 \
//!         "I love it." "What a waste of time."

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Labels texts with a model that was trained for it, or with labels of your own.
#[derive(Parser)]
struct Args {
    /// Hub id or folder of a BERT for sequence classification, like textattack/bert-base-uncased-SST-2;
    /// `--example finetune` makes one in target/finetuned
    #[arg(long)]
    model: String,
    /// Labels of your own, for a model of natural-language inference; repeat it
    #[arg(long)]
    label: Vec<String>,
    /// Texts
    #[arg(required = true)]
    texts: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let load = LoadOptions::new().with_device(best_device());
    if !args.label.is_empty() {
        let pipeline = ZeroShotClassificationPipeline::from_pretrained(&args.model, &load)?;
        let options = ZeroShotClassificationOptions::new().with_truncation();
        for result in pipeline.run_all(&args.texts, &args.label, &options) {
            let result = result?;
            println!("{}", result.sequence);
            for (label, score) in result.labels.iter().zip(&result.scores) {
                println!("  {:6.2} %  {label}", 100. * score);
            }
        }
        return Ok(());
    }
    let pipeline = TextClassificationPipeline::from_pretrained(&args.model, &load)?;
    let options = TextClassificationOptions::new().with_all().with_truncation();
    for (text, labels) in args.texts.iter().zip(pipeline.run_all(&args.texts, &options)) {
        println!("{text}");
        for label in labels? {
            println!("  {:8.4}  {}", label.score, label.label);
        }
    }
    Ok(())
}
