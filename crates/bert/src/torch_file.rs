//! A `pytorch_model.bin`: a zip archive of a pickled state dict and its storages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Error, Result};
use crate::pickle::{self, StoredTensor};
use crate::weight_file::{TensorInfo, WeightFile};

/// The tensors of one file. Nothing in it is executed.
pub(crate) struct TorchFile {
    path: PathBuf,
    archive: Mutex<ZipArchive<BufReader<File>>>,
    /// What stands before `data.pkl` and `data/`.
    prefix: String,
    tensors: BTreeMap<String, StoredTensor>,
}

impl TorchFile {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |cause| Error::Io { path: path.to_owned(), cause };
        let damaged = |reason: String| Error::TorchFile { path: path.to_owned(), reason };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut magic = [0; 2];
        // A file shorter than this is not a zip archive either, which the next step says.
        if file.read(&mut magic).map_err(io)? == 2 && magic[0] == 0x80 {
            return Err(Error::LegacyTorchFile { path: path.to_owned() });
        }
        let mut archive = ZipArchive::new(BufReader::new(file))
            .map_err(|error| damaged(format!("it is no zip archive: {error}")))?;
        let mut pickle_entry = None;
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(|error| damaged(error.to_string()))?;
            let name = entry.name().map_err(|error| damaged(error.to_string()))?.into_owned();
            if entry.compression() != CompressionMethod::Stored || entry.size() > length {
                return Err(damaged(format!(
                    "{name} in it is compressed, which torch.save does not do"
                )));
            }
            if let Some(prefix) = name.strip_suffix("data.pkl") {
                pickle_entry = Some((index, prefix.to_owned()));
            }
        }
        let (index, prefix) =
            pickle_entry.ok_or_else(|| damaged("it has no data.pkl".to_owned()))?;
        let pickle = read_entry(&mut archive, index).map_err(&damaged)?;
        let tensors = pickle::state_dict(&pickle).map_err(damaged)?;
        Ok(Self { path: path.to_owned(), archive: Mutex::new(archive), prefix, tensors })
    }

    fn damaged(&self, reason: String) -> Error {
        Error::TorchFile { path: self.path.clone(), reason }
    }
}

/// A whole entry. The zip crate compares its checksum.
fn read_entry(
    archive: &mut ZipArchive<BufReader<File>>,
    index: usize,
) -> std::result::Result<Vec<u8>, String> {
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let size = entry.size();
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
        let dtype = match tensor.class.as_str() {
            "FloatStorage" => Some(DType::F32),
            "DoubleStorage" => Some(DType::F64),
            "HalfStorage" => Some(DType::F16),
            "BFloat16Storage" => Some(DType::BF16),
            _ => None,
        };
        Some(TensorInfo { shape: tensor.shape.clone(), dtype, stored_as: tensor.class.clone() })
    }

    fn read(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let Some(tensor) = self.tensors.get(name) else {
            return Err(self.damaged(format!("it has no {name}")));
        };
        let entry = format!("{}data/{}", self.prefix, tensor.storage);
        let bytes = {
            let mut archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
            let index = archive
                .index_for_name(&entry)
                .ok_or_else(|| self.damaged(format!("{entry} of {name} is not in it")))?;
            read_entry(&mut archive, index)
                .map_err(|reason| self.damaged(format!("{entry} of {name}: {reason}")))?
        };
        let bytes = gather(&bytes, tensor, dtype.size_in_bytes())
            .ok_or_else(|| self.damaged(format!("{name} reaches beyond its storage")))?;
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &tensor.shape, &Device::Cpu)?)
    }
}

/// The elements of a tensor in row-major order, or `None` where it does not lie in its storage.
fn gather(storage: &[u8], tensor: &StoredTensor, element: usize) -> Option<Vec<u8>> {
    let StoredTensor { offset, shape, strides, .. } = tensor;
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size))?;
    if shape.len() != strides.len() || count.checked_mul(element)? > storage.len() {
        return None;
    }
    if count == 0 {
        return Some(Vec::new());
    }
    let last = shape.iter().zip(strides).try_fold(*offset, |last, (size, stride)| {
        last.checked_add((size - 1).checked_mul(*stride)?)
    })?;
    if last.checked_add(1)?.checked_mul(element)? > storage.len() {
        return None;
    }
    let mut row_major = 1;
    let contiguous = shape.iter().zip(strides).rev().all(|(size, stride)| {
        let expected = row_major;
        row_major *= size;
        *size == 1 || *stride == expected
    });
    if contiguous {
        return Some(storage[offset * element..][..count * element].to_vec());
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
    Some(bytes)
}
