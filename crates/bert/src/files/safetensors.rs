//! A safetensors file, read with positioned reads.
//!
//! Nothing is mapped into memory: a file that is truncated while it is read gives an error, and at
//! most one tensor is held twice.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::checkpoint::Bytes;
use crate::error::{Error, Result};
use crate::files::weight_file::{TensorInfo, WeightFile};

/// Bytes of the header's length, which stands before the header.
const LENGTH_BYTES: u64 = 8;
/// No real header is longer; a damaged length must not allocate.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// The tensors of one file, on disk or in memory.
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    source: Mutex<Box<dyn ReadAt>>,
    header: Metadata,
    data_start: u64,
}

trait ReadAt: Send {
    fn read_at(&mut self, start: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

impl<T: Read + Seek + Send> ReadAt for T {
    fn read_at(&mut self, start: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.seek(SeekFrom::Start(start))?;
        self.read_exact(buffer)
    }
}

impl SafetensorsFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Self::new(path, Box::new(file), length)
    }

    /// `name` stands for the path in errors.
    pub(crate) fn from_bytes(name: &Path, bytes: Bytes) -> Result<Self> {
        let length = bytes.as_ref().len() as u64;
        Self::new(name, Box::new(std::io::Cursor::new(bytes)), length)
    }

    fn new(path: &Path, mut source: Box<dyn ReadAt>, length: u64) -> Result<Self> {
        let damaged = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        if length < LENGTH_BYTES {
            return Err(damaged(format!(
                "it has {length} bytes, expected at least {LENGTH_BYTES}"
            )));
        }
        let mut header_length = [0; LENGTH_BYTES as usize];
        source.read_at(0, &mut header_length).map_err(io)?;
        let header_length = u64::from_le_bytes(header_length);
        if header_length > MAX_HEADER_BYTES.min(length - LENGTH_BYTES) {
            let rest = length - LENGTH_BYTES;
            return Err(damaged(format!(
                "its header says {header_length} bytes, but {rest} follow"
            )));
        }
        let mut header = vec![0; header_length as usize];
        source.read_at(LENGTH_BYTES, &mut header).map_err(io)?;
        let unreadable = |error| damaged(format!("its header cannot be read: {error}"));
        serde_json::from_slice::<DistinctKeys>(&header).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(unreadable)?;
        let data_start = LENGTH_BYTES + header_length;
        let (got, expected) = (length - data_start, header.data_len() as u64);
        if got != expected {
            return Err(damaged(format!(
                "it has {got} bytes of tensors, but its header says {expected}"
            )));
        }
        Ok(Self { path: path.to_owned(), source: Mutex::new(source), header, data_start })
    }
}

impl WeightFile for SafetensorsFile {
    /// In the order the tensors stand in.
    fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.header.info(name)?;
        let dtype = match info.dtype {
            Dtype::F64 => Some(DType::F64),
            Dtype::F32 => Some(DType::F32),
            Dtype::F16 => Some(DType::F16),
            Dtype::BF16 => Some(DType::BF16),
            _ => None,
        };
        Some(TensorInfo {
            shape: info.shape.clone(),
            dtype,
            stored_as: format!("{:?}", info.dtype),
        })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let Some(info) = self.header.info(name) else {
            let reason = format!("it has no {name}");
            return Err(Error::Safetensors { path: self.path.clone(), reason });
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read_at(self.data_start + start as u64, &mut bytes)
            .map_err(|cause| Error::Io { path: self.path.clone(), cause })?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu)?)
    }
}

/// A JSON object without two equal keys, of which serde would keep the last.
struct DistinctKeys;

impl<'de> Deserialize<'de> for DistinctKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(Self)
    }
}

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Self, M::Error> {
        let mut seen = HashSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(key) = seen.replace(key) {
                return Err(M::Error::custom(format!("{key} stands in it twice")));
            }
        }
        Ok(self)
    }
}
