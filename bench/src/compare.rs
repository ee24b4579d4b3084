//! All engines on the same inputs, in turns, and what comes out as a table and a CSV file.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bert::BertConfig;

use crate::peak::peak;

/// An engine's name, then with what it batches rows of unequal lengths.
const ENGINES: [&str; 9] = [
    "ours",
    "pytorch",
    "pytorch+sorted",
    "onnxruntime",
    "onnxruntime-fused",
    "onnxruntime-fused+sorted",
    "openvino",
    "ctranslate2",
    "candle-transformers",
];
/// The engine whose answers the others must give.
const REFERENCE: &str = "pytorch";
/// How far an F32 engine may be from it in any state.
const TOLERANCE: f32 = 1e-3;
/// An engine wakes up for so long, and for one short pass that does not count, before it is measured;
/// the others are stopped meanwhile: threads of some of them spin when they have nothing to do.
const REST: Duration = Duration::from_millis(50);

/// Seconds of a pass that does not need another one before it.
const LONG: f64 = 1.;

/// What to compare.
pub struct Plan {
    pub folder: PathBuf,
    pub config: BertConfig,
    pub python: PathBuf,
    pub threads: usize,
    pub turns: usize,
    /// Where the CSV file goes.
    pub record: PathBuf,
}

struct Shape {
    name: &'static str,
    rows: Vec<Vec<u32>>,
}

/// Numbers that look random, the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((self.0 >> 33) % u64::from(end)) as u32
    }
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
        let threads = plan.threads.to_string();
        let mut command = match name {
            "ours" | "candle-transformers" => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["worker", name]).arg(&plan.folder);
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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
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
    let mut workers = Vec::new();
    for name in ENGINES {
        eprintln!("starting {name}");
        workers.push(Worker::start(name, plan)?);
    }
    let folder = plan.record.parent().context("the record has no folder")?;
    std::fs::create_dir_all(folder)?;
    let columns =
        "threads,shape,tokens,engine,median_s,min_s,max_s,tokens_per_s,ratio,peak_share\n";
    // Other numbers of threads are in the same file.
    let mut csv = std::fs::read_to_string(&plan.record).unwrap_or_else(|_| columns.to_owned());
    for shape in shapes() {
        let tokens: usize = shape.rows.iter().map(Vec::len).sum();
        let (times, peak) = measure(&mut workers, &shape, plan.turns)?;
        println!(
            "\n{}, {tokens} tokens, {} threads, multiply-adds in registers: {:.0} GFLOP/s",
            shape.name,
            plan.threads,
            peak / 1e9
        );
        let flops = flops(&plan.config, &shape.rows);
        for (worker, engine) in workers.iter().zip(&times) {
            let ratio = median(engine.iter().zip(&times[0]).map(|(theirs, ours)| theirs / ours));
            let middle = median(engine.iter().copied());
            let min = engine.iter().copied().fold(f64::MAX, f64::min);
            let max = engine.iter().copied().fold(0., f64::max);
            let (speed, share) = (tokens as f64 / middle, flops / middle / peak);
            println!(
                "  {:<26} {speed:>7.0} tokens/s, spread {:>3.0} %, {:>3.0} % of the peak, ours is {ratio:.2} x",
                worker.name,
                100. * (max - min) / middle,
                100. * share,
            );
            csv += &format!(
                "{},{},{tokens},{},{middle},{min},{max},{speed},{ratio},{share}\n",
                plan.threads, shape.name, worker.name,
            );
        }
    }
    std::fs::write(&plan.record, csv)?;
    println!("\nwritten to {}", plan.record.display());
    Ok(())
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// What the products of a pass without padding cost: two for each multiply-add.
fn flops(config: &BertConfig, rows: &[Vec<u32>]) -> f64 {
    let (h, f) = (config.hidden_size, config.intermediate_size);
    let of_row = |row: &Vec<u32>| row.len() * (4 * h * h + 2 * h * f + 2 * row.len() * h);
    2. * (config.num_hidden_layers * rows.iter().map(of_row).sum::<usize>()) as f64
}

/// Seconds of each engine, turn by turn, after its answer was compared with the reference's; and the
/// median of what registers alone multiply and add in a second, measured in the same turns.
fn measure(workers: &mut [Worker], shape: &Shape, turns: usize) -> Result<(Vec<Vec<f64>>, f64)> {
    let rows = serde_json::to_string(&shape.rows)?;
    let file = std::env::temp_dir().join(format!("bert-bench-{}", std::process::id()));
    let mut answers = Vec::new();
    for worker in workers.iter_mut() {
        worker.signal("-CONT")?;
        worker.ask(&rows)?;
        worker.run()?;
        answers.push(worker.states(&file)?);
        worker.signal("-STOP")?;
    }
    std::fs::remove_file(&file)?;
    let reference = workers.iter().position(|worker| worker.name == REFERENCE);
    let expected = &answers[reference.context("no reference")?];
    for (worker, got) in workers.iter().zip(&answers) {
        let differences = got.iter().zip(expected).map(|(a, b)| (a - b).abs());
        // NaN is larger than anything.
        let worst = differences.fold(0f32, |a, b| if a >= b { a } else { b });
        if got.len() != expected.len() || !(worst <= TOLERANCE) {
            bail!("{}: {} gives another answer, off by {worst}", shape.name, worker.name);
        }
    }
    let mut times = vec![Vec::new(); workers.len()];
    let mut peaks = Vec::new();
    let (start, long) = (Instant::now(), Duration::from_secs(240));
    for turn in 0..turns {
        // At least three turns, and then as many as there is time for.
        if turn >= 3 && start.elapsed() > long {
            break;
        }
        for (worker, times) in workers.iter_mut().zip(&mut times) {
            worker.signal("-CONT")?;
            std::thread::sleep(REST);
            let mut time = worker.run()?;
            // A long pass has woken its threads by itself.
            if time < LONG {
                time = worker.run()?;
            }
            times.push(time);
            worker.signal("-STOP")?;
        }
        peaks.push(peak());
    }
    Ok((times, median(peaks.into_iter())))
}
