//! The small files of sentence-transformers.

use std::collections::BTreeMap;

use bert_core::BertConfig;
use bert_tokenize::BertTokenizer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::batches::max_length;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::task_error::TaskError;

/// The most modules of a checkpoint.
const MOST_MODULES: usize = 64;

/// Reads a JSON file, if there is one. In a cache that cannot be completed, what is not there is absent.
pub(super) fn read<T: DeserializeOwned>(checkpoint: &Checkpoint, name: &str) -> Result<Option<T>> {
    parse(checkpoint, name, checkpoint.optional(name, true)?)
}

/// Reads a JSON file that must be there.
pub(super) fn read_existing<T: DeserializeOwned>(checkpoint: &Checkpoint, name: &str) -> Result<T> {
    let content = parse(checkpoint, name, checkpoint.read(name)?)?;
    content.ok_or_else(|| module_error(checkpoint, name, "it does not exist"))
}

fn parse<T: DeserializeOwned>(
    checkpoint: &Checkpoint,
    name: &str,
    bytes: Option<Vec<u8>>,
) -> Result<Option<T>> {
    let content = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    content.map_err(|error| module_error(checkpoint, name, error))
}

/// The error for a file that cannot be used.
pub(super) fn module_error(checkpoint: &Checkpoint, file: &str, reason: impl ToString) -> Error {
    let path = format!("{checkpoint}/{file}").into();
    TaskError::Module { path, reason: reason.to_string() }.into()
}

/// An entry of `modules.json`.
#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    class: String,
}

/// A module: its class without the package, and its files.
pub(super) struct ModuleFiles {
    pub(super) class: String,
    pub(super) files: Checkpoint,
}

impl ModuleFiles {
    fn new(checkpoint: &Checkpoint, entry: &Entry) -> Result<Self> {
        let Entry { path, class } = entry;
        // Other packages' modules may do anything.
        let is_known = class.starts_with("sentence_transformers.")
            || class.starts_with("pylate.models.") && class.ends_with(".Dense");
        if !is_known {
            let known = "one of sentence_transformers";
            return Err(TaskError::UnknownModule { got: class.clone(), known }.into());
        }
        let path = path.strip_prefix("./").unwrap_or(path);
        let files = match path {
            "" | "." => checkpoint.clone(),
            folder => checkpoint.with_subfolder(folder)?,
        };
        let class = class.rsplit('.').next().unwrap_or_default().to_owned();
        Ok(Self { class, files })
    }
}

/// `config_sentence_transformers.json`, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    model_type: Option<String>,
    prompts: Option<BTreeMap<String, Option<String>>>,
    pub(super) default_prompt_name: Option<String>,
    pub(super) similarity_fn_name: Option<String>,
    pub(super) truncate_dim: Option<usize>,
    pub(super) max_active_dims: Option<usize>,
    pub(super) activation_fn: Option<String>,
    #[serde(flatten)]
    pub(super) late_interaction: LateInteraction,
}

/// What PyLate's checkpoints say there.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct LateInteraction {
    pub(super) query_prefix: Option<String>,
    pub(super) document_prefix: Option<String>,
    pub(super) query_length: Option<usize>,
    pub(super) document_length: Option<usize>,
    pub(super) attend_to_expansion_tokens: Option<bool>,
    pub(super) do_query_expansion: Option<bool>,
    pub(super) skiplist_words: Option<Vec<String>>,
}

impl LateInteraction {
    pub(super) fn is_there(&self) -> bool {
        let prefixes = self.query_prefix.as_ref().or(self.document_prefix.as_ref());
        let lengths = self.query_length.or(self.document_length);
        prefixes.is_some() || lengths.is_some() || self.do_query_expansion.is_some()
    }
}

impl Config {
    pub(super) fn prompts(&self) -> BTreeMap<String, String> {
        let prompts = self.prompts.iter().flatten();
        prompts.map(|(name, text)| (name.clone(), text.clone().unwrap_or_default())).collect()
    }

    /// Whether this is a checkpoint of `class`, in sentence-transformers' or PyLate's words.
    fn is_of(&self, class: &str) -> bool {
        let late = class == "MultiVectorEncoder";
        match self.model_type.as_deref() {
            Some("ColBERT") => late,
            Some(own) => own == class,
            None if self.late_interaction.is_there() => late,
            None => class == "SentenceTransformer",
        }
    }

    /// Whether PyLate saved it, and not sentence-transformers.
    pub(super) fn is_of_pylate(&self) -> bool {
        self.model_type.as_deref().is_none_or(|own| own == "ColBERT")
    }
}

/// `sentence_bert_config.json`, as far as it matters.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TransformerConfig {
    max_seq_length: Option<usize>,
    do_lower_case: Option<bool>,
    #[serde(alias = "tokenizer_args", alias = "tokenizer_kwargs")]
    processor_kwargs: Value,
    processing_kwargs: Value,
    #[serde(alias = "config_args")]
    config_kwargs: Value,
    tokenizer_name_or_path: Value,
    modality_config: Value,
    pub(super) query_length: Option<usize>,
    pub(super) document_length: Option<usize>,
    pub(super) query_expansion: Option<Expansion>,
}

