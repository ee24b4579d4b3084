//! The modules that come after the transformer.

use bert_kernels::{LayerNormWeights, LinearWeights, WeightForm, layer_norm, linear, widen};
use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;

use super::activation::Activation;
use super::features::{Features, Target};
use super::files::{ModuleFiles, module_error, read, read_existing};
use super::pooling::Pooling;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::task_error::TaskError;

/// The modules that are known, with the transformer.
const KNOWN: &str = "Transformer, Pooling, Dense, LayerNorm, Normalize and Dropout";

/// A module after the transformer.
#[derive(Clone, Debug)]
pub(super) enum Module {
    Pooling(Pooling),
    Dense(Dense),
    LayerNorm(LayerNorm),
    Normalize(Target),
    /// In evaluation it does nothing.
    Dropout,
}

impl Target {
    /// Refuses a module that would leave its input as it is.
    fn check_output(self, files: &Checkpoint, output: Option<&str>) -> Result<()> {
        let input = match self {
            Self::Sentence => "sentence_embedding",
            Self::Tokens => "token_embeddings",
        };
        match output.filter(|output| *output != input) {
            None => Ok(()),
            Some(output) => {
                let reason = format!("module_output_name is {output:?}, expected {input:?}");
                Err(module_error(files, "config.json", reason))
            }
        }
    }
}

impl Module {
    /// Reads a module. `target` is what it changes if its file does not say.
    pub(super) fn read(
        module: &ModuleFiles,
        target: Target,
        (device, dtype): (&Device, DType),
    ) -> Result<Self> {
        let files = &module.files;
        Ok(match &*module.class {
            "Pooling" => Self::Pooling(Pooling::read(files)?),
            "Dense" => Self::Dense(Dense::read(files, target, (device, dtype))?),
            "LayerNorm" => Self::LayerNorm(LayerNorm::read(files, (device, dtype))?),
            "Normalize" => {
                #[derive(Default, Deserialize)]
                struct Config {
                    module_input_name: Option<Target>,
                    module_output_name: Option<String>,
                }
                let config: Config = read(files, "config.json")?.unwrap_or_default();
                let target = config.module_input_name.unwrap_or(target);
                target.check_output(files, config.module_output_name.as_deref())?;
                Self::Normalize(target)
            }
            "Dropout" => Self::Dropout,
            class => {
                let got = class.to_owned();
                return Err(TaskError::UnknownModule { got, known: KNOWN }.into());
            }
        })
    }

    /// Changes the features.
    pub(super) fn forward(&self, features: &mut Features) -> Result<()> {
        match self {
            Self::Pooling(pooling) => features.sentence = Some(pooling.forward(features)?),
            Self::Dense(dense) => features.change(dense.target, |x| dense.forward(x))?,
            Self::LayerNorm(norm) => features.change(Target::Sentence, |x| norm.forward(x))?,
            Self::Normalize(target) => features.change(*target, normalize)?,
            Self::Dropout => {}
        }
        Ok(())
    }
}

/// Rows of length 1: `x / max(‖x‖, 1e-12)`.
pub(super) fn normalize(x: &Tensor) -> Result<Tensor> {
    let wide = widen(x)?;
    let length = wide.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(wide.broadcast_div(&length)?.to_dtype(x.dtype())?)
}

/// `activation(x Wᵀ + b)`, perhaps with a residual connection.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    linear: LinearWeights,
    activation: Activation,
    residual: Residual,
    target: Target,
}

#[derive(Clone, Debug)]
enum Residual {
    None,
    Identity,
    Linear(LinearWeights),
}

