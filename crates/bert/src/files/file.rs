//! Files on disk and in memory.

use std::borrow::Cow;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// How a pointer of Git LFS begins.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

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

    /// # Errors
    /// [`Error::Io`]; [`Error::LfsPointer`] for a pointer in place of the file.
    pub(crate) fn read(&self) -> Result<Cow<'_, [u8]>> {
        let bytes: Cow<[u8]> = match self {
            Self::OnDisk(path) => std::fs::read(path).map_err(|error| self.io(error))?.into(),
            Self::InMemory(_, bytes) => bytes.as_ref().into(),
        };
        self.refuse_pointer(&bytes)?;
        Ok(bytes)
    }

    fn refuse_pointer(&self, beginning: &[u8]) -> Result<()> {
        if beginning.starts_with(LFS_POINTER) {
            return Err(Error::LfsPointer { path: self.path().to_owned() });
        }
        Ok(())
    }

    /// Opens it. Returns its length as well.
    ///
    /// # Errors
    /// As [`File::read`].
    pub(super) fn open(&self) -> Result<(Box<dyn Source>, u64)> {
        let (mut source, length): (Box<dyn Source>, u64) = match self {
            Self::OnDisk(path) => {
                let file = std::fs::File::open(path).map_err(|error| self.io(error))?;
                let length = file.metadata().map_err(|error| self.io(error))?.len();
                (Box::new(file), length)
            }
            Self::InMemory(_, bytes) => {
                (Box::new(Cursor::new(bytes.clone())), bytes.as_ref().len() as u64)
            }
        };
        let mut beginning = Vec::new();
        let length_read = LFS_POINTER.len() as u64;
        source
            .by_ref()
            .take(length_read)
            .read_to_end(&mut beginning)
            .and_then(|_| source.rewind())
            .map_err(|error| self.io(error))?;
        self.refuse_pointer(&beginning)?;
        Ok((source, length))
    }

    fn io(&self, source: std::io::Error) -> Error {
        Error::Io { path: self.path().to_owned(), source }
    }
}
