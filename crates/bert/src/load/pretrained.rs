//! Models that are loaded and saved.

use std::path::Path;

use bert_core::{BertConfig, BertModel, Parameters};
use candle_core::DType;
use candle_nn::{VarBuilder, VarMap};

use super::backend::{CheckpointBackend, NewWeights};
use super::options::LoadOptions;
use super::report::LoadReport;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::save::{SaveOptions, save_model};

/// A model that is loaded from a checkpoint and saved to one. Hugging Face: `PreTrainedModel`.
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
    /// [`LoadOptions::with_missing_initialized`] gives a head and the pooler new weights. The rest of the
    /// model is never drawn here, because nobody would see it; use
    /// [`PreTrainedModel::from_pretrained_with_report`].
    ///
    /// # Errors
    /// When files cannot be read or are damaged, when the config is not that of a BERT, when weights are
    /// missing or of another shape, and when the checkpoint's architecture is another one; see
    /// [`Error`].
    fn from_pretrained(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let (mut model, _) = load_checkpoint::<Self>(checkpoint, options, NewWeights::Heads)?;
        model.freeze_with(&options.freeze)?;
        Ok(model)
    }

    /// [`PreTrainedModel::from_pretrained`] and a report of what became of the checkpoint's weights.
    /// Any weight may be new here if [`LoadOptions::with_missing_initialized`] asks for it.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    fn from_pretrained_with_report(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<(Self, LoadReport)> {
        let (mut model, report) = load_checkpoint::<Self>(checkpoint, options, NewWeights::Any)?;
        model.freeze_with(&options.freeze)?;
        Ok((model, report))
    }

    /// A new model: matrices drawn from a normal distribution with the config's `initializer_range`,
    /// biases 0, γ 1. The same seed gives the same model on every machine.
    ///
    /// # Errors
    /// [`Error::Model`] for an impossible config, [`Error::ModelDType`] for an impossible dtype.
    fn from_config(config: &BertConfig, seed: u64, options: &LoadOptions) -> Result<Self> {
        let options = options.clone().with_missing_initialized(seed);
        let name = "a config without weights".to_owned();
        let weights =
            CheckpointBackend::new(name, Vec::new(), config.clone(), &options, NewWeights::Any)?;
        let (mut model, _) = load::<Self>(&weights, config, &options)?;
        model.freeze_with(&options.freeze)?;
        Ok(model)
    }

    /// [`PreTrainedModel::from_pretrained`] for training: the model, and its parameters by name. What
    /// an optimizer writes into the parameters takes effect at once. To train only some of them, load
    /// with [`PreTrainedModel::from_pretrained`] and call [`Parameters::set_trainable`].
    /// [`Parameters::freeze`] ends training.
    ///
    /// # Errors
    /// As [`PreTrainedModel::from_pretrained`].
    fn from_pretrained_trainable(
        checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
        options: &LoadOptions,
    ) -> Result<(Self, VarMap)> {
        let (mut model, _) = load_checkpoint::<Self>(checkpoint, options, NewWeights::Heads)?;
        let vars = model.set_trainable(|_| true)?;
        Ok((model, vars))
    }

    /// Writes `config.json` and the weights, in safetensors, into `folder`, which is created if need
    /// be. transformers loads it: version 4 if heads are pruned or positions are relative, which
    /// version 5 does not know. Weights of an earlier save are deleted; other files stay.
    ///
    /// A save that fails or is interrupted at any moment leaves the earlier checkpoint or the new one,
    /// whole. If it is interrupted while it renames files, this library reads the new one, and the next
    /// save into the folder completes it; other programs may see old files until then.
    ///
    /// # Errors
    /// [`Error::Save`] when the files cannot be written, [`Error::Model`] when the vocabularies of the
    /// head and of the model below it differ.
    fn save_pretrained(&self, folder: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
        let mut config = Parameters::config(self).clone();
        config.num_hidden_layers = self.bert().encoder.layer.len();
        config.pruned_heads = self.bert().pruned_heads();
        config.architectures = Some(vec![Self::CLASS.to_owned()]);
        let dtype = self.get_input_embeddings().dtype();
        config.dtype = Some(python_name(dtype).to_owned());
        config.other.shift_remove(NAMED_FILE);
        if self.get_output_embeddings().is_some() {
            config.tie_word_embeddings = self.has_tied_decoder();
        }
        save_model(self, &config, folder.as_ref(), options)
    }
}