impl TransformerConfig {
    fn read(files: &Checkpoint) -> Result<Self> {
        const NAMES: [&str; 7] = [
            "sentence_bert_config.json",
            "sentence_roberta_config.json",
            "sentence_distilbert_config.json",
            "sentence_camembert_config.json",
            "sentence_albert_config.json",
            "sentence_xlm-roberta_config.json",
            "sentence_xlnet_config.json",
        ];
        let first: Option<Self> = read(files, NAMES[0])?;
        let mut config = first.map(|config| (NAMES[0], config));
        for name in &NAMES[1..] {
            // Only in folders: a hub would be asked for each of them.
            if config.is_none() && files.is_folder() {
                config = read(files, name)?.map(|config| (*name, config));
            }
        }
        let Some((name, config)) = config else { return Ok(Self::default()) };
        match config.unsupported() {
            Some(reason) => Err(module_error(files, name, reason)),
            None => Ok(config),
        }
    }

    /// What would change vectors and is not implemented.
    fn unsupported(&self) -> Option<String> {
        let is_set = |value: &Value| match value {
            Value::Null => false,
            Value::Object(fields) => !fields.is_empty(),
            _ => true,
        };
        for (key, value) in [
            ("processing_kwargs", &self.processing_kwargs),
            ("config_kwargs", &self.config_kwargs),
            ("tokenizer_name_or_path", &self.tokenizer_name_or_path),
        ] {
            if is_set(value) {
                return Some(format!("{key} is {value}, which is not supported; expected none"));
            }
        }
        let arguments = self.processor_kwargs.as_object().into_iter().flatten();
        let mut others = arguments.filter(|(key, _)| *key != "model_max_length");
        if let Some((key, value)) = others.next() {
            return Some(format!(
                "the tokenizer's argument {key} is {value}, which is not supported; put it into \
                 tokenizer_config.json"
            ));
        }
        let modalities = self.modality_config.as_object().into_iter().flatten();
        let mut outputs = modalities.map(|(_, it)| &it["method_output_name"]);
        let is_known =
            |name: &Value| name.is_null() || name == "last_hidden_state" || name == "logits";
        let odd = outputs.find(|name| !is_known(name));
        odd.map(|name| format!("method_output_name is {name}, expected last_hidden_state"))
    }

    /// The most tokens of a text, if the file says.
    fn max_length(&self) -> Option<usize> {
        let told = self.processor_kwargs["model_max_length"].as_u64();
        told.map(|length| length as usize).or(self.max_seq_length)
    }
}

/// How queries get tokens of their own.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Expansion {
    pub(super) strategy: ExpansionStrategy,
    #[serde(default)]
    pub(super) attend: bool,
    /// The token; without one, the mask.
    #[serde(default)]
    pub(super) token: Option<String>,
    pub(super) length: usize,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum ExpansionStrategy {
    /// Every query has this length.
    Fixed,
    /// Every query has at least this length.
    Min,
}

/// The files of a checkpoint of sentence-transformers.
pub(super) struct SentenceFiles {
    /// Those of the first module, which reads texts.
    pub(super) transformer: Checkpoint,
    /// The other modules. `None` without a `modules.json`.
    pub(super) modules: Option<Vec<ModuleFiles>>,
    pub(super) config: Config,
    pub(super) transformer_config: TransformerConfig,
}

impl SentenceFiles {
    /// The files of a checkpoint that `class` loads. Without a `modules.json` no other file counts, as in
    /// sentence-transformers.
    ///
    /// # Errors
    /// [`TaskError::Module`] for a file that cannot be used, for a checkpoint of another class and for a
    /// first module that reads no text, [`TaskError::UnknownModule`] for one of another package.
    pub(super) fn read(checkpoint: &Checkpoint, class: &str) -> Result<Self> {
        const MODULES: &str = "modules.json";
        const CONFIG: &str = "config_sentence_transformers.json";
        let entries = parse(checkpoint, MODULES, checkpoint.optional(MODULES, false)?)?;
        let Some(entries): Option<Vec<Entry>> = entries else {
            return Ok(Self {
                transformer: checkpoint.clone(),
                modules: None,
                config: Config::default(),
                transformer_config: TransformerConfig::default(),
            });
        };
        let config: Config = read(checkpoint, CONFIG)?.unwrap_or_default();
        if !config.is_of(class) {
            let own = config.model_type.as_deref().unwrap_or("SentenceTransformer");
            let reason = format!("this is a {own}; load it with that, not with {class}");
            return Err(module_error(checkpoint, CONFIG, reason));
        }
        if entries.len() > MOST_MODULES {
            let reason =
                format!("it has {} modules, expected at most {MOST_MODULES}", entries.len());
            return Err(module_error(checkpoint, MODULES, reason));
        }
        let modules = entries.iter().map(|entry| ModuleFiles::new(checkpoint, entry));
        let mut modules = modules.collect::<Result<Vec<_>>>()?;
        match modules.first().map(|first| &*first.class) {
            Some("Transformer" | "MLMTransformer") => {}
            None => return Err(module_error(checkpoint, MODULES, "it has no module")),
            Some(class) => {
                let reason =
                    format!("its first module is {class}, expected Transformer or MLMTransformer");
                return Err(module_error(checkpoint, MODULES, reason));
            }
        }
        let transformer = modules.remove(0).files;
        let transformer_config = TransformerConfig::read(&transformer)?;
        Ok(Self { transformer, modules: Some(modules), config, transformer_config })
    }

    /// The tokenizer, and the most tokens of a text that a model with this config reads.
    pub(super) fn tokenizer(&self, config: &BertConfig) -> Result<(BertTokenizer, usize)> {
        let tokenizer = self.transformer.tokenizer()?;
        let tokenizer = match self.transformer_config.do_lower_case {
            Some(true) => tokenizer.with_lowercase()?,
            _ => tokenizer,
        };
        let longest = match self.transformer_config.max_length() {
            Some(told) => told.min(config.max_position_embeddings),
            None => max_length(&tokenizer, config),
        };
        Ok((tokenizer, longest))
    }
}
