//! The operations on every device of this build, beside their definitions on the CPU in F64.
//!
//! With the feature `cuda` there has to be a GPU; `scripts/emulate-cuda` emulates one. With
//! `EMULATE_CANDLE_KERNELS=copies` none of Candle's computes there, so tests in `kernels` pass only if ours do.

use bert_kernels::{
    AttentionArgs, Ids, LayerNormWeights, LinearWeights, Sequence, Sequences, WeightForm,
};
use candle_core::{DType, Device, Result, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn devices() -> Result<Vec<Device>> {
    Ok(vec![
        Device::Cpu,
        #[cfg(feature = "cuda")]
        gpu()?,
    ])
}

/// Every device with every dtype that has kernels.
fn cases() -> Result<Vec<(Device, DType)>> {
    let with_dtypes = |device: Device| DTYPES.map(|dtype| (device.clone(), dtype));
    Ok(devices()?.into_iter().flat_map(with_dtypes).collect())
}

/// The first GPU, with all kernels.
#[cfg(feature = "cuda")]
fn gpu() -> Result<Device> {
    static DEVICE: std::sync::Mutex<Option<Device>> = std::sync::Mutex::new(None);
    bert_kernels::cuda::use_unconfirmed_kernels();
    let mut device = DEVICE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if device.is_none() {
        *device = Some(bert_kernels::cuda::device(0)?);
    }
    device.clone().ok_or_else(|| candle_core::Error::Msg("no device".into()))
}

/// Random numbers, reproducible.
struct Random(ChaCha8Rng);

impl Random {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// Numbers between `mean − 1` and `mean + 1` that `dtype` can represent, on the CPU.
    fn tensor(&mut self, dims: &[usize], mean: f64, dtype: DType) -> Result<Tensor> {
        let number = |_| mean + f64::from(self.0.next_u32()) / f64::from(1u32 << 31) - 1.;
        let numbers: Vec<f64> = (0..dims.iter().product()).map(number).collect();
        Tensor::from_vec(numbers, dims, &Device::Cpu)?.to_dtype(dtype)
    }
}

fn f64s(x: &Tensor) -> Result<Vec<f64>> {
    x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

/// The largest difference relative to the largest expected number; what is not a number is infinitely far.
#[track_caller]
fn assert_near(got: &Tensor, expected: &Tensor, tolerance: f64, what: &str) -> Result<()> {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (f64s(got)?, f64s(expected)?);
    let largest = expected.iter().fold(1e-30f64, |most, x| most.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
        let difference = (got - expected).abs() / largest;
        assert!(difference <= tolerance, "{what}: {got} at {i}, expected {expected}");
    }
    Ok(())
}

/// One rounding of the result in 16 bits (2⁻¹¹, 2⁻⁸), twice that where an intermediate result is rounded too.
fn tolerance(dtype: DType, roundings: f64) -> f64 {
    match dtype {
        DType::F16 => roundings * 2f64.powi(-11),
        DType::BF16 => roundings * 2f64.powi(-8),
        _ => 1e-5,
    }
}

/// Attention without anything but queries, keys and values.
const ARGS: AttentionArgs = AttentionArgs {
    heads: 2,
    scale: 0.1,
    mask: None,
    weights_factor: None,
    relative: None,
    sequences: None,
};

mod kernels {
    use bert_kernels::{
        Activation, EmbeddingWeights, Lookup, MASKED, activate, add_layer_norm, attention,
        attention_with_weights, embeddings_layer_norm, feed_forward, gather_rows, layer_norm,
        linear, linear_activation, linear_joined, sum_rows,
    };

    use super::*;

    fn norm(random: &mut Random, h: usize, dtype: DType) -> Result<LayerNormWeights> {
        let (gamma, beta) = (random.tensor(&[h], 1., dtype)?, random.tensor(&[h], 0., dtype)?);
        Ok(LayerNormWeights { gamma, beta, eps: 1e-12 })
    }

    fn norm_on(norm: &LayerNormWeights, device: &Device, dtype: DType) -> Result<LayerNormWeights> {
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
                let got = add_layer_norm(
                    &x.to_device(&device)?,
                    &residual.to_device(&device)?,
                    &on_device,
                )?;
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
                    let lookups =
                        weights.iter().zip(&ids).map(|(table, ids)| Lookup { table, ids });
                    let lookups: Vec<_> = lookups.skip(first).collect();
                    let x = Random::new(7).tensor(&[b, s, h], 0., DType::BF16)?;
                    let x = x.to_dtype(dtype)?.to_device(device)?;
                    let x = (first > 0).then_some(&x);
                    embeddings_layer_norm(x, &lookups, &norm_on(&norm, device, dtype)?)
                };
                for first in [0, 1] {
                    let expected = sum(&Device::Cpu, DType::F64, first)?;
                    let what = format!("{h} numbers in {dtype:?} on {:?}", device.location());
                    assert_near(
                        &sum(&device, dtype, first)?,
                        &expected,
                        tolerance(dtype, 1.1),
                        &what,
                    )?;
                }
            }
        }
        Ok(())
    }

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
                        assert!(
                            apart <= most,
                            "{name}({x}) in {dtype:?}: {got}, expected {expected}"
                        );
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
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 5e-3)]
            {
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

    /// Some projections of one input, on a device and in F64.
    fn projections(
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
            exact
                .push(LinearWeights::new(weight.to_dtype(DType::F64)?, bias.to_dtype(DType::F64)?));
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

    /// Queries, keys and values as columns of one matrix, as joined projections give them.
    fn qkv(random: &mut Random, b: usize, s: usize, h: usize, dtype: DType) -> Result<Tensor> {
        random.tensor(&[b, s, 3 * h], 0., dtype)
    }

    fn split(qkv: &Tensor) -> Result<[Tensor; 3]> {
        let h = qkv.dim(2)? / 3;
        Ok([qkv.narrow(2, 0, h)?, qkv.narrow(2, h, h)?, qkv.narrow(2, 2 * h, h)?])
    }

    fn args(heads: usize, size: usize) -> AttentionArgs<'static> {
        AttentionArgs { heads, scale: (size as f64).powf(-0.5), ..ARGS }
    }

    /// Rounding of weights and of the result, of numbers below 1.
    fn attention_tolerance(dtype: DType) -> f64 {
        tolerance(dtype, 3.)
    }

    /// Heads of every kind: powers of two, padded ones, odd ones, large ones.
    const HEAD_SIZES: [usize; 9] = [1, 5, 8, 24, 32, 40, 64, 80, 128];

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
                    let what =
                        format!("heads of {size}, {queries} queries, mask {dims:?}, {dtype:?}");
                    assert_near(&got, &expected, attention_tolerance(dtype), &what)?;
                }
            }
        }
        Ok(())
    }

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

    #[test]
    fn what_is_no_number_stays_none() -> Result<()> {
        for (device, dtype) in cases()? {
            if device.is_cpu() {
                continue; // As its kernels do it.
            }
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
            let kv = [
                random.tensor(&[1, 200, 128], 0., dtype)?,
                random.tensor(&[1, 200, 128], 0., dtype)?,
            ];
            let packed = AttentionArgs { sequences: Some(&sequences), ..args(2, 64) };
            let on = |x: &Tensor| x.to_device(&device);
            let got = attention(&on(&q)?, &on(&kv[0])?, &on(&kv[1])?, packed)?;
            let wide = |x: &Tensor| x.to_dtype(DType::F64);
            let expected = attention(&wide(&q)?, &wide(&kv[0])?, &wide(&kv[1])?, packed)?;
            assert_near(&got, &expected, attention_tolerance(dtype), "first tokens")?;
        }
        Ok(())
    }
}

