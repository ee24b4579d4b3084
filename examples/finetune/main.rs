//! Fine-tuning: a BERT learns to tell classes of texts apart.

mod data;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bert::*;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use data::Example;

/// Trains a BERT to classify texts and saves the best checkpoint.
#[derive(Parser)]
struct Args {
    /// Hub id or folder to start from [default: the built-in checkpoint]
    #[arg(long)]
    model: Option<String>,
    /// .tsv or .jsonl with text, label and perhaps text_pair [default: made-up sentences]
    #[arg(long)]
    train: Option<PathBuf>,
    /// The same kind of file to measure with [default: a tenth of the training file]
    #[arg(long, requires = "train")]
    eval: Option<PathBuf>,
    /// Where the best checkpoint goes
    #[arg(long, default_value = "target/finetuned")]
    output: PathBuf,
    #[arg(long, default_value_t = 4)]
    epochs: usize,
    /// Texts in a step, and how many parts it is computed in
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
    /// At its highest [default: 1e-3 for the built-in checkpoint, 5e-5 for others]
    #[arg(long)]
    learning_rate: Option<f64>,
    #[arg(long, default_value_t = 0.01)]
    weight_decay: f64,
    #[arg(long, default_value_t = 1.)]
    max_grad_norm: f64,
    /// Parameters to leave as they are: beginnings of names, like bert.embeddings.
    #[arg(long)]
    freeze: Vec<String>,
    /// Texts are cut to so many tokens
    #[arg(long, default_value_t = 128)]
    max_length: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.epochs > 0 && args.batch_size > 0, "--epochs and --batch-size begin at 1");
    ensure!((1..=args.batch_size).contains(&args.accumulate), "--accumulate: 1 to --batch-size");
    let (mut train, held_back) = examples(&args)?;
    let mut trainer = Trainer::new(&args, &train, held_back.len())?;
    trainer.task.check(train.iter().chain(&held_back))?;
    let mut order = ChaCha8Rng::seed_from_u64(args.seed);
    let mut best = -1.;
    let start = Instant::now();
    for epoch in 1..=args.epochs {
        train.shuffle(&mut order);
        let loss = trainer.epoch(&train, &args)?;
        let mut frozen = trainer.model.clone();
        frozen.freeze()?;
        let accuracy = trainer.task.accuracy(&frozen, &held_back, args.batch_size)?;
        println!(
            "epoch {epoch}: loss {loss:.4}, held-back accuracy {:.1} %, {:.0} s",
            100. * accuracy,
            start.elapsed().as_secs_f64()
        );
        if accuracy > best {
            best = accuracy;
            frozen.save_pretrained(&args.output, &SaveOptions::new())?;
            trainer.task.tokenizer.save_pretrained(&args.output)?;
        }
    }
    println!("best {:.1} %, saved in {}", 100. * best, args.output.display());
    Ok(())
}

/// A model and what trains it.
struct Trainer {
    model: BertForSequenceClassification,
    task: Task,
    optimizer: AdamW,
    gradients: Gradients,
    schedule: Schedule,
    dropout: ForwardOptions,
    step: u64,
}

impl Trainer {
    fn new(args: &Args, train: &[Example], held_back: usize) -> Result<Self> {
        let checkpoint = match &args.model {
            Some(name) => Checkpoint::from_name(name)?,
            None => Checkpoint::built_in(),
        };
        let tokenizer = AutoTokenizer::from_pretrained(&checkpoint)?;
        let mut options =
            LoadOptions::new().with_device(best_device()).with_missing_initialized(args.seed);
        // A checkpoint that names its classes keeps them.
        let labels = checkpoint.config()?.id2label;
        if labels.iter().all(|(id, name)| *name == format!("LABEL_{id}")) {
            options = options.with_labels(data::classes(train));
        }
        let (mut model, report) =
            BertForSequenceClassification::from_pretrained_with_report(&checkpoint, &options)?;
        println!("{checkpoint}: {report}");
        let mut idle: Vec<&String> = args.freeze.iter().collect();
        let vars = model.set_trainable(|name| {
            idle.retain(|beginning| !name.starts_with(*beginning));
            !args.freeze.iter().any(|beginning| name.starts_with(beginning))
        })?;
        ensure!(idle.is_empty(), "--freeze {}: no parameter name starts with this", idle[0]);
        let classes = model.bert.config().clone();
        println!(
            "{} of {} parameters learn {} classes from {} texts, measured on {held_back} others",
            model.num_trainable_parameters(),
            model.num_parameters(),
            classes.num_labels(),
            train.len(),
        );
        let rate = args.learning_rate.unwrap_or(if args.model.is_none() { 1e-3 } else { 5e-5 });
        let steps = (args.epochs * train.len().div_ceil(args.batch_size)) as u64;
        let options = AdamWOptions::new().with_weight_decay(args.weight_decay);
        Ok(Self {
            task: Task { tokenizer, classes, max_length: args.max_length },
            optimizer: AdamW::new(&vars, options)?,
            gradients: Gradients::new(&vars),
            schedule: Schedule::linear(rate, steps / 10, steps)?,
            dropout: ForwardOptions::training(args.seed),
            step: 0,
            model,
        })
    }

