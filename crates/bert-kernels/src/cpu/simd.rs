//! Instruction sets and the functions that vectors of floats have.
//!
//! Kernels are written once over [`pulp::Simd`] and compiled for each instruction set; which one runs
//! is decided here, when the program does.

use std::sync::OnceLock;

use pulp::{Arch, Simd};

use crate::activation::Activation;

/// The best instruction set of this machine.
pub(crate) fn arch() -> Arch {
    static ARCH: OnceLock<Arch> = OnceLock::new();
    *ARCH.get_or_init(Arch::new)
}

/// Every instruction set that this machine has.
#[cfg(test)]
pub(crate) fn archs() -> Vec<Arch> {
    #[allow(unused_mut)]
    let mut archs = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        archs.extend(pulp::x86::V3::try_new().map(Arch::V3));
        archs.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    #[cfg(target_arch = "aarch64")]
    archs.push(Arch::new());
    archs
}

/// Asks for what will be read soon.
#[inline(always)]
pub(crate) fn prefetch(place: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, which reads nothing itself.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// `eˣ` with a relative error below 3e-7; 0 below −87, where results would be denormal,
/// and infinite above 88.37,
/// a little before the result would be.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 in two parts: the product of n and the first is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Adding it rounds to a whole number, which the lowest bits of the sum then hold.
    const ROUND: f32 = 12_582_912.;
    const P: [f32; 7] = [1., 1., 0.5, 0.166_664_05, 0.041_666_2, 0.008_375_971, 0.001_394_978_3];
    let splat = |x| simd.splat_f32s(x);
    let clamped = simd.max_f32s(simd.min_f32s(x, splat(89.)), splat(-88.));
    let shifted = simd.mul_add_e_f32s(clamped, splat(LOG2_E), splat(ROUND));
    let n = simd.sub_f32s(shifted, splat(ROUND));
    let r = simd.mul_add_e_f32s(n, splat(-LN_2[0]), clamped);
    let r = simd.mul_add_e_f32s(n, splat(-LN_2[1]), r);
    let y = polynomial(simd, r, &P);
    let bits = simd.transmute_u32s_f32s(shifted);
    let exponent = simd.sub_u32s(bits, simd.splat_u32s(ROUND.to_bits() - 127));
    let power = simd.wrapping_dyn_shl_u32s(exponent, simd.splat_u32s(23));
    let y = simd.mul_f32s(y, simd.transmute_f32s_u32s(power));
    let y = simd.select_f32s(simd.less_than_f32s(x, splat(-87.)), splat(0.), y);
    // Beyond it the sum is infinite, and NaN where x is.
    let beyond = simd.add_f32s(x, splat(f32::INFINITY));
    simd.select_f32s(simd.less_than_or_equal_f32s(x, splat(88.37)), y, beyond)
}

/// `erf(x)` with an absolute error below 5e-7; for NaN some number, which the product with `x` in GELU
/// makes NaN again.
///
/// `x P(x²)/Q(x²)`, fitted for the least relative error up to 3.93; ±1 beyond, where the difference
/// is below 3e-8.
#[inline(always)]
pub(crate) fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const END: f32 = 3.93;
    const P: [f32; 6] = [
        std::f32::consts::FRAC_2_SQRT_PI,
        0.190_783_22,
        0.052_790_195,
        0.003_779_580_7,
        0.000_284_807_57,
        2.041_970_2e-6,
    ];
    const Q: [f32; 6] =
        [1., 0.502_409_95, 0.114_257_26, 0.014_997_38, 0.001_165_205_1, 3.800_401_5e-5];
    let splat = |x| simd.splat_f32s(x);
    let inside = simd.max_f32s(simd.min_f32s(x, splat(END)), splat(-END));
    let t = simd.mul_f32s(inside, inside);
    let p = simd.mul_f32s(inside, polynomial(simd, t, &P));
    let y = simd.div_f32s(p, polynomial(simd, t, &Q));
    let y = simd.select_f32s(simd.greater_than_f32s(x, splat(END)), splat(1.), y);
    simd.select_f32s(simd.less_than_f32s(x, splat(-END)), splat(-1.), y)
}

