//! Files on disk and in memory.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

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

/// A file of a checkpoint.
pub(crate) enum File {
    OnDisk(PathBuf),
    /// With its name in errors.
    InMemory(PathBuf, Bytes),
}

impl File {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::OnDisk(path) | Self::InMemory(path, _) => path,
        }
    }

    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::OnDisk(path) => match std::fs::read(path) {
                Ok(bytes) => Ok(Cow::Owned(bytes)),
                Err(source) => Err(Error::Io { path: path.clone(), source }),
            },
            Self::InMemory(_, bytes) => Ok(Cow::Borrowed(bytes.as_ref())),
        }
    }
}
