//! Pre-training: a BERT learns a language from texts.
//!
//!     RAYON_NUM_THREADS=1 cargo run --release --example pretrain -- FILE.txt
//!
//! Without files it learns the sentences of a grammar; `scripts/make-built-in` makes the built-in checkpoint
//! so.

mod corpus;
mod held_back;
mod learning;
mod run;
mod texts;
mod vocabulary;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use corpus::Grammar;
use learning::{Masking, Recipe};
use run::{Run, Settings};
use texts::Texts;

/// Trains a BERT on texts: masked words, next sentences and, if asked for, which texts are similar. It
/// computes on the CPU.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Args {
    /// UTF-8 files with a sentence in each line and an empty line between documents [default: sentences
    /// of a built-in grammar]
    texts: Vec<PathBuf>,
    /// Where the checkpoint goes; its folder `training` has what a stopped run needs to go on
    #[arg(long, default_value = "target/pretrained")]
    output: PathBuf,
    /// Tokens of the vocabulary [default: as many as the texts give, up to 30522]
    #[arg(long)]
    vocab_size: Option<usize>,
    /// The width of the model; its feed-forward layers are four times as wide
    #[arg(long, default_value_t = 128)]
    hidden_size: usize,
    /// Layers of the model
    #[arg(long, default_value_t = 4)]
    layers: usize,
    /// Attention heads of each layer
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// The longest sequence in tokens; longer examples are cut
    #[arg(long, default_value_t = 128)]
    max_length: usize,
    /// Updates of the parameters
    #[arg(long, default_value_t = 3500)]
    steps: u64,
    /// Examples in a step
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// Parts of a batch: each is computed by a thread, and compares its own similar texts only
    #[arg(long, default_value_t = 4)]
    parts: usize,
    /// The highest rate, which is reached after a tenth of the steps and then falls to 0
    #[arg(long, default_value_t = 1.5e-3)]
    learning_rate: f64,
    /// The share of a parameter that is subtracted at each step, times the learning rate
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    /// What is masked together
    #[arg(long, value_enum, default_value = "token")]
    masking: Masking,
    /// The share of tokens or words that the model must guess; 0.15 in the paper
    #[arg(long, default_value_t = 0.2)]
    mask_probability: f64,
    /// The weight of a third loss, which makes the model an encoder of texts: similar texts have similar
    /// vectors. Files have no similar texts, so a sentence is compared with itself under other dropout
    /// [default: 0 for files, 1 for the grammar]
    #[arg(long)]
    similarity_weight: Option<f64>,
    /// The share of activations that are dropped [default: 0.1 for files, 0 for the grammar, which hardly
    /// repeats itself]
    #[arg(long)]
    dropout: Option<f64>,
    /// Another seed gives another run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps from one save of the run's state to the next
    #[arg(long, default_value_t = 100)]
    save_every: u64,
    /// Print this many stories of the grammar, and stop
    #[arg(long)]
    print_stories: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(count) = args.print_stories {
        let mut random = ChaCha8Rng::seed_from_u64(args.seed);
        let grammar = Texts::Grammar(Grammar::english()?);
        for _ in 0..count {
            println!("{}\n", grammar.document(&mut random)?.join("\n"));
        }
        return Ok(());
    }
    let is_grammar = args.texts.is_empty();
    let similarity_weight = args.similarity_weight.unwrap_or(if is_grammar { 1. } else { 0. });
    let dropout = args.dropout.unwrap_or(if is_grammar { 0. } else { 0.1 });
    for (name, count, least) in [
        ("batch-size", args.batch_size, 1),
        ("parts", args.parts, 1),
        ("steps", args.steps as usize, 1),
        ("save-every", args.save_every as usize, 1),
        ("max-length", args.max_length, 8),
    ] {
        ensure!(count >= least, "--{name} is {count}, expected at least {least}");
    }
    for (name, share) in [("mask-probability", args.mask_probability), ("dropout", dropout)] {
        ensure!((0. ..1.).contains(&share), "--{name} is {share}, expected 0 to below 1");
    }
    ensure!(
        similarity_weight.is_finite() && similarity_weight >= 0.,
        "--similarity-weight is {similarity_weight}, expected at least 0"
    );
    // A text is compared with the others of its part.
    let least = if similarity_weight > 0. { 2 * args.parts } else { args.parts };
    ensure!(
        args.batch_size >= least,
        "--batch-size is {}, expected at least {least} for {} parts",
        args.batch_size,
        args.parts
    );
    let texts = match is_grammar {
        true => Texts::Grammar(Grammar::english()?),
        false => Texts::read(&args.texts)?,
    };
    let settings = Settings {
        recipe: Recipe {
            seed: args.seed,
            batch_size: args.batch_size,
            parts: args.parts,
            max_length: args.max_length,
            masking: args.masking,
            mask_probability: args.mask_probability,
            similarity_weight,
        },
        texts: texts.digest(),
        vocab_size: args.vocab_size,
        hidden_size: args.hidden_size,
        layers: args.layers,
        heads: args.heads,
        steps: args.steps,
        learning_rate: args.learning_rate,
        weight_decay: args.weight_decay,
        dropout,
    };
    let mut run = Run::start_or_resume(settings, &texts, &args.output)?;
    run.train(&texts, args.save_every)?;
    run.finish(&texts)
}
