//! What the small files of a tokenizer say.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::special::{SpecialTokens, Token};

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
    pub(crate) specials: SpecialTokens,
    /// Tokens with their ids.
    added: Vec<(u32, Token)>,
    /// Whether `added` is all that counts besides special tokens.
    has_decoder: bool,
}

impl Settings {
    pub(crate) fn read(files: &TokenizerFiles) -> Result<Self> {
        let config = object("tokenizer_config.json", files.tokenizer_config)?;
        let model = object("config.json", files.config)?;
        let class = [&config, &model].iter().find_map(|it| it.get("tokenizer_class")?.as_str());
        let class = Class::of(files, class);
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        let map = match decoder {
            Some(_) => Map::new(),
            None => object("special_tokens_map.json", files.special_tokens_map)?,
        };
        let specials = SpecialTokens::read(&config, &map);
        let mut added = Vec::new();
        for (id, value) in decoder.into_iter().flatten() {
            let id = id.parse().ok();
            let id = id.ok_or_else(|| bad("tokenizer_config.json", "an id is not a number"))?;
            added.extend(Token::read(value).map(|token| (id, token)));
        }
        if decoder.is_none() {
            for (content, id) in object("added_tokens.json", files.added_tokens)? {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| bad("added_tokens.json", "an id is not a number"))?;
                let special = specials.has(&content);
                let token =
                    Token { special, normalized: Some(!special), ..Token::special(&content) };
                added.push((id, token));
            }
        }
        let has_decoder = decoder.is_some();
        Ok(Self { class, config, specials, added, has_decoder })
    }

    /// Whether models read types: what `model_input_names` says or, without it, what is usual for the class
    /// in transformers 5.
    pub(crate) fn has_types(&self) -> bool {
        match (self.config.get("model_input_names").and_then(Value::as_array), &self.class) {
            (Some(names), _) => names.iter().any(|name| name == "token_type_ids"),
            (None, Class::Other(_)) => false,
            (None, _) => {
                let class = self.config.get("tokenizer_class").and_then(Value::as_str);
                class.is_none_or(|class| plain(class) != "DistilBertTokenizer")
            }
        }
    }

    /// Takes the sides of truncation and padding from a `tokenizer.json`, if no other file says.
    pub(crate) fn sides_of(&mut self, stored: &Tokenizer) {
        let truncation = stored.get_truncation().map(|it| it.direction.as_ref());
        let padding = stored.get_padding().map(|it| it.direction.as_ref());
        for (key, side) in [("truncation_side", truncation), ("padding_side", padding)] {
            if let Some(side) = side {
                self.config.entry(key).or_insert(side.into());
            }
        }
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

    /// The tokens that a tokenizer needs besides its vocabulary, in the order in which they get their
    /// ids. If it is not made `anew`, it has the tokens of `stored`, and those that stay are left out.
    pub(crate) fn tokens(
        &self,
        stored: Option<&Tokenizer>,
        anew: bool,
    ) -> Vec<(Option<u32>, AddedToken)> {
        let stored = stored.map(|it| it.get_added_tokens_decoder()).unwrap_or_default();
        let mut known: HashMap<&str, (u32, Token)> = HashMap::new();
        if !(anew && self.has_decoder) {
            known.extend(stored.iter().map(|(id, token)| (&*token.content, (*id, token.into()))));
        }
        for (id, token) in &self.added {
            if self.has_decoder || !known.contains_key(&*token.content) {
                known.insert(&token.content, (*id, token.clone()));
            }
        }
        let mut new: Vec<Token> = Vec::new();
        let named = self.specials.named.iter().map(|(_, token)| token);
        for special in named.chain(&self.specials.unnamed) {
            // Of different ones that have one text, the last says how it is matched.
            if !known.contains_key(&*special.content) && !new.contains(special) {
                new.push(special.clone());
            }
        }
        let mut tokens: Vec<_> = known.into_values().map(|(id, token)| (Some(id), token)).collect();
        tokens.sort_by(|a, b| (a.0, &a.1.content).cmp(&(b.0, &b.1.content)));
        tokens.extend(new.into_iter().map(|token| (None, token)));
        let is_named = |token: &Token| self.specials.is_named(&token.content);
        let tokens = tokens.into_iter().map(|(id, mut token)| {
            token.special |= is_named(&token);
            (id, token.into())
        });
        let is_listed =
            |content: &str| self.added.iter().any(|(_, token)| token.content == content);
        let stays = |(id, token): &(Option<u32>, AddedToken)| {
            let old = id.and_then(|id| stored.get(&id));
            !anew
                && old
                    .is_some_and(|old| old == token || self.has_decoder && !is_listed(&old.content))
        };
        tokens.filter(|token| !stays(token)).collect()
    }
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
