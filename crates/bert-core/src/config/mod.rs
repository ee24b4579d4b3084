//! The model's configuration, as in a checkpoint's `config.json`.

mod labels;
mod validate;

use std::collections::BTreeMap;

use bert_kernels::Activation;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A BERT's configuration. Hugging Face: `BertConfig`, of transformers 5.23 and 4.57.
///
/// Field names and defaults are those of `config.json`; the defaults describe
/// google-bert/bert-base-uncased. Keys that are not fields here, among them the generation
/// settings that version 4 wrote, are kept in [`BertConfig::other`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BertConfig {
    /// `V`, rows of the word embeddings.
    pub vocab_size: usize,
    /// `H`, a multiple of `num_attention_heads`.
    pub hidden_size: usize,
    /// `L`.
    pub num_hidden_layers: usize,
    /// `N`.
    pub num_attention_heads: usize,
    /// `F`.
    pub intermediate_size: usize,
    /// Name of the feed-forward activation, one of [`Activation::names`].
    pub hidden_act: String,
    /// Dropout probability of embeddings and of both sub-layers' outputs, in training.
    pub hidden_dropout_prob: f64,
    /// Dropout probability of attention weights, in training.
    pub attention_probs_dropout_prob: f64,
    /// `P`, the longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Rows of the token type embeddings.
    pub type_vocab_size: usize,
    /// The standard deviation of new matrices.
    pub initializer_range: f64,
    /// Added to the variance in every LayerNorm.
    pub layer_norm_eps: f64,
    /// Id of the padding token; negative counts from the end.
    pub pad_token_id: Option<i64>,
    /// How positions enter the model. Version 4 only; absolute otherwise.
    pub position_embedding_type: PositionEmbeddingType,
    /// Whether a decoder returns its keys and values.
    pub use_cache: bool,
    /// Dropout probability of classifier heads; `hidden_dropout_prob` where absent.
    pub classifier_dropout: Option<f64>,
    /// Whether a token sees only itself and the tokens before it.
    pub is_decoder: bool,
    /// Whether layers attend to the states of another encoder.
    pub add_cross_attention: bool,
    /// Id of the token that begins a text.
    pub bos_token_id: Option<i64>,
    /// Ids of the tokens that end a text.
    pub eos_token_id: Option<TokenIds>,
    /// Whether the language-model head uses the word embeddings as its matrix.
    pub tie_word_embeddings: bool,

    /// The classes of models that the checkpoint was saved from.
    pub architectures: Option<Vec<String>>,
    /// `"bert"`.
    pub model_type: String,
    /// The version of transformers that wrote the file.
    pub transformers_version: Option<String>,
    /// The dtype of the stored weights, like `"float32"`; `torch_dtype` in older files.
    pub dtype: Option<String>,
    /// Whether a call returns hidden states unless it says otherwise.
    pub output_hidden_states: bool,
    /// Whether a call returns attention weights unless it says otherwise.
    pub output_attentions: bool,
    /// Python's choice between an output object and a tuple; outputs here are always objects.
    pub return_dict: bool,
    /// Tokens per feed-forward chunk, 0 for no chunks. Changes memory use, never a number.
    pub chunk_size_feed_forward: usize,
    /// Whether the model is one half of an encoder–decoder pair.
    pub is_encoder_decoder: bool,
    /// Names of the classes by id. `LABEL_0` and `LABEL_1` where the file has none. A name that is not
    /// text becomes its JSON, and null becomes `LABEL_` with the id. A negative id such as −100 marks
    /// unlabeled tokens. As in transformers, it still counts as a class.
    #[serde(deserialize_with = "labels::names")]
    pub id2label: BTreeMap<i64, String>,
    /// Ids of the classes by name.
    #[serde(deserialize_with = "labels::ids")]
    pub label2id: BTreeMap<String, i64>,
    /// Which loss a sequence classifier is trained with; found from the labels where absent.
    pub problem_type: Option<ProblemType>,

    /// Heads removed from each layer. Version 4 only.
    pub pruned_heads: BTreeMap<usize, Vec<usize>>,
    /// Width of the other encoder's states. Version 4 only.
    pub cross_attention_hidden_size: Option<usize>,
    /// Whether encoder and decoder share weights. Version 4 only.
    pub tie_encoder_decoder: bool,
    /// The tokenizer's class. Version 4 only.
    pub tokenizer_class: Option<String>,
    /// Text put before every input. Version 4 only.
    pub prefix: Option<String>,
    /// Id of the separator token. Version 4 only.
    pub sep_token_id: Option<i64>,
    /// Id that decoding starts with. Version 4 only.
    pub decoder_start_token_id: Option<i64>,
    /// The task the checkpoint was fine-tuned on. Version 4 only.
    pub finetuning_task: Option<String>,
    /// Settings by task. Version 4 only.
    pub task_specific_params: Option<Value>,

    /// Every key of the file that is not a field above, as it stood there.
    #[serde(skip)]
    pub other: Map<String, Value>,
}

