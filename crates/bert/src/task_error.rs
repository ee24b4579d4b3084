//! What can go wrong between a text and an answer.

use std::path::PathBuf;

/// The reason why a pipeline or an encoder of texts cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A text has more tokens than the model reads.
    #[error("text {row} has more tokens than the {most} that the checkpoint allows; {way_out}")]
    TextTooLong {
        /// The text's index.
        row: usize,
        /// What the model reads, with special tokens.
        most: usize,
        /// What can be done.
        way_out: &'static str,
    },

    /// What may not be cut of a text leaves no room for the rest.
    #[error(
        "text {row} does not fit into what the model reads, even when it is cut or divided; {way_out}"
    )]
    NoRoom {
        /// The text's index.
        row: usize,
        /// What can be done.
        way_out: &'static str,
    },

    /// A pipeline cannot do what its options say.
    #[error("{option} is {got}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        got: String,
        /// What can be.
        expected: String,
    },

    /// Words cannot be filled in without a token for a mask.
    #[error("the tokenizer has no mask token; load the checkpoint of a masked-language model")]
    NoMaskToken,

    /// A text has no mask.
    #[error(
        "text {row} has no {token}, or it was cut off; put it in place of the word to be found"
    )]
    NoMask {
        /// The text's index.
        row: usize,
        /// The mask, as the tokenizer writes it.
        token: String,
    },

    /// None of the words to choose from has a token.
    #[error("the tokenizer makes no token of any of {got:?}; give at least one word")]
    NoTargets {
        /// The words.
        got: Vec<String>,
    },

    /// A single text is given where two belong together.
    #[error("text {row} is a single text, expected a pair: (first, second)")]
    NotAPair {
        /// The text's index.
        row: usize,
    },

    /// A pair is given where one text is expected.
    #[error("text {row} is a pair, expected one text")]
    IsAPair {
        /// The text's index.
        row: usize,
    },

    /// The model does not tell what follows from a text.
    #[error(
        "the model's labels are {labels:?}, and none of them begins with \"entail\" beside another one; \
         load a model that was trained for natural-language inference"
    )]
    NoEntailment {
        /// The labels.
        labels: Vec<String>,
    },

    /// A file of sentence-transformers cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Module {
        /// The file or weight.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },

    /// A checkpoint has a module that this library does not know.
    #[error(
        "modules.json has a module {got}, expected {known}; encode with sentence-transformers instead"
    )]
    UnknownModule {
        /// The module's class.
        got: String,
        /// Those that are known.
        known: &'static str,
    },

    /// A checkpoint has no prompt of that name.
    #[error("there is no prompt {got:?}; expected one of {known:?}, or give the text of a prompt")]
    NoSuchPrompt {
        /// The name.
        got: String,
        /// The names that there are.
        known: Vec<String>,
    },

    /// A checkpoint's modules make no vector of a text.
    #[error(
        "modules.json has no Pooling, so there is no vector of a whole text; use encode_tokens or \
         MultiVectorEncoder"
    )]
    NotPooled,
}

impl TaskError {
    /// The row of the text that an error is about.
    pub(crate) fn row_mut(&mut self) -> Option<&mut usize> {
        match self {
            Self::TextTooLong { row, .. }
            | Self::NoRoom { row, .. }
            | Self::NoMask { row, .. }
            | Self::NotAPair { row }
            | Self::IsAPair { row } => Some(row),
            _ => None,
        }
    }

    pub(crate) fn option(
        option: &'static str,
        got: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::Option { option, got: got.to_string(), expected: expected.into() }
    }
}
