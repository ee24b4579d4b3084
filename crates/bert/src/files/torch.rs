//! A `pytorch_model.bin`: a pickled state dict and its storages, in a zip archive or, before PyTorch
//! 1.6, one after the other.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{BufReader, Read, Seek};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::file::{File, Source};
use super::legacy_torch::{self, Place};
use super::pickle::{self, Fault, StoredTensor, Tensors};
use super::weight_file::{TensorInfo, WeightFile};
use crate::error::{Error, Result};

/// The tensors of one file. Nothing in it is executed.
pub(crate) struct TorchFile {
    path: PathBuf,
    tensors: Tensors,
    storages: Mutex<Storages>,
}

enum Storages {
    /// The archive, and the part of names before `data.pkl` and `data/`.
    Zip(Archive, String),
    /// The file, and the place of each storage.
    Legacy(Box<dyn Source>, HashMap<String, Place>),
}

type Archive = ZipArchive<BufReader<Box<dyn Source>>>;
type Reason<T> = std::result::Result<T, String>;

impl TorchFile {
    pub(crate) fn open(file: &File) -> Result<Box<dyn WeightFile>> {
        let (mut source, length) = file.open()?;
        let path = || file.path().to_owned();
        let io = |source| Error::Io { path: path(), source };
        let mut magic = Vec::new();
        source
            .by_ref()
            .take(legacy_torch::MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(io)?;
        source.rewind().map_err(io)?;
        let opened = if magic == legacy_torch::MAGIC {
            legacy_torch::open(&mut source, length)
                .map(|(tensors, places)| (tensors, Storages::Legacy(source, places)))
        } else {
            open_zip(source, length)
        };
        let (tensors, storages) = opened.map_err(|fault| match fault {
            Fault::Damaged(reason) => Error::TorchFile { path: path(), reason },
            Fault::NoStateDict(what) => Error::NoStateDict { path: path(), what },
        })?;
        Ok(Box::new(Self { path: path(), tensors, storages: Mutex::new(storages) }))
    }

    fn storages(&self) -> MutexGuard<'_, Storages> {
        self.storages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, reason: String) -> Error {
        Error::TorchFile { path: self.path.clone(), reason }
    }
}

/// The tensors of an archive.
fn open_zip(
    source: Box<dyn Source>,
    length: u64,
) -> std::result::Result<(Tensors, Storages), Fault> {
    let mut archive = ZipArchive::new(BufReader::new(source))
        .map_err(|error| format!("it is not a zip archive: {error}"))?;
    let unreadable = |error: ZipError| error.to_string();
    let mut pickled = None;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(unreadable)?;
        let name = entry.name().map_err(unreadable)?.into_owned();
        if entry.compression() != CompressionMethod::Stored || entry.size() > length {
            return Err(format!("{name} in it is compressed, which torch.save does not do").into());
        }
        if let Some(prefix) = name.strip_suffix("data.pkl") {
            pickled = Some((index, prefix.to_owned()));
        }
    }
    let (index, prefix) = pickled.ok_or("it has no data.pkl")?;
    if let Some(order) = archive.index_for_name(&format!("{prefix}byteorder"))
        && read_entry(&mut archive, order)? != b"little"
    {
        return Err("its numbers are not little-endian".into());
    }
    let (tensors, _) = pickle::state_dict(&read_entry(&mut archive, index)?)?;
    Ok((tensors, Storages::Zip(archive, prefix)))
}

impl Storages {
    /// The elements of a storage, of which at least those of `tensor` are read.
    fn read(&mut self, tensor: &StoredTensor) -> Reason<Vec<u8>> {
        match self {
            Self::Zip(archive, prefix) => {
                let entry = format!("{prefix}data/{}", tensor.storage);
                let index = archive.index_for_name(&entry);
                read_entry(archive, index.ok_or_else(|| format!("{entry} is not in it"))?)
            }
            Self::Legacy(source, places) => {
                let place = places.get(&*tensor.storage);
                let Place { start, length } = place.ok_or("its storage is not in it")?;
                legacy_torch::read(source, *start, *length).map_err(|error| error.to_string())
            }
        }
    }
}

/// Reads an entry. The zip crate checks its checksum.
fn read_entry(archive: &mut Archive, index: usize) -> Reason<Vec<u8>> {
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    let size = entry.size();
    let mut bytes = Vec::with_capacity(size as usize);
    entry.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 == size {
        Ok(bytes)
    } else {
        Err("an entry in it is cut short".to_owned())
    }
}

impl WeightFile for TorchFile {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensors.get(name)?;
        let dtype = match &*tensor.class {
            "FloatStorage" => Ok(DType::F32),
            "DoubleStorage" => Ok(DType::F64),
            "HalfStorage" => Ok(DType::F16),
            "BFloat16Storage" => Ok(DType::BF16),
            other => Err(other.to_owned()),
        };
        Some(TensorInfo { shape: tensor.shape.clone(), dtype })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(self.damaged(format!("it has no {name}")));
        };
        let storage = self.storages().read(tensor);
        let storage = storage.map_err(|reason| self.damaged(format!("{name}: {reason}")))?;
        let bytes = gather(&storage, tensor, dtype.size_in_bytes())
            .ok_or_else(|| self.damaged(format!("{name} reaches beyond its storage")))?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &tensor.shape, &Device::Cpu)?)
    }
}

/// The elements of a tensor in row-major order. `None` if it reaches beyond its storage.
fn gather<'a>(storage: &'a [u8], tensor: &StoredTensor, element: usize) -> Option<Cow<'a, [u8]>> {
    let StoredTensor { offset, shape, strides, .. } = tensor;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size))?;
    if shape.len() != strides.len() || count.checked_mul(element)? > storage.len() {
        return None;
    }
    if count == 0 {
        return Some(Cow::Borrowed(&[]));
    }
    let last = shape.iter().zip(strides).try_fold(*offset, |last, (size, stride)| {
        last.checked_add((size - 1).checked_mul(*stride)?)
    })?;
    if last.checked_add(1)?.checked_mul(element)? > storage.len() {
        return None;
    }
    if Shape::from_dims(shape).is_contiguous(strides) {
        return Some(Cow::Borrowed(&storage[offset * element..][..count * element]));
    }
    let mut bytes = Vec::with_capacity(count * element);
    for index in 0..count {
        let mut rest = index;
        let mut at = *offset;
        for (size, stride) in shape.iter().zip(strides).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        bytes.extend_from_slice(&storage[at * element..][..element]);
    }
    Some(Cow::Owned(bytes))
}
