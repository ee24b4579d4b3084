//! Files of weights, and how files are written.

pub(crate) mod atomic;
pub(crate) mod file;
mod legacy_torch;
mod pickle;
pub(crate) mod safetensors;
pub(crate) mod shards;
pub(crate) mod torch;
pub(crate) mod weight_file;
