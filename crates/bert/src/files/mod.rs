//! Files of weights, and how files are written.

pub(crate) mod atomic;
mod fault;
pub(crate) mod file;
mod legacy_torch;
pub(crate) mod names;
mod pickle;
mod pickle_reader;
pub(crate) mod safetensors;
pub(crate) mod shards;
mod stored_tensor;
pub(crate) mod torch;
pub(crate) mod weight_file;
