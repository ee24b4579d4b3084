//! From a checkpoint's files to a model.

pub(crate) mod backend;
pub(crate) mod pretrained;