/// The field of a config that names the file of weights.
const NAMED_FILE: &str = "transformers_weights";

fn named_file(config: &BertConfig) -> Result<Option<&str>> {
    let Some(value) = config.other.get(NAMED_FILE).filter(|it| !it.is_null()) else {
        return Ok(None);
    };
    let endings = [".safetensors", ".safetensors.index.json"];
    let name = value.as_str().filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
    name.map(Some).ok_or_else(|| {
        let expected = "the name of a .safetensors or .safetensors.index.json file".to_owned();
        let got = value.to_string();
        Error::Model(bert_core::Error::Config { field: NAMED_FILE, got, expected })
    })
}

/// The config of a checkpoint, and its weights.
fn open(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    new: NewWeights,
) -> Result<(BertConfig, CheckpointBackend)> {
    let config = checkpoint.config()?;
    let files = checkpoint.weights(named_file(&config)?)?;
    let name = checkpoint.to_string();
    let weights = CheckpointBackend::new(name, files, config.clone(), options, new)?;
    Ok((config, weights))
}

/// [`BertModel::from_pretrained_with_report`], without a pooler if the checkpoint has none and no new
/// one is asked for.
pub(crate) fn load_with_or_without_pooler(
    checkpoint: &Checkpoint,
    options: &LoadOptions,
    new: NewWeights,
) -> Result<(BertModel, LoadReport)> {
    let (config, weights) = open(checkpoint, options, new)?;
    // One under a longer name is an error that says how to load it.
    let has_pooler = weights.stored_names().iter().any(|name| name.contains("pooler.dense."));
    let without_pooler =
        options.add_pooling_layer && !has_pooler && options.initialize_missing.is_none();
    let mut options = options.clone();
    options.add_pooling_layer &= !without_pooler;
    let (mut model, report) = load::<BertModel>(&weights, &config, &options)?;
    model.freeze_with(&options.freeze)?;
    Ok((model, LoadReport { without_pooler, ..report }))
}

fn load_checkpoint<M: PreTrainedModel>(
    checkpoint: impl TryInto<Checkpoint, Error: Into<Error>>,
    options: &LoadOptions,
    new: NewWeights,
) -> Result<(M, LoadReport)> {
    let checkpoint = checkpoint.try_into().map_err(Into::into)?;
    let (config, weights) = open(&checkpoint, options, new)?;
    load(&weights, &config, options)
}

/// Loads a model from files of weights.
fn load<M: PreTrainedModel>(
    weights: &CheckpointBackend,
    config: &BertConfig,
    options: &LoadOptions,
) -> Result<(M, LoadReport)> {
    let mut config = config.clone();
    if let Some(labels) = &options.labels {
        config.set_labels(labels.clone());
    }
    let dtype = options.dtype;
    let metal = options.device.is_metal();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) && (metal || dtype != DType::F64) {
        return Err(Error::ModelDType { got: dtype, on: options.device.location() });
    }
    let vb = VarBuilder::from_backend(Box::new(weights.clone()), dtype, options.device.clone());
    let model = M::from_weights(vb, &config, options).map_err(|error| match error {
        // The backend's error is more exact than what Candle makes of it.
        bert_core::Error::Candle(error) => weights.failure().unwrap_or(error.into()),
        error => error.into(),
    })?;
    let report = weights.report(tied_weights(&model))?;
    Ok((model, report))
}

/// The name of a dtype in a config.
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

/// The model's tied weights: the name of each, then the name of the weight whose values it shares.
fn tied_weights(model: &impl Parameters) -> Vec<(String, String)> {
    let pairs = [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ];
    let pairs = pairs.iter().filter(|_| model.has_tied_decoder());
    pairs.map(|(tied, to)| ((*tied).to_owned(), (*to).to_owned())).collect()
}
