//! What a backend wants of a whole pass.

use candle_core::{DType, Tensor};

/// How a backend computes a pass in the least time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassPolicy {
    /// Whether packed sequences are faster than padded ones.
    pub skips_padding: bool,
    /// The number of tokens per part of a large batch: each part goes through all layers before the next
    /// part starts.
    pub tokens_at_a_time: usize,
}

impl PassPolicy {
    /// The policy for hidden states like `x`: `[…, H]`.
    ///
    /// On the CPU in F32, if `x` needs no gradient, padding is skipped, and 1.5 MB of states for each
    /// thread go through the layers at a time (0.75 and 3 MB measured the same). Elsewhere padding is
    /// computed and batches stay whole.
    pub fn of(x: &Tensor) -> Self {
        const FLOATS_PER_THREAD: usize = 3 << 17;
        match x.dims().last() {
            Some(&h) if x.device().is_cpu() && x.dtype() == DType::F32 && !x.track_op() => Self {
                skips_padding: true,
                tokens_at_a_time: rayon::current_num_threads() * FLOATS_PER_THREAD / h.max(1),
            },
            _ => Self { skips_padding: false, tokens_at_a_time: usize::MAX },
        }
    }
}
