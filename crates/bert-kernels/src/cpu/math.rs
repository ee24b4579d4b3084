//! Elementary functions of vectors of floats.

use pulp::Simd;

/// `eˣ` with a relative error below 3e-7. It is 0 below −87, where the exact value is close to
/// the subnormal range, and infinite above 88.37, slightly before the exact value overflows.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // ln 2 as the sum of two floats. Multiplying n by the first is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Adding it rounds to an integer, which the lowest bits of the sum then hold.
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
    // Infinite where x is too large, NaN where x is NaN.
    let beyond = simd.add_f32s(x, splat(f32::INFINITY));
    simd.select_f32s(simd.less_than_or_equal_f32s(x, splat(88.37)), y, beyond)
}

/// `erf(x)` with an absolute error below 5e-7. For NaN it returns a number; GELU multiplies it by
/// `x`, so GELU of NaN is NaN.
///
/// `x P(x²)/Q(x²)` with the least relative error for `|x|` up to 3.93; beyond that ±1, which differs
/// by less than 3e-8.
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
pub(crate) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // 1 − 2 / (e²ˣ + 1) saturates at ±1.
    let splat = |x| simd.splat_f32s(x);
    let power = exp(simd, simd.add_f32s(x, x));
    let rest = simd.div_f32s(splat(2.), simd.add_f32s(power, splat(1.)));
    simd.sub_f32s(splat(1.), rest)
}

/// `σ(x)` with an absolute error below 5e-7.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::testing::{Elementwise, exact_erf, grid, map};

    #[derive(Clone, Copy)]
    enum Function {
        Exp,
        Erf,
        Sigmoid,
    }

    impl Elementwise for Function {
        #[inline(always)]
        fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
            match self {
                Self::Exp => exp(simd, x),
                Self::Erf => erf(simd, x),
                Self::Sigmoid => sigmoid(simd, x),
            }
        }
    }

    #[test]
    fn exponentials_stay_within_their_bound() {
        let x = grid(-100., 90.);
        for arch in archs() {
            for (x, y) in x.iter().zip(map(arch, Function::Exp, &x)) {
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
            let ends = map(arch, Function::Exp, &[f32::NEG_INFINITY, f32::MIN, f32::INFINITY, 0.]);
            assert_eq!(ends, [0., 0., f32::INFINITY, 1.]);
            assert!(map(arch, Function::Exp, &[f32::NAN])[0].is_nan());
        }
    }

    #[test]
    fn error_functions_and_sigmoids_stay_within_their_bounds() {
        let sigmoid = |x: f64| 1. / (1. + (-x).exp());
        let functions: [(Function, &dyn Fn(f64) -> f64); 2] =
            [(Function::Erf, &exact_erf), (Function::Sigmoid, &sigmoid)];
        let x = grid(-12., 12.);
        for arch in archs() {
            for (function, exact) in functions {
                for (x, y) in x.iter().zip(map(arch, function, &x)) {
                    let error = (f64::from(y) - exact(f64::from(*x))).abs();
                    assert!(error < 5e-7, "{arch:?} at {x}: {y}, {error}");
                }
                let far = map(arch, function, &[-1000., 1000., -0., 0.]);
                assert!(far.iter().all(|y| y.is_finite()), "{far:?}");
                let nan = map(arch, function, &[f32::NAN])[0];
                assert!(nan.is_nan() || matches!(function, Function::Erf), "{arch:?}: {nan}");
            }
        }
    }
}