/// What no kernel computes, on a GPU.
#[cfg(feature = "cuda")]
mod definitions {
    use bert_kernels::{
        EmbeddingWeights, Lookup, attention, attention_with_weights, layer_norm, linear,
    };
    use candle_core::Var;

    use super::*;

    #[test]
    fn other_dtypes_and_very_large_heads_are_computed() -> Result<()> {
        let (device, mut random) = (gpu()?, Random::new(20));
        for (size, dtype) in [(300, DType::F32), (300, DType::F16), (64, DType::F64)] {
            let x = random.tensor(&[1, 5, size], 0., dtype)?;
            let args = AttentionArgs { heads: 1, ..ARGS };
            let on_device = x.to_device(&device)?;
            let got = attention(&on_device, &on_device, &on_device, args)?;
            let x = x.to_dtype(DType::F64)?;
            let expected = attention_with_weights(&x, &x, &x, args)?.0;
            assert_near(&got, &expected, tolerance(dtype, 3.), &format!("{size} in {dtype:?}"))?;
        }
        Ok(())
    }

    #[test]
    fn every_operation_can_be_captured() -> Result<()> {
        use bert_kernels::{
            Activation, activate, add_layer_norm, embeddings_layer_norm, gather_rows,
            linear_activation, linear_joined,
        };
        use candle_core::cuda_backend::cudarc::driver::sys::{
            CUgraphInstantiate_flags, CUstreamCaptureMode,
        };

        bert_kernels::cuda::use_unconfirmed_kernels();
        // With a stream of its own: other tests copy.
        let device = bert_kernels::cuda::device(0)?;
        let Device::Cuda(cuda) = &device else { candle_core::bail!("{device:?} is no GPU") };
        let mut random = Random::new(23);
        for dtype in DTYPES {
            let mut tensor = |dims: &[usize]| random.tensor(dims, 0., dtype)?.to_device(&device);
            let mut map = || {
                Ok::<_, candle_core::Error>(LinearWeights::new(tensor(&[16, 16])?, tensor(&[16])?))
            };
            let mut weights = LinearWeights::join([map()?, map()?, map()?])?;
            weights.convert(WeightForm::Packed)?;
            let norm = LayerNormWeights { gamma: tensor(&[16])?, beta: tensor(&[16])?, eps: 1e-12 };
            let table = EmbeddingWeights { weight: tensor(&[9, 16])?, padding: None };
            let ids = Ids::new(vec![3, 1, 8, 0, 2, 5, 7], (1, 7), 9)?;
            let few = Ids::new(vec![6, Ids::ABSENT, 0], (1, 3), 7)?;
            let rows = [(0..3, 0..3), (3..7, 4..7)];
            let sequence = |(queries, keys)| Sequence { queries, keys };
            let sequences = Sequences::new(rows.map(sequence).into())?;
            let mask = Tensor::new(&[[0f32, 0., 0., 0., 0., 0., f32::MIN]], &device)?
                .reshape((1, 1, 1, 7))?;
            let pass = || {
                let lookups = [Lookup { table: &table, ids: &ids }];
                let x = embeddings_layer_norm(None, &lookups, &norm)?;
                let qkv = linear_joined(&x, &weights, 0..3)?;
                let packed = AttentionArgs { sequences: Some(&sequences), ..ARGS };
                let masked = AttentionArgs { mask: Some(&mask), ..ARGS };
                let context = attention(&qkv[0], &qkv[1], &qkv[2], packed)?;
                let x = add_layer_norm(&context, &x, &norm)?;
                let context = attention(&x, &x, &x, masked)?;
                let x = linear_activation(&context, &weights, Activation::Gelu)?;
                gather_rows(&activate(&x, Activation::Tanh)?.squeeze(0)?, &few)
            };
            let expected = f64s(&pass()?)?;
            let stream = cuda.cuda_stream();
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            let failed = |error: &dyn std::fmt::Display| candle_core::Error::Msg(error.to_string());
            stream.begin_capture(mode).map_err(|error| failed(&error))?;
            let y = pass();
            let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let graph = stream.end_capture(flags).map_err(|error| failed(&error))?;
            graph.unwrap().launch().map_err(|error| failed(&error))?;
            assert_eq!(f64s(&y?)?, expected, "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn packed_sequences_of_very_large_heads_are_computed_one_by_one() -> Result<()> {
        let (device, mut random) = (gpu()?, Random::new(24));
        let x = random.tensor(&[1, 5, 600], 0., DType::F32)?;
        let rows = |(queries, keys)| Sequence { queries, keys };
        let sequences = Sequences::new([(0..2, 0..2), (2..5, 2..5)].map(rows).into())?;
        let args = AttentionArgs { sequences: Some(&sequences), ..ARGS };
        let attend = |x: &Tensor| attention(x, x, x, args);
        let expected = attend(&x.to_dtype(DType::F64)?)?;
        assert_near(&attend(&x.to_device(&device)?)?, &expected, 1e-5, "heads of 300")
    }

    #[test]
    fn gradients_pass() -> Result<()> {
        let (device, mut random) = (gpu()?, Random::new(21));
        let x = Var::from_tensor(&random.tensor(&[3, 8], 0., DType::F32)?.to_device(&device)?)?;
        let weight =
            Var::from_tensor(&random.tensor(&[8, 8], 0., DType::F32)?.to_device(&device)?)?;
        let bias = random.tensor(&[8], 0., DType::F32)?.to_device(&device)?;
        let norm =
            LayerNormWeights { gamma: bias.ones_like()?, beta: bias.zeros_like()?, eps: 1e-12 };
        let y =
            linear(&layer_norm(&x, &norm)?, &LinearWeights::new(weight.as_tensor().clone(), bias))?;
        let gradients = y.sqr()?.sum_all()?.backward()?;
        for var in [&x, &weight] {
            let gradient = f64s(gradients.get(var).unwrap())?;
            assert!(gradient.iter().any(|it| it.abs() > 1e-6), "{gradient:?}");
        }
        Ok(())
    }
}
