//! A checkpoint's weights as a `VarBuilder` reads them, with a log of what was read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use rand::SeedableRng;
use rand::distr::Distribution;
use rand_chacha::ChaCha8Rng;
use rand_distr::Normal;

use bert_core::BertConfig;

use super::architecture::{self, advice, canonical, is_buffer, is_head};
use super::options::LoadOptions;
use super::report::{Conversion, LoadReport, Mismatch};
use crate::error::{Error, Result};
use crate::files::weight_file::{TensorInfo, WeightFile};

/// After this many missing weights loading stops at once.
const MOST_MISSING: usize = 10_000;

/// Which weights may be new when a caller asks for new ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewWeights {
    /// Those of a head and of the pooler: the caller does not look at the report.
    Heads,
    /// All: the caller has the report.
    Any,
}

/// Files of weights that log what is read from them. Clones share the files and the log.
#[derive(Clone)]
pub(crate) struct CheckpointBackend(Arc<Inner>);

struct Inner {
    /// The checkpoint's name in errors.
    checkpoint: String,
    files: Vec<Box<dyn WeightFile>>,
    /// The file of each weight and its name there, by the model's name after the caller's renamings.
    index: HashMap<String, (usize, String)>,
    config: BertConfig,
    new: NewWeights,
    log: Mutex<LoadLog>,
}

struct LoadLog {
    report: LoadReport,
    generator: Option<ChaCha8Rng>,
    /// Whether a weight is missing that may not be new.
    fails: bool,
    /// The first error. Candle's error type would lose its kind.
    failure: Option<Error>,
}

impl CheckpointBackend {
    /// # Errors
    /// [`Error::AmbiguousWeight`] when two tensors get one name.
    pub(crate) fn new(
        checkpoint: String,
        files: Vec<Box<dyn WeightFile>>,
        config: BertConfig,
        options: &LoadOptions,
        new: NewWeights,
    ) -> Result<Self> {
        let mut index = HashMap::new();
        for (file, weights) in files.iter().enumerate() {
            for name in weights.names() {
                let stored = (file, name.clone());
                if let Some((_, other)) = index.insert(options.renamed(&name), stored) {
                    return Err(Error::AmbiguousWeight { checkpoint, names: [other, name] });
                }
            }
        }
        let log = Mutex::new(LoadLog {
            report: LoadReport::default(),
            generator: options.initialize_missing.map(ChaCha8Rng::seed_from_u64),
            fails: false,
            failure: None,
        });
        Ok(Self(Arc::new(Inner { checkpoint, files, index, config, new, log })))
    }

    /// The first error, if there was one.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.log().failure.take()
    }

    /// The report, once the model is loaded.
    ///
    /// # Errors
    /// [`Error::MismatchedWeights`] and [`Error::MissingWeights`] for weights that may not be new,
    /// [`Error::OtherArchitecture`] for weights that no BERT has where it has its own.
    pub(crate) fn report(&self, tied: Vec<(String, String)>) -> Result<LoadReport> {
        let log = self.log();
        let mut report = LoadReport { tied, ..log.report.clone() };
        let may_be_new = |name: &str| log.generator.is_some() && self.may_be_new(name);
        let current = self.current_names();
        let of_model = |it: &&Mismatch| current.get(&*it.name).is_none_or(|name| !may_be_new(name));
        let refused: Vec<_> = report.mismatched.iter().filter(of_model).cloned().collect();
        if !refused.is_empty() {
            let checkpoint = self.0.checkpoint.clone();
            return Err(Error::MismatchedWeights { checkpoint, mismatched: refused });
        }
        let refused: Vec<_> =
            report.missing.iter().filter(|name| !may_be_new(name)).cloned().collect();
        if !refused.is_empty() {
            return Err(self.missing(refused));
        }
        // They are there, under longer names.
        if architecture::hidden_prefix(&report.missing, &self.stored_names()).is_some() {
            return Err(self.missing(report.missing));
        }
        report.used.sort();
        report.unused = self.stored_names();
        report.unused.retain(|name| report.used.binary_search(name).is_err() && !is_buffer(name));
        report.unused.retain(|name| report.mismatched.iter().all(|other| other.name != *name));
        let name_of = |stored: &String| current.get(&**stored).copied().unwrap_or_default();
        let used: Vec<&str> = report.used.iter().map(name_of).collect();
        let unused: Vec<&str> = report.unused.iter().map(name_of).collect();
        let foreign = architecture::foreign(&used, &unused);
        let foreign: Vec<String> = foreign.into_iter().map(str::to_owned).collect();
        if !foreign.is_empty() {
            let checkpoint = self.0.checkpoint.clone();
            return Err(Error::OtherArchitecture { checkpoint, weights: foreign });
        }
        Ok(report)
    }

    fn may_be_new(&self, name: &str) -> bool {
        self.0.new == NewWeights::Any || is_head(name)
    }

    /// The names after the caller's renamings by those in the files.
    fn current_names(&self) -> HashMap<&str, &str> {
        self.0.index.iter().map(|(current, (_, stored))| (&**stored, &**current)).collect()
    }

    /// Whether the checkpoint has a weight, with or without the prefix of models with a head.
    fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A weight's file and its name there. Some checkpoints have the prefix for some of their weights.
    fn find(&self, name: &str) -> Option<&(usize, String)> {
        let index = &self.0.index;
        index.get(name).or_else(|| match name.strip_prefix("bert.") {
            Some(bare) => index.get(bare),
            None => index.get(&format!("bert.{name}")),
        })
    }

    fn log(&self) -> MutexGuard<'_, LoadLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names in the files.
    pub(crate) fn stored_names(&self) -> Vec<String> {
        self.0.files.iter().flat_map(|file| file.names()).collect()
    }

    fn missing(&self, missing: Vec<String>) -> Error {
        let (checkpoint, found) = (self.0.checkpoint.clone(), self.stored_names());
        let advice = advice(&missing, &found, &self.0.config);
        Error::MissingWeights { checkpoint, missing, found, advice }
    }

    fn info(&self, name: &str) -> Option<(&dyn WeightFile, &str, TensorInfo)> {
        let (file, name) = self.find(name)?;
        let file = &*self.0.files[*file];
        Some((file, name, file.info(name)?))
    }

    fn load(&self, wanted: WeightRequest) -> Result<Tensor> {
        let mut log = self.log();
        match self.info(wanted.name) {
            None => {
                log.report.missing.push(wanted.name.to_owned());
                if log.report.missing.len() > MOST_MISSING {
                    return Err(self.missing(log.report.missing.clone()));
                }
            }
            Some((file, stored, info)) => {
                let dtype = info.dtype.map_err(|got| {
                    let (checkpoint, name) = (self.0.checkpoint.clone(), stored.to_owned());
                    Error::WeightDType { checkpoint, name, got }
                })?;
                if info.shape == wanted.shape.dims() {
                    log.read(&wanted, stored, dtype);
                    drop(log);
                    let tensor = file.read(stored, dtype)?;
                    return Ok(tensor.to_dtype(wanted.dtype)?.to_device(wanted.device)?);
                }
                let (name, expected) = (stored.to_owned(), wanted.shape.dims().to_vec());
                log.report.mismatched.push(Mismatch { name, got: info.shape, expected });
            }
        }
        // What ends in an error is not drawn: a config may state any size.
        log.fails |= !self.may_be_new(wanted.name);
        let generator = if log.fails { None } else { log.generator.as_mut() };
        wanted.draw(generator, self.0.config.padding_row())
    }
}

