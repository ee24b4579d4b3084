//! Linear maps.

use bert_kernels::{Activation, feed_forward, linear, linear_activation, linear_joined};

use crate::*;

/// Some projections of one input, on a device and in F64.
pub(super) fn projections(
    random: &mut Random,
    k: usize,
    sizes: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<[LinearWeights; 2]> {
    let (mut on_device, mut exact) = (Vec::new(), Vec::new());
    for n in sizes {
        let weight = random.tensor(&[*n, k], 0., dtype)?;
        let bias = random.tensor(&[*n], 0., dtype)?;
        on_device.push(LinearWeights::new(weight.to_device(device)?, bias.to_device(device)?));
        exact.push(LinearWeights::new(weight.to_dtype(DType::F64)?, bias.to_dtype(DType::F64)?));
    }
    Ok([LinearWeights::join(on_device)?, LinearWeights::join(exact)?])
}

#[test]
fn linear_maps_are_the_definition_unpacked_and_packed() -> Result<()> {
    let mut random = Random::new(5);
    for (device, dtype) in cases()? {
        // cuBLASLt wants biases at multiples of 16 bytes.
        let sizes: &[_] = match dtype {
            DType::F32 => &[(1, 4, 8), (5, 20, 12), (33, 64, 24), (130, 128, 40)],
            _ => &[(1, 8, 8), (5, 24, 16), (33, 64, 24), (130, 128, 40)],
        };
        for &(m, k, n) in sizes {
            let all = [n, 2 * n, n];
            let [mut weights, exact] = projections(&mut random, k, &all, dtype, &device)?;
            let x = random.tensor(&[1, m, k], 0., dtype)?;
            let (on_device, x) = (x.to_device(&device)?, x.to_dtype(DType::F64)?);
            let what = format!("{m}×{k}×{n} in {dtype:?} on {:?}", device.location());
            // Candle adds up F16 in F16 on the CPU.
            let tolerance = tolerance(dtype, if device.is_cpu() { 16. } else { 1.1 });
            for form in [WeightForm::Unpacked, WeightForm::Packed] {
                weights.convert(form)?;
                for range in [0..3, 1..3, 0..1] {
                    let got = linear_joined(&on_device, &weights, range.clone())?;
                    let expected = linear_joined(&x, &exact, range)?;
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_near(got, expected, tolerance, &what)?;
                    }
                }
            }
            let [mut single, exact] = projections(&mut random, k, &[n], dtype, &device)?;
            single.convert(WeightForm::Packed)?;
            for activation in [Activation::Gelu, Activation::Tanh, Activation::Mish] {
                let got = linear_activation(&on_device, &single, activation)?;
                let expected = linear_activation(&x, &exact, activation)?;
                // The activation's input is rounded.
                assert_near(&got, &expected, 2. * tolerance, &what)?;
            }
            let [back, exact_back] = projections(&mut random, n, &[k], dtype, &device)?;
            let got = feed_forward(&on_device, &single, Activation::Gelu, &back)?;
            let expected = feed_forward(&x, &exact, Activation::Gelu, &exact_back)?;
            assert_near(&got, &expected, 2. * tolerance, &what)?;
        }
    }
    Ok(())
}

#[test]
fn rows_that_lie_apart_are_multiplied() -> Result<()> {
    let mut random = Random::new(6);
    for device in devices()? {
        let x = random.tensor(&[3, 4, 16], 0., DType::F32)?;
        let [weights, exact] = projections(&mut random, 16, &[8], DType::F32, &device)?;
        let first = |x: &Tensor| x.narrow(1, 0, 1)?.squeeze(1);
        let got = linear(&first(&x.to_device(&device)?)?, &weights)?;
        let expected = linear(&first(&x.to_dtype(DType::F64)?)?, &exact)?;
        assert_near(&got, &expected, 1e-5, "first rows")?;
    }
    Ok(())
}

#[test]
fn maps_to_any_number_of_outputs_are_multiplied() -> Result<()> {
    let mut random = Random::new(16);
    for (device, dtype) in cases()? {
        for (m, k, n) in [(1, 20, 2), (3, 64, 2), (7, 30, 10), (19, 9, 1), (37, 16, 50)] {
            let [weights, exact] = projections(&mut random, k, &[n], dtype, &device)?;
            let x = random.tensor(&[m, k], 0., dtype)?;
            let got = linear(&x.to_device(&device)?, &weights)?;
            let expected = linear(&x.to_dtype(DType::F64)?, &exact)?;
            let tolerance = tolerance(dtype, if device.is_cpu() { 16. } else { 1.1 });
            assert_near(&got, &expected, tolerance, &format!("{m}×{k}×{n} in {dtype:?}"))?;
        }
    }
    Ok(())
}
