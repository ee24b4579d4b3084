//! Texts to tensors: Hugging Face's tokenizers with transformers' calling conventions.
//!
//! ```no_run
//! use bert_tokenize::{BertTokenizer, EncodeOptions, Padding};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tokenizer = BertTokenizer::from_bytes(&std::fs::read("tokenizer.json")?)?;
//! let options = EncodeOptions::new().with_padding(Padding::Longest);
//! let batch = tokenizer.encode_batch(["Hello, my dog is cute", "Hi"], &options)?;
//! let input = batch.to_input(&candle_core::Device::Cpu)?;
//! # Ok(())
//! # }
//! ```

mod beginning;
mod build;
mod checks;
mod decode;
mod encode;
mod encoding;
mod error;
mod files;
mod named;
mod options;
mod settings;
mod special;
mod template;
mod text;
mod tokenizer;
mod vocabulary;

pub use decode::DecodeOptions;
pub use encoding::{BatchEncoding, Encoding};
pub use error::{Error, Result};
pub use files::TokenizerFiles;
pub use options::{EncodeOptions, OffsetUnit, Padding, Side, Truncation, TruncationStrategy};
pub use text::{Text, Words};
pub use tokenizer::BertTokenizer;

/// Compiles the README's program as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