impl LoadLog {
    /// Logs that a weight was read.
    fn read(&mut self, wanted: &WeightRequest, stored: &str, dtype: DType) {
        self.report.used.push(stored.to_owned());
        let current = canonical(wanted.name);
        if current != stored.strip_prefix("bert.").unwrap_or(stored) {
            self.report.renamed.push((stored.to_owned(), current));
        }
        if dtype != wanted.dtype {
            let conversion = Conversion { from: dtype, to: wanted.dtype };
            let converted = &mut self.report.converted;
            match converted.iter_mut().find(|(other, _)| *other == conversion) {
                Some((_, count)) => *count += 1,
                None => converted.push((conversion, 1)),
            }
        }
    }
}

/// What a model asks for.
struct WeightRequest<'a> {
    name: &'a str,
    shape: &'a Shape,
    init: Init,
    dtype: DType,
    device: &'a Device,
}

impl WeightRequest<'_> {
    /// A new weight. Without a generator, a placeholder without storage of its own, so that loading
    /// continues and one error names all missing weights.
    fn draw(&self, generator: Option<&mut ChaCha8Rng>, padding_row: Option<u32>) -> Result<Tensor> {
        let constant = |value: f64| -> Result<Tensor> {
            let scalar = (Tensor::ones((), DType::F32, self.device)? * value)?;
            Ok(scalar.to_dtype(self.dtype)?.broadcast_as(self.shape)?)
        };
        let failed = |reason: &dyn std::fmt::Display| {
            candle_core::Error::Msg(format!("{}: {reason}", self.name))
        };
        let Some(generator) = generator else { return constant(0.) };
        match self.init {
            Init::Const(value) => Ok(constant(value)?.contiguous()?),
            Init::Randn { mean, stdev } => {
                let normal = Normal::new(mean as f32, stdev as f32).map_err(|e| failed(&e))?;
                let count = self.shape.elem_count();
                let mut values: Vec<f32> = Vec::new();
                values.try_reserve_exact(count).map_err(|e| failed(&e))?;
                values.extend(normal.sample_iter(generator).take(count));
                if let (true, Some(row), [_, h]) =
                    (self.name.ends_with("word_embeddings.weight"), padding_row, self.shape.dims())
                {
                    let row = row as usize * h;
                    values.get_mut(row..row + h).unwrap_or_default().fill(0.);
                }
                Ok(Tensor::from_vec(values, self.shape, self.device)?.to_dtype(self.dtype)?)
            }
            other => Err(failed(&format!("cannot draw {other:?}")).into()),
        }
    }
}

impl SimpleBackend for CheckpointBackend {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.load(WeightRequest { name, shape: &shape, init, dtype, device }).map_err(|error| {
            let told = candle_core::Error::Msg(error.to_string());
            self.log().failure.get_or_insert(error);
            told
        })
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some((_, _, info)) = self.info(name) else {
            candle_core::bail!("{name} is not in {}", self.0.checkpoint);
        };
        self.get(Shape::from(info.shape), name, Init::Const(0.), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        // The word embeddings say where the model lies.
        match name.ends_with("embeddings.word_embeddings.weight") {
            true => self.0.index.contains_key(name),
            false => self.has(name),
        }
    }
}
