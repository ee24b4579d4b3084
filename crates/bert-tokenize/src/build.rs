//! From files to a tokenizer.

use serde_json::{Map, Value, json};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, Tokenizer};

use crate::checks;
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::settings::{Class, Settings};
use crate::vocabulary;

/// A tokenizer, and what [`Tokenizer`] does not hold.
pub(crate) struct Built {
    pub(crate) tokenizer: Tokenizer,
    /// The special tokens that have a name: the name, then the token.
    pub(crate) named: Vec<(String, String)>,
    /// The special tokens that have none.
    pub(crate) unnamed: Vec<String>,
    /// `tokenizer_config.json`.
    pub(crate) config: Map<String, Value>,
    /// Whether transformers makes the same of `tokenizer_config.json` and the vocabulary alone.
    pub(crate) is_bert: bool,
    /// Whether the tokenizer's models read which text of a pair a token is from.
    pub(crate) has_types: bool,
}

impl Built {
    /// The tokenizer that the files make.
    pub(crate) fn from_files(files: &TokenizerFiles) -> Result<Self> {
        let mut settings = Settings::read(files)?;
        let stored = files.tokenizer.map(checks::read).transpose()?;
        let is_bert = match (&stored, &settings.class) {
            (Some(stored), Class::Bert) => matches!(stored.get_model(), ModelWrapper::WordPiece(_)),
            (Some(_), Class::Other(_) | Class::Unknown) => false,
            (None, Class::Other(class)) => return Err(settings.needs_a_program(class)),
            (None, _) if files.vocab.is_none() => return Err(Error::NoVocabulary),
            (None, _) => true,
        };
        for (name, content) in settings.class.default_names() {
            // Only BERT's own get a new token for a name.
            if is_bert || stored.as_ref().is_some_and(|it| it.token_to_id(content).is_some()) {
                settings.specials.name(name, content);
            }
        }
        if let Some(padding) = stored.as_ref().and_then(|it| it.get_padding()) {
            settings.specials.name("pad_token", &padding.pad_token);
        }
        if let Some(stored) = &stored {
            settings.sides_of(stored);
        }
        let tokens = settings.tokens(stored.as_ref(), is_bert);
        let mut tokenizer = match stored {
            Some(stored) if !is_bert => stored,
            stored => bert(&settings, files.vocab, stored.as_ref(), &tokens)?,
        };
        add(&mut tokenizer, tokens)?;
        let splits = settings.config.get("split_special_tokens").and_then(Value::as_bool);
        tokenizer.set_encode_special_tokens(splits == Some(true));
        if is_bert {
            let [cls, sep] = ["cls_token", "sep_token"].map(|name| settings.specials.content(name));
            let template = template(&tokenizer, cls, sep)?;
            tokenizer.with_post_processor(Some(PostProcessorWrapper::Template(template)));
        }
        let has_types = settings.has_types();
        let named = settings.specials.named.into_iter().map(|(name, token)| (name, token.content));
        let unnamed = settings.specials.unnamed.into_iter().map(|token| token.content);
        Ok(Built {
            tokenizer,
            named: named.collect(),
            unnamed: unnamed.collect(),
            config: settings.config,
            is_bert,
            has_types,
        })
    }
}

/// BERT's tokenizer with the vocabulary of `stored` or of `vocab.txt`.
fn bert(
    settings: &Settings,
    vocab: Option<&[u8]>,
    stored: Option<&Tokenizer>,
    tokens: &[(Option<u32>, AddedToken)],
) -> Result<Tokenizer> {
    let (model, normalizer) = match stored.map(|it| (it.get_model(), it.get_normalizer())) {
        Some((ModelWrapper::WordPiece(model), normalizer)) => (model.clone(), normalizer.cloned()),
        _ => {
            let lines = vocabulary::read(vocab.unwrap_or_default())?;
            let model = WordPiece::builder().vocab(lines).build().map_err(Error::Syntax)?;
            (model, Some(BertNormalizer::default().into()))
        }
    };
    let model = vocabulary::complete(&model, settings.specials.content("unk_token"), tokens)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(normalizer_with_flags(&settings.config, normalizer))
        .map_err(Error::Syntax)?
        .with_pre_tokenizer(Some(BertPreTokenizer))
        .with_decoder(Some(tokenizers::decoders::wordpiece::WordPiece::default()));
    Ok(tokenizer)
}

/// The normalizer of a BERT, with the flags that `tokenizer_config.json` has.
fn normalizer_with_flags(
    config: &Map<String, Value>,
    stored: Option<NormalizerWrapper>,
) -> Option<NormalizerWrapper> {
    let [lower_case, chinese] =
        ["do_lower_case", "tokenize_chinese_chars"].map(|flag| config.get(flag)?.as_bool());
    let strip_accents = config.get("strip_accents").map(Value::as_bool);
    let base = match stored {
        Some(NormalizerWrapper::BertNormalizer(stored)) => stored,
        stored if lower_case.is_none() && chinese.is_none() && strip_accents.is_none() => {
            return stored;
        }
        _ => BertNormalizer::default(),
    };
    let normalizer = BertNormalizer::new(
        base.clean_text,
        chinese.unwrap_or(base.handle_chinese_chars),
        strip_accents.unwrap_or(base.strip_accents),
        lower_case.unwrap_or(base.lowercase),
    );
    Some(normalizer.into())
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`.
fn template(tokenizer: &Tokenizer, cls: &str, sep: &str) -> Result<TemplateProcessing> {
    let broken = |reason: String| Error::File { file: "tokenizer_config.json", reason };
    let known = |token: &str| -> Result<Value> {
        let id = tokenizer.token_to_id(token);
        let id =
            id.ok_or_else(|| broken(format!("the special token {token:?} cannot be added")))?;
        Ok(json!({"id": token, "ids": [id], "tokens": [token]}))
    };
    let special = |token: &str, ty: u32| json!({"SpecialToken": {"id": token, "type_id": ty}});
    let text = |name: &str, ty: u32| json!({"Sequence": {"id": name, "type_id": ty}});
    let single = [special(cls, 0), text("A", 0), special(sep, 0)];
    let pair = [&single[..], &[text("B", 1), special(sep, 1)]].concat();
    // The builder would read a token like `$B` as a text.
    let template = json!({
        "single": single,
        "pair": pair,
        "special_tokens": {cls: known(cls)?, sep: known(sep)?},
    });
    serde_json::from_value(template).map_err(|error| broken(error.to_string()))
}

/// Adds tokens in one call: each call makes a new automaton of all of them.
fn add(tokenizer: &mut Tokenizer, tokens: Vec<(Option<u32>, AddedToken)>) -> Result<()> {
    tokenizer.add_tokens(tokens.iter().map(|(_, token)| token.clone())).map_err(Error::Syntax)?;
    for (id, token) in tokens {
        let got = tokenizer.token_to_id(&token.content);
        if let Some(expected) = id.filter(|id| got != Some(*id)) {
            return Err(Error::AddedToken { content: token.content, got, expected });
        }
    }
    Ok(())
}
