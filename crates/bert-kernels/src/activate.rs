//! Elementwise activations.

use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

use crate::activation::Activation;
use crate::backend::kernels;
use crate::precision::widen;

/// `activation(x)`, elementwise.
///
/// `x`: `[…]` → `[…]`, in the dtype of `x`.
///
/// # Errors
/// When `x` is not a floating-point tensor.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if activation == Activation::Linear {
        return Ok(x.clone());
    }
    let y = kernels(x).activate(x, activation)?;
    y.map_or_else(|| reference(x, activation), Ok)
}

/// The definition, in differentiable operations.
fn reference(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (dtype, x) = (x.dtype(), widen(x)?);
    let y = match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::Gelu10 => between(&x.gelu_erf()?, -10., 10.),
        Activation::GeluTanh => x.gelu(),
        Activation::QuickGelu => &x * sigmoid(&(&x * 1.702)?)?,
        Activation::Hardswish => &x * (between(&(&x + 3.)?, 0., 6.)? / 6.)?,
        Activation::Laplace => {
            // √½ with the six digits of transformers.
            #[allow(clippy::approx_constant)]
            let z = ((&x - 0.707107)? / (0.282095 * std::f64::consts::SQRT_2))?;
            (z.erf()? + 1.)? * 0.5
        }
        Activation::LeakyRelu => x.le(0.)?.where_cond(&(&x * 0.01)?, &x),
        Activation::Linear => Ok(x),
        Activation::Mish => &x * softplus(&x)?.tanh()?,
        Activation::Relu => relu(&x),
        Activation::Relu2 => relu(&x)?.sqr(),
        Activation::Relu6 => between(&x, 0., 6.),
        Activation::Sigmoid => sigmoid(&x),
        Activation::Silu => x.silu(),
        Activation::SqrtSoftplus => softplus(&x)?.sqrt(),
        Activation::Tanh => x.tanh(),
    };
    y?.to_dtype(dtype)
}

/// `x`, but `value` where `at` says so. Unlike Candle's functions, these keep NaN, and have no gradient where
/// `x` is replaced: PyTorch's ReLU has none at 0.
fn replaced(x: &Tensor, at: Tensor, value: f64) -> Result<Tensor> {
    at.where_cond(&(x.zeros_like()? + value)?, x)
}

fn relu(x: &Tensor) -> Result<Tensor> {
    replaced(x, x.le(0.)?, 0.)
}

fn between(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let x = replaced(x, x.le(low)?, low)?;
    replaced(&x, x.ge(high)?, high)
}

/// `ln(1 + eˣ)`, as `max(x, 0) + ln(1 + e^−|x|)`: a very negative `x` gives `eˣ` and not 0.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + log1p(&x.abs()?.neg()?.exp()?)?
}

