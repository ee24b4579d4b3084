//! All engines on the same inputs, in turns, and what comes out as a table and a CSV file.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bert::BertConfig;

use crate::peak::{Limits, limits};
use crate::peak_bytes;
use crate::random::Random;
use crate::statistics::{median, spread};

/// An engine's name, then how it batches rows of unequal lengths, where that is another measurement.
const ENGINES: [&str; 13] = [
    "ours",
    ALONE,
    "pytorch",
    "pytorch+sorted",
    "onnxruntime",
    "onnxruntime+sorted",
    "onnxruntime-fused",
    "onnxruntime-fused+sorted",
    "openvino",
    "openvino+sorted",
    "ctranslate2",
    "ctranslate2+sorted",
    "candle-transformers",
];
/// Ours again, to see what more threads are worth.
const ALONE: &str = "ours on one thread";
/// The engine whose answers the others must give.
const REFERENCE: &str = "pytorch";
/// What comes after the names of engines that only differ where lengths do.
const SORTED: &str = "+sorted";
/// How far an F32 engine may be from it in any state.
const TOLERANCE: f32 = 1e-3;
/// An engine wakes up for so long, and for one pass that does not count, before it is measured; the
/// others are stopped meanwhile: threads of some of them spin when they have nothing to do.
const REST: Duration = Duration::from_millis(50);
/// Seconds of a pass that counts without another one before it.
const LONG: f64 = 3.;
/// Seconds of an engine's passes in a turn: of up to nine the middle one counts.
const TURN: f64 = 1.;

/// What to compare.
pub struct Plan {
    /// The model, which the record calls by the folder's name.
    pub folder: PathBuf,
    pub config: BertConfig,
    pub python: PathBuf,
    pub threads: usize,
    pub turns: usize,
    /// Where the CSV file goes.
    pub record: PathBuf,
}

impl Plan {
    /// With how many threads an engine runs.
    fn threads_of(&self, engine: &str) -> usize {
        if engine == ALONE { 1 } else { self.threads }
    }
}

struct Shape {
    name: &'static str,
    rows: Vec<Vec<u32>>,
}

fn shapes() -> Vec<Shape> {
    let mut random = Random(1);
    let mut ragged: Vec<usize> = (0..64)
        .map(|_| {
            // A product of two draws: many short texts and a few long ones.
            let (a, b) = (random.below(100), random.below(100));
            20 + (a * b) as usize * 236 / 9801
        })
        .collect();
    ragged[0] = 256;
    let shapes = [
        ("B1 S8", vec![8]),
        ("B1 S128", vec![128]),
        ("B8 S128", vec![128; 8]),
        ("B32 S128", vec![128; 32]),
        ("B8 S512", vec![512; 8]),
        ("ragged", ragged),
    ];
    let mut ids = |length: usize| (0..length).map(|_| 5 + random.below(30_000)).collect();
    shapes
        .map(|(name, lengths)| Shape { name, rows: lengths.into_iter().map(&mut ids).collect() })
        .into()
}

