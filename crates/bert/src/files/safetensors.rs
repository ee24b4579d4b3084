//! The safetensors format, read and written.
//!
//! Files are read instead of being mapped into memory: a file that is truncated meanwhile gives an
//! error, and at most one tensor is in memory twice.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::{Error as IoError, Result as IoResult, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo as Header};
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::file::{File, Source};
use super::weight_file::{TensorInfo, WeightFile};
use crate::error::{Error, Result};

/// The size of the header's length, with which a file begins.
const LENGTH_BYTES: u64 = 8;
/// Longer than any real header: a damaged length must not allocate memory.
const MAX_HEADER_BYTES: u64 = 100 << 20;

/// The tensors of one file, on disk or in memory.
pub(crate) struct SafetensorsFile {
    path: PathBuf,
    source: Mutex<Box<dyn Source>>,
    header: Metadata,
    data_start: u64,
}

impl SafetensorsFile {
    pub(crate) fn open(file: &File) -> Result<Box<dyn WeightFile>> {
        let (mut source, length) = file.open()?;
        let path = || file.path().to_owned();
        let damaged = |reason: String| Error::Safetensors { path: path(), reason };
        let io = |source| Error::Io { path: path(), source };
        if length < LENGTH_BYTES {
            let reason = format!("it has {length} bytes, expected at least {LENGTH_BYTES}");
            return Err(damaged(reason));
        }
        let mut header_length = [0; LENGTH_BYTES as usize];
        source.read_exact(&mut header_length).map_err(io)?;
        let header_length = u64::from_le_bytes(header_length);
        let rest = length - LENGTH_BYTES;
        if header_length > MAX_HEADER_BYTES.min(rest) {
            let reason = format!("its header says {header_length} bytes, but {rest} follow");
            return Err(damaged(reason));
        }
        let mut header = vec![0; header_length as usize];
        source.read_exact(&mut header).map_err(io)?;
        let unreadable = |error| damaged(format!("its header cannot be read: {error}"));
        let mut reader = serde_json::Deserializer::from_slice(&header);
        reader.deserialize_map(DistinctKeys).and_then(|()| reader.end()).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&header).map_err(unreadable)?;
        let data_start = LENGTH_BYTES + header_length;
        let (got, expected) = (length - data_start, header.data_len() as u64);
        if got != expected {
            let reason = format!("it has {got} bytes of tensors, but its header says {expected}");
            return Err(damaged(reason));
        }
        Ok(Box::new(Self { path: path(), source: Mutex::new(source), header, data_start }))
    }
}

impl WeightFile for SafetensorsFile {
    /// In the order of the file.
    fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let info = self.header.info(name)?;
        let dtype = match info.dtype {
            Dtype::F64 => Ok(DType::F64),
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            other => Err(format!("{other:?}")),
        };
        Some(TensorInfo { shape: info.shape.clone(), dtype })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let Some(info) = self.header.info(name) else {
            let reason = format!("it has no {name}");
            return Err(Error::Safetensors { path: self.path.clone(), reason });
        };
        // Candle multiplies sizes in another order than the header was checked in: zeros may come last.
        let mut sizes = info.shape.iter().filter(|size| **size > 0);
        if sizes.try_fold(1usize, |product, size| product.checked_mul(*size)).is_none() {
            let reason = format!("the shape {:?} of {name} is too large", info.shape);
            return Err(Error::Safetensors { path: self.path.clone(), reason });
        }
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| source.read_exact(&mut bytes))
            .map_err(|source| Error::Io { path: self.path.clone(), source })?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu)?)
    }
}

/// Refuses a JSON object with equal keys: serde would keep the last of them.
struct DistinctKeys;

impl<'de> Visitor<'de> for DistinctKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<(), M::Error> {
        let mut seen = HashSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(key) = seen.replace(key) {
                return Err(M::Error::custom(format!("it contains {key} twice")));
            }
        }
        Ok(())
    }
}

/// A tensor to be written.
pub(crate) struct Entry {
    pub(crate) name: String,
    dtype: DType,
    pub(crate) shape: Vec<usize>,
}

impl Entry {
    pub(crate) fn new(name: &str, dtype: DType, shape: Vec<usize>) -> Self {
        Self { name: name.to_owned(), dtype, shape }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.size_in_bytes()) as u64
    }
}

/// The beginning of a safetensors file, before the tensors.
pub(crate) fn header(entries: &[Entry]) -> IoResult<Vec<u8>> {
    let mut end = 0;
    let tensors = entries.iter().map(|entry| {
        let start = end;
        end += entry.bytes() as usize;
        let (dtype, shape) = (Dtype::from(entry.dtype), entry.shape.clone());
        (entry.name.clone(), Header { dtype, shape, data_offsets: (start, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), tensors.collect()).map_err(IoError::other)?;
    let mut text = serde_json::to_vec(&metadata)?;
    // Tensors begin at a multiple of 8 bytes.
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok([&(text.len() as u64).to_le_bytes(), text.as_slice()].concat())
}

/// Writes a tensor's elements.
pub(crate) fn write_tensor(file: &mut impl Write, tensor: &Tensor) -> IoResult<()> {
    let host = tensor.to_device(&Device::Cpu).map_err(IoError::other)?;
    host.write_bytes(file).map_err(|error| match error {
        candle_core::Error::Io(cause) => cause,
        other => IoError::other(other),
    })
}
