//! What is encoded.

use std::borrow::Cow;

/// A text, or a pair of texts that one sequence holds. Texts may be given as words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// `[CLS] text [SEP]`.
    Single(&'a str),
    /// `[CLS] first [SEP] second [SEP]`.
    Pair(&'a str, &'a str),
    /// A text that is split into words already, `Words::from(&words)`: a list of texts is never taken for
    /// the words of one. Hugging Face: `is_split_into_words`.
    Words(Words<'a>),
    /// Two such texts.
    WordPair(Words<'a>, Words<'a>),
}

/// The words of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words<'a> {
    /// Borrowed words.
    Borrowed(&'a [&'a str]),
    /// Words of their own.
    Owned(&'a [String]),
}

/// One text, of its own or of a pair.
#[derive(Clone, Copy)]
pub(crate) enum Sequence<'a> {
    Text(&'a str),
    Words(Words<'a>),
}

impl<'a> Text<'a> {
    /// The text, or both of a pair.
    pub(crate) fn sequences(self) -> (Sequence<'a>, Option<Sequence<'a>>) {
        match self {
            Self::Single(text) => (Sequence::Text(text), None),
            Self::Pair(first, second) => (Sequence::Text(first), Some(Sequence::Text(second))),
            Self::Words(words) => (Sequence::Words(words), None),
            Self::WordPair(first, second) => {
                (Sequence::Words(first), Some(Sequence::Words(second)))
            }
        }
    }
}

impl<'a> Sequence<'a> {
    /// Its size: the bytes of a text or the number of words.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Words(Words::Borrowed(words)) => words.len(),
            Self::Words(Words::Owned(words)) => words.len(),
        }
    }
}

impl<'a> From<Sequence<'a>> for tokenizers::InputSequence<'a> {
    fn from(sequence: Sequence<'a>) -> Self {
        match sequence {
            Sequence::Text(text) => text.into(),
            Sequence::Words(Words::Borrowed(words)) => words.into(),
            Sequence::Words(Words::Owned(words)) => words.into(),
        }
    }
}

/// What can be given as a text. What is borrowed may hold texts that live longer (`'b`).
macro_rules! given {
    ($($to:ident<$($life:lifetime),*> $given:ty: $pattern:pat => $text:expr;)*) => {
        $(impl<$($life),*> From<$given> for $to<'a> {
            fn from($pattern: $given) -> Self {
                $text
            }
        })*
    };
}

given! {
    Words<'a, 'b> &'a [&'b str]: words => Self::Borrowed(words);
    Words<'a, 'b> &'a Vec<&'b str>: words => Self::Borrowed(words);
    Words<'a> &'a [String]: words => Self::Owned(words);
    Words<'a> &'a Vec<String>: words => Self::Owned(words);

    Text<'a> &'a str: text => Self::Single(text);
    Text<'a> &'a String: text => Self::Single(text);
    Text<'a> &'a Cow<'_, str>: text => Self::Single(text);
    Text<'a, 'b> &'a &'b str: text => Self::Single(text);
    Text<'a, 'b> &'a &'b String: text => Self::Single(text);
    Text<'a> (&'a str, &'a str): (first, second) => Self::Pair(first, second);
    Text<'a> (&'a String, &'a String): (first, second) => Self::Pair(first, second);
    Text<'a, 'b> &'a (&'b str, &'b str): (first, second) => Self::Pair(first, second);
    Text<'a, 'b> &'a (&'b String, &'b String): (first, second) => Self::Pair(first, second);
    Text<'a> &'a (String, String): (first, second) => Self::Pair(first, second);
    Text<'a, 'b> &'a &'b (&'b str, &'b str): (first, second) => Self::Pair(first, second);
    Text<'a, 'b> &'a &'b (String, String): (first, second) => Self::Pair(first, second);
    Text<'a> Words<'a>: words => Self::Words(words);
    Text<'a, 'b> &'a Words<'b>: words => Self::Words(*words);
    Text<'a, 'b> &'a Text<'b>: text => *text;
}
