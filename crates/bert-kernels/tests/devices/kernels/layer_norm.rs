//! LayerNorm of rows, of sums, and of embeddings.

use bert_kernels::{EmbeddingWeights, Lookup, add_layer_norm, embeddings_layer_norm, layer_norm};

use crate::*;

pub(super) fn norm(random: &mut Random, h: usize, dtype: DType) -> Result<LayerNormWeights> {
    let (gamma, beta) = (random.tensor(&[h], 1., dtype)?, random.tensor(&[h], 0., dtype)?);
    Ok(LayerNormWeights { gamma, beta, eps: 1e-12 })
}

pub(super) fn norm_on(
    norm: &LayerNormWeights,
    device: &Device,
    dtype: DType,
) -> Result<LayerNormWeights> {
    let on = |x: &Tensor| x.to_dtype(dtype)?.to_device(device);
    Ok(LayerNormWeights { gamma: on(&norm.gamma)?, beta: on(&norm.beta)?, eps: norm.eps })
}

#[test]
fn layer_norms_of_every_width_are_the_definition() -> Result<()> {
    let mut random = Random::new(1);
    for (device, dtype) in cases()? {
        for (h, mean) in [
            (1, 0.),
            (2, 0.),
            (7, 0.),
            (8, 30.),
            (31, 30.),
            (64, 5000.),
            (100, 0.),
            (384, 0.),
            (768, 30.),
            (1000, 0.),
            (1024, 0.),
            (1032, 5000.),
            (4096, 0.),
        ] {
            let mean = if dtype == DType::F32 { mean } else { mean / 100. };
            let norm = norm(&mut random, h, dtype)?;
            let on_device = norm_on(&norm, &device, dtype)?;
            let exact = norm_on(&norm, &Device::Cpu, DType::F64)?;
            let rows = 1 + random.below(9);
            let x = random.tensor(&[1, rows, h], mean, dtype)?;
            let residual = random.tensor(&[1, rows, h], -0.5, dtype)?;
            let wide = |x: &Tensor| x.to_dtype(DType::F64);
            let what = format!("{h} numbers in {dtype:?} on {:?}", device.location());
            // F32 has lost the digits of a large mean when the kernel gets it.
            let tolerance = tolerance(dtype, 1.1) * mean.abs().max(1.);
            let got = layer_norm(&x.to_device(&device)?, &on_device)?;
            assert_near(&got, &layer_norm(&wide(&x)?, &exact)?, tolerance, &what)?;
            if device.is_cpu() && dtype != DType::F32 {
                continue; // The definition rounds the sum.
            }
            let got =
                add_layer_norm(&x.to_device(&device)?, &residual.to_device(&device)?, &on_device)?;
            let expected = add_layer_norm(&wide(&x)?, &wide(&residual)?, &exact)?;
            assert_near(&got, &expected, tolerance, &format!("sum of {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn sums_of_embeddings_are_the_definition() -> Result<()> {
    let mut random = Random::new(2);
    for (device, dtype) in cases()? {
        if device.is_cpu() && dtype != DType::F32 {
            continue;
        }
        for (h, b, s) in [(5, 2, 3), (64, 1, 4), (768, 2, 5)] {
            let norm = norm(&mut random, h, dtype)?;
            let tables = [11, 2, 9].map(|rows| random.tensor(&[rows, h], 0., dtype));
            let mut ids = |b: usize, bound: usize| {
                let ids = (0..b * s).map(|_| random.below(bound) as u32).collect();
                Ids::new(ids, (b, s), bound)
            };
            let ids = [ids(b, 11)?, ids(1, 2)?, ids(1, 9)?];
            let sum = |device: &Device, dtype: DType, first: usize| {
                let mut weights = Vec::new();
                for table in &tables {
                    let weight = table.as_ref().unwrap().to_dtype(dtype)?.to_device(device)?;
                    weights.push(EmbeddingWeights { weight, padding: None });
                }
                let lookups = weights.iter().zip(&ids).map(|(table, ids)| Lookup { table, ids });
                let lookups: Vec<_> = lookups.skip(first).collect();
                let x = Random::new(7).tensor(&[b, s, h], 0., DType::BF16)?;
                let x = x.to_dtype(dtype)?.to_device(device)?;
                let x = (first > 0).then_some(&x);
                embeddings_layer_norm(x, &lookups, &norm_on(&norm, device, dtype)?)
            };
            for first in [0, 1] {
                let expected = sum(&Device::Cpu, DType::F64, first)?;
                let what = format!("{h} numbers in {dtype:?} on {:?}", device.location());
                assert_near(&sum(&device, dtype, first)?, &expected, tolerance(dtype, 1.1), &what)?;
            }
        }
    }
    Ok(())
}
