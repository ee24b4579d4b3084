//! Inputs and comparisons for the kernels' tests.

use pulp::{Arch, Simd, WithSimd};

/// Numbers that look random, the same for a seed: Steele et al. 2014, SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 1 to `most`.
    pub(crate) fn up_to(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize + 1
    }
}

/// Numbers between −1 and 1.
pub(crate) fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed << 32);
    (0..count).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.).collect()
}

/// Fails unless all differences are at most `tolerance`. NaN is infinitely far.
#[track_caller]
pub(crate) fn assert_near(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(*got) - expected).abs();
        assert!(
            difference <= tolerance,
            "{what}: {got} at {i}, expected {expected}, tolerance {tolerance}"
        );
    }
}

/// A function of each element.
pub(crate) trait Elementwise: Copy {
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s;
}

struct Map<'a, F>(F, &'a mut [f32]);

impl<F: Elementwise> WithSimd for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for chunk in self.1.chunks_mut(S::F32_LANES) {
            let y = self.0.apply(simd, simd.partial_load_f32s(chunk));
            simd.partial_store_f32s(chunk, y);
        }
    }
}

/// `function` of each element of `x`.
pub(crate) fn map(arch: Arch, function: impl Elementwise, x: &[f32]) -> Vec<f32> {
    let mut y = x.to_vec();
    arch.dispatch(Map(function, &mut y));
    y
}

/// 100 001 equally spaced numbers.
pub(crate) fn grid(from: f32, to: f32) -> Vec<f32> {
    (0..100_001).map(|i| from + (to - from) * i as f32 / 100_000.).collect()
}

/// `erf(x)`: the series `2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!`, whose terms have one sign.
pub(crate) fn exact_erf(x: f64) -> f64 {
    let (mut term, mut sum, mut n) = (x, x, 1.);
    while term.abs() > 1e-18 * sum.abs() && n < 1000. {
        term *= 2. * x * x / (2. * n + 1.);
        sum += term;
        n += 1.;
    }
    2. / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}
