//! Vectors in fewer bytes.

use crate::error::Result;
use crate::task_error::TaskError;

/// How the numbers of a vector are stored. sentence-transformers: `precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmbeddingPrecision {
    /// As they are.
    Float32,
    /// A signed byte each.
    Int8,
    /// An unsigned byte each.
    Uint8,
    /// A bit each, whether it is positive: eight in a byte, from which 128 is subtracted.
    Binary,
    /// A bit each, whether it is positive: eight in a byte, the first one in the highest bit.
    Ubinary,
}

/// Vectors of some precision.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum QuantizedEmbeddings {
    /// [`EmbeddingPrecision::Float32`].
    Float32(Vec<Vec<f32>>),
    /// [`EmbeddingPrecision::Int8`] and [`EmbeddingPrecision::Binary`].
    Signed(Vec<Vec<i8>>),
    /// [`EmbeddingPrecision::Uint8`] and [`EmbeddingPrecision::Ubinary`].
    Unsigned(Vec<Vec<u8>>),
}

/// Vectors in fewer bytes. sentence-transformers: `quantize_embeddings`.
///
/// `ranges`: for bytes, the smallest and the largest value of each dimension, which become the smallest
/// and the largest byte; see [`value_ranges`]. Default: those of the vectors themselves.
///
/// # Errors
/// [`TaskError::Option`] for vectors or ranges of different widths, and for a single vector without ranges,
/// which would have none.
pub fn quantize_embeddings<V: AsRef<[f32]>>(
    embeddings: &[V],
    precision: EmbeddingPrecision,
    ranges: Option<&[(f32, f32)]>,
) -> Result<QuantizedEmbeddings> {
    let rows = || embeddings.iter().map(AsRef::as_ref);
    let shifted = |byte: u8| (i16::from(byte) - 128) as i8;
    Ok(match precision {
        EmbeddingPrecision::Float32 => {
            QuantizedEmbeddings::Float32(rows().map(<[f32]>::to_vec).collect())
        }
        EmbeddingPrecision::Ubinary => QuantizedEmbeddings::Unsigned(rows().map(bits).collect()),
        EmbeddingPrecision::Binary => QuantizedEmbeddings::Signed(
            rows().map(|row| bits(row).into_iter().map(shifted).collect()).collect(),
        ),
        EmbeddingPrecision::Uint8 => QuantizedEmbeddings::Unsigned(bytes(embeddings, ranges)?),
        EmbeddingPrecision::Int8 => {
            let rows = bytes(embeddings, ranges)?.into_iter();
            let rows = rows.map(|row| row.into_iter().map(shifted).collect());
            QuantizedEmbeddings::Signed(rows.collect())
        }
    })
}

/// The smallest and the largest value of each dimension.
///
/// # Errors
/// [`TaskError::Option`] for vectors of different widths.
pub fn value_ranges<V: AsRef<[f32]>>(embeddings: &[V]) -> Result<Vec<(f32, f32)>> {
    let width = embeddings.first().map_or(0, |row| row.as_ref().len());
    let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); width];
    for row in embeddings.iter().map(AsRef::as_ref) {
        check_width(row, width)?;
        for ((least, most), x) in ranges.iter_mut().zip(row) {
            (*least, *most) = (least.min(*x), most.max(*x));
        }
    }
    Ok(ranges)
}

fn check_width(row: &[f32], width: usize) -> Result<()> {
    match row.len() == width {
        true => Ok(()),
        false => Err(TaskError::option("width of a vector", row.len(), width.to_string()).into()),
    }
}

fn bytes<V: AsRef<[f32]>>(embeddings: &[V], ranges: Option<&[(f32, f32)]>) -> Result<Vec<Vec<u8>>> {
    let ranges = match ranges {
        Some(ranges) => ranges.to_vec(),
        None if embeddings.len() == 1 => {
            let expected = "those of other vectors, because one vector has none; see value_ranges";
            return Err(TaskError::option("ranges", "None", expected).into());
        }
        None => value_ranges(embeddings)?,
    };
    let byte = |(x, (least, most)): (&f32, &(f32, f32))| {
        let step = (most - least) / 255.;
        let step = if step == 0. { 1. } else { step };
        // In F32, as there: the largest value may become 254. What is no number becomes 0.
        ((x - least) / step).floor().clamp(0., 255.) as u8
    };
    let rows = embeddings.iter().map(|row| {
        let row = row.as_ref();
        check_width(row, ranges.len())?;
        Ok(row.iter().zip(&ranges).map(byte).collect())
    });
    rows.collect()
}

fn bits(row: &[f32]) -> Vec<u8> {
    let bit = |(i, x): (usize, &f32)| u8::from(*x > 0.) << (7 - i);
    row.chunks(8).map(|eight| eight.iter().enumerate().map(bit).sum()).collect()
}
