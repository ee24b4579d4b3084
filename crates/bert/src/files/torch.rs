//! A `pytorch_model.bin`: a zip archive of a pickled state dict and its storages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::file::{File, Source};
use super::pickle::{self, StoredTensor};
use super::weight_file::{TensorInfo, WeightFile};
use crate::error::{Error, Result};

/// The tensors of one file. Nothing in it is executed.
pub(crate) struct TorchFile {
    path: PathBuf,
    archive: Mutex<Archive>,
    /// The part of names before `data.pkl` and `data/`.
    prefix: String,
    tensors: BTreeMap<String, Arc<StoredTensor>>,
}

type Archive = ZipArchive<BufReader<Box<dyn Source>>>;

impl TorchFile {
    pub(crate) fn open(file: &File) -> Result<Box<dyn WeightFile>> {
        let (mut source, length) = file.open()?;
        let path = || file.path().to_owned();
        let damaged = |reason: String| Error::TorchFile { path: path(), reason };
        let mut magic = [0; 2];
        let read = source.read(&mut magic).map_err(|source| Error::Io { path: path(), source })?;
        // A shorter file is not a zip archive: the next step returns that error.
        if read == 2 && magic[0] == 0x80 {
            return Err(Error::LegacyTorchFile { path: path() });
        }
        let mut archive = ZipArchive::new(BufReader::new(source))
            .map_err(|error| damaged(format!("it is not a zip archive: {error}")))?;
        let unreadable = |error: ZipError| damaged(error.to_string());
        let mut pickled = None;
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(unreadable)?;
            let name = entry.name().map_err(unreadable)?.into_owned();
            if entry.compression() != CompressionMethod::Stored || entry.size() > length {
                let reason = format!("{name} in it is compressed, which torch.save does not do");
                return Err(damaged(reason));
            }
            if let Some(prefix) = name.strip_suffix("data.pkl") {
                pickled = Some((index, prefix.to_owned()));
            }
        }
        let (index, prefix) = pickled.ok_or_else(|| damaged("it has no data.pkl".to_owned()))?;
        if let Some(order) = archive.index_for_name(&format!("{prefix}byteorder"))
            && read_entry(&mut archive, order).map_err(&damaged)? != b"little"
        {
            return Err(damaged("its numbers are not little-endian".to_owned()));
        }
        let pickle = read_entry(&mut archive, index).map_err(&damaged)?;
        let tensors = pickle::state_dict(&pickle).map_err(damaged)?;
        Ok(Box::new(Self { path: path(), archive: Mutex::new(archive), prefix, tensors }))
    }

    fn damaged(&self, reason: String) -> Error {
        Error::TorchFile { path: self.path.clone(), reason }
    }
}

/// Reads an entry. The zip crate checks its checksum.
fn read_entry(archive: &mut Archive, index: usize) -> std::result::Result<Vec<u8>, String> {
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
        let entry = format!("{}data/{}", self.prefix, tensor.storage);
        let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let index = archive
            .index_for_name(&entry)
            .ok_or_else(|| self.damaged(format!("{entry} of {name} is not in it")))?;
        let storage = read_entry(&mut archive, index)
            .map_err(|reason| self.damaged(format!("{entry} of {name}: {reason}")))?;
        drop(archive);
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
