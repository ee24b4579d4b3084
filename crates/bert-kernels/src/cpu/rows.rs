//! Matrices that several threads write at once, each thread its own part.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use candle_core::Result;

/// A row-major matrix of floats that kernels write. It may be uninitialized, so it lends its parts
/// as [`MaybeUninit`]. It is not `Copy`: whoever has it, or a mutable reference, is its only writer.
pub(crate) struct SharedRows<'a> {
    start: *mut MaybeUninit<f32>,
    rows: usize,
    columns: usize,
    buffer: PhantomData<&'a mut [MaybeUninit<f32>]>,
}

// SAFETY: the pointer points into a buffer that is mutably borrowed for `'a`. Elements are reached
// through `part` only, whose callers promise not to overlap.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// The rows of `buffer`, whose length is a multiple of `columns`.
    pub(crate) fn new(buffer: &'a mut [f32], columns: usize) -> Self {
        let rows = buffer.len().checked_div(columns).unwrap_or(0);
        Self { start: buffer.as_mut_ptr().cast(), rows, columns, buffer: PhantomData }
    }

    /// The number of rows and of columns.
    pub(crate) fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The same matrix, for a kernel that keeps pointer and sizes in registers (bench/LOG.md, step 37).
    ///
    /// # Safety
    /// Parts of both must not overlap; see [`SharedRows::part`].
    #[inline(always)]
    pub(crate) unsafe fn share(&self) -> SharedRows<'_> {
        Self { ..*self }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap, and only initialized floats may be
    /// written to them.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [MaybeUninit<f32>] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.columns);
        // SAFETY: the assertion keeps the part within a buffer that is borrowed for `'a`; the caller
        // promises that no other reference overlaps.
        unsafe {
            let start = self.start.add(row * self.columns + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }
}

/// Memory for a kernel's result: a row-major matrix that is not initialized yet.
pub(crate) struct UninitMatrix {
    buffer: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl UninitMatrix {
    /// # Errors
    /// When so many floats cannot be allocated.
    pub(crate) fn new(rows: usize, columns: usize) -> Result<Self> {
        let mut buffer = Vec::new();
        let len = rows.checked_mul(columns);
        if len.is_none_or(|len| buffer.try_reserve_exact(len).is_err()) {
            candle_core::bail!(
                "a result of {rows} rows of {columns} floats does not fit into memory; pass fewer rows"
            );
        }
        #[cfg(test)]
        buffer.spare_capacity_mut().fill(MaybeUninit::new(f32::NAN)); // Tests see what is not written.
        Ok(Self { buffer, rows, columns })
    }

    /// Some of the rows for a kernel to write.
    pub(crate) fn rows(&mut self, rows: Range<usize>) -> SharedRows<'_> {
        let columns = self.columns;
        let elements = rows.start * columns..rows.end * columns;
        let start = self.buffer.spare_capacity_mut()[elements].as_mut_ptr();
        SharedRows { start, rows: rows.len(), columns, buffer: PhantomData }
    }

    /// The elements.
    ///
    /// # Safety
    /// Every element must have been written.
    pub(crate) unsafe fn assume_init(mut self) -> Vec<f32> {
        // SAFETY: `new` reserved as many elements, and the caller promises that they are initialized.
        unsafe { self.buffer.set_len(self.rows * self.columns) };
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_fit_no_memory_are_errors() {
        for (rows, columns) in [((1 << 62) + 1, 4), (usize::MAX, 2), (1 << 40, 1 << 20)] {
            let error = UninitMatrix::new(rows, columns).err().expect("an error").to_string();
            assert!(error.contains("does not fit into memory; pass fewer rows"), "{error}");
        }
    }
}
