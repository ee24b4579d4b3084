//! The beginning of a long text: where only that can count, the rest is not encoded.

use serde_json::Value;
use tokenizers::{
    AddedToken, Encoding, NormalizedString, Normalizer, NormalizerWrapper, Tokenizer,
};

use crate::checks::{guarded, json};
use crate::error::{Error, Result};
use crate::options::{Truncation, TruncationStrategy};
use crate::text::{Sequence, Text, Words};

/// Bytes per token that are taken at first.
const BYTES_PER_TOKEN: usize = 8;

/// What SentencePiece writes for a space.
const SIGN: &str = "\u{2581}";

/// Where a text can be cut so that the tokens before are those of the whole text, all but the last.
#[derive(Clone, Debug)]
pub(crate) struct Cuts {
    /// The characters before which it can be cut.
    spaces: &'static [char],
    /// Whether it can be cut after an ideograph too.
    ideographs: bool,
    /// The marks after which it can be cut too.
    marks: String,
}

impl Cuts {
    /// Those of a tokenizer whose normalizer and pre-tokenizer are known to look at words one by one, and
    /// none of whose added tokens reaches from one word into the next.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<Option<Self>> {
        let normalizer = json(tokenizer.get_normalizer())?;
        let pre_tokenizer = json(tokenizer.get_pre_tokenizer())?;
        let Some(spaces) = spaces(&pre_tokenizer) else { return Ok(None) };
        if !keeps_words_apart(&normalizer, splits_at_its_sign(&pre_tokenizer)) {
            return Ok(None);
        }
        let bert = bert_normalizer(&normalizer);
        let mut ideographs =
            bert.is_some_and(|it| it["handle_chinese_chars"] == true) && spaces.len() > 1;
        let first = pre_tokenizer["pretokenizers"].get(0).unwrap_or(&pre_tokenizer);
        let mut marks = match bert.is_some() && first["type"] == "BertPreTokenizer" {
            true => ('!'..='~').filter(char::is_ascii_punctuation).collect(),
            false => String::new(),
        };
        for token in tokenizer.get_added_tokens_decoder().into_values() {
            if token.content.contains(char::is_whitespace) || has_space(tokenizer, &token)? {
                return Ok(None);
            }
            ideographs &= !token.content.contains(is_ideograph);
            marks.retain(|mark| !token.content.contains(mark));
        }
        Ok(Some(Self { spaces, ideographs, marks }))
    }

    /// The shortest beginning of at least this many bytes.
    fn beginning<'a>(&self, text: &'a str, bytes: usize) -> &'a str {
        let mut before = None;
        for (at, next) in text.char_indices() {
            let can_be_cut = |before: char| {
                self.spaces.contains(&next) && !before.is_whitespace()
                    || self.ideographs && is_ideograph(before)
                    || self.marks.contains(before)
            };
            if at >= bytes && before.is_some_and(can_be_cut) {
                return &text[..at];
            }
            before = Some(next);
        }
        text
    }
}

/// The tokens of a text, or of both texts of a pair. Of a text that is much longer than what remains of
/// it, only the beginning is encoded: `truncation` cuts its end.
pub(crate) fn encode_beginnings<'a>(
    text: Text<'a>,
    cuts: Option<&Cuts>,
    truncation: Truncation,
    encode: impl Fn(Sequence<'a>) -> Result<Encoding>,
) -> Result<(Encoding, Option<Encoding>)> {
    let (first, second) = text.sequences();
    // More tokens than `beside`, so that it is known which of two texts is longer.
    let beginning = |whole: Sequence<'a>, beside: usize| -> Result<Encoding> {
        let tokens = truncation.max_length.max(beside);
        let mut size = match whole {
            Sequence::Text(_) => tokens.saturating_add(8).saturating_mul(BYTES_PER_TOKEN),
            Sequence::Words(_) => tokens.saturating_add(8),
        };
        loop {
            let part = if whole.size() / 2 > size { first_of(whole, size, cuts) } else { whole };
            let encoding = encode(part)?;
            // The last token may be another one in the whole text.
            if encoding.len() > tokens || part.size() == whole.size() {
                return Ok(encoding);
            }
            size = size.saturating_mul(4);
        }
    };
    match second {
        None => Ok((beginning(first, 0)?, None)),
        Some(second) if truncation.strategy != TruncationStrategy::LongestFirst => {
            Ok((beginning(first, 0)?, Some(beginning(second, 0)?)))
        }
        Some(second) if first.size() >= second.size() => {
            let second = encode(second)?;
            Ok((beginning(first, second.len())?, Some(second)))
        }
        Some(second) => {
            let first = encode(first)?;
            let second = beginning(second, first.len())?;
            Ok((first, Some(second)))
        }
    }
}

