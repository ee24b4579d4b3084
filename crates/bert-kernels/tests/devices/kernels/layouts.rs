//! All operations, of inputs that lie anywhere or hold what is no number.

use bert_kernels::{
    Activation, activate, add_layer_norm, attention, gather_rows, layer_norm, linear, sum_rows,
};

use super::attention::args;
use super::layer_norm::{norm, norm_on};
use super::linear::projections;
use crate::*;

/// The same numbers, with the last two dimensions exchanged in memory.
fn exchanged(x: &Tensor) -> Result<Tensor> {
    let last = x.rank() - 1;
    x.transpose(last - 1, last)?.contiguous()?.transpose(last - 1, last)
}

#[test]
fn inputs_of_any_layout_are_read_in_order() -> Result<()> {
    let mut random = Random::new(14);
    for (device, dtype) in cases()? {
        let x = random.tensor(&[2, 6, 16], 0., dtype)?.to_device(&device)?;
        let strided = exchanged(&x)?;
        let same = |got: &Tensor, expected: &Tensor| {
            assert_near(got, expected, 0., &format!("{dtype:?} on {:?}", device.location()))
        };
        let norm = norm_on(&norm(&mut random, 16, dtype)?, &device, dtype)?;
        same(&layer_norm(&strided, &norm)?, &layer_norm(&x, &norm)?)?;
        let sum = add_layer_norm(&strided, &strided, &norm)?;
        same(&sum, &add_layer_norm(&x, &x, &norm)?)?;
        let gelu = |x: &Tensor| activate(x, Activation::Gelu);
        same(&gelu(&strided)?, &gelu(&x)?)?;
        let [weights, _] = projections(&mut random, 16, &[8], dtype, &device)?;
        same(&linear(&strided, &weights)?, &linear(&x, &weights)?)?;
        let of = |x: &Tensor| attention(x, x, x, args(2, 8));
        same(&of(&strided)?, &of(&x)?)?;
        let (rows, ids) = (x.get(0)?, Ids::new(vec![5, 0, 2], (1, 3), 6)?);
        same(&gather_rows(&exchanged(&rows)?, &ids)?, &gather_rows(&rows, &ids)?)?;
        let ranges = [1..4, 0..2];
        same(&sum_rows(&exchanged(&rows)?, &ranges)?, &sum_rows(&rows, &ranges)?)?;
    }
    Ok(())
}

#[test]
fn rows_may_begin_anywhere() -> Result<()> {
    let mut random = Random::new(15);
    for (device, dtype) in cases()? {
        let wide = random.tensor(&[2, 6, 40], 0., dtype)?.to_device(&device)?;
        for start in [1, 2, 4, 8] {
            let x = wide.narrow(2, start, 16)?;
            let apart = x.to_device(&Device::Cpu)?.contiguous()?.to_device(&device)?;
            let what = format!("{start} in {dtype:?} on {:?}", device.location());
            // Kernels for other alignments add up in another order.
            let same = |got: &Tensor, expected: &Tensor| {
                assert_near(got, expected, tolerance(dtype, 2.), &what)
            };
            let norm = norm_on(&norm(&mut random, 16, dtype)?, &device, dtype)?;
            same(&layer_norm(&x, &norm)?, &layer_norm(&apart, &norm)?)?;
            same(&activate(&x, Activation::Gelu)?, &activate(&apart, Activation::Gelu)?)?;
            let [weights, _] = projections(&mut random, 16, &[8], dtype, &device)?;
            same(&linear(&x, &weights)?, &linear(&apart, &weights)?)?;
            let of = |x: &Tensor| attention(x, x, x, args(2, 8));
            same(&of(&x)?, &of(&apart)?)?;
            let rows = |x: &Tensor| sum_rows(&x.get(1)?, &[0..3, 2..6]);
            same(&rows(&x)?, &rows(&apart)?)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_no_number_stays_none() -> Result<()> {
    for (device, dtype) in cases()? {
        let mut numbers = vec![1f32; 5 * 16];
        numbers[16] = f32::NAN; // In the second row.
        let x = Tensor::from_vec(numbers, (1, 5, 16), &Device::Cpu)?.to_dtype(dtype)?;
        let x = x.to_device(&device)?;
        let ones = Tensor::ones((1, 5, 16), dtype, &Device::Cpu)?.to_device(&device)?;
        let mask = Tensor::zeros((1, 1, 5, 5), DType::F32, &device)?;
        let mut results = vec![activate(&x, Activation::Relu)?];
        for mask in [None, Some(&mask)] {
            results.push(attention(&x, &ones, &ones, AttentionArgs { mask, ..args(1, 16) })?);
        }
        for result in results {
            let nans: Vec<_> =
                f64s(&result)?.chunks(16).map(|row| row.iter().any(|x| x.is_nan())).collect();
            assert_eq!(nans, [false, true, false, false, false], "{dtype:?}");
        }
    }
    Ok(())
}
