//! Files of named tensors, whatever their format.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// What a file says of a tensor before it is read.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) shape: Vec<usize>,
    /// The floating-point dtype it is stored in; absent for integers and the like.
    pub(crate) dtype: Option<DType>,
    /// What the file calls the dtype.
    pub(crate) stored_as: String,
}

/// A file of named tensors.
pub(crate) trait WeightFile: Send + Sync {
    /// The names of its tensors.
    fn names(&self) -> Vec<String>;

    /// What it says of a tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a tensor to the host. `dtype` is the one that [`WeightFile::info`] gives.
    fn read(&self, name: &str, dtype: DType) -> Result<Tensor>;
}