/// How positions enter the model. Hugging Face: `position_embedding_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PositionEmbeddingType {
    /// A learned vector per position, added to the embeddings. Devlin et al. 2018.
    #[default]
    Absolute,
    /// A learned vector per distance, multiplied with the query. Shaw et al. 2018.
    RelativeKey,
    /// A learned vector per distance, multiplied with query and key. Huang et al. 2020, method 4.
    RelativeKeyQuery,
}

/// What a sequence classifier predicts. Hugging Face: `problem_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One number per label.
    Regression,
    /// One label of several.
    SingleLabelClassification,
    /// Any number of labels.
    MultiLabelClassification,
}

/// One token id or several, as `eos_token_id` may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A single id.
    One(i64),
    /// A list of ids.
    Many(Vec<i64>),
}

/// Fields that do not affect a model's numbers. transformers accepts any value for them; a value of
/// another type is kept in [`BertConfig::other`].
const INFORMATIVE: [&str; 14] = [
    "architectures",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "dtype",
    "finetuning_task",
    "label2id",
    "prefix",
    "problem_type",
    "return_dict",
    "sep_token_id",
    "task_specific_params",
    "tie_encoder_decoder",
    "tokenizer_class",
    "transformers_version",
];

impl Default for BertConfig {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            position_embedding_type: PositionEmbeddingType::Absolute,
            use_cache: true,
            classifier_dropout: None,
            is_decoder: false,
            add_cross_attention: false,
            bos_token_id: None,
            eos_token_id: None,
            tie_word_embeddings: true,
            architectures: None,
            model_type: "bert".to_owned(),
            transformers_version: None,
            dtype: None,
            output_hidden_states: false,
            output_attentions: false,
            return_dict: true,
            chunk_size_feed_forward: 0,
            is_encoder_decoder: false,
            id2label: labels::default(2),
            label2id: labels::ids_of(&labels::default(2)),
            problem_type: None,
            pruned_heads: BTreeMap::new(),
            cross_attention_hidden_size: None,
            tie_encoder_decoder: false,
            tokenizer_class: None,
            prefix: None,
            sep_token_id: None,
            decoder_start_token_id: None,
            finetuning_task: None,
            task_specific_params: None,
            other: Map::new(),
        }
    }
}

