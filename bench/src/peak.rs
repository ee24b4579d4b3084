//! What the processor can do at most.

use std::time::Instant;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};
use rayon::prelude::*;

/// Floating-point operations per second of multiply-adds that never leave their registers, on all
/// threads of the pool.
pub fn peak() -> f64 {
    const STEPS: usize = 50_000_000;
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
        // Nothing may be known before the program runs, or the compiler leaves the work out.
        let known = |x: f32| simd.splat_f32s(std::hint::black_box(x));
        let (factor, term) = (known(0.999), known(0.001));
        let mut sums = std::array::from_fn::<_, 12, _>(|i| known(i as f32));
        simd.vectorize(Steps { simd, steps: self.0, factor, term, sums: &mut sums });
        std::hint::black_box(sums.map(|sum| simd.reduce_sum_f32s(sum)));
        (self.0 * sums.len() * 2 * S::F32_LANES) as f64
    }
}

/// The steps, in a function of their own for each instruction set.
struct Steps<'a, S: Simd> {
    simd: S,
    steps: usize,
    factor: S::f32s,
    term: S::f32s,
    sums: &'a mut [S::f32s; 12],
}

impl<S: Simd> NullaryFnOnce for Steps<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, steps, factor, term, sums } = self;
        let mut local = *sums;
        for _ in 0..steps {
            for sum in &mut local {
                *sum = simd.mul_add_e_f32s(*sum, factor, term);
            }
        }
        *sums = local;
    }
}
