//! Activations.

use bert_kernels::{Activation, activate};

use crate::*;

#[test]
fn activations_of_every_length_are_the_definition() -> Result<()> {
    let mut random = Random::new(4);
    for (device, dtype) in cases()? {
        for name in Activation::names() {
            let activation = Activation::from_name(name).unwrap();
            for length in [1, 7, 64, 1000, 2048] {
                let x = (random.tensor(&[length], 0., DType::F64)? * 9.)?.to_dtype(dtype)?;
                let expected = f64s(&activate(&x.to_dtype(DType::F64)?, activation)?)?;
                let got = f64s(&activate(&x.to_device(&device)?, activation)?)?;
                for ((got, expected), x) in got.iter().zip(expected).zip(f64s(&x)?) {
                    // An absolute error of the order of F32's, and the rounding of the result.
                    let most = 2e-6 + tolerance(dtype, 1.1) * expected.abs();
                    let apart = (got - expected).abs();
                    assert!(apart <= most, "{name}({x}) in {dtype:?}: {got}, expected {expected}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gelu_keeps_its_digits_where_it_is_small_and_infinities() -> Result<()> {
    for device in devices()? {
        if device.is_cpu() {
            continue; // Its kernel keeps absolute digits only.
        }
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 5e-3)] {
            let x = Tensor::new(&[-4f32, -3.5, -3., -2., f32::INFINITY], &Device::Cpu)?;
            let got = activate(&x.to_dtype(dtype)?.to_device(&device)?, Activation::Gelu)?;
            // x Φ(x), by Python's math.erfc.
            let expected = [
                -0.00012668496733288495,
                -0.000814202278737443,
                -0.004049694095129868,
                -0.0455002638963584,
            ];
            let got = f64s(&got)?;
            for (got, expected) in got.iter().zip(expected) {
                assert!((got / expected - 1.).abs() < tolerance, "{got}, expected {expected}");
            }
            assert_eq!(got[4], f64::INFINITY);
        }
    }
    Ok(())
}
