//! Fills in masked words.
//!
//!     cargo run --release --example fill_mask -- "My [MASK] is barking." "Paris is in [MASK]."

mod common;

use anyhow::Result;
use bert::*;
use clap::Parser;

/// Fills in masked words.
#[derive(Parser)]
struct Args {
    /// Hub id or folder of a masked-language model [default: the built-in checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// How many words for each mask
    #[arg(long, default_value_t = 5)]
    top_k: usize,
    /// Only these words; repeat it
    #[arg(long)]
    target: Vec<String>,
    /// Texts with [MASK]
    #[arg(default_value = "My [MASK] is barking.")]
    texts: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let advice = "For other texts pass --model google-bert/bert-base-uncased.";
    let checkpoint = common::checkpoint(args.model.as_deref(), &[], advice)?;
    let load = LoadOptions::new().with_device(best_device());
    let pipeline = FillMaskPipeline::from_pretrained(&checkpoint, &load)?;
    let mut options = FillMaskOptions::new().with_top_k(args.top_k);
    if !args.target.is_empty() {
        options = options.with_targets(args.target);
    }
    for (text, masks) in args.texts.iter().zip(pipeline.run_all(&args.texts, &options)) {
        println!("{text}");
        for (i, words) in masks?.iter().enumerate() {
            for word in words {
                println!("  mask {}: {:6.2} %  {}", i + 1, 100. * word.score, word.token_str);
            }
        }
    }
    Ok(())
}