/// `tanh(x)` with an absolute error below 5e-7.
#[inline(always)]
fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // 1 − 2 / (e²ˣ + 1) goes to ±1 by itself.
    let splat = |x| simd.splat_f32s(x);
    let power = exp(simd, simd.add_f32s(x, x));
    let rest = simd.div_f32s(splat(2.), simd.add_f32s(power, splat(1.)));
    simd.sub_f32s(splat(1.), rest)
}

/// `σ(x)` with an absolute error below 5e-7.
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let one = simd.splat_f32s(1.);
    simd.div_f32s(one, simd.add_f32s(one, exp(simd, simd.neg_f32s(x))))
}

#[inline(always)]
fn polynomial<S: Simd, const N: usize>(simd: S, x: S::f32s, coefficients: &[f32; N]) -> S::f32s {
    let mut y = simd.splat_f32s(coefficients[N - 1]);
    for i in (0..N - 1).rev() {
        y = simd.mul_add_e_f32s(y, x, simd.splat_f32s(coefficients[i]));
    }
    y
}

/// Activations that are computed on vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fused {
    Linear,
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    Silu,
    Tanh,
}

impl Fused {
    /// The vector form of an activation, where there is one. Its error is below 5e-7 times `|x|`,
    /// or 5e-7 where `|x|` is below 1.
    pub(crate) fn of(activation: Activation) -> Option<Self> {
        match activation {
            Activation::Linear => Some(Self::Linear),
            Activation::Gelu => Some(Self::Gelu),
            Activation::GeluTanh => Some(Self::GeluTanh),
            Activation::QuickGelu => Some(Self::QuickGelu),
            Activation::Relu => Some(Self::Relu),
            Activation::Silu => Some(Self::Silu),
            Activation::Tanh => Some(Self::Tanh),
            _ => None,
        }
    }

