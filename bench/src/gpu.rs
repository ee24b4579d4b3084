//! Ours on a GPU: the cases that `gpu.py` gives its peers, and their times.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, anyhow};
use bert::{AutoModel, BertInput, BertModel, DType, Device, LoadOptions, PackedInput, Tensor};
use bert_kernels::{
    Activation, AttentionArgs, Ids, LayerNormWeights, LinearWeights, Sequence, Sequences,
    WeightForm, activate, add_layer_norm, attention, feed_forward, gather_rows, linear,
    linear_activation, linear_joined, sum_rows,
};

use crate::random::Random;
use crate::statistics::quantile;

/// Passes that do not count, then those that do.
const PASSES: (usize, usize) = (3, 30);
/// Seconds after which a case ends early.
const ENOUGH: f64 = 4.;

/// The lengths of each case's texts. The ragged ones are log-normal, 8 to 512 tokens.
pub fn cases() -> BTreeMap<&'static str, Vec<usize>> {
    let mut random = Random(1);
    let ragged = (0..512).map(|_| {
        let normal =
            (0..12).map(|_| f64::from(random.below(1 << 20)) / f64::from(1 << 20)).sum::<f64>();
        ((4.3 + 0.7 * (normal - 6.)).exp() as usize).clamp(8, 512)
    });
    BTreeMap::from([
        ("B1 S8", vec![8]),
        ("B1 S128", vec![128]),
        ("B64 S512", vec![512; 64]),
        ("B256 S128", vec![128; 256]),
        ("ragged 512", ragged.collect()),
    ])
}

/// How far the device's states are from the CPU's in F32, relative to the largest of them, by dtype.
pub fn agreement(folder: &Path, device: &Device) -> Result<()> {
    let mut random = Random(3);
    let ids: Vec<u32> = (0..3 * 40).map(|_| 5 + random.below(30_000)).collect();
    let mask: Vec<u32> =
        [40, 7, 23].iter().flat_map(|n| (0..40).map(move |i| u32::from(i < *n))).collect();
    let on_host = |values: Vec<u32>| Tensor::from_vec(values, (3, 40), &Device::Cpu);
    let input = BertInput::from_ids(on_host(ids)?).with_attention_mask(on_host(mask)?);
    let states = |device: &Device, dtype: DType| -> Result<Tensor> {
        let options = LoadOptions::new().with_device(device.clone()).with_dtype(dtype);
        let model: BertModel = AutoModel::from_pretrained(folder, &options)?;
        let states = model.forward(&input)?.last_hidden_state;
        Ok(states.to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
    };
    let expected = states(&Device::Cpu, DType::F32)?;
    let largest = |x: &Tensor| x.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let difference = largest(&(states(device, dtype)? - &expected)?)? / largest(&expected)?;
        println!("{dtype:?}: largest difference {difference:.2e} of the largest state");
    }
    Ok(())
}

/// Times every case in each dtype, and prints a line of CSV for each as soon as it is there.
pub fn measure(folder: &Path, device: &Device) -> Result<()> {
    println!("engine,case,tokens,dtype,median_us,p10_us,p90_us,n,status");
    for (dtype, name) in [(DType::BF16, "bf16"), (DType::F16, "f16"), (DType::F32, "f32")] {
        let options = LoadOptions::new().with_device(device.clone()).with_dtype(dtype);
        let model: BertModel = AutoModel::from_pretrained(folder, &options)?;
        for (case, lengths) in cases() {
            let tokens: usize = lengths.iter().sum();
            for (engine, packed) in [("ours", false), ("ours packed", true)] {
                let (times, status) = match times(&model, &lengths, packed, device) {
                    Ok(times) => (times, "ok".to_owned()),
                    Err(error) => (vec![f64::NAN], format!("{error}").replace([',', '\n'], " ")),
                };
                let [median, p10, p90] = [0.5, 0.1, 0.9].map(|q| 1e6 * quantile(&times, q));
                let n = times.len();
                println!(
                    "{engine},{case},{tokens},{name},{median:.1},{p10:.1},{p90:.1},{n},{status}"
                );
            }
        }
    }
    Ok(())
}

