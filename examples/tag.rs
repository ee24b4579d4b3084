//! Names in texts.
//!
//!     cargo run --release --example tag -- --model dslim/bert-base-NER \
//!         "Wolfgang lives in Berlin."

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Finds names, or whatever the model was trained to find.
#[derive(Parser)]
struct Args {
    /// Hub id or folder of a BERT for token classification, like dslim/bert-base-NER
    #[arg(long)]
    model: String,
    /// Texts
    #[arg(required = true)]
    texts: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let options = LoadOptions::new().with_device(best_device());
    let pipeline = TokenClassificationPipeline::from_pretrained(&args.model, &options)?;
    let options = TokenClassificationOptions::new()
        .with_aggregation_strategy(AggregationStrategy::First)
        .with_stride(16)
        .with_offsets(OffsetUnit::Bytes);
    for (text, entities) in args.texts.iter().zip(pipeline.run_all(&args.texts, &options)) {
        println!("{text}");
        for entity in entities? {
            let found = &text[entity.start..entity.end];
            println!("  {:6.2} %  {:6}  {found}", 100. * entity.score, entity.label());
        }
    }
    Ok(())
}
