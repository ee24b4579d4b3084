//! A buffer that several threads write different parts of, and memory that is used again.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of floats of one length, of which each thread writes others.
#[derive(Clone, Copy)]
pub(crate) struct SharedRows<'a> {
    start: *mut f32,
    rows: usize,
    columns: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is that of a buffer which is borrowed for as long as this lives, and the only
// access is through `part`, whose callers write no element from two threads.
unsafe impl Send for SharedRows<'_> {}
// SAFETY: as for `Send`.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    /// The rows of `buffer`, which holds a whole number of them.
    pub(crate) fn new(buffer: &'a mut [f32], columns: usize) -> Self {
        let rows = buffer.len().checked_div(columns).unwrap_or(0);
        Self { start: buffer.as_mut_ptr(), rows, columns, buffer: PhantomData }
    }

    /// Some of the rows.
    pub(crate) fn cut(self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: the place lies in the buffer, by the line above.
        let start = unsafe { self.start.add(rows.start * self.columns) };
        Self { start, rows: rows.len(), ..self }
    }

    /// All of them.
    ///
    /// # Safety
    /// As [`SharedRows::part`].
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn whole(&self) -> &'a mut [f32] {
        // SAFETY: these are the rows of the buffer, which is borrowed for `'a`; that nothing else
        // refers to them is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.rows * self.columns) }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// No two parts that live at once may overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && columns.start <= columns.end && columns.end <= self.columns);
        // SAFETY: the part lies in the buffer, by the line above, which is borrowed for `'a`; that
        // nothing else refers to it is the caller's promise.
        unsafe {
            let start = self.start.add(row * self.columns + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }
}

/// The result of a kernel: rows of floats, not written yet.
pub(crate) struct Output {
    buffer: Vec<f32>,
    rows: usize,
    columns: usize,
}

impl Output {
    pub(crate) fn new(rows: usize, columns: usize) -> Self {
        let mut buffer = Vec::with_capacity(rows * columns);
        if cfg!(test) {
            // What a kernel leaves out, a test sees; valgrind, for which these are values, does not.
            buffer.resize(rows * columns, f32::NAN);
            buffer.clear();
        }
        Self { buffer, rows, columns }
    }

    /// Where a kernel writes.
    pub(crate) fn rows(&mut self) -> SharedRows<'_> {
        let (rows, columns) = (self.rows, self.columns);
        SharedRows { start: self.buffer.as_mut_ptr(), rows, columns, buffer: PhantomData }
    }

    /// What a kernel wrote, which is every row.
    pub(crate) fn into_vec(mut self) -> Vec<f32> {
        // SAFETY: there is room for them, and each kernel writes what it was given, which its tests
        // show on poisoned memory.
        unsafe { self.buffer.set_len(self.rows * self.columns) };
        self.buffer
    }
}

/// Lends `work` a buffer of `len` floats with unknown values; each thread keeps its buffers.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out, so that what `work` calls can have a buffer of its own.
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, f32::NAN);
    }
    let result = work(&mut buffer[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
