//! Files of weights, and how files are written.

pub(crate) mod atomic;
mod pickle;
pub(crate) mod safetensors;
pub(crate) mod torch;
pub(crate) mod weight_file;
