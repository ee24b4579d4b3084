//! Tensors in files of their own.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{Error as IoError, Write};
use std::path::Path;

use candle_core::Tensor;

use crate::error::{Error, Result};
use crate::files::atomic::StagedFiles;
use crate::files::file::File;
use crate::files::safetensors::{Entry, SafetensorsFile, header, write_tensor};

/// Writes tensors into a safetensors file, for example the state of an optimizer. An older file is
/// replaced once the new one is complete.
///
/// # Errors
/// [`Error::Save`] when the file cannot be written.
pub fn save_tensors(tensors: &HashMap<String, Tensor>, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    // Those of wide dtypes first: then each begins at a multiple of its dtype's size, which PyTorch needs.
    let mut sorted: Vec<(&String, &Tensor)> = tensors.iter().collect();
    sorted.sort_by_key(|(name, tensor)| (Reverse(tensor.dtype().size_in_bytes()), *name));
    let entries: Vec<Entry> = (sorted.iter())
        .map(|(name, tensor)| Entry::new(name, tensor.dtype(), tensor.dims().to_vec()))
        .collect();
    let save = || {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| IoError::other("the path has no file name"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut staged = StagedFiles::new(folder.unwrap_or(Path::new(".")))?;
        staged.write(name, |file| {
            file.write_all(&header(&entries)?)?;
            sorted.iter().try_for_each(|(_, tensor)| write_tensor(file, tensor))
        })?;
        staged.commit(|_| false)
    };
    save().map_err(|source| Error::Save { path: path.to_owned(), source })
}

/// Reads the tensors of a safetensors file to the host. They must have a floating-point dtype.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Safetensors`] when it is damaged,
/// [`Error::WeightDType`] for a tensor of another dtype.
pub fn load_tensors(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let file = SafetensorsFile::open(&File::OnDisk(path.as_ref().to_owned()))?;
    let mut tensors = HashMap::new();
    for name in file.names() {
        let Some(info) = file.info(&name) else { continue };
        let dtype = info.dtype.map_err(|got| {
            let checkpoint = path.as_ref().display().to_string();
            Error::WeightDType { checkpoint, name: name.clone(), got }
        })?;
        let tensor = file.read(&name, dtype)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}
