//! A `pytorch_model.bin`: a pickled state dict and its storages, in a zip archive or, before PyTorch
//! 1.6, one after the other.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::fault::Fault;
use super::file::{File, Source};
use super::legacy_torch::{self, MAX_PICKLES, Place};
use super::pickle;
use super::stored_tensor::{StoredTensor, Tensors};
use super::weight_file::{TensorInfo, WeightFile};
use crate::error::{Error, Result};

/// The tensors of one file. Nothing in it is executed.
pub(crate) struct TorchFile {
    path: PathBuf,
    tensors: Tensors,
    storages: Mutex<Storages>,
}

enum Storages {
    /// The archive, the part of names before `data.pkl` and `data/`, and the entries whose checksum was
    /// compared.
    Zip(Archive, String, HashSet<usize>),
    /// The file, and the place of each storage.
    Legacy(Box<dyn Source>, HashMap<String, Place>),
}

/// How much larger than their file its tensors may be: tied weights share a storage.
const MOST_COPIES: u64 = 3;

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
        let opened = opened.and_then(|(tensors, storages)| {
            refuse_copies(&tensors, length)?;
            Ok((tensors, storages))
        });
        let (tensors, storages) = opened.map_err(|fault| match fault {
            Fault::EndsEarly => {
                Error::TorchFile { path: path(), reason: "its pickle ends early".to_owned() }
            }
            Fault::Damaged(reason) => Error::TorchFile { path: path(), reason },
            Fault::NoStateDict { found, expected } => {
                Error::NoStateDict { path: path(), found, expected }
            }
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

/// Refuses tensors that share storages so often that they are far larger than their file.
fn refuse_copies(tensors: &Tensors, length: u64) -> Reason<()> {
    let bytes = tensors.values().try_fold(0u64, |sum, tensor| {
        let bytes = tensor.count()?.checked_mul(tensor.element_size().unwrap_or(0))?;
        sum.checked_add(bytes)
    });
    match bytes {
        Some(bytes) if bytes <= MOST_COPIES * length => Ok(()),
        _ => Err(format!("its tensors are more than {MOST_COPIES} times as large as the file")),
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
            if entry.size() > MAX_PICKLES {
                return Err("its data.pkl is longer than that of any model".into());
            }
            if pickled.replace((index, prefix.to_owned())).is_some() {
                return Err("it has more than one data.pkl".into());
            }
        }
    }
    let (index, prefix) = pickled.ok_or("it has no data.pkl")?;
    if let Some(order) = archive.index_for_name(&format!("{prefix}byteorder"))
        && read_entry(&mut archive, order)? != b"little"
    {
        return Err("its numbers are not little-endian".into());
    }
    let tensors = pickle::state_dict(&read_entry(&mut archive, index)?)?.tensors;
    Ok((tensors, Storages::Zip(archive, prefix, HashSet::new())))
}

impl Storages {
    /// Reads what a tensor uses of its storage: from its first element to its last.
    fn read(&mut self, tensor: &StoredTensor, element: u64) -> Reason<Vec<u8>> {
        let beyond = || "it reaches beyond its storage".to_owned();
        match self {
            Self::Zip(archive, prefix, checked) => {
                let entry = format!("{prefix}data/{}", tensor.storage);
                let index = archive.index_for_name(&entry);
                let index = index.ok_or_else(|| format!("{entry} is not in it"))?;
                let size = archive.by_index_raw(index).map_err(|error| error.to_string())?.size();
                let span = span(tensor, element, size).ok_or_else(beyond)?;
                if span == (0..size) {
                    return read_entry(archive, index);
                }
                if checked.insert(index) {
                    check_entry(archive, index)?;
                }
                let mut entry = archive.by_index_seek(index).map_err(|error| error.to_string())?;
                read_range(&mut entry, span).map_err(|error| error.to_string())
            }
            Self::Legacy(source, places) => {
                let place = places.get(&*tensor.storage).ok_or("its storage is not in it")?;
                let span = span(tensor, element, place.length).ok_or_else(beyond)?;
                let span = place.start + span.start..place.start + span.end;
                read_range(source, span).map_err(|error| error.to_string())
            }
        }
    }
}

fn read_range(source: &mut (impl Read + Seek), range: Range<u64>) -> std::io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(range.start))?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Compares an entry's checksum.
fn check_entry(archive: &mut Archive, index: usize) -> Reason<()> {
    let mut entry = archive.by_index(index).map_err(|error| error.to_string())?;
    std::io::copy(&mut entry, &mut std::io::sink()).map_err(|error| error.to_string())?;
    Ok(())
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
        self.tensors.keys().map(ToString::to_string).collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let tensor = self.tensors.get(name)?;
        let dtype = match tensor.class() {
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
        let element = dtype.size_in_bytes();
        let storage = self.storages().read(tensor, element as u64);
        let storage = storage.map_err(|reason| self.damaged(format!("{name}: {reason}")))?;
        let bytes = gather(storage, tensor, element);
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &tensor.shape, &Device::Cpu)?)
    }
}

/// The bytes of a storage of `size` bytes from a tensor's first element to its last. `None` if it
/// reaches beyond.
fn span(tensor: &StoredTensor, element: u64, size: u64) -> Option<Range<u64>> {
    let count = tensor.count()?;
    if tensor.shape.len() != tensor.strides.len() {
        return None;
    }
    if count == 0 {
        return Some(0..0);
    }
    let dims = tensor.shape.iter().zip(&tensor.strides);
    let mut reach = dims.map(|(size, stride)| (*size as u64 - 1).checked_mul(*stride as u64));
    let reach = reach.try_fold(0u64, |sum, reach| sum.checked_add(reach?))?;
    let start = tensor.offset as u64;
    let end = start.checked_add(reach)?.checked_add(1)?.checked_mul(element)?;
    (end <= size).then_some(start * element..end)
}

/// The elements of a tensor in row-major order, from its [`span`].
fn gather(storage: Vec<u8>, tensor: &StoredTensor, element: usize) -> Vec<u8> {
    let StoredTensor { shape, strides, .. } = tensor;
    let count: usize = shape.iter().product();
    if count == 0 || Shape::from_dims(shape).is_contiguous(strides) {
        return storage;
    }
    let mut bytes = Vec::with_capacity(count * element);
    for index in 0..count {
        let (mut rest, mut at) = (index, 0);
        for (size, stride) in shape.iter().zip(strides).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        bytes.extend_from_slice(&storage[at * element..][..element]);
    }
    bytes
}
