//! From a checkpoint's files to a model.

use std::fmt;
use std::path::Path;

use bert_core::{
    BertConfig, BertForMaskedLM, BertForMultipleChoice, BertForNextSentencePrediction,
    BertForPreTraining, BertForQuestionAnswering, BertForSequenceClassification,
    BertForTokenClassification, BertLMHeadModel, BertModel, FreezeOptions, Parameters,
};
use candle_core::{DType, Device};
use candle_nn::{VarBuilder, VarMap};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result, listing};
use crate::files::weight_file::WeightFile;
use crate::load::backend::Weights;
use crate::save::{SaveOptions, save_model};

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
    /// Seed for weights that the checkpoint lacks or has in another shape; without one they are
    /// an error.
    pub initialise_missing: Option<u64>,
    /// Whether a `BertModel` has a pooler. Default: yes.
    pub add_pooling_layer: bool,
    /// Beginnings of names in the checkpoint and what stands for them in the model; the first that
    /// fits a name counts. Default: none.
    pub rename_prefixes: Vec<(String, String)>,
    /// Names of a classifier's classes in place of the config's. Default: the config's.
    pub labels: Option<Vec<String>>,
    /// How a model that is not trained is frozen. Default: with packed weights.
    pub freeze: FreezeOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            initialise_missing: None,
            add_pooling_layer: true,
            rename_prefixes: Vec::new(),
            labels: None,
            freeze: FreezeOptions::new(),
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

    /// Draws weights that the checkpoint lacks, or has in another shape, as transformers does: matrices from a normal
    /// distribution of the config's `initializer_range`, biases 0, γ 1.
    pub fn initialise_missing(mut self, seed: u64) -> Self {
        self.initialise_missing = Some(seed);
        self
    }

    /// Reads weights whose names in the checkpoint begin with `stored` as if they began with
    /// `current`. `bert.` needs no renaming.
    pub fn rename_prefix(mut self, stored: &str, current: &str) -> Self {
        self.rename_prefixes.push((stored.to_owned(), current.to_owned()));
        self
    }

    /// Gives a classifier these classes, in this order; Hugging Face's `id2label` and `num_labels`. A
    /// classifier that the checkpoint has for another number of them is a weight of another shape.
    pub fn labels<L: Into<String>>(mut self, labels: impl IntoIterator<Item = L>) -> Self {
        self.labels = Some(labels.into_iter().map(Into::into).collect());
        self
    }

    /// What the model calls a weight of the checkpoint.
    pub(crate) fn renamed(&self, stored: &str) -> String {
        let rename =
            |(old, new): &(String, String)| Some(format!("{new}{}", stored.strip_prefix(old)?));
        self.rename_prefixes.iter().find_map(rename).unwrap_or_else(|| stored.to_owned())
    }

    /// Leaves out the pooler of a `BertModel`; Hugging Face's `add_pooling_layer=False`.
    pub fn without_pooling_layer(mut self) -> Self {
        self.add_pooling_layer = false;
        self
    }
}

/// What became of a checkpoint's tensors. Hugging Face: `output_loading_info`.
///
/// [`fmt::Display`] says in sentences what a user should know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Tensors of the checkpoint that the model read.
    pub used: Vec<String>,
    /// Tensors of the checkpoint that the model has no place for.
    pub unused: Vec<String>,
    /// Weights of the model that the checkpoint lacks and that were drawn.
    pub missing: Vec<String>,
    /// Weights that the checkpoint has in another shape and that were drawn.
    pub mismatched: Vec<Mismatch>,
    /// Tensors that the model has under another name: theirs, then the model's.
    pub renamed: Vec<(String, String)>,
    /// Weights that are another one's: the name of the first, then that of the second.
    pub tied: Vec<(String, String)>,
    /// How many tensors were converted to another dtype.
    pub converted: Vec<(Conversion, usize)>,
}

/// A weight whose shape in the checkpoint is not the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape there.
    pub got: Vec<usize>,
    /// The shape the model needs.
    pub expected: Vec<usize>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?} in place of {:?})", self.name, self.got, self.expected)
    }
}

/// From one dtype to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// As stored.
    pub from: DType,
    /// As loaded.
    pub to: DType,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |names: &mut dyn Iterator<Item = String>| listing(&names.collect::<Vec<_>>());
        match self.unused.len() {
            0 if self.mismatched.is_empty() => {
                write!(f, "All {} weights of the checkpoint were used.", self.used.len())?
            }
            0 => write!(f, "{} weights of the checkpoint were used.", self.used.len())?,
            unused => write!(
                f,
                "{} weights of the checkpoint were used, {unused} were not: {}.",
                self.used.len(),
                listing(&self.unused)
            )?,
        }
        if !self.missing.is_empty() {
            write!(
                f,
                "\n{} weights of the model are new, because the checkpoint lacks them: {}. \
                 Train them before use.",
                self.missing.len(),
                listing(&self.missing)
            )?;
        }
        if !self.mismatched.is_empty() {
            let mismatches = names(&mut self.mismatched.iter().map(Mismatch::to_string));
            let count = self.mismatched.len();
            write!(
                f,
                "\n{count} weights of the model are new, because the checkpoint has them in another \
                 shape: {mismatches}. Train them before use."
            )?;
        }
        if !self.renamed.is_empty() {
            let pairs = names(&mut self.renamed.iter().map(|(old, new)| format!("{old} as {new}")));
            write!(f, "\n{} weights were renamed: {pairs}.", self.renamed.len())?;
        }
        for (tied, to) in &self.tied {
            write!(f, "\n{tied} is {to}.")?;
        }
        for (Conversion { from, to }, count) in &self.converted {
            write!(f, "\n{count} weights were converted from {from:?} to {to:?}.")?;
        }
        Ok(())
    }
}

