//! What is encoded.

/// A text, or a pair of texts that one sequence holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// `[CLS] text [SEP]`.
    Single(&'a str),
    /// `[CLS] first [SEP] second [SEP]`.
    Pair(&'a str, &'a str),
}

/// What can be given as a [`Text`].
macro_rules! text_from {
    ($($given:ty: $pattern:pat => $text:expr;)*) => {
        $(impl<'a> From<$given> for Text<'a> {
            fn from($pattern: $given) -> Self {
                $text
            }
        })*
    };
}

text_from! {
    &'a str: text => Self::Single(text);
    &&'a str: text => Self::Single(text);
    &'a String: text => Self::Single(text);
    (&'a str, &'a str): (first, second) => Self::Pair(first, second);
    &(&'a str, &'a str): (first, second) => Self::Pair(first, second);
    &'a (String, String): (first, second) => Self::Pair(first, second);
    &Text<'a>: text => *text;
}
