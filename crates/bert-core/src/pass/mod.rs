//! One forward pass: what goes in, how it is computed, what is kept.

pub(crate) mod batch;
pub(crate) mod cache;
pub(crate) mod input;
pub(crate) mod mask;
pub(crate) mod options;
