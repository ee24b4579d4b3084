//! What can go wrong between a text and its tensors.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that says what was given, what was expected and, where possible, how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a `tokenizer.json`.
    #[error("not a tokenizer.json: {0}")]
    Syntax(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// There is neither a `tokenizer.json` nor a `vocab.txt`.
    #[error("a tokenizer needs tokenizer.json or vocab.txt, and neither is given")]
    NoVocabulary,

    /// The tokenizer is not BERT's, and there is no `tokenizer.json` to say what it is.
    #[error(
        "the tokenizer's class is {class}, which needs {needs}; give a tokenizer.json made from it, or \
         make the ids with {class} in Python and pass them to the model"
    )]
    Class {
        /// The class, as `tokenizer_config.json` or `config.json` names it.
        class: String,
        /// What it needs that is not here.
        needs: String,
    },

    /// One of the smaller files is broken.
    #[error("{file} cannot be used: {reason}")]
    File {
        /// The file.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },

    /// A token cannot have the id that a file gives it.
    #[error(
        "the added token {content:?} has the id {expected} in tokenizer_config.json or \
         added_tokens.json, but {} in the vocabulary; use the files of one tokenizer",
        got.map_or_else(|| "none".to_owned(), |id| id.to_string())
    )]
    AddedToken {
        /// The token.
        content: String,
        /// The id in the vocabulary.
        got: Option<u32>,
        /// The id in the file.
        expected: u32,
    },

    /// The tokenizer refused a text or a token id.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(#[source] Box<dyn std::error::Error + Send + Sync>),

    /// Truncation leaves no room for the special tokens.
    #[error(
        "max_length is {got}, but the special tokens alone are {special}; expected {special} or more"
    )]
    MaxLength {
        /// The length asked for.
        got: usize,
        /// The number of special tokens that the tokenizer adds.
        special: usize,
    },

    /// Truncating one text of a pair would remove all of it, or there is no such text.
    #[error(
        "text {row} cannot be truncated to {max_length} tokens by shortening the {which} text only: \
         {reason}; use TruncationStrategy::LongestFirst"
    )]
    Truncation {
        /// The text's index in the batch.
        row: usize,
        /// The length asked for.
        max_length: usize,
        /// `first` or `second`.
        which: &'static str,
        /// The reason.
        reason: &'static str,
    },

    /// Pieces of a text would not advance.
    #[error(
        "text {row} is cut into pieces of {room} of its tokens, so a stride of {got} cannot be; expected \
         less than {room}, or a longer max_length"
    )]
    Stride {
        /// The text's index in the batch.
        row: usize,
        /// The stride asked for.
        got: usize,
        /// Tokens of a piece, without special tokens and the other text.
        room: usize,
    },

    /// Padding is asked for, but the vocabulary has no padding token.
    #[error("padding is asked for, but the tokenizer has no [PAD] token")]
    NoPadToken,

    /// Padding to more tokens than any model reads is asked for.
    #[error("padding to {got} tokens is asked for, expected at most {most}")]
    PaddingLength {
        /// The length asked for.
        got: usize,
        /// The limit.
        most: usize,
    },

    /// A batch has no texts.
    #[error("the batch has no texts, expected at least one")]
    EmptyBatch,

    /// A text has no tokens.
    #[error("text {row} has no tokens, expected at least one; leave it out or add special tokens")]
    NoTokens {
        /// Its index in the batch.
        row: usize,
    },

    /// The texts of a batch have different lengths.
    #[error(
        "text 0 has {first} tokens and text {row} has {got}; pad them to one length, for example with \
         Padding::Longest"
    )]
    Ragged {
        /// Tokens of the first text.
        first: usize,
        /// The first text of another length.
        row: usize,
        /// Its tokens.
        got: usize,
    },

    /// The device cannot make tensors.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