    #[inline(always)]
    pub(crate) fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        let splat = |x| simd.splat_f32s(x);
        match self {
            Self::Linear => x,
            Self::Gelu => {
                let z = simd.mul_f32s(x, splat(std::f32::consts::FRAC_1_SQRT_2));
                let half = simd.mul_f32s(x, splat(0.5));
                simd.mul_add_e_f32s(half, erf(simd, z), half)
            }
            Self::GeluTanh => {
                const ROOT: f32 = 0.797_884_6; // √(2/π)
                let square = simd.mul_f32s(x, x);
                let factor = simd.mul_add_e_f32s(square, splat(0.044715 * ROOT), splat(ROOT));
                let half = simd.mul_f32s(x, splat(0.5));
                simd.mul_add_e_f32s(half, tanh(simd, simd.mul_f32s(x, factor)), half)
            }
            Self::QuickGelu => simd.mul_f32s(x, sigmoid(simd, simd.mul_f32s(x, splat(1.702)))),
            Self::Relu => simd.max_f32s(x, splat(0.)),
            Self::Silu => simd.mul_f32s(x, sigmoid(simd, x)),
            Self::Tanh => tanh(simd, x),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pulp::WithSimd;

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

    enum Function {
        Exp,
        Erf,
        Sigmoid,
        Fused(Fused),
    }

    struct Map<'a>(&'a Function, &'a mut [f32]);

    impl WithSimd for Map<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for chunk in self.1.chunks_mut(S::F32_LANES) {
                let x = simd.partial_load_f32s(chunk);
                let y = match self.0 {
                    Function::Exp => exp(simd, x),
                    Function::Erf => erf(simd, x),
                    Function::Sigmoid => sigmoid(simd, x),
                    Function::Fused(fused) => fused.apply(simd, x),
                };
                simd.partial_store_f32s(chunk, y);
            }
        }
    }

    fn map(arch: Arch, function: &Function, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        arch.dispatch(Map(function, &mut y));
        y
    }

    fn grid(from: f32, to: f32) -> Vec<f32> {
        (0..100_001).map(|i| from + (to - from) * i as f32 / 100_000.).collect()
    }

    /// `erf(x)`: the series `2/√π e^(−x²) Σ 2ⁿ x^(2n+1) / (2n+1)!!`, whose terms have one sign.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum, mut n) = (x, x, 1.);
        while term.abs() > 1e-18 * sum.abs() && n < 1000. {
            term *= 2. * x * x / (2. * n + 1.);
            sum += term;
            n += 1.;
        }
        2. / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
    }

    #[test]
    fn exponentials_stay_within_their_bound() {
        let x = grid(-100., 90.);
        for arch in archs() {
            for (x, y) in x.iter().zip(map(arch, &Function::Exp, &x)) {
                let expected = f64::from(*x).exp();
                if *x < -87. {
                    assert_eq!(y, 0., "{x}");
                } else if *x > 88.37 {
                    assert_eq!(y, f32::INFINITY, "{x}");
                } else {
                    let error = (f64::from(y) / expected - 1.).abs();
                    assert!(error < 3e-7, "{arch:?}: exp({x}) = {y}, off by {error}");
                }
            }
            let ends = map(arch, &Function::Exp, &[f32::NEG_INFINITY, f32::MIN, f32::INFINITY, 0.]);
            assert_eq!(ends, [0., 0., f32::INFINITY, 1.]);
            assert!(map(arch, &Function::Exp, &[f32::NAN])[0].is_nan());
        }
    }

    #[test]
    fn error_functions_and_activations_stay_within_their_bounds() {
        let x = grid(-12., 12.);
        let erf = exact_erf;
        let sigmoid = |x: f64| 1. / (1. + (-x).exp());
        let tanh_gelu = |x: f64| {
            let root = (2. / std::f64::consts::PI).sqrt();
            x / 2. * (1. + (root * (x + 0.044715 * x * x * x)).tanh())
        };
        let functions: [(Function, &dyn Fn(f64) -> f64); 9] = [
            (Function::Erf, &erf),
            (Function::Sigmoid, &sigmoid),
            (Function::Fused(Fused::Gelu), &|x| x / 2. * (1. + erf(x / 2f64.sqrt()))),
            (Function::Fused(Fused::GeluTanh), &tanh_gelu),
            (Function::Fused(Fused::QuickGelu), &|x| x * sigmoid(1.702 * x)),
            (Function::Fused(Fused::Relu), &|x| x.max(0.)),
            (Function::Fused(Fused::Silu), &|x| x * sigmoid(x)),
            (Function::Fused(Fused::Tanh), &f64::tanh),
            (Function::Fused(Fused::Linear), &|x| x),
        ];
        for arch in archs() {
            for (function, exact) in &functions {
                use Function::{Erf, Sigmoid};
                // Of these the absolute error is bounded, of others that of a factor of x.
                let bounded = matches!(function, Erf | Sigmoid | Function::Fused(Fused::Tanh));
                for (x, y) in x.iter().zip(map(arch, function, &x)) {
                    let x = f64::from(*x);
                    let error = (f64::from(y) - exact(x)).abs();
                    let bound = if bounded { 5e-7 } else { 5e-7 * x.abs().max(1.) };
                    assert!(error < bound, "{arch:?} at {x}: {y}, {error}");
                }
                let far = map(arch, function, &[-1000., 1000., -0., 0.]);
                assert!(far.iter().all(|y| y.is_finite()), "{far:?}");
                // Candle's ReLU makes 0 of NaN as well.
                let nan = map(arch, function, &[f32::NAN])[0];
                let may = matches!(function, Function::Fused(Fused::Relu) | Erf);
                assert!(nan.is_nan() || may, "{arch:?}: {nan}");
            }
        }
    }
}