#[derive(Deserialize)]
struct DenseConfig {
    in_features: usize,
    out_features: usize,
    activation_function: Option<String>,
    module_input_name: Option<Target>,
    module_output_name: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

impl Dense {
    fn read(files: &Checkpoint, target: Target, at: (&Device, DType)) -> Result<Self> {
        const CONFIG: &str = "config.json";
        let config: DenseConfig = read_existing(files, CONFIG)?;
        let activation = match config.activation_function.as_deref() {
            Some(name) if name.starts_with("torch.") => {
                Activation::of_class(name).map_err(|reason| module_error(files, CONFIG, reason))?
            }
            _ => Activation::TANH,
        };
        let (input, output) = (config.in_features, config.out_features);
        let weights = Weights::read(files, at)?;
        let residual = match (config.use_residual, input == output) {
            (false, _) => Residual::None,
            (true, true) => Residual::Identity,
            (true, false) => {
                let weight = weights.get("residual.weight", &[output, input])?;
                Residual::Linear(linear_map(weight, None)?)
            }
        };
        let weight = weights.get("linear.weight", &[output, input])?;
        let bias = weights.find("linear.bias", &[output])?;
        let target = config.module_input_name.unwrap_or(target);
        target.check_output(files, config.module_output_name.as_deref())?;
        Ok(Self { linear: linear_map(weight, bias)?, activation, residual, target })
    }

    /// A projection of tokens: `weight` `[D, H]`.
    pub(super) fn of_tokens(weight: Tensor) -> Result<Self> {
        Ok(Self {
            linear: linear_map(weight, None)?,
            activation: Activation::Identity,
            residual: Residual::None,
            target: Target::Tokens,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.activation.apply(&linear(x, &self.linear)?)?;
        Ok(match &self.residual {
            Residual::None => y,
            Residual::Identity => (y + x)?,
            Residual::Linear(weights) => (y + linear(x, weights)?)?,
        })
    }
}

fn linear_map(weight: Tensor, bias: Option<Tensor>) -> Result<LinearWeights> {
    let none = || Tensor::zeros(weight.dim(0)?, weight.dtype(), weight.device());
    let bias = bias.map_or_else(none, Ok)?;
    let mut weights = LinearWeights::new(weight, bias);
    weights.convert(WeightForm::Packed)?;
    Ok(weights)
}

/// `γ (x − mean) / √(variance + 1e-5) + β`.
#[derive(Clone, Debug)]
pub(super) struct LayerNorm(LayerNormWeights);

impl LayerNorm {
    fn read(files: &Checkpoint, at: (&Device, DType)) -> Result<Self> {
        #[derive(Deserialize)]
        struct Config {
            dimension: usize,
        }
        const CONFIG: &str = "config.json";
        let config: Config = read_existing(files, CONFIG)?;
        let weights = Weights::read(files, at)?;
        let of = |name| weights.get(name, &[config.dimension]);
        let (gamma, beta) = (of("norm.weight")?, of("norm.bias")?);
        Ok(Self(LayerNormWeights { gamma, beta, eps: 1e-5 }))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(layer_norm(x, &self.0)?)
    }
}

/// The weights of a module.
pub(super) struct Weights<'a> {
    files: &'a Checkpoint,
    opened: Vec<Box<dyn crate::files::weight_file::WeightFile>>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Weights<'a> {
    pub(super) fn read(
        files: &'a Checkpoint,
        (device, dtype): (&'a Device, DType),
    ) -> Result<Self> {
        Ok(Self { files, opened: files.weights(None)?, device, dtype })
    }

    /// A weight that may be absent.
    pub(super) fn find(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let found = self.opened.iter().find_map(|file| Some((file, file.info(name)?)));
        let Some((file, info)) = found else { return Ok(None) };
        let wrong = |reason: String| module_error(self.files, name, reason);
        if info.shape != shape {
            return Err(wrong(format!("the shape is {:?}, expected {shape:?}", info.shape)));
        }
        let dtype = info.dtype.map_err(|dtype| wrong(format!("the dtype is {dtype}")))?;
        let tensor = file.read(name, dtype)?.to_dtype(self.dtype)?;
        Ok(Some(tensor.to_device(self.device)?))
    }

    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let found = self.find(name, shape)?;
        found.ok_or_else(|| module_error(self.files, name, "there is no such weight"))
    }

    /// The shape of a weight.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.opened.iter().find_map(|file| Some(file.info(name)?.shape))
    }
}