/// Times each operation of a layer of bert-base alone, in BF16, as `gpu.py` times PyTorch's. A line's status is
/// what the operation makes of its limit: operations or bytes per second, in units of 10¹².
pub fn operations(device: &Device) -> Result<()> {
    const H: usize = 768;
    let mut random = Random(4);
    let mut tensor = |dims: &[usize]| -> Result<Tensor> {
        let count = dims.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| random.below(2000) as f32 / 1e4 - 0.1).collect();
        Ok(Tensor::from_vec(numbers, dims, &Device::Cpu)?
            .to_dtype(DType::BF16)?
            .to_device(device)?)
    };
    let mut weights = |n: usize, k: usize| {
        Ok::<_, anyhow::Error>(LinearWeights::new(tensor(&[n, k])?, tensor(&[n])?))
    };
    let mut qkv = LinearWeights::join([weights(H, H)?, weights(H, H)?, weights(H, H)?])?;
    qkv.convert(WeightForm::Packed)?;
    let (output, expand, contract) = (weights(H, H)?, weights(4 * H, H)?, weights(H, 4 * H)?);
    let norm = LayerNormWeights { gamma: tensor(&[H])?, beta: tensor(&[H])?, eps: 1e-12 };
    for (b, s) in [(1, 8), (1, 128), (64, 512), (256, 128)] {
        let t = b * s;
        // Larger together than the L2 cache.
        let xs = (0..if t > 1000 { 3 } else { 1 })
            .map(|_| tensor(&[b, s, H]))
            .collect::<Result<Vec<_>>>()?;
        let wide = tensor(&[b, s, 4 * H])?;
        let args = AttentionArgs {
            heads: 12,
            scale: 0.125,
            mask: None,
            weights_factor: None,
            relative: None,
            sequences: None,
        };
        let [q, k, v]: [Tensor; 3] = linear_joined(&xs[0], &qkv, 0..3)?
            .try_into()
            .map_err(|_| anyhow!("three projections"))?;
        let rows = |i: usize| i * s..(i + 1) * s;
        let each = (0..b).map(|i| Sequence { queries: rows(i), keys: rows(i) }).collect();
        let sequences = Sequences::new(each)?;
        let flat = |x: &Tensor| x.reshape((1, t, H));
        let (q1, k1, v1) =
            (flat(&q.contiguous()?)?, flat(&k.contiguous()?)?, flat(&v.contiguous()?)?);
        let packed = AttentionArgs { sequences: Some(&sequences), ..args };
        let ids = Ids::new((0..t as u32).rev().collect(), (1, t), t)?;
        let table = xs[0].reshape((t, H))?;
        let ranges: Vec<_> = (0..b).map(rows).collect();
        let (matmul, bytes) = (2. * (t * H * H) as f64, 2. * (t * H) as f64);
        let line =
            |name: &str, work: f64, run: &mut dyn FnMut(&Tensor) -> candle_core::Result<()>| {
                let times = repeated(&xs, device, run)?;
                let [median, p10, p90] = [0.5, 0.1, 0.9].map(|q| quantile(&times, q));
                let [m, low, high] = [median, p10, p90].map(|it| it * 1e6);
                println!(
                    "ours alone,{name} B{b} S{s},{t},bf16,{m:.1},{low:.1},{high:.1},{},{:.2} T/s",
                    times.len(),
                    work / median / 1e12
                );
                Ok::<_, anyhow::Error>(())
            };
        line("linear QKV", 3. * matmul, &mut |x| linear_joined(x, &qkv, 0..3).map(drop))?;
        line("linear output", matmul, &mut |x| linear(x, &output).map(drop))?;
        line("linear FF1", 4. * matmul, &mut |x| linear(x, &expand).map(drop))?;
        line("linear FF1 and GELU", 4. * matmul, &mut |x| {
            linear_activation(x, &expand, Activation::Gelu).map(drop)
        })?;
        line("linear FF2", 4. * matmul, &mut |_| linear(&wide, &contract).map(drop))?;
        line("feed forward", 8. * matmul, &mut |x| {
            feed_forward(x, &expand, Activation::Gelu, &contract).map(drop)
        })?;
        line("GELU", 8. * bytes, &mut |_| activate(&wide, Activation::Gelu).map(drop))?;
        line("add and LayerNorm", 3. * bytes, &mut |x| {
            add_layer_norm(x, &table.reshape((b, s, H))?, &norm).map(drop)
        })?;
        line("attention padded", 4. * (t * s * H) as f64, &mut |_| {
            attention(&q, &k, &v, args).map(drop)
        })?;
        line("attention packed", 4. * (t * s * H) as f64, &mut |_| {
            attention(&q1, &k1, &v1, packed).map(drop)
        })?;
        line("gather rows", 2. * bytes, &mut |_| gather_rows(&table, &ids).map(drop))?;
        line("sum of rows", bytes, &mut |_| sum_rows(&table, &ranges).map(drop))?;
    }
    #[cfg(feature = "cuda")]
    if std::env::var("BERT_CUDA_KERNELS").is_ok_and(|it| it == "all")
        && bert_kernels::cuda::declined() > 0
    {
        anyhow::bail!("{} operations had no kernel", bert_kernels::cuda::declined());
    }
    Ok(())
}