/// A process that runs one engine.
struct Worker {
    name: &'static str,
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(name: &'static str, plan: &Plan) -> Result<Self> {
        let threads = plan.threads_of(name).to_string();
        let mut command = match name {
            "ours" | ALONE | "candle-transformers" => {
                let engine = if name == ALONE { "ours" } else { name };
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["worker", engine]).arg(&plan.folder);
                command
            }
            _ => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.py");
                let mut command = Command::new(&plan.python);
                command.arg(script).arg(name).arg(&plan.folder).arg(&threads);
                command
            }
        };
        let mut process = command
            .env("RAYON_NUM_THREADS", &threads)
            .env("CANDLE_NUM_THREADS", &threads)
            // What they complain about is seen, what they report is not.
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            .env("TRANSFORMERS_VERBOSITY", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = process.stdin.take().context("no standard input")?;
        let output = BufReader::new(process.stdout.take().context("no standard output")?);
        let mut worker = Self { name, process, input, output };
        // Libraries may print before the engine is ready.
        while worker.line()? != "ready" {}
        Ok(worker)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.output.read_line(&mut line)? > 0, "{} has stopped", self.name);
        Ok(line.trim().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        self.input.flush()?;
        self.line()
    }

    /// Stops the process, or lets it go on.
    fn signal(&self, signal: &str) -> Result<()> {
        let id = self.process.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status()?;
        ensure!(status.success(), "kill {signal} {id} failed");
        Ok(())
    }

    /// Seconds of one pass.
    fn run(&mut self) -> Result<f64> {
        let answer = self.ask("run")?;
        answer.parse().with_context(|| format!("{} answered {answer:?}", self.name))
    }

    /// Forgets how much memory the process has had.
    fn forget_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?)
    }

    /// The most memory that the process has had since.
    fn peak_bytes(&self) -> Result<u64> {
        peak_bytes(&self.process.id().to_string())
    }

    fn states(&mut self, file: &Path) -> Result<Vec<f32>> {
        self.ask(&format!("write {}", file.display()))?;
        let bytes = std::fs::read(file)?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn compare(plan: &Plan) -> Result<()> {
    let model = plan.folder.file_name().context("the model's folder has no name")?;
    let model = model.to_string_lossy();
    let columns = "model,threads,shape,tokens,engine,median_s,min_s,max_s,tokens_per_s,ratio,\
                   register_share,tile_share,peak_bytes\n";
    // Other models and numbers of threads are in the same file.
    let mut csv = std::fs::read_to_string(&plan.record).unwrap_or_else(|_| columns.to_owned());
    let folder = plan.record.parent().context("the record has no folder")?;
    std::fs::create_dir_all(folder)?;
    let mut workers = Vec::new();
    for name in ENGINES.into_iter().filter(|name| *name != ALONE || plan.threads > 1) {
        eprintln!("starting {name}");
        // The first time some write files of their own.
        drop(Worker::start(name, plan)?);
        let worker = Worker::start(name, plan)?;
        worker.signal("-STOP")?;
        workers.push(worker);
    }
    for shape in shapes() {
        let tokens: usize = shape.rows.iter().map(Vec::len).sum();
        let (measured, limits) = measure(&mut workers, &shape, plan.turns)?;
        println!(
            "\n{model}, {}, {tokens} tokens, {} threads; multiply-adds in registers {:.0}, in a tile \
             {:.0} GFLOP/s",
            shape.name,
            plan.threads,
            limits.registers / 1e9,
            limits.tile / 1e9
        );
        let flops = flops(&plan.config, &shape.rows);
        for (worker, times) in &measured {
            let ratio =
                median(times.iter().zip(&measured[0].1).map(|(theirs, ours)| theirs / ours));
            let (middle, min, max) = spread(times);
            let speed = tokens as f64 / middle;
            let threads = plan.threads_of(worker.name) as f64 / plan.threads as f64;
            let [registers, tile] =
                [limits.registers, limits.tile].map(|limit| flops / middle / (threads * limit));
            println!(
                "  {:<26} {speed:>7.0} tokens/s (best {:.0}, spread {:.0} %), {:.0} % of the limit in \
                 registers, {:.0} % in a tile, ours is {ratio:.2} x",
                worker.name,
                tokens as f64 / min,
                100. * (max - min) / middle,
                100. * registers,
                100. * tile,
            );
            csv += &format!(
                "{model},{},{},{tokens},{},{middle},{min},{max},{speed},{ratio},{registers},{tile},{}\n",
                plan.threads,
                shape.name,
                worker.name,
                worker.peak_bytes()?,
            );
        }
        std::fs::write(&plan.record, &csv)?;
    }
    drop(workers);
    csv += &loads(plan, &model)?;
    std::fs::write(&plan.record, csv)?;
    println!("\nwritten to {}", plan.record.display());
    Ok(())
}

/// Time from a process's start to its first states for eight tokens, and its memory then.
fn loads(plan: &Plan, model: &str) -> Result<String> {
    const TURNS: usize = 5;
    let engines = ENGINES.iter().filter(|name| !name.ends_with(SORTED) && **name != ALONE);
    let row: Vec<u32> = (5..13).collect();
    let mut measured: Vec<_> = engines.map(|name| (*name, Vec::new(), 0)).collect();
    for _ in 0..TURNS {
        for (name, times, peak) in &mut measured {
            let start = Instant::now();
            let mut worker = Worker::start(name, plan)?;
            worker.ask(&serde_json::to_string(&[&row])?)?;
            worker.run()?;
            times.push(start.elapsed().as_secs_f64());
            *peak = worker.peak_bytes()?;
        }
    }
    let weights = std::fs::metadata(plan.folder.join("model.safetensors"))?.len() as f64;
    println!(
        "\n{model}, from the start of a process to its first states, {} threads",
        plan.threads
    );
    let mut csv = String::new();
    for (name, times, peak) in &measured {
        let ratio = median(times.iter().zip(&measured[0].1).map(|(theirs, ours)| theirs / ours));
        let (middle, min, max) = spread(times);
        println!(
            "  {name:<26} {middle:>7.2} s ({min:.2} to {max:.2}), {:.2} x the weights",
            *peak as f64 / weights
        );
        csv += &format!(
            "{model},{},load,8,{name},{middle},{min},{max},,{ratio},,,{peak}\n",
            plan.threads
        );
    }
    Ok(csv)
}

/// What the products of a pass without padding cost: two for each multiply-add.
fn flops(config: &BertConfig, rows: &[Vec<u32>]) -> f64 {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let of_row = |row: &Vec<u32>| row.len() * (4 * h * h + 2 * h * f + 2 * row.len() * h);
    2. * (config.num_hidden_layers * rows.iter().map(of_row).sum::<usize>()) as f64
}

/// An engine and the seconds of its passes.
type Measured<'a> = (&'a Worker, Vec<f64>);

