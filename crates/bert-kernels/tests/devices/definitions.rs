//! What no kernel computes, on a GPU.

use bert_kernels::{
    EmbeddingWeights, Lookup, attention, attention_with_weights, layer_norm, linear,
};
use candle_core::Var;

use crate::*;

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
        let mut map =
            || Ok::<_, candle_core::Error>(LinearWeights::new(tensor(&[16, 16])?, tensor(&[16])?));
        let mut weights = LinearWeights::join([map()?, map()?, map()?])?;
        weights.convert(WeightForm::Packed)?;
        let norm = LayerNormWeights { gamma: tensor(&[16])?, beta: tensor(&[16])?, eps: 1e-12 };
        let table = EmbeddingWeights { weight: tensor(&[9, 16])?, padding: None };
        let ids = Ids::new(vec![3, 1, 8, 0, 2, 5, 7], (1, 7), 9)?;
        let few = Ids::new(vec![6, Ids::ABSENT, 0], (1, 3), 7)?;
        let rows = [(0..3, 0..3), (3..7, 4..7)];
        let sequence = |(queries, keys)| Sequence { queries, keys };
        let sequences = Sequences::new(rows.map(sequence).into())?;
        let mask =
            Tensor::new(&[[0f32, 0., 0., 0., 0., 0., f32::MIN]], &device)?.reshape((1, 1, 1, 7))?;
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
    let weight = Var::from_tensor(&random.tensor(&[8, 8], 0., DType::F32)?.to_device(&device)?)?;
    let bias = random.tensor(&[8], 0., DType::F32)?.to_device(&device)?;
    let norm = LayerNormWeights { gamma: bias.ones_like()?, beta: bias.zeros_like()?, eps: 1e-12 };
    let y = linear(&layer_norm(&x, &norm)?, &LinearWeights::new(weight.as_tensor().clone(), bias))?;
    let gradients = y.sqr()?.sum_all()?.backward()?;
    for var in [&x, &weight] {
        let gradient = f64s(gradients.get(var).unwrap())?;
        assert!(gradient.iter().any(|it| it.abs() > 1e-6), "{gradient:?}");
    }
    Ok(())
}
