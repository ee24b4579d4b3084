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

impl<'a> Rows<'a> {
    pub(super) fn part(&self, row: usize, columns: &Range<usize>) -> &'a [f32] {
        let stride = self.data.len() / self.count;
        &self.data[row * stride + columns.start..row * stride + columns.end]
    }
}

/// One of the matrices that are packed side by side, and its output.
pub(super) struct Output<'a> {
    pub(super) part: &'a Part,
    pub(super) rows: &'a SharedRows<'a>,
}

/// A block of rows, which one thread multiplies.
#[derive(Clone)]
pub(super) struct Block<'a> {
    pub(super) x: Rows<'a>,
    pub(super) rows: Range<usize>,
    pub(super) matrix: &'a PackedMatrix,
    pub(super) outputs: &'a [Output<'a>],
    pub(super) activation: VectorActivation,
}
