//! What the processor can do at most.

use std::time::Instant;

use pulp::{Arch, NullaryFnOnce, Simd, WithSimd};

use crate::statistics::median;

/// Floating-point operations per second, on all threads of the pool.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Of multiply-adds that never leave their registers.
    pub registers: f64,
    /// Of a GEMM tile that reads only the L1 cache: six rows (AVX-512: fourteen) by two vectors (NEON:
    /// eight by three).
    pub tile: f64,
}

pub fn limits() -> Limits {
    Limits {
        registers: on_all_threads(|arch| arch.dispatch(Registers(1_000_000))),
        tile: on_all_threads(|arch| arch.dispatch(Tile(60_000))),
    }
}

/// Bytes per second that all threads together read from memory, each its own from beginning to end, in
/// pages of the usual size.
pub fn reading() -> f64 {
    /// Floats for each thread: 256 MB, which no cache holds.
    const FLOATS: usize = 1 << 26;
    let memory: Vec<Vec<f32>> = rayon::broadcast(|_| vec![1.; FLOATS]);
    on_all_threads(|_| {
        let index = rayon::current_thread_index().unwrap_or(0);
        let mut sums = [0f32; 64];
        for values in memory[index].as_chunks::<64>().0 {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        std::hint::black_box(sums);
        (FLOATS * size_of::<f32>()) as f64
    })
}

/// `work` returns how much it does and is done many times on each thread, of which the middle one counts.
fn on_all_threads(work: impl Fn(Arch) -> f64 + Sync) -> f64 {
    const TIMES: usize = 41;
    let arch = Arch::new();
    let speeds = rayon::broadcast(|_| {
        let speed = |_| {
            let start = Instant::now();
            work(arch) / start.elapsed().as_secs_f64()
        };
        median((0..TIMES).map(speed))
    });
    speeds.into_iter().sum()
}

/// So many steps of twelve multiply-adds that do not wait for each other.
struct Registers(usize);

impl WithSimd for Registers {
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

/// So many times [`STEPS`] steps of one tile.
struct Tile(usize);

impl WithSimd for Tile {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        match (S::F32_LANES, S::REGISTER_COUNT >= 32) {
            (16, true) => self.multiply::<S, 14, 2>(simd),
            (4, true) => self.multiply::<S, 8, 3>(simd),
            _ => self.multiply::<S, 6, 2>(simd),
        }
    }
}

impl Tile {
    #[inline(always)]
    fn multiply<S: Simd, const HEIGHT: usize, const WIDTH: usize>(self, simd: S) -> f64 {
        // Small, so that sums stay finite.
        let x = std::hint::black_box(Box::new([[1e-3f32; HEIGHT]; DEPTH]));
        let values = std::hint::black_box(Box::new([Line([simd.splat_f32s(1e-3); WIDTH]); DEPTH]));
        let mut sums = [[simd.splat_f32s(0.); WIDTH]; HEIGHT];
        let (times, sums_here) = (self.0, &mut sums);
        simd.vectorize(Products { simd, times, x: &x, values: &values, sums: sums_here });
        std::hint::black_box(sums.map(|row| row.map(|sum| simd.reduce_sum_f32s(sum))));
        (self.0 * STEPS * HEIGHT * WIDTH * 2 * S::F32_LANES) as f64
    }
}

/// How much of a tile's rows and columns lies in the cache.
const DEPTH: usize = 128;
/// Steps in a row without a jump.
const STEPS: usize = 16;

/// Vectors that begin where a line of the cache does, so that none lies in two.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line<V, const WIDTH: usize>([V; WIDTH]);

/// The rank-1 updates.
struct Products<'a, S: Simd, const HEIGHT: usize, const WIDTH: usize> {
    simd: S,
    times: usize,
    x: &'a [[f32; HEIGHT]; DEPTH],
    values: &'a [Line<S::f32s, WIDTH>; DEPTH],
    sums: &'a mut [[S::f32s; WIDTH]; HEIGHT],
}

impl<S: Simd, const HEIGHT: usize, const WIDTH: usize> NullaryFnOnce
    for Products<'_, S, HEIGHT, WIDTH>
{
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, times, x, values, sums } = self;
        let mut local = *sums;
        let (x, values) = (x.as_chunks::<STEPS>().0, values.as_chunks::<STEPS>().0);
        // One loop, which begins again at the front: the end of an inner one is hard to foresee.
        for time in 0..times {
            let (x, values) = (&x[time % (DEPTH / STEPS)], &values[time % (DEPTH / STEPS)]);
            // Two loops, each short enough for the compiler to unroll.
            for half in [0..STEPS / 2, STEPS / 2..STEPS] {
                for p in half {
                    for i in 0..HEIGHT {
                        let factor = simd.splat_f32s(x[p][i]);
                        for (sum, value) in local[i].iter_mut().zip(values[p].0) {
                            *sum = simd.mul_add_e_f32s(factor, value, *sum);
                        }
                    }
                }
            }
        }
        *sums = local;
    }
}
