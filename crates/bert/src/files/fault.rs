//! Why a file that `torch.save` wrote cannot be read.

/// Why a file's tensors cannot be read: reasons without a capital letter and a full stop.
pub(crate) enum Fault {
    /// Its pickle was cut off.
    EndsEarly,
    /// The file is damaged, or another program's.
    Damaged(String),
    /// It holds something else: what, and what to save instead.
    NoStateDict { found: String, expected: String },
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}
