//! Where a file that `torch.save` wrote holds a tensor.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Tensors by their names.
pub(crate) type Tensors = BTreeMap<Arc<str>, Arc<StoredTensor>>;

/// The location of a tensor in the file.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    /// The storage's name below `data/`.
    pub(crate) storage: Arc<str>,
    /// The storage's class, like `torch FloatStorage`.
    pub(super) class: Arc<str>,
    /// The index of the first element.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In elements.
    pub(crate) strides: Vec<usize>,
}

impl StoredTensor {
    /// The storage's class, like `FloatStorage`.
    pub(crate) fn class(&self) -> &str {
        self.class.rsplit(' ').next().unwrap_or_default()
    }

    /// The number of its elements. `None` if that is no number of this machine.
    pub(crate) fn count(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |count, size| count.checked_mul(*size as u64))
    }

    /// [`element_size`] of its storage.
    pub(crate) fn element_size(&self) -> Option<u64> {
        element_size(&self.class)
    }
}

/// The bytes of an element of a class of storages, like `torch FloatStorage`. `None` for one that this
/// library does not know.
pub(super) fn element_size(class: &str) -> Option<u64> {
    Some(match class.rsplit(' ').next()? {
        "ComplexDoubleStorage" => 16,
        "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
        "FloatStorage" | "IntStorage" | "QInt32Storage" => 4,
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
        "CharStorage" | "ByteStorage" | "BoolStorage" | "QInt8Storage" | "QUInt8Storage" => 1,
        _ => return None,
    })
}
