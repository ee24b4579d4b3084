//! The files of a tokenizer, and how they override each other.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, Tokenizer};

use crate::error::{Error, Result};

/// The contents of a tokenizer's files; absent ones are `None`. One of the first two is needed.
///
/// As in transformers, the vocabulary comes from `tokenizer.json` or, without it, from `vocab.txt`.
/// `tokenizer_config.json` overrides what `tokenizer.json` says of lower case, accents, Chinese
/// characters and special tokens. For settings that it lacks, `tokenizer.json` decides; transformers
/// assumes lower case for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: Option<&'a [u8]>,
    /// `vocab.txt`: a token per line.
    pub vocab: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`. It overrides a config without `added_tokens_decoder`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `added_tokens.json`.
    pub added_tokens: Option<&'a [u8]>,
}

/// The special tokens that have a name. By default `pad_token` is `[PAD]`, and so on.
const NAMED: [&str; 5] = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"];

/// A tokenizer, and what [`Tokenizer`] does not hold.
pub(crate) struct Built {
    pub(crate) tokenizer: Tokenizer,
    /// The special tokens that have a name and are in the vocabulary: the name, then the token.
    pub(crate) named: Vec<(&'static str, String)>,
    /// `tokenizer_config.json`.
    pub(crate) config: Map<String, Value>,
}

impl TokenizerFiles<'_> {
    pub(crate) fn build(&self) -> Result<Built> {
        let config = Settings::read(self)?;
        let tokenizer = match (self.tokenizer, self.vocab) {
            (Some(tokenizer), _) => config.adjust(tokenizer)?,
            (None, Some(vocab)) => config.with_vocab(vocab)?,
            (None, None) => return Err(Error::NoVocabulary),
        };
        let padding = tokenizer.get_padding().filter(|_| !config.named.contains_key("pad_token"));
        let named = NAMED.map(|name| match padding {
            Some(padding) if name == "pad_token" => (name, padding.pad_token.clone()),
            _ => (name, config.content(name)),
        });
        let known = named.into_iter().filter(|(_, token)| tokenizer.token_to_id(token).is_some());
        Ok(Built { named: known.collect(), tokenizer, config: config.config })
    }
}

/// What the small files say.
struct Settings {
    config: Map<String, Value>,
    /// The special tokens that a file names.
    named: BTreeMap<&'static str, AddedToken>,
    /// Other tokens, with their ids if a file says them.
    added: Vec<(Option<u32>, AddedToken)>,
}

impl Settings {
    fn read(files: &TokenizerFiles) -> Result<Self> {
        let config = object("tokenizer_config.json", files.tokenizer_config)?;
        let map = object("special_tokens_map.json", files.special_tokens_map)?;
        let decoder = config.get("added_tokens_decoder").and_then(Value::as_object);
        let sources = if decoder.is_some() { [&config, &Map::new()] } else { [&map, &config] };
        let named = NAMED.into_iter().filter_map(|name| {
            let value = sources.iter().find_map(|source| source.get(name))?;
            Some((name, token(value, true)?))
        });
        let named: BTreeMap<_, _> = named.collect();
        let mut added = Vec::new();
        for (id, value) in decoder.into_iter().flatten() {
            let id =
                id.parse().map_err(|_| bad("tokenizer_config.json", "an id is not a number"))?;
            added.extend(token(value, false).map(|token| (Some(id), token)));
        }
        let extra = ["additional_special_tokens", "extra_special_tokens"];
        let extra = extra.iter().find_map(|key| sources.iter().find_map(|source| source.get(*key)));
        let extra = extra.and_then(Value::as_array).into_iter().flatten();
        let extra: Vec<AddedToken> = extra.filter_map(|value| token(value, true)).collect();
        if decoder.is_none() {
            for (content, id) in object("added_tokens.json", files.added_tokens)? {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| bad("added_tokens.json", "an id is not a number"))?;
                let special = named.values().chain(&extra).any(|token| token.content == content);
                added.push((Some(id), AddedToken::from(content, special)));
            }
        }
        added.sort_by_key(|(id, _)| *id);
        added.extend(extra.into_iter().map(|token| (None, token)));
        Ok(Self { config, named, added })
    }

    /// `tokenizer.json` with the config's normalizer and special tokens.
    fn adjust(&self, tokenizer: &[u8]) -> Result<Tokenizer> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(Error::Syntax)?;
        if let Some(NormalizerWrapper::BertNormalizer(stored)) = tokenizer.get_normalizer() {
            let normalizer = self.normalizer(*stored);
            tokenizer.with_normalizer(Some(normalizer)).map_err(Error::Syntax)?;
        }
        if let (Some(unk), ModelWrapper::WordPiece(model)) =
            (self.named.get("unk_token"), tokenizer.get_model())
        {
            let mut model = model.clone();
            model.unk_token = unk.content.clone();
            tokenizer.with_model(model);
        }
        self.add_tokens(&mut tokenizer)?;
        if self.named.contains_key("cls_token") || self.named.contains_key("sep_token") {
            self.add_template(&mut tokenizer)?;
        }
        Ok(tokenizer)
    }

    /// The text of a special token: that of a file, or the default.
    fn content(&self, name: &str) -> String {
        let default = || format!("[{}]", name.trim_end_matches("_token").to_uppercase());
        self.named.get(name).map_or_else(default, |token| token.content.clone())
    }

    /// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, with the files' special tokens.
    fn add_template(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        let (cls, sep) = (self.content("cls_token"), self.content("sep_token"));
        let known = |token: &str| {
            let missing = || format!("the special token {token} is not in it");
            tokenizer.token_to_id(token).ok_or_else(|| bad("the vocabulary", missing()))
        };
        let specials = vec![(cls.as_str(), known(&cls)?), (sep.as_str(), known(&sep)?)];
        let (cls, sep, end) = (format!("{cls}:0"), format!("{sep}:0"), format!("{sep}:1"));
        let template = TemplateProcessing::builder()
            .try_single(vec![&*cls, "$A:0", &*sep])
            .and_then(|builder| builder.try_pair(vec![&*cls, "$A:0", &*sep, "$B:1", &*end]))
            .map_err(|reason| bad("tokenizer_config.json", reason))?
            .special_tokens(specials)
            .build()
            .map_err(|error| bad("tokenizer_config.json", error))?;
        tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        Ok(())
    }

    fn with_vocab(&self, vocab: &[u8]) -> Result<Tokenizer> {
        let vocab = WordPiece::read_bytes(vocab).map_err(Error::Syntax)?;
        let model = WordPiece::builder().vocab(vocab).unk_token(self.content("unk_token"));
        let mut tokenizer = Tokenizer::new(model.build().map_err(Error::Syntax)?);
        tokenizer
            .with_normalizer(Some(self.normalizer(BertNormalizer::default())))
            .map_err(Error::Syntax)?
            .with_pre_tokenizer(Some(BertPreTokenizer))
            .with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
        let unk = self.content("unk_token");
        if tokenizer.token_to_id(&unk).is_none() {
            return Err(bad("vocab.txt", format!("the special token {unk} is not in it")));
        }
        self.add_template(&mut tokenizer)?;
        let mut defaults = NAMED.map(|name| AddedToken::from(self.content(name), true)).to_vec();
        defaults.retain(|token| tokenizer.token_to_id(&token.content).is_some());
        tokenizer.add_special_tokens(defaults).map_err(Error::Syntax)?;
        self.add_tokens(&mut tokenizer)?;
        Ok(tokenizer)
    }

    fn normalizer(&self, stored: BertNormalizer) -> BertNormalizer {
        let flag =
            |key: &str, stored| self.config.get(key).and_then(Value::as_bool).unwrap_or(stored);
        let strip_accents = self.config.get("strip_accents");
        BertNormalizer::new(
            stored.clean_text,
            flag("tokenize_chinese_chars", stored.handle_chinese_chars),
            strip_accents.map_or(stored.strip_accents, Value::as_bool),
            flag("do_lower_case", stored.lowercase),
        )
    }

    /// Adds the tokens that the files name.
    fn add_tokens(&self, tokenizer: &mut Tokenizer) -> Result<()> {
        for (id, token) in &self.added {
            tokenizer.add_tokens([token.clone()]).map_err(Error::Syntax)?;
            let got = tokenizer.token_to_id(&token.content);
            if let Some(expected) = id.filter(|id| got != Some(*id)) {
                let content = token.content.clone();
                return Err(Error::AddedToken { content, got, expected });
            }
        }
        tokenizer.add_special_tokens(self.named.values().cloned()).map_err(Error::Syntax)?;
        Ok(())
    }
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
