//! The numbers and texts of a pickle.

use std::sync::Arc;

use super::fault::Fault;

/// What is left of a pickle.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Fault::EndsEarly)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.bytes(1)?[0])
    }

    /// A little-endian integer of `count` ≤ 8 bytes.
    pub(super) fn unsigned(&mut self, count: usize) -> Result<u64, Fault> {
        Ok(self.bytes(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn text(&mut self, length_bytes: usize) -> Result<Arc<str>, Fault> {
        let length = usize::try_from(self.unsigned(length_bytes)?).unwrap_or(usize::MAX);
        utf8(self.bytes(length)?)
    }

    /// Bytes after their number.
    pub(super) fn skip(&mut self, length_bytes: usize) -> Result<(), Fault> {
        let length = usize::try_from(self.unsigned(length_bytes)?).unwrap_or(usize::MAX);
        self.bytes(length).map(drop)
    }

    /// LONG1: an integer of any size. `None` if it has more than eight bytes.
    pub(super) fn long(&mut self) -> Result<Option<i64>, Fault> {
        let count = usize::from(self.byte()?);
        let bytes = self.bytes(count)?;
        if count > 8 {
            return Ok(None);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..count].copy_from_slice(bytes);
        Ok(Some(i64::from_le_bytes(wide)))
    }

    pub(super) fn line(&mut self) -> Result<Arc<str>, Fault> {
        let end = self.rest.iter().position(|b| *b == b'\n').ok_or(Fault::EndsEarly)?;
        utf8(&self.bytes(end + 1)?[..end])
    }
}

fn utf8(bytes: &[u8]) -> Result<Arc<str>, Fault> {
    std::str::from_utf8(bytes).map(Arc::from).map_err(|_| "its pickle has a broken string".into())
}
