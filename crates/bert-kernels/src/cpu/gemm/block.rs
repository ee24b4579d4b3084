//! What one thread multiplies.

use std::ops::Range;

use super::packed::{PackedMatrix, Part};
use crate::cpu::activation::VectorActivation;
use crate::cpu::rows::SharedRows;

/// `count` rows of floats, contiguous.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) count: usize,
}

/// A block of rows, which one thread multiplies.
pub(super) struct Block<'a> {
    pub(super) x: Rows<'a>,
    pub(super) rows: Range<usize>,
    pub(super) matrix: &'a PackedMatrix,
    /// Some of the matrices that are packed side by side, and their outputs.
    pub(super) outputs: &'a [(&'a Part, &'a SharedRows<'a>)],
    pub(super) activation: VectorActivation,
}
