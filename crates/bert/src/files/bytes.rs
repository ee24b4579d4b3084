//! Files in memory.

use std::borrow::Cow;
use std::sync::Arc;

/// The contents of a file. Clones share them.
#[derive(Clone)]
pub(crate) struct Bytes(Arc<Cow<'static, [u8]>>);

impl Bytes {
    pub(crate) fn new(bytes: Cow<'static, [u8]>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
