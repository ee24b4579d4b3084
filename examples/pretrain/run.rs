//! A training run, which goes on where it was stopped.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bert::*;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::held_back::Figures;
use crate::learning::{Batch, Losses, Part, Recipe};
use crate::texts::Texts;
use crate::vocabulary;

/// Everything that decides what is learned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    #[serde(flatten)]
    pub recipe: Recipe,
    /// A digest of the texts.
    pub texts: String,
    pub vocab_size: Option<usize>,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    pub steps: u64,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub dropout: f64,
}

/// A model that learns.
pub struct Run {
    settings: Settings,
    /// The checkpoint's folder.
    output: PathBuf,
    /// The folder of the training's state.
    state: PathBuf,
    tokenizer: BertTokenizer,
    model: BertForPreTraining,
    vars: VarMap,
    optimizer: AdamW,
    schedule: Schedule,
    /// Of the steps that were done.
    losses: Vec<Row>,
}

/// The losses of a step, a line of `losses.csv`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Row {
    /// From 1.
    step: u64,
    masked_words: f64,
    next_sentence: f64,
    similarity: f64,
}

impl Run {
    /// A new run, or the one whose state is in `output`.
    ///
    /// Its settings are written first. All else that a run needs to go on is in one file, which is
    /// replaced as a whole.
    pub fn start_or_resume(settings: Settings, texts: &Texts, output: &Path) -> Result<Self> {
        let state = output.join("training");
        let path = state.join("settings.json");
        let is_new = !path.exists();
        let tokenizer = if is_new {
            // A save that is interrupted would leave the new vocabulary beside the old weights.
            ensure!(
                !output.join("model.safetensors").exists(),
                "{} has a checkpoint: choose another --output, or delete it",
                output.display()
            );
            let mut random = ChaCha8Rng::seed_from_u64(settings.recipe.seed);
            let sentences = texts.sentences(&mut random)?;
            let tokenizer = vocabulary::train(&sentences, settings.vocab_size)?;
            tokenizer.save_pretrained(&state)?;
            // What is left of a run whose settings were deleted.
            if state.join("state.safetensors").exists() {
                std::fs::remove_file(state.join("state.safetensors"))?;
            }
            tokenizer
        } else {
            settings.check(&std::fs::read(&path)?).with_context(|| {
                format!(
                    "{} has a run with other settings: choose another --output, or delete that folder",
                    output.display()
                )
            })?;
            AutoTokenizer::from_pretrained(&state)?
        };
        let mut config = BertConfig::default();
        config.vocab_size = tokenizer.vocab_size();
        config.hidden_size = settings.hidden_size;
        config.num_hidden_layers = settings.layers;
        config.num_attention_heads = settings.heads;
        config.intermediate_size = 4 * settings.hidden_size;
        config.max_position_embeddings = settings.recipe.max_length;
        config.hidden_dropout_prob = settings.dropout;
        config.attention_probs_dropout_prob = settings.dropout;
        let load = LoadOptions::new();
        let mut model = BertForPreTraining::from_config(&config, settings.recipe.seed, &load)?;
        let vars = model.set_trainable(|_| true)?;
        let options = AdamWOptions::new().with_weight_decay(settings.weight_decay);
        let optimizer = AdamW::new(&vars, options)?;
        let steps = settings.steps;
        let schedule = Schedule::linear(settings.learning_rate, steps.div_ceil(10), steps + 1)?;
        let output = output.to_owned();
        let losses = Vec::new();
        let mut run =
            Self { settings, output, state, tokenizer, model, vars, optimizer, schedule, losses };
        if is_new {
            let text = serde_json::to_vec_pretty(&run.settings)?;
            replace(&path, &text)?;
        } else if run.state.join("state.safetensors").exists() {
            run.resume().with_context(|| format!("cannot go on from {}", run.state.display()))?;
        }
        println!(
            "{} parameters, {} tokens in the vocabulary; {} of {} steps are done",
            run.model.num_parameters(),
            run.tokenizer.vocab_size(),
            run.losses.len(),
            run.settings.steps
        );
        Ok(run)
    }