/// Seconds of each engine, turn by turn, after its answer was compared with the reference's; and the
/// medians of the machine's limits, measured in the same turns.
fn measure<'a>(
    workers: &'a mut [Worker],
    shape: &Shape,
    turns: usize,
) -> Result<(Vec<Measured<'a>>, Limits)> {
    let even = shape.rows.iter().all(|row| row.len() == shape.rows[0].len());
    let mut workers: Vec<&mut Worker> =
        workers.iter_mut().filter(|worker| !even || !worker.name.ends_with(SORTED)).collect();
    let rows = serde_json::to_string(&shape.rows)?;
    let file = std::env::temp_dir().join(format!("bert-bench-{}", std::process::id()));
    let mut answers = Vec::new();
    for worker in &mut workers {
        worker.signal("-CONT")?;
        worker.ask(&rows)?;
        worker.run()?;
        answers.push(worker.states(&file)?);
        worker.forget_peak()?;
        worker.signal("-STOP")?;
    }
    std::fs::remove_file(&file)?;
    let reference = workers.iter().position(|worker| worker.name == REFERENCE);
    let expected = &answers[reference.context("no reference")?];
    for (worker, got) in workers.iter().zip(&answers) {
        let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let worst = differences.fold(0f32, |a, b| if a.is_nan() || a > b { a } else { b });
        if got.len() != expected.len() || worst.is_nan() || worst > TOLERANCE {
            bail!("{}: {} gives another answer, off by {worst}", shape.name, worker.name);
        }
    }
    let mut times = vec![Vec::new(); workers.len()];
    let (mut registers, mut tiles) = (Vec::new(), Vec::new());
    let (start, long) = (Instant::now(), Duration::from_secs(240));
    for turn in 0..turns {
        // At least three turns, and then as many as there is time for.
        if turn >= 3 && start.elapsed() > long {
            break;
        }
        for (worker, times) in workers.iter_mut().zip(&mut times) {
            worker.signal("-CONT")?;
            std::thread::sleep(REST);
            let first = worker.run()?;
            let passes = ((TURN / first) as usize).clamp(1, 9);
            times.push(match first {
                LONG.. => first,
                _ => median((0..passes).map(|_| worker.run()).collect::<Result<Vec<_>>>()?),
            });
            worker.signal("-STOP")?;
        }
        let limits = limits();
        registers.push(limits.registers);
        tiles.push(limits.tile);
    }
    let limits = Limits { registers: median(registers), tile: median(tiles) };
    Ok((workers.into_iter().map(|worker| &*worker).zip(times).collect(), limits))
}