/// `ln(1 + x)` of numbers that are not negative, elementwise, with all digits where they are small. PyTorch:
/// `log1p`.
///
/// `x`: `[…]` → `[…]`, in the dtype of `x`, F32 or F64.
///
/// It is `ln(w) + (x − (w − 1))/w` with the rounded `w = 1 + x`. The second term corrects the rounding.
///
/// # Errors
/// When `x` is not a floating-point tensor.
pub fn log1p(x: &Tensor) -> Result<Tensor> {
    let w = (x + 1.)?;
    let lost = (x - (&w - 1.)?)?;
    // ∞ has lost nothing.
    let lost = x.lt(f64::from(f32::MAX))?.where_cond(&lost, &lost.zeros_like()?)?;
    w.log()? + lost.div(&w)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    /// `ACT2FN[name](x)` at −30, −4, −1, −0.1, 0.5, 3 and 12, from transformers 5.23.0 in float64.
    const EXPECTED: &[(&str, [f64; 7])] = &[
        (
            "gelu",
            [-0.0, -0.0001266849673, -0.1586552539, -0.0460172169, 0.3457312306, 2.995950306, 12.0],
        ),
        (
            "gelu_10",
            [-0.0, -0.0001266849673, -0.1586552539, -0.0460172169, 0.3457312306, 2.995950306, 10.0],
        ),
        (
            "gelu_accurate",
            [
                -0.0,
                -7.024594819e-05,
                -0.1588080094,
                -0.04601724958,
                0.3457140098,
                2.996362608,
                12.0,
            ],
        ),
        (
            "gelu_fast",
            [-0.0, -7.02459482e-05, -0.1588080094, -0.04601724958, 0.3457140098, 2.996362608, 12.0],
        ),
        (
            "gelu_new",
            [
                -0.0,
                -7.024594819e-05,
                -0.1588080094,
                -0.04601724958,
                0.3457140098,
                2.996362608,
                12.0,
            ],
        ),
        (
            "gelu_python",
            [-0.0, -0.0001266849673, -0.1586552539, -0.0460172169, 0.3457312306, 2.995950306, 12.0],
        ),
        (
            "gelu_python_tanh",
            [
                -0.0,
                -7.024594819e-05,
                -0.1588080094,
                -0.04601724958,
                0.3457140098,
                2.996362608,
                12.0,
            ],
        ),
        (
            "gelu_pytorch_tanh",
            [
                -0.0,
                -7.024594819e-05,
                -0.1588080094,
                -0.04601724958,
                0.3457140098,
                2.996362608,
                12.0,
            ],
        ),
        ("hardswish", [-0.0, -0.0, -0.3333333333, -0.04833333403, 0.2916666667, 3.0, 12.0]),
        ("laplace", [0.0, 0.0, 7.173726058e-10, 0.002110751389, 0.2314211484, 1.0, 1.0]),
        ("leaky_relu", [-0.3, -0.04, -0.01, -0.001000000015, 0.5, 3.0, 12.0]),
        ("linear", [-30.0, -4.0, -1.0, -0.1000000015, 0.5, 3.0, 12.0]),
        (
            "mish",
            [
                -2.807286891e-12,
                -0.07259174079,
                -0.3034014614,
                -0.05678857601,
                0.3752452113,
                2.986535005,
                12.0,
            ],
        ),
        (
            "quick_gelu",
            [
                -2.004679775e-21,
                -0.00441472414,
                -0.1542042341,
                -0.04575524254,
                0.3503884366,
                2.98192869,
                11.99999998,
            ],
        ),
        ("relu", [0.0, 0.0, 0.0, 0.0, 0.5, 3.0, 12.0]),
        ("relu2", [0.0, 0.0, 0.0, 0.0, 0.25, 9.0, 144.0]),
        ("relu6", [0.0, 0.0, 0.0, 0.0, 0.5, 3.0, 6.0]),
        (
            "sigmoid",
            [
                9.357622969e-14,
                0.01798620996,
                0.2689414214,
                0.4750208121,
                0.6224593312,
                0.9525741268,
                0.9999938558,
            ],
        ),
        (
            "silu",
            [
                -2.807286891e-12,
                -0.07194483985,
                -0.2689414214,
                -0.04750208192,
                0.3112296656,
                2.85772238,
                11.99992627,
            ],
        ),
        (
            "sqrtsoftplus",
            [
                3.059023205e-07,
                0.1347216683,
                0.5596978538,
                0.8027432089,
                0.986953385,
                1.746020433,
                3.464102502,
            ],
        ),
        (
            "swish",
            [
                -2.807286891e-12,
                -0.07194483985,
                -0.2689414214,
                -0.04750208192,
                0.3112296656,
                2.85772238,
                11.99992627,
            ],
        ),
        (
            "tanh",
            [
                -1.0,
                -0.9993292997,
                -0.761594156,
                -0.0996679961,
                0.4621171573,
                0.9950547537,
                0.9999999999,
            ],
        ),
    ];

    #[test]
    fn every_name_gives_the_numbers_of_transformers() -> Result<()> {
        assert!(Activation::names().eq(EXPECTED.iter().map(|(name, _)| *name)));
        let x = Tensor::new(&[-30f32, -4., -1., -0.1, 0.5, 3., 12.], &Device::Cpu)?;
        for (name, expected) in EXPECTED {
            let activation = Activation::from_name(name).unwrap();
            for (dtype, tolerance) in
                [(DType::F64, 2e-7), (DType::F32, 2e-6), (DType::F16, 2e-3), (DType::BF16, 8e-3)]
            {
                let y = activate(&x.to_dtype(dtype)?, activation)?;
                assert_eq!(y.dtype(), dtype);
                for (got, expected) in
                    y.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().zip(expected)
                {
                    let error = (got - expected).abs() / expected.abs().max(1.);
                    assert!(error <= tolerance, "{name} in {dtype:?}: {got} is not {expected}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn unknown_and_parametric_activations_have_no_function() {
        for name in ["", "GELU", "prelu", "xielu", "no_such_activation"] {
            assert_eq!(Activation::from_name(name), None);
        }
    }

    #[test]
    fn logarithms_of_small_and_of_infinite_numbers_are_right() -> Result<()> {
        let x = [0f32, 1e-30, 1e-9, 1e-4, 0.5, 1., 1e4, 3e38, f32::INFINITY];
        let got = log1p(&Tensor::new(&x, &Device::Cpu)?)?.to_vec1::<f32>()?;
        for (x, got) in x.into_iter().zip(got) {
            let expected = x.ln_1p();
            let is_near = (got - expected).abs() <= 3e-7 * expected;
            assert!(got == expected || is_near, "{x}: {got}, expected {expected}");
        }
        assert!(log1p(&Tensor::new(f32::NAN, &Device::Cpu)?)?.to_scalar::<f32>()?.is_nan());
        Ok(())
    }

    #[test]
    fn what_is_no_number_stays_none() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            // Longer than a vector of any processor.
            let x = Tensor::full(f32::NAN, 37, &Device::Cpu)?.to_dtype(dtype)?;
            for name in Activation::names() {
                let y = activate(&x, Activation::from_name(name).unwrap())?;
                let y = y.to_dtype(DType::F64)?.to_vec1::<f64>()?;
                assert!(y.iter().all(|y| y.is_nan()), "{name} in {dtype:?}: {y:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_at_corners_are_those_of_pytorch() -> Result<()> {
        // At −3, 0, 3, 6 and 10, by PyTorch 2.15.
        for (name, expected) in [
            ("relu", [0., 0., 1., 1., 1.]),
            ("relu2", [0., 0., 6., 12., 20.]),
            ("relu6", [0., 0., 1., 0., 0.]),
            ("leaky_relu", [0.01, 0.01, 1., 1., 1.]),
            ("hardswish", [0., 0.5, 1., 1., 1.]),
            ("gelu_10", [-0.011945647, 0.5, 1.011945647, 1.000000035, 0.]),
            ("mish", [-0.093393115, 0.6, 1.021106911, 1.000134141, 1.]),
            ("sqrtsoftplus", [0.107578065, 0.300280602, 0.272784358, 0.203577428, 0.158105981]),
        ] {
            let x = Var::new(&[-3f64, 0., 3., 6., 10.], &Device::Cpu)?;
            let y = activate(&x, Activation::from_name(name).unwrap())?;
            let gradients = y.sum_all()?.backward()?;
            let got = gradients.get(&x).unwrap().to_vec1::<f64>()?;
            for (got, expected) in got.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-6, "{name}: {got} is not {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn no_activation_overflows_far_from_zero() -> Result<()> {
        let x = Tensor::new(&[-1000f32, 1000.], &Device::Cpu)?;
        for name in Activation::names() {
            let y = activate(&x, Activation::from_name(name).unwrap())?.to_vec1::<f32>()?;
            assert!(y.iter().all(|y| y.is_finite()), "{name} gives {y:?}");
        }
        Ok(())
    }
}