impl BertConfig {
    /// Reads and validates the text of a `config.json`.
    ///
    /// `null` means the default, except for `pad_token_id`, where it means that there is none. The
    /// number of classes is `num_labels` or, without it, that of `id2label`; as in transformers,
    /// `label2id` alone has no effect, and names of another number than `num_labels` have none.
    ///
    /// # Errors
    /// [`Error::ConfigSyntax`] when it is not a JSON object, [`Error::ConfigField`] when a value has the
    /// wrong kind, [`Error::NotBert`] for another `model_type`, and [`Error::Config`] as
    /// [`BertConfig::validate`].
    pub fn from_json(text: &str) -> Result<Self> {
        let mut keys: Map<String, Value> = serde_json::from_str(text)?;
        let model_type = keys.get("model_type");
        if let Some(other) = model_type.filter(|name| !name.is_null() && *name != "bert") {
            let model_type = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            return Err(Error::NotBert { model_type });
        }
        if let Some(legacy) = keys.remove("torch_dtype") {
            keys.entry("dtype").or_insert(legacy);
        }
        let known = Self::default().fields()?;
        let (mut fields, mut other): (Map<_, _>, Map<_, _>) =
            keys.into_iter().partition(|(key, _)| known.contains_key(key));
        // A missing padding token differs from the default one; elsewhere null is the default.
        fields.retain(|key, value| !value.is_null() || key == "pad_token_id");
        if let Some(name @ Value::String(_)) = fields.get_mut("architectures") {
            *name = Value::Array(vec![name.take()]);
        }
        for field in INFORMATIVE {
            if fields.get(field).is_some_and(|value| alone(field, value).is_err()) {
                other.extend(fields.remove_entry(field));
            }
        }
        let has_ids = fields.contains_key("label2id") && fields.contains_key("id2label");
        let config = serde_json::from_value(Value::Object(fields.clone()));
        let mut config: Self =
            config.map_err(|error| broken_field(fields).unwrap_or(error.into()))?;
        let count = other.remove("num_labels").map_or(Ok(None), |it| labels::count(&it))?;
        if count.is_some_and(|count| count != config.id2label.len()) {
            config.id2label = labels::default(count.unwrap_or_default());
        }
        if !has_ids || count.is_some() {
            config.label2id = labels::ids_of(&config.id2label);
        }
        config.other = other;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as the text of a `config.json`, with every field and every other key.
    ///
    /// # Errors
    /// [`Error::Config`] when a number is one that no BERT can have, like NaN, which JSON cannot write.
    pub fn to_json(&self) -> Result<String> {
        self.validate_numbers()?;
        let mut keys = self.fields()?;
        keys.extend(self.other.clone());
        Ok(serde_json::to_string_pretty(&keys)?)
    }

    /// The number of classes a classifier head has.
    pub fn num_labels(&self) -> usize {
        self.id2label.len()
    }

    /// The padding token's row of the word embeddings: `pad_token_id`, counted from the beginning.
    pub fn padding_row(&self) -> Option<u32> {
        let row = self
            .pad_token_id
            .map(|id| if id < 0 { id.saturating_add_unsigned(self.vocab_size as u64) } else { id });
        row.and_then(|row| u32::try_from(row).ok())
    }

    /// Gives the classes of a classifier these names, in this order.
    pub fn set_labels<L: Into<String>>(&mut self, labels: impl IntoIterator<Item = L>) {
        self.id2label = (0..).zip(labels.into_iter().map(Into::into)).collect();
        self.label2id = labels::ids_of(&self.id2label);
    }

    /// The name of a class: `LABEL_` and its id if the config has none.
    pub fn label(&self, id: usize) -> String {
        self.id2label.get(&(id as i64)).cloned().unwrap_or_else(|| format!("LABEL_{id}"))
    }

    /// The id of the class with this name.
    ///
    /// # Errors
    /// [`Error::UnknownLabel`] when `id2label` has no such class.
    pub fn label_id(&self, label: &str) -> Result<i64> {
        let found = self.id2label.iter().find(|(_, name)| *name == label);
        found.map(|(id, _)| *id).ok_or_else(|| Error::UnknownLabel {
            got: label.to_owned(),
            known: self.id2label.values().cloned().collect(),
        })
    }

    /// The function that `hidden_act` names.
    ///
    /// # Errors
    /// [`Error::Config`] for a name that is not one of [`Activation::names`].
    pub fn activation(&self) -> Result<Activation> {
        Activation::from_name(&self.hidden_act).ok_or_else(|| {
            let known = Activation::names().collect::<Vec<_>>().join(", ");
            Error::config("hidden_act", format!("{:?}", self.hidden_act), format!("one of {known}"))
        })
    }

    /// Every field by its name, without the other keys.
    fn fields(&self) -> Result<Map<String, Value>> {
        Ok(serde_json::from_value(serde_json::to_value(self)?)?)
    }
}

/// The first field whose value alone cannot be read: serde does not say which it was.
fn broken_field(fields: Map<String, Value>) -> Option<Error> {
    fields.into_iter().find_map(|(field, value)| {
        let source = alone(&field, &value).err()?;
        Some(Error::ConfigField { field, got: value.to_string(), source })
    })
}

/// A config of one field.
fn alone(field: &str, value: &Value) -> serde_json::Result<BertConfig> {
    serde_json::from_value(Value::Object(Map::from_iter([(field.to_owned(), value.clone())])))
}