    /// Reads parameters, the optimizer's state and the losses so far.
    fn resume(&mut self) -> Result<()> {
        let mut state = load_tensors(self.state.join("state.safetensors"))?;
        let losses = state.remove("losses").context("it has no losses")?;
        for (step, row) in losses.to_vec2::<f64>()?.into_iter().enumerate() {
            let [masked_words, next_sentence, similarity] = row[..] else { bail!("odd losses") };
            self.losses.push(Row {
                step: step as u64 + 1,
                masked_words,
                next_sentence,
                similarity,
            });
        }
        for (name, var) in self.named_vars() {
            let tensor = state.remove(&format!("parameter.{name}"));
            var.set(&tensor.with_context(|| format!("it has no {name}"))?)?;
        }
        Ok(self.optimizer.restore(&state)?)
    }

    fn named_vars(&self) -> Vec<(String, candle_core::Var)> {
        let vars = self.vars.data().lock().unwrap_or_else(|error| error.into_inner());
        vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect()
    }

    fn save(&self) -> Result<()> {
        let mut state = self.optimizer.state()?;
        for (name, var) in self.named_vars() {
            state.insert(format!("parameter.{name}"), var.as_detached_tensor());
        }
        let losses =
            self.losses.iter().map(|it| vec![it.masked_words, it.next_sentence, it.similarity]);
        let losses = Tensor::new(losses.collect::<Vec<_>>(), &Device::Cpu)?;
        state.insert("losses".to_owned(), losses);
        save_tensors(&state, self.state.join("state.safetensors"))?;
        self.show()
    }

    /// Writes the losses as a table and as a picture.
    fn show(&self) -> Result<()> {
        let mut table = csv::Writer::from_writer(Vec::new());
        self.losses.iter().try_for_each(|row| table.serialize(row))?;
        replace(&self.state.join("losses.csv"), &table.into_inner()?)?;
        plot(&self.losses, &self.state.join("losses.svg"))
    }

    /// Learns until all steps are done.
    pub fn train(&mut self, texts: &Texts, save_every: u64) -> Result<()> {
        let Settings { recipe, steps, .. } = self.settings.clone();
        let template = "{bar:30} {pos}/{len} {msg}, {eta} left";
        let bar = ProgressBar::new(steps).with_style(ProgressStyle::with_template(template)?);
        bar.set_position(self.losses.len() as u64);
        bar.reset_eta();
        let (start, mut tokens) = (Instant::now(), 0);
        for step in self.losses.len() as u64..steps {
            let batch = recipe.batch(texts, &self.tokenizer, step)?;
            let (mut gradients, losses) = self.gradients(&batch)?;
            gradients.clip_norm(1.)?;
            self.optimizer.step(&mut gradients, self.schedule.learning_rate(step + 1))?;
            let Losses { masked_words, next_sentence, similarity } = losses;
            self.losses.push(Row { step: step + 1, masked_words, next_sentence, similarity });
            tokens += batch.tokens;
            let speed = tokens as f64 / start.elapsed().as_secs_f64();
            let message = format!(
                "losses: words {masked_words:.3}, next {next_sentence:.3}, similarity \
                 {similarity:.3}; {speed:.0} tokens/s"
            );
            bar.set_message(message.clone());
            bar.inc(1);
            if (step + 1) % save_every == 0 || step + 1 == steps {
                self.save()?;
                if bar.is_hidden() {
                    println!("step {}: {message}", step + 1);
                }
            }
        }
        bar.finish();
        Ok(())
    }