/// The shortest beginning of at least this size that can be cut off.
fn first_of<'a>(whole: Sequence<'a>, size: usize, cuts: Option<&Cuts>) -> Sequence<'a> {
    match (whole, cuts) {
        (Sequence::Text(text), Some(cuts)) => Sequence::Text(cuts.beginning(text, size)),
        (Sequence::Text(_), None) => whole,
        // Words are encoded one by one.
        (Sequence::Words(Words::Borrowed(words)), _) => {
            Sequence::Words(Words::Borrowed(&words[..size]))
        }
        (Sequence::Words(Words::Owned(words)), _) => Sequence::Words(Words::Owned(&words[..size])),
    }
}

/// Whether what an added token is compared with has a space, although the token has none.
fn has_space(tokenizer: &Tokenizer, token: &AddedToken) -> Result<bool> {
    let Some(normalizer) = tokenizer.get_normalizer().filter(|_| token.normalized) else {
        return Ok(false);
    };
    let mut text = NormalizedString::from(token.content.as_str());
    guarded(|| normalizer.normalize(&mut text)).map_err(Error::Tokenizer)?;
    // BERT's normalizer puts spaces around ideographs: they are counted on their own.
    let is_bert = matches!(normalizer, NormalizerWrapper::BertNormalizer(_));
    Ok(text.get().contains(char::is_whitespace)
        && !(is_bert && token.content.contains(is_ideograph)))
}

/// BERT's normalizer, also if texts are put into small letters before.
fn bert_normalizer(normalizer: &Value) -> Option<&Value> {
    let is_bert = |it: &Value| it["type"] == "BertNormalizer";
    match normalizer["normalizers"].as_array().map(Vec::as_slice) {
        None => Some(normalizer).filter(|it| is_bert(it)),
        Some([first, last]) => Some(last).filter(|it| first["type"] == "Lowercase" && is_bert(it)),
        Some(_) => None,
    }
}

/// The spaces at which a pre-tokenizer splits for certain.
fn spaces(pre_tokenizer: &Value) -> Option<&'static [char]> {
    match pre_tokenizer["type"].as_str()? {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => Some(&[' ', '\n', '\t', '\r']),
        "Metaspace" if pre_tokenizer["split"] == true => Some(&[' ']),
        "Sequence" => {
            let parts = pre_tokenizer["pretokenizers"].as_array()?;
            // What splits words further.
            let splits = ["Punctuation", "Digits", "FixedLength"];
            let further = |part: &Value| splits.iter().any(|kind| part["type"] == *kind);
            let known = parts.iter().all(|part| further(part) || spaces(part).is_some());
            parts.first().filter(|_| known).and_then(spaces)
        }
        _ => None,
    }
}

/// Whether a pre-tokenizer splits at the sign that Metaspace writes for a space.
fn splits_at_its_sign(pre_tokenizer: &Value) -> bool {
    let parts = pre_tokenizer["pretokenizers"].as_array();
    pre_tokenizer["type"] == "Metaspace" && pre_tokenizer["replacement"] == SIGN
        || parts.is_some_and(|parts| parts.iter().any(splits_at_its_sign))
}

/// Whether a normalizer changes no word for what comes after the space behind it, and keeps that space.
fn keeps_words_apart(normalizer: &Value, sign_splits: bool) -> bool {
    let Some(kind) = normalizer["type"].as_str() else { return normalizer.is_null() };
    match kind {
        "BertNormalizer" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents"
        | "Nmt" | "Precompiled" | "Strip" | "Prepend" => true,
        "Replace" => {
            let pattern = &normalizer["pattern"];
            let text = pattern["String"].as_str();
            let content = normalizer["content"].as_str();
            let keeps = content == Some(" ") || sign_splits && content == Some(SIGN);
            pattern["Regex"] == " {2,}" && keeps
                || text.is_some_and(|text| !text.contains(char::is_whitespace))
        }
        "Sequence" => {
            let parts = normalizer["normalizers"].as_array();
            parts.is_some_and(|parts| parts.iter().all(|part| keeps_words_apart(part, sign_splits)))
        }
        _ => false,
    }
}

/// The ideographs around which BERT's normalizer puts spaces: those of the blocks that all its versions
/// have.
fn is_ideograph(c: char) -> bool {
    matches!(c, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{f900}'..='\u{faff}')
}
