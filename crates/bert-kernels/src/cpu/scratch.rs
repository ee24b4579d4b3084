//! Buffers that are used again and again.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

/// The most floats that wait for threads outside of the pool.
const MOST_SHARED: usize = 8 << 20;

thread_local! {
    /// The buffers of a thread of the pool.
    static OWN: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// The buffers of all other threads: any number of them may each call a model once.
static SHARED: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Lends `work` buffers of `lens` floats with unspecified values.
pub(crate) fn with_scratch<const N: usize>(lens: [usize; N], work: impl FnOnce([&mut [f32]; N])) {
    // Taken out of the list, so that what `work` calls can borrow another buffer.
    let mut buffer = take();
    let len = buffer.len().max(lens.iter().sum());
    buffer.resize(len, f32::NAN);
    let mut rest = &mut buffer[..];
    work(lens.map(|len| rest.split_off_mut(..len).unwrap_or_default()));
    give_back(buffer);
}

fn is_of_pool() -> bool {
    rayon::current_thread_index().is_some()
}

fn take() -> Vec<f32> {
    let buffer = match is_of_pool() {
        true => OWN.with_borrow_mut(Vec::pop),
        false => SHARED.lock().unwrap_or_else(PoisonError::into_inner).pop(),
    };
    buffer.unwrap_or_default()
}

fn give_back(buffer: Vec<f32>) {
    if is_of_pool() {
        return OWN.with_borrow_mut(|own| own.push(buffer));
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let waiting: usize = shared.iter().map(Vec::len).sum();
    // A single buffer of any size is kept.
    if shared.is_empty() || waiting + buffer.len() <= MOST_SHARED {
        shared.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_callers_that_are_gone_are_used_again_and_bounded() {
        let floats = || SHARED.lock().unwrap().iter().map(Vec::len).sum::<usize>();
        for _ in 0..64 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        with_scratch([1 << 20, 3], |[a, b]| {
                            assert_eq!((a.len(), b.len()), (1 << 20, 3));
                            with_scratch([1 << 20], |[c]| c.fill(1.));
                            a.fill(0.);
                        });
                    });
                }
            });
            // Or a single one, of another test.
            let single = SHARED.lock().unwrap().len() == 1;
            assert!(single || floats() <= MOST_SHARED, "{}", floats());
        }
    }
}