    /// Trains on all texts once; returns the mean loss.
    fn epoch(&mut self, train: &[Example], args: &Args) -> Result<f64> {
        let bar = ProgressBar::new(train.len() as u64)
            .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?);
        let mut sum = 0.;
        for batch in train.chunks(args.batch_size) {
            for part in batch.chunks(batch.len().div_ceil(args.accumulate)) {
                let (input, labels) = self.task.tensors(part, self.model.bert.device())?;
                let (loss, _) = self.model.forward_with_labels(&input, &labels, &self.dropout)?;
                self.gradients.accumulate_mean(&loss, part.len())?;
                sum += f64::from(loss.to_scalar::<f32>()?) * part.len() as f64;
            }
            self.gradients.clip_norm(args.max_grad_norm)?;
            let rate = self.schedule.learning_rate(self.step);
            self.optimizer.step(&mut self.gradients, rate)?;
            self.step += 1;
            bar.inc(batch.len() as u64);
        }
        bar.finish_and_clear();
        Ok(sum / train.len() as f64)
    }
}

/// The texts to learn from, and those to measure with.
fn examples(args: &Args) -> Result<(Vec<Example>, Vec<Example>)> {
    let (mut train, held_back) = match (&args.train, &args.eval) {
        (Some(train), Some(eval)) => (data::read(train)?, data::read(eval)?),
        (Some(train), None) => (data::read(train)?, Vec::new()),
        (None, _) => (data::generate(4000, 0), Vec::new()),
    };
    if !held_back.is_empty() {
        return Ok((train, held_back));
    }
    train.shuffle(&mut ChaCha8Rng::seed_from_u64(args.seed));
    let rest = train.split_off(train.len() - train.len() / 10);
    ensure!(!rest.is_empty(), "{} texts are too few to hold some back; give --eval", train.len());
    // A class that is learned from no text cannot be measured.
    let known: HashSet<String> = train.iter().map(|example| example.label.clone()).collect();
    let (rest, rare): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|example| known.contains(&example.label));
    train.extend(rare);
    ensure!(!rest.is_empty(), "no class has enough texts to hold one back; give --eval");
    Ok((train, rest))
}

/// How texts and labels become tensors.
struct Task {
    tokenizer: BertTokenizer,
    classes: BertConfig,
    max_length: usize,
}

impl Task {
    /// Whether the model has the classes of all examples, and more than one.
    fn check<'a>(&self, mut examples: impl Iterator<Item = &'a Example>) -> Result<()> {
        let classes = self.classes.num_labels();
        ensure!(classes > 1, "there is only one class, so there is nothing to learn");
        examples.try_for_each(|example| {
            let id = self.classes.label_id(&example.label);
            id.map(drop).with_context(|| format!("{:?}", example.text))
        })
    }

    fn tensors(&self, examples: &[Example], device: &Device) -> Result<(BertInput, Tensor)> {
        let options = EncodeOptions::new()
            .with_padding(Padding::Longest)
            .with_truncation(Truncation::to(self.max_length));
        let texts = examples.iter().map(|example| match &example.text_pair {
            Some(pair) => Text::Pair(&example.text, pair),
            None => Text::Single(&example.text),
        });
        let input = self.tokenizer.encode_batch(texts, &options)?.to_input(device)?;
        let labels = examples.iter().map(|example| {
            let id = self.classes.label_id(&example.label);
            Ok(id.with_context(|| format!("{:?}", example.text))? as u32)
        });
        let labels = labels.collect::<Result<Vec<u32>>>()?;
        Ok((input, Tensor::new(labels, device)?))
    }

    /// The share of examples whose class has the highest score.
    fn accuracy(
        &self,
        model: &BertForSequenceClassification,
        examples: &[Example],
        batch_size: usize,
    ) -> Result<f64> {
        let mut right = 0.;
        for batch in examples.chunks(batch_size) {
            let (input, labels) = self.tensors(batch, model.bert.device())?;
            let best = model.forward(&input)?.logits.argmax(1)?;
            right += best.eq(&labels)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()?;
        }
        Ok(right / examples.len() as f64)
    }
}
