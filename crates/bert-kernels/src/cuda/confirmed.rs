//! Which kernels are used.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use candle_core::{DType, Result, Tensor};

/// A family of kernels, named like its file.
pub(crate) type Family = &'static str;

pub(crate) const ACTIVATION: Family = "activation";
pub(crate) const ATTENTION: Family = "attention";
pub(crate) const LAYER_NORM: Family = "layer_norm";
pub(crate) const LINEAR: Family = "linear";
pub(crate) const ROWS: Family = "rows";

/// The families and dtypes that a record in `bench/record` shows to be right, and faster than Candle's
/// operations, on a GPU. `scripts/gpu-check` makes such records.
const CONFIRMED: &[(Family, DType)] = &[];

static ALL: AtomicBool = AtomicBool::new(false);
static DECLINED: AtomicU64 = AtomicU64::new(0);

/// From now on every kernel is used, also those that no record shows to be right on a GPU yet. For tests
/// and benchmarks. `bert::cuda_device` calls it if `BERT_CUDA_KERNELS` is `all` in the environment.
pub fn use_unconfirmed_kernels() {
    ALL.store(true, Ordering::Relaxed);
}

/// Whether the kernels of a family are used for tensors of `dtype`.
pub(crate) fn is_used(family: Family, dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32)
        && (ALL.load(Ordering::Relaxed) || CONFIRMED.contains(&(family, dtype)))
}

/// How many operations of this process had no kernel for their sizes or layouts, or because one of several
/// operands needs a gradient, although their family is used for their dtype. They used their definitions, which
/// take longer; benchmarks make sure that there are none.
pub fn declined() -> u64 {
    DECLINED.load(Ordering::Relaxed)
}

/// Counts a result that is none for [`declined`].
pub(crate) fn counted<T>(
    x: &Tensor,
    family: Family,
    result: Result<Option<T>>,
) -> Result<Option<T>> {
    if matches!(result, Ok(None)) && !x.track_op() && is_used(family, x.dtype()) {
        DECLINED.fetch_add(1, Ordering::Relaxed);
    }
    result
}