/// A model that loads from a checkpoint. Hugging Face: `PreTrainedModel`.
pub trait PreTrainedModel: Parameters {
    /// What transformers calls the class.
    const CLASS: &'static str;

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
        let (mut model, report): (Self, _) = load_checkpoint(&checkpoint, options)?;
        model.freeze_with(&options.freeze)?;
        Ok((model, report))
    }

    /// A new model: matrices drawn from a normal distribution of the config's `initializer_range` with
    /// a generator of this seed, biases 0, γ 1. The same seed gives the same model everywhere.
    ///
    /// # Errors
    /// [`Error::Model`] for an impossible config, [`Error::ModelDType`] for an impossible dtype.
    fn from_config(config: &BertConfig, seed: u64, options: &LoadOptions) -> Result<Self> {
        let options = options.clone().initialise_missing(seed);
        let name = "a config without weights".to_owned();
        let (mut model, _): (Self, _) = load(name, Vec::new(), config.clone(), &options)?;
        model.freeze_with(&options.freeze)?;
        Ok(model)
    }

    /// [`PreTrainedModel::from_pretrained`] for training: the model, and its parameters by name. What
    /// is written into the parameters counts for the model at once. [`Parameters::set_trainable`]
    /// trains some of them only, after [`PreTrainedModel::from_pretrained_with_report`] for example;
    /// [`Parameters::freeze`] ends training.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    fn from_pretrained_trainable<C>(checkpoint: C, options: &LoadOptions) -> Result<(Self, VarMap)>
    where
        C: TryInto<Checkpoint>,
        Error: From<C::Error>,
    {
        let (mut model, _): (Self, _) = load_checkpoint(&checkpoint.try_into()?, options)?;
        let vars = model.set_trainable(|_| true)?;
        Ok((model, vars))
    }

    /// Writes `config.json` and the weights, in safetensors, into `folder`, which is made where it is
    /// not there. transformers loads it: version 4 where heads are pruned or positions are relative,
    /// which version 5 does not know. Weights of an earlier save go; other files of the folder stay.
    ///
    /// Files are written aside and get their names when all of them are whole, the config last: a save
    /// that fails or is interrupted while it writes leaves what was saved before. Only a crash between
    /// two renamings can leave new weights beside an old config.
    ///
    /// # Errors
    /// [`Error::Save`] when the files cannot be written, [`Error::Model`] when the head's vocabulary is
    /// not that of the model below it.
    fn save_pretrained(&self, folder: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
        let mut config = Parameters::config(self).clone();
        config.num_hidden_layers = self.bert().encoder.layer.len();
        config.architectures = Some(vec![Self::CLASS.to_owned()]);
        let dtype = self.get_input_embeddings().dtype();
        config.dtype = Some(python_name(dtype).to_owned());
        if self.get_output_embeddings().is_some() {
            config.tie_word_embeddings = self.has_tied_decoder();
        }
        save_model(self, &config, folder.as_ref(), options)
    }
}

fn load_checkpoint<M: PreTrainedModel>(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
) -> Result<(M, LoadReport)> {
    let config = checkpoint.config()?;
    load(checkpoint.to_string(), checkpoint.weights()?, config, options)
}

/// Loads a model from files of weights, or from none.
fn load<M: PreTrainedModel>(
    checkpoint: String,
    files: Vec<Box<dyn WeightFile>>,
    mut config: BertConfig,
    options: &LoadOptions,
) -> Result<(M, LoadReport)> {
    if let Some(labels) = &options.labels {
        config.set_labels(labels.clone());
    }
    let dtype = options.dtype;
    let metal = options.device.is_metal();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && (metal || dtype != DType::F64) {
        return Err(Error::ModelDType { got: dtype, on: options.device.location() });
    }
    let weights = Weights::new(checkpoint, files, config.padding_row(), options)?;
    let vb = VarBuilder::from_backend(Box::new(weights.clone()), dtype, options.device.clone());
    match M::from_weights(vb, &config, options) {
        Ok(model) => {
            let tied = tied_weights(&model);
            Ok((model, weights.report(tied)?))
        }
        // What the weights know is more exact than what Candle passes on.
        Err(bert_core::Error::Candle(error)) => Err(weights.failure().unwrap_or(error.into())),
        Err(error) => Err(error.into()),
    }
}

/// What a config calls a dtype.
fn python_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "float64",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

impl PreTrainedModel for BertModel {
    const CLASS: &'static str = "BertModel";

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

/// Implements [`PreTrainedModel`] for models with a head.
macro_rules! pretrained {
    ($($model:ident),* $(,)?) => {$(
        impl PreTrainedModel for $model {
            const CLASS: &'static str = stringify!($model);

            fn from_weights(
                vb: VarBuilder,
                config: &BertConfig,
                _options: &LoadOptions,
            ) -> bert_core::Result<Self> {
                Self::load(vb, config)
            }
        }
    )*};
}

pretrained!(
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
);

/// The weights that the model shares: the name of one, then the name of the weight that it is.
fn tied_weights(model: &impl Parameters) -> Vec<(String, String)> {
    let pairs = [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ];
    let pairs = pairs.iter().filter(|_| model.has_tied_decoder());
    pairs.map(|(tied, to)| ((*tied).to_owned(), (*to).to_owned())).collect()
}
