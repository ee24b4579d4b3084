//! One forward pass: what goes in, how it is computed, what is kept.
//!
//! An input becomes a [`batch`] of checked tokens and a [`mask`]; the [`plan`] decides which rows are
//! computed, and in which [`layout`]; the [`state`] holds what the layers need and record.

pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod dropout;
pub(crate) mod input;
pub(crate) mod layout;
pub(crate) mod mask;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod state;
pub(crate) mod tokens;
