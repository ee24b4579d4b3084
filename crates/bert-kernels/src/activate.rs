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
        Activation::Gelu10 => x.gelu_erf()?.clamp(-10., 10.),
        Activation::GeluTanh => x.gelu(),
        Activation::QuickGelu => &x * sigmoid(&(&x * 1.702)?)?,
        Activation::Hardswish => &x * ((&x + 3.)?.clamp(0., 6.)? / 6.)?,
        Activation::Laplace => {
            // √½ with the six digits of transformers.
            #[allow(clippy::approx_constant)]
            let z = ((&x - 0.707107)? / (0.282095 * std::f64::consts::SQRT_2))?;
            (z.erf()? + 1.)? * 0.5
        }
        Activation::LeakyRelu => x.relu()? - (x.neg()?.relu()? * 0.01)?,
        Activation::Linear => Ok(x),
        Activation::Mish => &x * softplus(&x)?.tanh()?,
        Activation::Relu => x.relu(),
        Activation::Relu2 => x.relu()?.sqr(),
        Activation::Relu6 => x.clamp(0., 6.),
        Activation::Sigmoid => sigmoid(&x),
        Activation::Silu => x.silu(),
        Activation::SqrtSoftplus => softplus(&x)?.sqrt(),
        Activation::Tanh => x.tanh(),
    };
    y?.to_dtype(dtype)
}

/// `ln(1 + eˣ)`, as `max(x, 0) + ln(1 + u)` with `u = e^−|x|`.
///
/// `ln(1 + u)` is `ln(w) + (u − (w − 1))/w` with the rounded `w = 1 + u`. The second term corrects the
/// rounding: a very negative `x` gives `eˣ` and not 0.
fn softplus(x: &Tensor) -> Result<Tensor> {
    let u = x.abs()?.neg()?.exp()?;
    let w = (&u + 1.)?;
    let lost = (u - (&w - 1.)?)?;
    x.relu()? + (w.log()? + lost.div(&w)?)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

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
    fn no_activation_overflows_far_from_zero() -> Result<()> {
        let x = Tensor::new(&[-1000f32, 1000.], &Device::Cpu)?;
        for name in Activation::names() {
            let y = activate(&x, Activation::from_name(name).unwrap())?.to_vec1::<f32>()?;
            assert!(y.iter().all(|y| y.is_finite()), "{name} gives {y:?}");
        }
        Ok(())
    }
}
