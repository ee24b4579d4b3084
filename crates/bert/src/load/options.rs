//! What a caller asks of loading.

use bert_core::FreezeOptions;
use candle_core::{DType, Device};

/// How a model is loaded.
///
/// ```
/// use bert::{DType, LoadOptions};
///
/// let options = LoadOptions::new().with_device(bert::best_device()).with_dtype(DType::F32);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The device of the parameters. Default: the CPU.
    pub device: Device,
    /// The dtype that parameters are converted to. Default: F32.
    pub dtype: DType,
    /// The seed of weights that the checkpoint lacks or has in another shape. Without it such weights
    /// are an error.
    pub initialize_missing: Option<u64>,
    /// Whether a `BertModel` has a pooler. Default: yes.
    pub add_pooling_layer: bool,
    /// Prefixes of names in the checkpoint, and what replaces them in the model. The first that fits a
    /// name counts. Default: none.
    pub rename_prefixes: Vec<(String, String)>,
    /// The names of a classifier's classes. Default: the config's.
    pub labels: Option<Vec<String>>,
    /// How a model that is not loaded for training is frozen. Default: with packed weights.
    pub freeze: FreezeOptions,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            initialize_missing: None,
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

    /// Sets [`LoadOptions::device`].
    pub fn with_device(self, device: Device) -> Self {
        Self { device, ..self }
    }

    /// Sets [`LoadOptions::dtype`]: F64, F32, F16 or BF16.
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// Draws weights that the checkpoint lacks or has in another shape, as transformers does: matrices
    /// from a normal distribution with the config's `initializer_range`, biases 0, γ 1. Below a head and
    /// the pooler it does so only with
    /// [`from_pretrained_with_report`](crate::PreTrainedModel::from_pretrained_with_report).
    pub fn with_missing_initialized(self, seed: u64) -> Self {
        Self { initialize_missing: Some(seed), ..self }
    }

    /// Reads weights whose names in the checkpoint begin with `stored` as if they began with
    /// `current`. The prefix `bert.` needs no renaming.
    pub fn with_renamed_prefix(mut self, stored: &str, current: &str) -> Self {
        self.rename_prefixes.push((stored.to_owned(), current.to_owned()));
        self
    }

    /// Gives a classifier these classes, in this order. Hugging Face: `id2label` and `num_labels`. If
    /// the checkpoint has a classifier for another number of classes, that is a weight of another shape.
    pub fn with_labels<L: Into<String>>(self, labels: impl IntoIterator<Item = L>) -> Self {
        Self { labels: Some(labels.into_iter().map(Into::into).collect()), ..self }
    }

    /// Leaves out the pooler of a `BertModel`. Hugging Face: `add_pooling_layer=False`.
    pub fn without_pooling_layer(self) -> Self {
        Self { add_pooling_layer: false, ..self }
    }

    /// Sets [`LoadOptions::freeze`].
    pub fn with_freeze_options(self, freeze: FreezeOptions) -> Self {
        Self { freeze, ..self }
    }

    /// The model's name of a weight in the checkpoint.
    pub(crate) fn renamed(&self, stored: &str) -> String {
        let rename =
            |(old, new): &(String, String)| Some(format!("{new}{}", stored.strip_prefix(old)?));
        self.rename_prefixes.iter().find_map(rename).unwrap_or_else(|| stored.to_owned())
    }
}
