//! The beginning of a long text: where only that can count, the rest is not encoded.

use serde_json::Value;
use tokenizers::{
    AddedToken, Encoding, NormalizedString, Normalizer, NormalizerWrapper, Tokenizer,
};

use crate::checks::{guarded, json};
use crate::error::{Error, Result};
use crate::options::{Side, Truncation, TruncationStrategy};
use crate::text::Text;

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
        let mut ideographs = normalizer["type"] == "BertNormalizer"
            && normalizer["handle_chinese_chars"] == true
            && spaces.len() > 1;
        for token in tokenizer.get_added_tokens_decoder().into_values() {
            if token.content.contains(char::is_whitespace) || has_space(tokenizer, &token)? {
                return Ok(None);
            }
            ideographs &= !token.content.contains(is_ideograph);
        }
        Ok(Some(Self { spaces, ideographs }))
    }

    /// The shortest beginning of at least this many bytes.
    fn beginning<'a>(&self, text: &'a str, bytes: usize) -> &'a str {
        let mut before = None;
        for (at, next) in text.char_indices() {
            let can_be_cut = |before: char| {
                self.spaces.contains(&next) && !before.is_whitespace()
                    || self.ideographs && is_ideograph(before)
            };
            if at >= bytes && before.is_some_and(can_be_cut) {
                return &text[..at];
            }
            before = Some(next);
        }
        text
    }
}

/// A text of its own, or one of a pair.
struct Sequence<'a> {
    whole: &'a str,
    /// What of it is encoded.
    beginning: &'a str,
    /// The index of the other text of a pair of which the longer one is cut first: this one must be known
    /// to be longer.
    beside: Option<usize>,
    can_be_cut: bool,
}

impl<'a> Sequence<'a> {
    fn of(texts: &[Text<'a>], truncation: Option<Truncation>) -> Vec<Self> {
        let longest_first =
            truncation.is_some_and(|it| it.strategy == TruncationStrategy::LongestFirst);
        let mut sequences: Vec<Self> = Vec::with_capacity(texts.len());
        for text in texts {
            let at = sequences.len();
            let mut add = |whole, can_be_cut, beside| {
                sequences.push(Self { whole, beginning: whole, beside, can_be_cut });
            };
            match *text {
                Text::Single(text) => add(text, true, None),
                Text::Pair(first, second) if longest_first => {
                    let first_is_longer = first.len() >= second.len();
                    add(first, first_is_longer, Some(at + 1));
                    add(second, !first_is_longer, Some(at));
                }
                Text::Pair(first, second) => {
                    add(first, true, None);
                    add(second, true, None);
                }
            }
        }
        sequences
    }
}

/// The tokens of each text, and of both texts of a pair. Of a text that is much longer than what remains
/// of it, only the beginning is encoded.
pub(crate) fn encode_beginnings(
    texts: &[Text],
    cuts: Option<(&Cuts, Truncation)>,
    encode: impl Fn(Vec<&str>) -> Result<Vec<Encoding>>,
) -> Result<Vec<Encoding>> {
    let mut sequences = Sequence::of(texts, cuts.map(|(_, truncation)| truncation));
    let cuts = cuts.filter(|(_, truncation)| truncation.side == Side::Right);
    if let Some((cuts, truncation)) = cuts {
        let bytes = truncation.max_length.saturating_add(8).saturating_mul(BYTES_PER_TOKEN);
        for sequence in &mut sequences {
            if sequence.can_be_cut && sequence.whole.len() / 2 > bytes {
                sequence.beginning = cuts.beginning(sequence.whole, bytes);
            }
        }
    }
    let mut encodings = encode(sequences.iter().map(|it| it.beginning).collect())?;
    let Some((cuts, truncation)) = cuts else { return Ok(encodings) };
    loop {
        // The last token may be another one in the whole text.
        let is_short = |(i, sequence): &(usize, &Sequence)| {
            let beside = sequence.beside.map_or(0, |other| encodings[other].len());
            encodings[*i].len() <= truncation.max_length.max(beside)
                && sequence.beginning.len() < sequence.whole.len()
        };
        let short: Vec<usize> =
            sequences.iter().enumerate().filter(is_short).map(|(i, _)| i).collect();
        if short.is_empty() {
            return Ok(encodings);
        }
        for &i in &short {
            let Sequence { whole, beginning, .. } = sequences[i];
            sequences[i].beginning = cuts.beginning(whole, beginning.len().saturating_mul(4));
        }
        let longer = encode(short.iter().map(|&i| sequences[i].beginning).collect())?;
        for (i, encoding) in short.into_iter().zip(longer) {
            encodings[i] = encoding;
        }
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
