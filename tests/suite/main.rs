//! Everything that is tested across crates, in one program.
//!
//! Tests that need what `scripts/check` prepares (downloaded weights, a second build) are ignored by
//! a plain `cargo test`.

mod api;
mod batching;
mod checksum;
mod configs;
mod corpora;
mod corruption;
#[cfg(feature = "cuda")]
mod cuda;
mod decoder;
mod examples;
mod files;
mod finetune;
mod foreign;
mod fuzzed;
mod gradients;
mod heads;
mod hello;
mod hostile;
mod hub;
mod inputs;
mod kills;
mod loading;
mod long_texts;
mod memory;
mod minilm;
mod mutations;
mod outside;
mod packed_heads;
mod packing;
mod parity;
mod pipelines;
mod pretrain;
mod sentences;
mod server;
mod support;
mod surgery;
mod tokenizer_calls;
mod tokenizer_files;
mod tokenizing;
mod training;