/// Seconds of one operation, from several on different inputs that are submitted together.
fn repeated(
    inputs: &[Tensor],
    device: &Device,
    run: &mut dyn FnMut(&Tensor) -> candle_core::Result<()>,
) -> Result<Vec<f64>> {
    const TOGETHER: usize = 12;
    let mut times = Vec::new();
    for pass in 0..PASSES.0 + PASSES.1 {
        device.synchronize()?;
        let begun = Instant::now();
        for i in 0..TOGETHER {
            run(&inputs[i % inputs.len()])?;
        }
        device.synchronize()?;
        if pass >= PASSES.0 {
            times.push(begun.elapsed().as_secs_f64() / TOGETHER as f64);
        }
    }
    Ok(times)
}

/// Seconds of passes, from ids on the host to states that are ready on the device.
fn times(model: &BertModel, lengths: &[usize], packed: bool, device: &Device) -> Result<Vec<f64>> {
    let mut random = Random(2);
    let mut ids = |n: usize| -> Vec<u32> { (0..n).map(|_| 5 + random.below(30_000)).collect() };
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let shape = (lengths.len(), longest);
    let mut padded =
        BertInput::from_ids(Tensor::from_vec(ids(shape.0 * shape.1), shape, &Device::Cpu)?);
    if lengths.iter().any(|&length| length < longest) {
        let row = |&length: &usize| (0..longest).map(move |i| u32::from(i < length));
        let mask: Vec<u32> = lengths.iter().flat_map(row).collect();
        padded = padded.with_attention_mask(Tensor::from_vec(mask, shape, &Device::Cpu)?);
    }
    let ends: Vec<usize> = std::iter::once(0)
        .chain(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }))
        .collect();
    let flat = PackedInput::new(Tensor::new(ids(lengths.iter().sum()), &Device::Cpu)?, ends);
    let (mut times, start) = (Vec::new(), Instant::now());
    for pass in 0..PASSES.0 + PASSES.1 {
        let begun = Instant::now();
        let states = if packed {
            model.forward_packed(&flat)?.last_hidden_state
        } else {
            model.forward(&padded)?.last_hidden_state
        };
        device.synchronize()?;
        if pass >= PASSES.0 {
            times.push(begun.elapsed().as_secs_f64());
        }
        drop(states);
        if times.len() >= 3 && start.elapsed().as_secs_f64() > ENOUGH {
            break;
        }
    }
    Ok(times)
}
