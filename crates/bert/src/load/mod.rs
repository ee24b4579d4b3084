//! From a checkpoint's files to a model.

mod architecture;
pub(crate) mod backend;
pub(crate) mod options;
pub(crate) mod pretrained;
pub(crate) mod report;
