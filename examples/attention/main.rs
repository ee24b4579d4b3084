//! A drawing of a sentence's attention heads.
//!
//!     cargo run --release --example attention -- --model google-bert/bert-base-uncased \
//!         --layer 7 "The animal didn't cross the street because it was too tired."

#[path = "../common/mod.rs"]
mod common;
mod drawing;

use anyhow::{Context, Result};
use bert::*;
use clap::Parser;

/// Draws which tokens each token attends to, head by head, as an SVG file.
#[derive(Parser)]
struct Args {
    /// Hub id or folder [default: target/minilm if it is there, or the built-in checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// The layer; -1 is the last
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    layer: i64,
    /// The file to write
    #[arg(long, default_value = "target/attention.svg")]
    output: std::path::PathBuf,
    #[arg(default_value = "The animal didn't cross the street because it was too tired.")]
    text: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let advice =
        "For other texts run scripts/fetch-minilm, or pass --model google-bert/bert-base-uncased.";
    let checkpoint = common::checkpoint(args.model.as_deref(), &["target/minilm"], advice)?;
    let model = AutoModel::from_pretrained(&checkpoint, &LoadOptions::new())?;
    let batch = checkpoint.tokenizer()?.encode(&args.text, &EncodeOptions::new())?;
    let layers = ForwardOptions::new().with_attentions(Layers::Only(vec![args.layer]));
    let outputs = model.forward_with(&batch.to_input(model.device())?, &layers)?;
    let attentions = outputs.attentions.context("the model returned no attention weights")?;
    let (layer, weights) = attentions.iter().next().context("the layer was not computed")?;
    let heads: Vec<Vec<Vec<f32>>> = weights.squeeze(0)?.to_vec3()?;
    let title = format!("{checkpoint}, layer {} of {}", layer + 1, attentions.len());
    let mut svg = String::new();
    drawing::draw(&mut svg, &title, &batch.encodings[0].tokens, &heads)?;
    std::fs::write(&args.output, svg)
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    println!("{title}: drawn in {}", args.output.display());
    Ok(())
}
