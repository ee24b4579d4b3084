//! Ours on a GPU: the cases that `gpu.py` gives its peers, and their times.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use bert::{AutoModel, BertInput, BertModel, DType, Device, LoadOptions, PackedInput, Tensor};

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
