//! Files on disk and in memory.

use std::borrow::Cow;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The contents of a file. Clones share them.
#[derive(Clone)]
pub(crate) struct Bytes(pub(crate) Arc<Cow<'static, [u8]>>);

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

/// What is read of an open file.
pub(super) trait Source: Read + Seek + Send {}

impl<T: Read + Seek + Send> Source for T {}

impl File {
    /// Its path, or its name in errors.
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::OnDisk(path) | Self::InMemory(path, _) => path,
        }
    }

    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::OnDisk(path) => Ok(std::fs::read(path).map_err(|error| self.io(error))?.into()),
            Self::InMemory(_, bytes) => Ok(bytes.as_ref().into()),
        }
    }

    /// Opens it. Returns its length as well.
    pub(super) fn open(&self) -> Result<(Box<dyn Source>, u64)> {
        match self {
            Self::OnDisk(path) => {
                let file = std::fs::File::open(path).map_err(|error| self.io(error))?;
                let length = file.metadata().map_err(|error| self.io(error))?.len();
                Ok((Box::new(file), length))
            }
            Self::InMemory(_, bytes) => {
                Ok((Box::new(Cursor::new(bytes.clone())), bytes.as_ref().len() as u64))
            }
        }
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path().to_owned(), source }
    }
}