    /// The gradients of a batch, and its losses: each thread computes parts of it.
    fn gradients(&self, batch: &Batch) -> Result<(Gradients, Losses)> {
        let compute = |part: &Part| -> Result<(Gradients, Losses)> {
            let (loss, losses) = batch.loss(part, &self.model)?;
            let mut gradients = Gradients::new(&self.vars);
            gradients.accumulate(&loss)?;
            Ok((gradients, losses))
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut sum = (Gradients::new(&self.vars), Losses::default());
        // They are added up in one order, however many threads there are.
        for parts in batch.parts.chunks(threads) {
            let results = std::thread::scope(|scope| {
                let compute = &compute;
                let workers: Vec<_> =
                    parts.iter().map(|part| scope.spawn(move || compute(part))).collect();
                workers.into_iter().map(|it| it.join()).collect::<Vec<_>>()
            });
            for result in results {
                let (gradients, losses) = result.map_err(|_| anyhow!("a thread panicked"))??;
                sum.0.merge(gradients)?;
                sum.1.masked_words += losses.masked_words;
                sum.1.next_sentence += losses.next_sentence;
                sum.1.similarity += losses.similarity;
            }
        }
        Ok(sum)
    }

    /// Writes the checkpoint, with weights in F16, and measures it with the sentences that a grammar holds
    /// back.
    pub fn finish(self, texts: &Texts) -> Result<()> {
        self.show()?;
        let exact = self.state.join("exact");
        self.model.save_pretrained(&exact, &SaveOptions::new())?;
        let half = LoadOptions::new().with_dtype(DType::F16);
        let model = BertForPreTraining::from_pretrained(&exact, &half)?;
        std::fs::remove_dir_all(&exact)?;
        self.tokenizer.save_pretrained(&self.output)?;
        let write = |name: &str, text: &str| -> Result<()> {
            let path = self.output.join(name);
            std::fs::create_dir_all(path.parent().context("no folder")?)?;
            replace(&path, text.as_bytes())
        };
        write("vocab.txt", &vocabulary::vocab_txt(&self.tokenizer))?;
        if self.settings.recipe.similarity_weight > 0. {
            write("modules.json", MODULES)?;
            write("1_Pooling/config.json", &pooling(self.settings.hidden_size))?;
        }
        model.save_pretrained(&self.output, &SaveOptions::new())?;
        println!("saved in {}", self.output.display());
        if let Texts::Grammar(grammar) = texts {
            println!("{}", Figures::of(&Checkpoint::from_dir(&self.output)?, grammar)?);
        }
        Ok(())
    }
}

/// What makes the checkpoint an encoder of texts: sentence-transformers takes the mean of the tokens' states.
const MODULES: &str = r#"[
  {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
  {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
]
"#;

fn pooling(width: usize) -> String {
    format!("{{\"word_embedding_dimension\": {width}, \"pooling_mode_mean_tokens\": true}}\n")
}

impl Settings {
    /// Compares them with those of a run that was begun.
    fn check(&self, begun: &[u8]) -> Result<()> {
        let begun: serde_json::Value = serde_json::from_slice(begun)?;
        let now = serde_json::to_value(self)?;
        let names = now.as_object().into_iter().flatten();
        let differing: Vec<String> = names
            .filter(|(name, now)| begun.get(name) != Some(now))
            .map(|(name, now)| {
                let before = begun.get(name).map_or("absent".to_owned(), ToString::to_string);
                format!("{name} was {before} and is {now}")
            })
            .collect();
        ensure!(differing.is_empty(), "{}", differing.join("; "));
        Ok(())
    }
}

/// Writes a file that takes another one's place once it is whole.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let new = path.with_added_extension("new");
    std::fs::write(&new, content)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Draws the losses: means of a hundredth of the steps.
fn plot(losses: &[Row], path: &Path) -> Result<()> {
    let size = losses.len().div_ceil(100).max(1);
    let highest = losses.iter().map(|row| row.masked_words).fold(1., f64::max);
    let root = SVGBackend::new(path, (800, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(15)
        .x_label_area_size(35)
        .y_label_area_size(45)
        .build_cartesian_2d(0f64..losses.len() as f64, 0f64..highest)?;
    chart.configure_mesh().x_desc("step").y_desc("loss").draw()?;
    type Series = (&'static str, RGBColor, fn(&Row) -> f64);
    let series: [Series; 3] = [
        ("masked words", RGBColor(200, 60, 40), |row| row.masked_words),
        ("next sentence", RGBColor(70, 110, 170), |row| row.next_sentence),
        ("similarity", RGBColor(110, 160, 110), |row| row.similarity),
    ];
    for (name, color, loss) in series {
        let points = losses.chunks(size).map(|rows| {
            let mean = rows.iter().map(loss).sum::<f64>() / rows.len() as f64;
            (rows[0].step as f64 + rows.len() as f64 / 2., mean)
        });
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
