//! From a checkpoint's files to a model.

use std::fmt;

use bert_core::{BertConfig, BertModel};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, listing};
use crate::weights::Weights;

/// Where a model goes and what may be missing.
///
/// ```
/// use bert::{DType, LoadOptions};
///
/// let options = LoadOptions::new().device(bert::best_device()).dtype(DType::F32);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Where the parameters go. Default: the CPU.
    pub device: Device,
    /// What the parameters are converted to. Default: F32.
    pub dtype: DType,
    /// Seed for weights that the checkpoint lacks; without one they are an error.
    pub initialise_missing: Option<u64>,
    /// Whether a `BertModel` has a pooler. Default: yes.
    pub add_pooling_layer: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            initialise_missing: None,
            add_pooling_layer: true,
        }
    }
}

impl LoadOptions {
    /// F32 on the CPU, every weight from the checkpoint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the parameters on `device`.
    pub fn device(mut self, device: Device) -> Self {
        self.device = device;
        self
    }

    /// Converts the parameters to `dtype`: F64, F32, F16 or BF16.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Draws weights that the checkpoint lacks as transformers does: matrices from a normal
    /// distribution of the config's `initializer_range`, biases 0, γ 1.
    pub fn initialise_missing(mut self, seed: u64) -> Self {
        self.initialise_missing = Some(seed);
        self
    }

    /// Leaves out the pooler of a `BertModel`; Hugging Face's `add_pooling_layer=False`.
    pub fn without_pooling_layer(mut self) -> Self {
        self.add_pooling_layer = false;
        self
    }
}

/// What a checkpoint and a model did not share. [`fmt::Display`] says it in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Tensors of the checkpoint that the model has no place for.
    pub unused: Vec<String>,
    /// Weights of the model that the checkpoint lacks and that were initialised.
    pub initialised: Vec<String>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unused.as_slice() {
            [] => write!(f, "Every weight of the checkpoint was used")?,
            unused => write!(
                f,
                "{} weights of the checkpoint were not used: {}",
                unused.len(),
                listing(unused)
            )?,
        }
        match self.initialised.as_slice() {
            [] => write!(f, "; the model has no others."),
            new => write!(
                f,
                "; {} weights of the model were newly initialised: {}. Train them before use.",
                new.len(),
                listing(new)
            ),
        }
    }
}

/// A model that loads from a checkpoint. Hugging Face: `PreTrainedModel`.
pub trait PreTrainedModel: Sized {
    /// Loads the model from named weights.
    ///
    /// # Errors
    /// As the model's own `load`.
    fn from_weights(
        vb: VarBuilder,
        config: &BertConfig,
        options: &LoadOptions,
    ) -> bert_core::Result<Self>;

    /// Loads the model from `checkpoint`: a [`Checkpoint`], a folder's path or a hub id.
    ///
    /// # Errors
    /// When the files cannot be had or are damaged, when the config is not that of a BERT, and when
    /// weights are missing or of another shape; see [`Error`].
    fn from_pretrained<C>(checkpoint: C, options: &LoadOptions) -> Result<Self>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        Ok(Self::from_pretrained_with_report(checkpoint, options)?.0)
    }

    /// [`PreTrainedModel::from_pretrained`], and what checkpoint and model did not share.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    fn from_pretrained_with_report<C>(
        checkpoint: C,
        options: &LoadOptions,
    ) -> Result<(Self, LoadReport)>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        let checkpoint = checkpoint.try_into()?;
        let dtype = options.dtype;
        if !matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::ModelDType { got: dtype });
        }
        let config = checkpoint.config()?;
        let weights = Weights::new(checkpoint.weights()?, options.initialise_missing);
        let vb = VarBuilder::from_backend(Box::new(weights.clone()), dtype, options.device.clone());
        let model = Self::from_weights(vb, &config, options);
        let report = weights.report()?;
        Ok((model?, report))
    }
}

impl PreTrainedModel for BertModel {
    fn from_weights(
        vb: VarBuilder,
        config: &BertConfig,
        options: &LoadOptions,
    ) -> bert_core::Result<Self> {
        if options.add_pooling_layer {
            Self::load(vb, config)
        } else {
            Self::load_without_pooler(vb, config)
        }
    }
}
