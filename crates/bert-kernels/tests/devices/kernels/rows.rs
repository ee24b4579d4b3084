//! Rows gathered and added up.

use bert_kernels::{gather_rows, sum_rows};

use crate::*;

#[test]
fn rows_are_gathered_and_absent_ones_are_zeros() -> Result<()> {
    let mut random = Random::new(3);
    for (device, dtype) in cases()? {
        for h in [1, 7, 8, 64, 96, 100] {
            let x = random.tensor(&[13, h], 0., dtype)?;
            let id = |_| match random.below(4) {
                0 => Ids::ABSENT,
                _ => random.below(13) as u32,
            };
            let ids = Ids::new((0..15).map(id).collect(), (3, 5), 13)?;
            let expected = gather_rows(&x.to_dtype(DType::F64)?, &ids)?;
            let got = gather_rows(&x.to_device(&device)?, &ids)?;
            assert_near(&got, &expected, 0., &format!("{h} numbers in {dtype:?}"))?;
            // Rows that lie apart.
            let wide = random.tensor(&[13, 3 * h], 0., dtype)?;
            let part = wide.to_device(&device)?.narrow(1, h, h)?;
            if device.is_cuda() {
                let expected = gather_rows(&wide.narrow(1, h, h)?.contiguous()?, &ids)?;
                assert_near(&gather_rows(&part, &ids)?, &expected, 0., "rows apart")?;
            }
        }
    }
    Ok(())
}

#[test]
fn rows_are_added_up_in_f32() -> Result<()> {
    let mut random = Random::new(13);
    for (device, dtype) in cases()? {
        if device.is_cpu() {
            continue; // There is no kernel.
        }
        for h in [1, 30, 256, 300] {
            let x = random.tensor(&[40, h], 3., dtype)?;
            let got = sum_rows(&x.to_device(&device)?, &[0..1, 3..40, 5..5, 1..3])?;
            let expected = sum_rows(&x.to_dtype(DType::F64)?, &[0..1, 3..40, 5..5, 1..3])?;
            assert_eq!(got.dtype(), DType::F32);
            assert_near(&got, &expected, 1e-6, &format!("{h} columns in {dtype:?}"))?;
        }
    }
    Ok(())
}
