//! Attention, padded and packed.

use bert_kernels::{MASKED, attention, attention_with_weights};

use crate::*;

/// Heads of every kind: powers of two, padded ones, odd ones, large ones.
const HEAD_SIZES: [usize; 9] = [1, 5, 8, 24, 32, 40, 64, 80, 128];

/// Queries, keys and values as columns of one matrix, as joined projections give them.
fn qkv(random: &mut Random, b: usize, s: usize, h: usize, dtype: DType) -> Result<Tensor> {
    random.tensor(&[b, s, 3 * h], 0., dtype)
}

fn split(qkv: &Tensor) -> Result<[Tensor; 3]> {
    let h = qkv.dim(2)? / 3;
    Ok([qkv.narrow(2, 0, h)?, qkv.narrow(2, h, h)?, qkv.narrow(2, 2 * h, h)?])
}

pub(super) fn args(heads: usize, size: usize) -> AttentionArgs<'static> {
    AttentionArgs { heads, scale: (size as f64).powf(-0.5), ..ARGS }
}

/// Rounding of weights and of the result, of numbers below 1.
fn attention_tolerance(dtype: DType) -> f64 {
    tolerance(dtype, 3.)
}

#[test]
fn attention_to_all_keys_is_the_definition() -> Result<()> {
    let mut random = Random::new(8);
    for (device, dtype) in cases()? {
        if device.is_cpu() && dtype != DType::F32 {
            continue; // There are no kernels.
        }
        for size in HEAD_SIZES {
            for s in [1, 15, 64, 65, 130] {
                let heads = 1 + random.below(2);
                let x = qkv(&mut random, 2, s, heads * size, dtype)?;
                let [q, k, v] = split(&x.to_device(&device)?)?;
                let got = attention(&q, &k, &v, args(heads, size))?;
                let [q, k, v] = split(&x.to_dtype(DType::F64)?)?;
                let expected = attention_with_weights(&q, &k, &v, args(heads, size))?.0;
                let what = format!("{heads} heads of {size}, {s} keys, {dtype:?}");
                assert_near(&got, &expected, attention_tolerance(dtype), &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn masks_of_every_shape_are_added() -> Result<()> {
    let mut random = Random::new(9);
    for (device, dtype) in cases()? {
        if device.is_cpu() && dtype != DType::F32 {
            continue;
        }
        for size in [8, 20, 64, 80, 128] {
            let (b, n, queries, keys) = (2, 2, 1 + random.below(80), 1 + random.below(80));
            let q = random.tensor(&[b, queries, n * size], 0., dtype)?;
            let kv = random.tensor(&[b, keys, 2 * n * size], 0., dtype)?;
            for dims in
                [[b, 1, 1, keys], [1, 1, queries, keys], [b, n, queries, keys], [1, n, 1, 1]]
            {
                // Some keys are hidden, all of the first sequence's first query, and some by −∞.
                let each = keys * if dims[3] == 1 { 0 } else { 1 };
                let hidden = |i: usize, random: &mut Random| match random.below(4) {
                    0 => MASKED as f32,
                    1 => f32::NEG_INFINITY,
                    _ if i < each => MASKED as f32,
                    _ => random.below(100) as f32 / 50. - 1.,
                };
                let count = dims.iter().product();
                let bias: Vec<f32> = match dims {
                    [1, _, 1, 1] => (0..count).map(|_| random.below(9) as f32).collect(),
                    _ => (0..count).map(|i| hidden(i, &mut random)).collect(),
                };
                // The definition has no −∞: a mask replaces it.
                let finite: Vec<f32> = bias.iter().map(|x| x.max(MASKED as f32)).collect();
                let bias = if device.is_cpu() { finite.clone() } else { bias };
                let mask = Tensor::from_vec(bias, &dims, &Device::Cpu)?.to_device(&device)?;
                let exact_mask = Tensor::from_vec(finite, &dims, &Device::Cpu)?;
                let masked = |mask| AttentionArgs { mask: Some(mask), ..args(n, size) };
                let halves = |x: &Tensor| {
                    Ok::<_, candle_core::Error>([
                        x.narrow(2, 0, n * size)?,
                        x.narrow(2, n * size, n * size)?,
                    ])
                };
                let [k, v] = halves(&kv.to_device(&device)?)?;
                let got = attention(&q.to_device(&device)?, &k, &v, masked(&mask))?;
                let [k, v] = halves(&kv.to_dtype(DType::F64)?)?;
                let q = q.to_dtype(DType::F64)?;
                let expected = attention_with_weights(&q, &k, &v, masked(&exact_mask))?.0;
                let what = format!("heads of {size}, {queries} queries, mask {dims:?}, {dtype:?}");
                assert_near(&got, &expected, attention_tolerance(dtype), &what)?;
            }
        }
    }
    Ok(())
}

#[test]
fn scores_beyond_the_range_of_16_bits_are_no_infinities() -> Result<()> {
    let mut random = Random::new(10);
    for device in devices()? {
        for dtype in [DType::F16, DType::BF16] {
            if device.is_cpu() {
                continue;
            }
            let x = (qkv(&mut random, 1, 70, 64, DType::F32)? * 200.)?.to_dtype(dtype)?;
            let [q, k, v] = split(&x.to_device(&device)?)?;
            let got = attention(&q, &k, &v, args(1, 64))?;
            let [q, k, v] = split(&x.to_dtype(DType::F64)?)?;
            let expected = attention_with_weights(&q, &k, &v, args(1, 64))?.0;
            assert_near(&got, &expected, attention_tolerance(dtype), "large scores")?;
        }
    }
    Ok(())
}

#[test]
fn packed_sequences_attend_to_their_own_keys() -> Result<()> {
    let mut random = Random::new(11);
    for (device, dtype) in cases()? {
        if device.is_cpu() && dtype != DType::F32 {
            continue;
        }
        for (size, most) in [(8, 20), (20, 40), (64, 60), (64, 300), (128, 140)] {
            let (heads, mut start, mut all) = (2, 0, Vec::new());
            for _ in 0..4 {
                let length = 1 + random.below(most);
                let first = random.below(length);
                let keys = start + first..start + first + 1 + random.below(length - first);
                all.push(Sequence { queries: start..start + length, keys });
                start += length;
            }
            let sequences = Sequences::new(all)?;
            let x = qkv(&mut random, 1, start, heads * size, dtype)?;
            let packed = AttentionArgs { sequences: Some(&sequences), ..args(heads, size) };
            let [q, k, v] = split(&x.to_device(&device)?)?;
            let got = attention(&q, &k, &v, packed)?;
            let [q, k, v] = split(&x.to_dtype(DType::F64)?)?;
            let expected = attention(&q, &k, &v, packed)?;
            let what = format!("heads of {size}, {sequences:?}, {dtype:?}");
            assert_near(&got, &expected, attention_tolerance(dtype), &what)?;
        }
    }
    Ok(())
}

#[test]
fn one_query_of_each_sequence_attends_to_its_keys() -> Result<()> {
    let mut random = Random::new(12);
    for (device, dtype) in cases()? {
        if device.is_cpu() && dtype != DType::F32 {
            continue;
        }
        let ends = [0, 3, 70, 71, 200];
        let sequence = |i: usize| Sequence { queries: i..i + 1, keys: ends[i]..ends[i + 1] };
        let sequences = Sequences::new((0..4).map(sequence).collect())?;
        let q = random.tensor(&[1, 4, 128], 0., dtype)?;
        let kv =
            [random.tensor(&[1, 200, 128], 0., dtype)?, random.tensor(&[1, 200, 128], 0., dtype)?];
        let packed = AttentionArgs { sequences: Some(&sequences), ..args(2, 64) };
        let on = |x: &Tensor| x.to_device(&device);
        let got = attention(&on(&q)?, &on(&kv[0])?, &on(&kv[1])?, packed)?;
        let wide = |x: &Tensor| x.to_dtype(DType::F64);
        let expected = attention(&wide(&q)?, &wide(&kv[0])?, &wide(&kv[1])?, packed)?;
        assert_near(&got, &expected, attention_tolerance(dtype), "first tokens")?;
    }
    Ok(())
}
