//! The format of `torch.save` before PyTorch 1.6: pickles, then each storage's elements.

use std::collections::HashMap;
use std::io::{Read, Result as IoResult, Seek, SeekFrom};

use super::fault::Fault;
use super::file::Source;
use super::pickle::{self, StateDict};
use super::stored_tensor::{Tensors, element_size};

/// The pickles of a number and of a version, with which a file begins.
pub(crate) const MAGIC: &[u8] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";
/// Longer than the pickles of any real file: a damaged one must not fill the memory.
pub(super) const MAX_PICKLES: u64 = 64 << 20;
/// The most bytes that are read at first.
const FIRST_READ: u64 = 1 << 20;

/// The place of a storage in the file, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) length: u64,
}

/// The tensors of a file of `length` bytes, and the places of their storages.
pub(super) fn open(
    source: &mut Box<dyn Source>,
    length: u64,
) -> Result<(Tensors, HashMap<String, Place>), Fault> {
    let mut size = FIRST_READ;
    let (StateDict { tensors, classes, .. }, keys, end) = loop {
        let beginning = read(source, 0, size.min(length)).map_err(|error| error.to_string())?;
        match pickles(&beginning) {
            Err(Fault::EndsEarly) if size < length.min(MAX_PICKLES) => size *= 8,
            pickles => break pickles?,
        }
    };
    let mut places = HashMap::new();
    let mut at = end as u64;
    for key in keys {
        let short = || format!("storage {key} reaches beyond its end");
        let count = read(source, at, 8).map_err(|_| short())?;
        let count = count.try_into().map_or(0, u64::from_le_bytes);
        // Where storages of an unknown class end is unknown: those after them cannot be read.
        let Some(size) = classes.get(&*key).and_then(|class| element_size(class)) else { break };
        let (start, bytes) = (at + 8, count.checked_mul(size).ok_or_else(short)?);
        at = start.checked_add(bytes).filter(|end| *end <= length).ok_or_else(short)?;
        places.insert(key, Place { start, length: bytes });
    }
    Ok((tensors, places))
}

/// Reads a part of the file.
pub(super) fn read(source: &mut Box<dyn Source>, start: u64, length: u64) -> IoResult<Vec<u8>> {
    source.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; length as usize];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The state dict, the names of its storages in the order of the file, and the end of the pickles.
fn pickles(beginning: &[u8]) -> Result<(StateDict, Vec<String>, usize), Fault> {
    let mut at = MAGIC.len();
    let (_, length) = pickle::texts(&beginning[at..])?;
    // The pickle says of the machine that wrote the file whether it is little-endian, and nothing else
    // that is true or false.
    if beginning[at..at + length].contains(&0x89) {
        return Err("its numbers are not little-endian".into());
    }
    at += length;
    let state_dict = pickle::state_dict(&beginning[at..])?;
    at += state_dict.length;
    let (keys, length) = pickle::texts(&beginning[at..])?;
    Ok((state_dict, keys.iter().map(ToString::to_string).collect(), at + length))
}
