//! What the small files of a tokenizer say.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};
use crate::files::TokenizerFiles;

/// The special tokens of every class, in the order in which transformers adds them.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Those that BERT's classes name without being told.
const BERT_NAMES: [(&str, &str); 5] = [
    ("unk_token", "[UNK]"),
    ("sep_token", "[SEP]"),
    ("pad_token", "[PAD]"),
    ("cls_token", "[CLS]"),
    ("mask_token", "[MASK]"),
];
/// Those that RoBERTa's classes name.
const ROBERTA_NAMES: [(&str, &str); 7] = [
    ("bos_token", "<s>"),
    ("eos_token", "</s>"),
    ("unk_token", "<unk>"),
    ("sep_token", "</s>"),
    ("pad_token", "<pad>"),
    ("cls_token", "<s>"),
    ("mask_token", "<mask>"),
];
const ROBERTA_CLASSES: [&str; 3] =
    ["CamembertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"];
/// The classes of transformers that are `BertTokenizer`, or the same under another name.
const BERT_CLASSES: [&str; 7] = [
    "BertTokenizer",
    "DistilBertTokenizer",
    "ElectraTokenizer",
    "LayoutLMTokenizer",
    "LxmertTokenizer",
    "MobileBertTokenizer",
    "SqueezeBertTokenizer",
];

/// A tokenizer's class, as far as it matters.
pub(crate) enum Class {
    /// One of BERT's, or none in the files of a BERT.
    Bert,
    /// Another one: its name.
    Other(String),
    /// There is nothing but a `tokenizer.json`.
    Unknown,
}

impl Class {
    fn of(files: &TokenizerFiles, name: Option<&str>) -> Self {
        match name {
            Some(name) if BERT_CLASSES.contains(&plain(name)) => Self::Bert,
            Some(name) => Self::Other(name.to_owned()),
            None if files.vocab.or(files.tokenizer_config).or(files.config).is_some() => Self::Bert,
            None => Self::Unknown,
        }
    }

    /// The special tokens that the class names without being told.
    pub(crate) fn default_names(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Bert | Self::Unknown => &BERT_NAMES,
            Self::Other(name) if ROBERTA_CLASSES.contains(&plain(name)) => &ROBERTA_NAMES,
            Self::Other(_) => &[],
        }
    }
}

/// The name of a class without the ending of its fast version.
fn plain(class: &str) -> &str {
    class.strip_suffix("Fast").unwrap_or(class)
}

/// What the small files say.
pub(crate) struct Settings {
    pub(crate) class: Class,
    /// `tokenizer_config.json`.
    pub(crate) config: Map<String, Value>,
    /// The special tokens that have a name, in the order in which they are added.
    pub(crate) named: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    extra: Vec<AddedToken>,
    /// Tokens with their ids.
    added: Vec<(u32, AddedToken)>,
    /// Whether `added` counts more than what `tokenizer.json` says of a token.
    has_decoder: bool,
}

