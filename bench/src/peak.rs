//! What the processor can do at most.

use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Floating-point operations per second of multiply-adds that never leave their registers, on all
/// threads of the pool.
pub fn peak() -> f64 {
    const STEPS: usize = 10_000_000;
    let arch = Arch::new();
    let threads = rayon::current_num_threads();
    let start = Instant::now();
    let operations: Vec<f64> =
        (0..threads).into_par_iter().with_max_len(1).map(|_| arch.dispatch(Work(STEPS))).collect();
    operations.iter().sum::<f64>() / start.elapsed().as_secs_f64()
}

/// So many steps of twelve multiply-adds that do not wait for each other.
struct Work(usize);

impl WithSimd for Work {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let (factor, term) = (simd.splat_f32s(0.999), simd.splat_f32s(0.001));
        let mut sums = [simd.splat_f32s(1.); 12];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        // The sums must be needed, or the compiler leaves all of it out.
        std::hint::black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        (self.0 * sums.len() * 2 * S::F32_LANES) as f64
    }
}
