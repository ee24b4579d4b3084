//! Options of a call to the tokenizer.

/// The options of a call to the tokenizer. As in transformers, the default adds special tokens and
/// neither pads nor truncates.
///
/// ```
/// use bert_tokenize::{EncodeOptions, Padding, Truncation};
///
/// let options = EncodeOptions::new()
///     .with_padding(Padding::Longest)
///     .with_truncation(Truncation::to(512));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EncodeOptions {
    /// Whether `[CLS]` and `[SEP]` are added. Default: yes.
    pub add_special_tokens: bool,
    /// How short texts are padded. Default: not at all.
    pub padding: Padding,
    /// The side of the padding. Default: the one that `tokenizer_config.json` names, or else right.
    pub padding_side: Option<Side>,
    /// Padded lengths are rounded up to a multiple of this many tokens. Default: 1.
    pub pad_to_multiple_of: usize,
    /// How long texts are truncated. Default: not at all.
    pub truncation: Option<Truncation>,
    /// The unit of offsets. Default: characters.
    pub offsets: OffsetUnit,
    /// Whether special tokens in the texts, like a `[SEP]` that a user typed, are split like other words.
    /// Default: as `tokenizer_config.json` says, or else no.
    pub split_special_tokens: Option<bool>,
}

/// The length to which texts are padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Each text keeps its own length.
    #[default]
    None,
    /// The length of the longest text in the batch.
    Longest,
    /// This many tokens, including special tokens. Longer texts keep their length.
    Length(usize),
}

/// The length to which texts are truncated, and what is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Truncation {
    /// The most tokens of a text or pair, including special tokens.
    pub max_length: usize,
    /// The text of a pair that is truncated.
    pub strategy: TruncationStrategy,
    /// The end at which it is truncated. Default: the one that `tokenizer_config.json` names, or else the
    /// right one.
    pub side: Option<Side>,
    /// Whether the rest of a truncated text makes further encodings, and how many tokens each of them
    /// repeats of the one before it. Default: the rest is dropped. Hugging Face:
    /// `return_overflowing_tokens` and `stride`.
    pub overflow: Option<usize>,
}

/// The text of a pair that is truncated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationStrategy {
    /// The longer one until both have the same length, then both.
    #[default]
    LongestFirst,
    /// The first one.
    OnlyFirst,
    /// The second one.
    OnlySecond,
}

/// An end of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Side {
    /// The beginning.
    Left,
    /// The end.
    #[default]
    Right,
}

/// The unit of offsets in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetUnit {
    /// Unicode scalar values, as in Python.
    #[default]
    Characters,
    /// Bytes of UTF-8, as in Rust's string slices.
    Bytes,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            add_special_tokens: true,
            padding: Padding::None,
            padding_side: None,
            pad_to_multiple_of: 1,
            truncation: None,
            offsets: OffsetUnit::Characters,
            split_special_tokens: None,
        }
    }
}

impl EncodeOptions {
    /// Special tokens, no padding, no truncation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out `[CLS]` and `[SEP]`.
    pub fn without_special_tokens(self) -> Self {
        Self { add_special_tokens: false, ..self }
    }

    /// Sets [`EncodeOptions::padding`].
    pub fn with_padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// Sets [`EncodeOptions::padding_side`].
    pub fn with_padding_side(self, side: Side) -> Self {
        Self { padding_side: Some(side), ..self }
    }

    /// Sets [`EncodeOptions::pad_to_multiple_of`].
    pub fn with_pad_to_multiple_of(self, tokens: usize) -> Self {
        Self { pad_to_multiple_of: tokens, ..self }
    }

    /// Sets [`EncodeOptions::truncation`].
    pub fn with_truncation(self, truncation: Truncation) -> Self {
        Self { truncation: Some(truncation), ..self }
    }

    /// Sets [`EncodeOptions::offsets`].
    pub fn with_offsets(self, unit: OffsetUnit) -> Self {
        Self { offsets: unit, ..self }
    }

    /// Sets [`EncodeOptions::split_special_tokens`].
    pub fn with_split_special_tokens(self, split: bool) -> Self {
        Self { split_special_tokens: Some(split), ..self }
    }
}

impl Truncation {
    /// At most `max_length` tokens. The longer text of a pair is truncated first, at its end.
    pub fn to(max_length: usize) -> Self {
        Self { max_length, strategy: TruncationStrategy::LongestFirst, side: None, overflow: None }
    }

    /// Sets [`Truncation::strategy`].
    pub fn with_strategy(self, strategy: TruncationStrategy) -> Self {
        Self { strategy, ..self }
    }

    /// Sets [`Truncation::side`].
    pub fn with_side(self, side: Side) -> Self {
        Self { side: Some(side), ..self }
    }

    /// The rest of a truncated text makes further encodings. Each of them repeats the last `stride` tokens
    /// of the one before it. If both texts of a pair are truncated, every piece of one is combined with
    /// every piece of the other. Sets [`Truncation::overflow`].
    pub fn with_overflow(self, stride: usize) -> Self {
        Self { overflow: Some(stride), ..self }
    }
}
