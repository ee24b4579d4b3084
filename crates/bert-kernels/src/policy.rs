//! What a backend wants of a whole pass.

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
    /// Padding is computed, and batches stay whole.
    pub(crate) const WHOLE: Self = Self { skips_padding: false, tokens_at_a_time: usize::MAX };
}
