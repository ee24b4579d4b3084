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
