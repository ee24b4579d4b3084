//! The special tokens that the small files name, as transformers 5.23 puts them together.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

/// The names that every class has, in the order in which their tokens are added.
const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token, and how it is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) content: String,
    pub(crate) single_word: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
    /// Whether it is looked for in normalized text: if a file does not say it, unless it is special.
    pub(crate) normalized: Option<bool>,
    pub(crate) special: bool,
    /// Whether a file says the text only.
    pub(crate) is_text: bool,
}

impl Token {
    /// A special token of which only the text is known.
    pub(crate) fn special(content: &str) -> Self {
        Self {
            content: content.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: true,
            is_text: true,
        }
    }

    /// A text, which is special, or an object that says what it is.
    pub(crate) fn read(value: &Value) -> Option<Self> {
        if let Some(content) = value.as_str() {
            return Some(Self::special(content));
        }
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        Some(Self {
            content: value.get("content")?.as_str()?.to_owned(),
            single_word: flag("single_word").unwrap_or(false),
            lstrip: flag("lstrip").unwrap_or(false),
            rstrip: flag("rstrip").unwrap_or(false),
            normalized: flag("normalized"),
            special: flag("special").unwrap_or(false),
            is_text: false,
        })
    }

    /// As [`Token::read`], but special whatever the object says.
    fn read_special(value: &Value) -> Option<Self> {
        Self::read(value).map(|token| Self { special: true, ..token })
    }
}

impl From<&AddedToken> for Token {
    fn from(token: &AddedToken) -> Self {
        Self {
            content: token.content.clone(),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: Some(token.normalized),
            special: token.special,
            is_text: false,
        }
    }
}

impl From<Token> for AddedToken {
    fn from(token: Token) -> Self {
        AddedToken::from(token.content, token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized.unwrap_or(!token.special))
    }
}

/// The special tokens of a tokenizer.
#[derive(Debug, Default)]
pub(crate) struct SpecialTokens {
    /// Those that have a name, in the order in which they are added.
    pub(crate) named: Vec<(String, Token)>,
    pub(crate) unnamed: Vec<Token>,
    /// Names of every class for which a file says that there is no token.
    none: Vec<&'static str>,
    /// The texts that are special where `added_tokens.json` has them.
    texts: Vec<String>,
}

impl SpecialTokens {
    /// Those of `tokenizer_config.json` and `special_tokens_map.json`.
    pub(crate) fn read(config: &Map<String, Value>, map: &Map<String, Value>) -> Self {
        let mut all = Self::default();
        for name in NAMES {
            let Some(value) = map.get(name).or_else(|| config.get(name)) else { continue };
            let Some(token) = Token::read_special(value) else {
                all.none.push(name);
                continue;
            };
            // An object of the config is no text to compare with.
            if token.is_text || map.contains_key(name) {
                all.texts.push(token.content.clone());
            }
            all.named.push((name.to_owned(), token));
        }
        let explicit = all.read_lists(config, map);
        // Objects in the config and all names in the map come first; the explicit ones count more.
        let typed = config.iter().filter(|(_, value)| value.get("__type").is_some());
        let mut own: Vec<(String, Token)> = Vec::new();
        for (name, value) in typed.chain(map).filter(|(name, _)| is_own(name)).chain(explicit) {
            let Some(token) = Token::read_special(value) else { continue };
            match own.iter_mut().find(|(other, _)| other == name) {
                Some((_, old)) => *old = token,
                None => own.push((name.clone(), token)),
            }
        }
        all.named.extend(own);
        all
    }

    /// Reads the tokens without a name. Returns the model's own names that count more than others.
    fn read_lists<'a>(
        &mut self,
        config: &'a Map<String, Value>,
        map: &'a Map<String, Value>,
    ) -> Vec<(&'a String, &'a Value)> {
        let [new_name, old_name] = ["extra_special_tokens", "additional_special_tokens"];
        let tokens = |list: &Value, read: fn(&Value) -> Option<Token>| -> Vec<Token> {
            list.as_array().into_iter().flatten().filter_map(read).collect()
        };
        let mut explicit: Vec<_> =
            config.iter().filter(|(name, value)| is_own(name) && value.is_string()).collect();
        // The config's list has two names, of which the new one counts if it holds anything.
        let (old, new) = (config.get(old_name), config.get(new_name));
        let is_old = old.is_some() && new.is_none_or(is_empty);
        let mut list = match if is_old { old } else { new } {
            Some(Value::Object(named)) => {
                explicit.extend(named);
                None
            }
            list => list.map(|list| tokens(list, Token::read)),
        };
        if let (true, Some(Value::Object(named))) =
            (explicit.is_empty(), config.get("model_specific_special_tokens"))
        {
            explicit.extend(named);
        }
        match map.get(new_name) {
            None => {}
            Some(Value::Object(named)) => {
                explicit.extend(named);
                list = None;
            }
            Some(Value::Null) => list = Some(Vec::new()),
            Some(more) => {
                let more = tokens(more, Token::read_special);
                self.texts.extend(more.iter().map(|token| token.content.clone()));
                list.get_or_insert_default().extend(more);
            }
        }
        let texts = list.iter().flatten().filter(|token| token.is_text);
        self.texts.extend(texts.map(|token| token.content.clone()));
        let late = map.get(old_name).or(old.filter(|_| !is_old));
        let late = || late.map_or_else(Vec::new, |list| tokens(list, Token::read_special));
        self.unnamed = list.unwrap_or_else(late);
        explicit
    }

    /// Names a special token, unless a file does or says that there is none.
    pub(crate) fn name(&mut self, name: &'static str, content: &str) {
        // Without these a BERT cannot encode.
        let needed = ["cls_token", "sep_token", "unk_token"].contains(&name);
        let is_known = self.named.iter().any(|(other, _)| other == name);
        if !is_known && (needed || !self.none.contains(&name)) {
            self.named.push((name.to_owned(), Token::special(content)));
            let rank = |name: &str| NAMES.iter().position(|known| *known == name);
            self.named.sort_by_key(|(name, _)| rank(name).unwrap_or(NAMES.len()));
        }
    }

    /// The text of a special token.
    pub(crate) fn content(&self, name: &str) -> &str {
        let named = self.named.iter().find(|(other, _)| other == name);
        named.map_or("", |(_, token)| &token.content)
    }

    /// Whether a text is that of a special token that has a name.
    pub(crate) fn is_named(&self, content: &str) -> bool {
        self.named.iter().any(|(_, token)| token.content == content)
    }

    /// Whether a token of `added_tokens.json` is special.
    pub(crate) fn has(&self, content: &str) -> bool {
        self.texts.iter().any(|text| text == content)
    }
}

/// Whether a name is one of the model's own.
fn is_own(name: &str) -> bool {
    name.ends_with("_token") && !NAMES.contains(&name)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        other => other.is_null(),
    }
}
