//! A checkpoint's weights as a `VarBuilder` reads them, with an account of what was read.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use rand::SeedableRng;
use rand::distr::Distribution;
use rand_chacha::ChaCha8Rng;
use rand_distr::Normal;

use crate::error::{Error, Result};
use crate::load::LoadReport;
use crate::safetensors::SafetensorsFile;

/// A model that asks for more absent weights than this gets an error at once.
const MOST_MISSING: usize = 10_000;

/// A file of weights that remembers what was asked of it. Clones share file and memory.
#[derive(Clone)]
pub(crate) struct Weights(Arc<Inner>);

struct Inner {
    file: SafetensorsFile,
    account: Mutex<Account>,
}

struct Account {
    used: HashSet<String>,
    missing: Vec<String>,
    generator: Option<ChaCha8Rng>,
    /// The first error. Candle's own type would lose what kind it is.
    failure: Option<Error>,
}

impl Weights {
    /// With a seed, absent weights are drawn; without one they are an error in the end.
    pub(crate) fn new(file: SafetensorsFile, seed: Option<u64>) -> Self {
        let account = Mutex::new(Account {
            used: HashSet::new(),
            missing: Vec::new(),
            generator: seed.map(ChaCha8Rng::seed_from_u64),
            failure: None,
        });
        Self(Arc::new(Inner { file, account }))
    }

    /// What was and was not read, once the model is loaded.
    pub(crate) fn report(&self) -> Result<LoadReport> {
        let mut account = self.account();
        if let Some(failure) = account.failure.take() {
            return Err(failure);
        }
        let names = self.0.file.names();
        if account.generator.is_none() && !account.missing.is_empty() {
            return Err(Error::MissingWeights {
                checkpoint: self.checkpoint(),
                missing: account.missing.clone(),
                found: names,
            });
        }
        let unused = names
            .into_iter()
            .filter(|name| !account.used.contains(name) && !is_buffer(name))
            .collect();
        Ok(LoadReport { unused, initialised: account.missing.clone() })
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkpoint(&self) -> String {
        self.0.file.path().display().to_string()
    }

    fn load(
        &self,
        shape: &Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let Some(info) = self.0.file.info(name) else {
            return self.absent(shape, name, init, dtype, device);
        };
        if info.shape != shape.dims() {
            return Err(Error::MismatchedWeight {
                checkpoint: self.checkpoint(),
                name: name.to_owned(),
                got: info.shape.clone(),
                expected: shape.dims().to_vec(),
            });
        }
        self.account().used.insert(name.to_owned());
        self.0.file.read(name, info, dtype, device)
    }

    /// A weight that the file does not have: drawn, or a placeholder without storage of its own, so
    /// that loading goes on and all missing names can be told at once.
    fn absent(
        &self,
        shape: &Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let mut account = self.account();
        account.missing.push(name.to_owned());
        if account.missing.len() > MOST_MISSING {
            return Err(Error::MissingWeights {
                checkpoint: self.checkpoint(),
                missing: account.missing.clone(),
                found: self.0.file.names(),
            });
        }
        let constant = |value: f64| -> Result<Tensor> {
            Ok((Tensor::ones((), DType::F32, device)? * value)?
                .to_dtype(dtype)?
                .broadcast_as(shape)?)
        };
        let Some(generator) = &mut account.generator else { return constant(0.) };
        match init {
            Init::Const(value) => Ok(constant(value)?.contiguous()?),
            Init::Randn { mean, stdev } => {
                let normal = Normal::new(mean as f32, stdev as f32)
                    .map_err(|error| candle_core::Error::Msg(format!("{name}: {error}")))?;
                let values: Vec<f32> =
                    normal.sample_iter(generator).take(shape.elem_count()).collect();
                Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
            }
            other => Err(candle_core::Error::Msg(format!("{name}: cannot draw {other:?}")).into()),
        }
    }
}

impl SimpleBackend for Weights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.load(&shape, name, init, dtype, device).map_err(|error| {
            let told = candle_core::Error::Msg(error.to_string());
            self.account().failure.get_or_insert(error);
            told
        })
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some(info) = self.0.file.info(name) else {
            candle_core::bail!("{name} is not in {}", self.checkpoint());
        };
        self.get(Shape::from(info.shape.as_slice()), name, Init::Const(0.), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.file.info(name).is_some()
    }
}

/// Buffers that transformers once stored among the weights: constants, not parameters.
fn is_buffer(name: &str) -> bool {
    name.ends_with("embeddings.position_ids") || name.ends_with("embeddings.token_type_ids")
}
