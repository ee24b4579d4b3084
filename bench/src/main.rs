//! Engines against each other: speed, loading and memory.
//!
//! `make DIR` writes a folder with bert-base's sizes, or others, and random weights; `compare DIR` runs
//! every engine on it, in turns, and writes a record, which `plot` draws; `load DIR` only loads, ours
//! and candle-transformers; `peak` prints the limits of the machine.

mod compare;
mod embed;
mod gpu;
mod peak;
mod plot;
mod random;
mod statistics;
mod tokenize;
mod worker;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bert::{
    AutoModel, BertConfig, BertForPreTraining, BertInput, BertModel, DType, Device, Head,
    LoadOptions, PreTrainedModel, Tensor,
};
use candle_nn::{VarBuilder, VarMap};
use clap::{Parser, Subcommand};

use crate::compare::{Plan, compare};
use crate::peak::{limits, reading};
use crate::plot::plot;
use crate::statistics::spread;
use crate::worker::{candle_model, serve};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Writes a random bert-base, or a model of other sizes
    Make {
        folder: PathBuf,
        #[arg(long, default_value_t = 768)]
        hidden_size: usize,
        #[arg(long, default_value_t = 12)]
        num_hidden_layers: usize,
    },
    /// Measures loading it, engine by engine, in turns
    Load {
        folder: PathBuf,
        #[arg(long, default_value_t = 9)]
        turns: usize,
    },
    /// Measures all engines on the same inputs, in turns
    Compare {
        folder: PathBuf,
        /// A Python with the peers
        #[arg(long)]
        python: PathBuf,
        #[arg(long)]
        threads: usize,
        #[arg(long, default_value_t = 15)]
        turns: usize,
        /// The CSV file
        #[arg(long)]
        record: PathBuf,
    },
    /// Measures ours on the CUDA device, and writes the cases for gpu.py
    Gpu {
        folder: PathBuf,
        /// Where the lengths of each case's texts go, as JSON
        #[arg(long)]
        cases: PathBuf,
    },
    /// Prints what multiply-adds reach in registers and in a tile, in GFLOP/s, and reading memory, in GB/s
    Peak,
    /// Draws a record
    Plot {
        record: PathBuf,
        /// The name of the model's folder
        #[arg(long)]
        model: String,
        #[arg(long)]
        threads: usize,
        /// The SVG file
        #[arg(long)]
        picture: PathBuf,
    },
    /// Runs an engine as peers.py does: commands on standard input, answers on standard output
    Worker { engine: String, folder: PathBuf },
    /// Our tokenizer beside the tokenizers crate
    Tokenize {
        folder: PathBuf,
        #[arg(long, default_value_t = 21)]
        turns: usize,
    },
    /// Texts to vectors, as embed.py asks for them
    Embed { folder: PathBuf },
    /// One engine (ours, pretraining or candle-transformers), in this process: prints seconds, peak
    /// bytes and a sum over the output
    One { engine: String, folder: PathBuf },
}

const ENGINES: [&str; 2] = ["ours", "candle-transformers"];

fn main() -> Result<()> {
    match Args::parse().command {
        What::Make { folder, hidden_size, num_hidden_layers } => {
            let mut sizes = BertConfig::default();
            (sizes.hidden_size, sizes.num_hidden_layers) = (hidden_size, num_hidden_layers);
            sizes.intermediate_size = 4 * hidden_size;
            make(&folder, &sizes)
        }
        What::Load { folder, turns } => load(&folder, turns),
        What::Compare { folder, python, threads, turns, record } => {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
            let config =
                BertConfig::from_json(&std::fs::read_to_string(folder.join("config.json"))?)?;
            compare(&Plan { folder, config, python, threads, turns, record })
        }
        What::Gpu { folder, cases } => {
            std::fs::write(cases, serde_json::to_vec(&gpu::cases())?)?;
            let device = bert::cuda_device()?;
            gpu::agreement(&folder, &device)?;
            gpu::measure(&folder, &device)?;
            gpu::operations(&device)
        }
        What::Peak => {
            let limits = limits();
            let limits = [limits.registers, limits.tile, reading()].map(|limit| limit / 1e9);
            println!("{:.1} {:.1} {:.1}", limits[0], limits[1], limits[2]);
            Ok(())
        }
        What::Plot { record, model, threads, picture } => plot(&record, &model, threads, &picture),
        What::Worker { engine, folder } => serve(&engine, &folder),
        What::Tokenize { folder, turns } => tokenize::compare(&folder, turns),
        What::Embed { folder } => embed::serve(&folder),
        What::One { engine, folder } => one(&engine, &folder),
    }
}

fn make(folder: &Path, config: &BertConfig) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let vars = VarMap::new();
    BertModel::load(VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu), config)?;
    vars.save(folder.join("model.safetensors"))?;
    std::fs::write(folder.join("config.json"), config.to_json()?)?;
    Ok(())
}

/// "Hello, my dog is cute".
fn input_ids() -> Result<Tensor> {
    Ok(Tensor::new(&[[101u32, 7592, 1010, 2026, 3899, 2003, 10140, 102]], &Device::Cpu)?)
}

fn one(engine: &str, folder: &Path) -> Result<()> {
    let start = Instant::now();
    let output = match engine {
        "ours" => {
            let model = AutoModel::from_pretrained(folder, &LoadOptions::new())?;
            model.forward(&BertInput::from_ids(input_ids()?))?.last_hidden_state
        }
        "pretraining" => {
            let model = BertForPreTraining::from_pretrained(folder, &LoadOptions::new())?;
            model.forward(&BertInput::from_ids(input_ids()?))?.prediction_logits
        }
        "candle-transformers" => {
            let model = candle_model(folder)?;
            let ids = input_ids()?;
            model.forward(&ids, &ids.zeros_like()?, None)?
        }
        other => bail!("no engine is called {other}"),
    };
    let sum = output.abs()?.sum_all()?.to_scalar::<f32>()?;
    println!("{} {} {sum}", start.elapsed().as_secs_f64(), peak_bytes("self")?);
    Ok(())
}

/// The most memory that a process, or "self", has had.
fn peak_bytes(process: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib << 10)
}

fn load(folder: &Path, turns: usize) -> Result<()> {
    let weights = std::fs::metadata(folder.join("model.safetensors"))?.len() as f64;
    let mut seconds = [const { Vec::new() }; 2];
    let mut peaks = [0f64; 2];
    let mut sums = [0f64; 2];
    for turn in 0..=turns {
        for (i, engine) in ENGINES.iter().enumerate() {
            let output = Command::new(std::env::current_exe()?)
                .args(["one", engine])
                .arg(folder)
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            let numbers: Vec<f64> =
                text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
            let [time, peak, sum] = numbers[..] else { bail!("{engine} printed {text:?}") };
            sums[i] = sum;
            // The first turn warms the file cache.
            if turn > 0 {
                seconds[i].push(time);
                peaks[i] = peaks[i].max(peak);
            }
        }
    }
    if (sums[0] - sums[1]).abs() > 1e-4 * sums[0] {
        bail!("the engines disagree: sums over the output are {sums:?}");
    }
    for (i, engine) in ENGINES.iter().enumerate() {
        let (median, min, max) = spread(&seconds[i]);
        println!(
            "{engine}: median {median:.3} s ({min:.3} to {max:.3}), peak memory {:.2} x the weights",
            peaks[i] / weights
        );
    }
    Ok(())
}
