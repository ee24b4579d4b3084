//! A safetensors file, read with positioned reads.
//!
//! Nothing is mapped into memory: a file that is truncated while it is read gives an error, and at
//! most one tensor is held twice.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, Result};

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
        let io = |source| Error::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        Self::new(path, Box::new(file), length)
    }

    /// `name` stands for the path in errors.
    pub(crate) fn from_bytes(name: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::new(name, Box::new(std::io::Cursor::new(bytes)), bytes.len() as u64)
    }

    fn new(path: &Path, mut source: Box<dyn ReadAt>, length: u64) -> Result<Self> {
        let damaged = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
        let io = |source| Error::Io { path: path.to_owned(), source };
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
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| damaged(format!("its header cannot be read: {error}")))?;
        let data_start = LENGTH_BYTES + header_length;
        let (got, expected) = (length - data_start, header.data_len() as u64);
        if got != expected {
            return Err(damaged(format!(
                "it has {got} bytes of tensors, but its header says {expected}"
            )));
        }
        Ok(Self { path: path.to_owned(), source: Mutex::new(source), header, data_start })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Names in the order the tensors stand in.
    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// Reads a tensor that [`SafetensorsFile::info`] describes, converted to `dtype`.
    pub(crate) fn read(
        &self,
        name: &str,
        info: &TensorInfo,
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let stored = match info.dtype {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => {
                let (checkpoint, name) = (self.path.display().to_string(), name.to_owned());
                return Err(Error::WeightDType { checkpoint, name, got: format!("{other:?}") });
            }
        };
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read_at(self.data_start + start as u64, &mut bytes)
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let tensor = Tensor::from_raw_buffer(&bytes, stored, &info.shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }
}
