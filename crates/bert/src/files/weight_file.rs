//! Files of named tensors in any format.

use candle_core::{DType, Tensor};

use crate::error::Result;

/// What a file says of a tensor before reading it.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) shape: Vec<usize>,
    /// The dtype, or the file's name of one that is not a floating-point dtype.
    pub(crate) dtype: std::result::Result<DType, String>,
}

/// A file of named tensors.
pub(crate) trait WeightFile: Send + Sync {
    /// The names of its tensors.
    fn names(&self) -> Vec<String>;

    /// What the file says of a tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a tensor to the host. `dtype` is that of [`WeightFile::info`].
    fn read(&self, name: &str, dtype: DType) -> Result<Tensor>;
}
