//! Buffers that a thread uses again and again.

use std::cell::RefCell;

/// Lends `work` buffers of `lens` floats with unspecified values. Each thread keeps its buffers.
pub(crate) fn with_scratch<const N: usize>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N])) {
    thread_local! {
        static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    // Taken out of the list, so that what `work` calls can borrow another buffer.
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let len = buffer.len().max(lens.iter().sum());
    buffer.resize(len, f32::NAN);
    let mut rest = &mut buffer[..];
    work(lens.map(|len| rest.split_off_mut(..len).unwrap_or_default()));
    FREE.with_borrow_mut(|free| free.push(buffer));
}
