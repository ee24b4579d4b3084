//! Activations of vectors of floats.

use pulp::Simd;

use super::math::{erf, sigmoid, tanh};
use crate::activation::Activation;

/// The activations that have a vector form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VectorActivation {
    Linear,
    Gelu,
    GeluTanh,
    QuickGelu,
    Relu,
    Silu,
    Tanh,
}

impl VectorActivation {
    /// The vector form of an activation, if it has one. The absolute error is below
    /// `5e-7 · max(|x|, 1)`.
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
            // NaN stays NaN.
            Self::Relu => simd.select_f32s(simd.less_than_f32s(x, splat(0.)), splat(0.), x),
            Self::Silu => simd.mul_f32s(x, sigmoid(simd, x)),
            Self::Tanh => tanh(simd, x),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::testing::{Elementwise, exact_erf, grid, map};

    impl Elementwise for VectorActivation {
        #[inline(always)]
        fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
            VectorActivation::apply(self, simd, x)
        }
    }

    #[test]
    fn activations_stay_within_their_bounds() {
        let sigmoid = |x: f64| 1. / (1. + (-x).exp());
        let tanh_gelu = |x: f64| {
            let root = (2. / std::f64::consts::PI).sqrt();
            x / 2. * (1. + (root * (x + 0.044715 * x * x * x)).tanh())
        };
        let functions: [(VectorActivation, &dyn Fn(f64) -> f64); 7] = [
            (VectorActivation::Gelu, &|x| x / 2. * (1. + exact_erf(x / 2f64.sqrt()))),
            (VectorActivation::GeluTanh, &tanh_gelu),
            (VectorActivation::QuickGelu, &|x| x * sigmoid(1.702 * x)),
            (VectorActivation::Relu, &|x| x.max(0.)),
            (VectorActivation::Silu, &|x| x * sigmoid(x)),
            (VectorActivation::Tanh, &f64::tanh),
            (VectorActivation::Linear, &|x| x),
        ];
        let x = grid(-12., 12.);
        for arch in archs() {
            for (function, exact) in functions {
                for (x, y) in x.iter().zip(map(arch, function, &x)) {
                    let x = f64::from(*x);
                    let error = (f64::from(y) - exact(x)).abs();
                    let bound = match function {
                        VectorActivation::Tanh => 5e-7,
                        _ => 5e-7 * x.abs().max(1.),
                    };
                    assert!(error < bound, "{arch:?} at {x}: {y}, {error}");
                }
                let far = map(arch, function, &[-1000., 1000., -0., 0.]);
                assert!(far.iter().all(|y| y.is_finite()), "{far:?}");
                let nan = map(arch, function, &[f32::NAN])[0];
                assert!(nan.is_nan(), "{arch:?}, {function:?}: {nan}");
            }
        }
    }
}