impl Settings {
    pub(crate) fn read(files: &TokenizerFiles) -> Result<Self> {
        let config = object("tokenizer_config.json", files.tokenizer_config)?;
        let model = object("config.json", files.config)?;
        let class = [&config, &model].iter().find_map(|it| it.get("tokenizer_class")?.as_str());
        let class = Class::of(files, class);
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        let mut names = config.clone();
        if decoder.is_none() {
            names.extend(object("special_tokens_map.json", files.special_tokens_map)?);
        }
        let (named, extra) = special_tokens(&names);
        let mut added = Vec::new();
        for (id, value) in decoder.into_iter().flatten() {
            let id = id.parse().ok();
            let id = id.ok_or_else(|| bad("tokenizer_config.json", "an id is not a number"))?;
            added.extend(token(value, false).map(|token| (id, token)));
        }
        if decoder.is_none() {
            for (content, id) in object("added_tokens.json", files.added_tokens)? {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| bad("added_tokens.json", "an id is not a number"))?;
                added.push((id, AddedToken::from(content, false)));
            }
        }
        let has_decoder = decoder.is_some();
        Ok(Self { class, config, named, extra, added, has_decoder })
    }

    /// The error for a class that there is no `tokenizer.json` of.
    pub(crate) fn needs_a_program(&self, class: &str) -> Error {
        let segmenter = self.config.get("word_tokenizer_type").and_then(Value::as_str);
        let needs = match (class, segmenter) {
            ("BertJapaneseTokenizer", None) => "MeCab, a program that finds words".to_owned(),
            (_, Some(segmenter)) => format!("{segmenter}, a program that finds words"),
            _ => "a tokenizer.json or a program of its own".to_owned(),
        };
        Error::Class { class: class.to_owned(), needs }
    }

    /// Names a special token, unless a file does.
    pub(crate) fn name(&mut self, name: &str, content: &str) {
        if self.named.iter().all(|(other, _)| other != name) {
            self.named.push((name.to_owned(), AddedToken::from(content, true)));
            self.named.sort_by_key(|(name, _)| rank(name));
        }
    }

    /// The text of a special token.
    pub(crate) fn content(&self, name: &str) -> &str {
        let named = self.named.iter().find(|(other, _)| other == name);
        named.map_or("", |(_, token)| &token.content)
    }

    /// The tokens that a tokenizer needs besides its vocabulary, in the order of their ids. Those of
    /// `stored` are among them only if the tokenizer is made anew.
    pub(crate) fn tokens(
        &self,
        stored: Option<&Tokenizer>,
        anew: bool,
    ) -> Vec<(Option<u32>, AddedToken)> {
        let stored = stored.filter(|_| !(anew && self.has_decoder));
        let stored = stored.map(|it| it.get_added_tokens_decoder()).unwrap_or_default();
        // By content: the id, the token, and whether it is to be added.
        let mut known: HashMap<String, (u32, AddedToken, bool)> = stored
            .into_iter()
            .map(|(id, token)| (token.content.clone(), (id, token, anew)))
            .collect();
        for (id, token) in &self.added {
            if self.has_decoder || !known.contains_key(&token.content) {
                known.insert(token.content.clone(), (*id, token.clone(), true));
            }
        }
        let specials = self.named.iter().map(|(_, token)| token).chain(&self.extra);
        let mut new: Vec<AddedToken> = Vec::new();
        for special in specials {
            match known.get_mut(&special.content) {
                // A token of added_tokens.json.
                Some((_, token, true)) if !self.has_decoder && !token.special => {
                    *token = special.clone();
                }
                Some(_) => {}
                None if new.iter().any(|token| token.content == special.content) => {}
                None => new.push(special.clone()),
            }
        }
        let mut tokens: Vec<_> = known.into_values().filter(|(_, _, add)| *add).collect();
        tokens.sort_by(|a, b| (a.0, &a.1.content).cmp(&(b.0, &b.1.content)));
        let tokens = tokens.into_iter().map(|(id, token, _)| (Some(id), token));
        tokens.chain(new.into_iter().map(|token| (None, token))).collect()
    }
}

/// The special tokens that have a name, then those that have none.
fn special_tokens(names: &Map<String, Value>) -> (Vec<(String, AddedToken)>, Vec<AddedToken>) {
    let named = names.iter().filter(|(name, _)| name.ends_with("_token"));
    let mut named: Vec<(String, AddedToken)> =
        named.filter_map(|(name, value)| Some((name.clone(), token(value, true)?))).collect();
    let extra = ["extra_special_tokens", "additional_special_tokens"].iter().find_map(|key| {
        let value = names.get(*key)?;
        let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        (!is_empty).then_some(value)
    });
    let mut unnamed = Vec::new();
    match extra {
        Some(Value::Array(tokens)) => {
            unnamed.extend(tokens.iter().filter_map(|it| token(it, true)))
        }
        Some(Value::Object(tokens)) => named.extend(
            tokens.iter().filter_map(|(name, value)| Some((name.clone(), token(value, true)?))),
        ),
        _ => {}
    }
    named.sort_by_key(|(name, _)| rank(name));
    (named, unnamed)
}

/// The place of a name among the others: a model's own names come last.
fn rank(name: &str) -> usize {
    NAMES.iter().position(|known| *known == name).unwrap_or(NAMES.len())
}

/// A token in these files: its text, or an object with its text and how it is matched.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.as_str().or_else(|| value.get("content")?.as_str())?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    let token = AddedToken::from(content, special)
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .single_word(flag("single_word").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special));
    Some(token)
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>> {
    match bytes {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| bad(file, error)),
        None => Ok(Map::new()),
    }
}

fn bad(file: &'static str, reason: impl ToString) -> Error {
    Error::File { file, reason: reason.to_string() }
}
