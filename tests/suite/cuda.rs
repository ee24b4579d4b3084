//! Models on a GPU: what runs there, and what is said where one is missing.
//!
//! Tests of `alone` and `emulated` are ignored because they need the emulated driver
//! (`scripts/emulate-cuda`): `alone` with `EMULATE_CANDLE_KERNELS=copies`, which leaves no kernels but this
//! library's.

use std::process::Command;

use bert::*;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode,
};

use crate::support::*;

/// The GPU, with all kernels.
fn gpu() -> Device {
    bert_kernels::cuda::use_unconfirmed_kernels();
    cuda_device().unwrap()
}

fn load(name: &str, device: &Device, dtype: DType) -> BertModel {
    let options = LoadOptions::new().with_device(device.clone()).with_dtype(dtype);
    BertModel::from_pretrained(fixture(name), &options).unwrap()
}

fn on_cpu(x: &Tensor) -> Tensor {
    x.to_device(&Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

/// Ids and masks stay on the CPU.
fn texts() -> (BertInput, PackedInput) {
    let ids: Vec<u32> = (0..24).map(|i| i * 7 % 39 + 1).collect();
    let mask: Vec<u32> =
        (0..24).map(|i| u32::from(i < 8 || (8..11).contains(&i) || i >= 16)).collect();
    let tensor = |values| Tensor::from_vec(values, (3, 8), &Device::Cpu).unwrap();
    let packed = [&ids[0..8], &ids[8..11], &ids[16..24]].concat();
    let packed = PackedInput::new(Tensor::new(packed, &Device::Cpu).unwrap(), vec![0, 8, 11, 19]);
    let ids = ids.into_iter().zip(&mask).map(|(id, seen)| id * seen).collect();
    (BertInput::from_ids(tensor(ids)).with_attention_mask(tensor(mask)), packed)
}

/// The error of states, which are at most about 10: weights and the results of all operations in two layers
/// are rounded to 2⁻¹¹ or 2⁻⁸ of them.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::F16 => 1e-2,
        _ => 8e-2,
    }
}

#[test]
fn a_layer_is_captured_without_copies_from_or_to_the_host() {
    bert_kernels::cuda::use_unconfirmed_kernels();
    // With a stream of its own: other tests copy.
    let device = bert_kernels::cuda::device(0).unwrap();
    let Device::Cuda(cuda) = &device else { panic!("{device:?} is no GPU") };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = load("base", &device, dtype);
        let h = model.config().hidden_size;
        let numbers: Vec<f32> = (0..9 * h).map(|i| (i as f32 * 0.7).sin()).collect();
        let x = Tensor::from_vec(numbers, (1, 9, h), &device).unwrap().to_dtype(dtype).unwrap();
        let layer = |x: &Tensor| model.encoder.layer[0].forward(x, &AttentionMask::all_visible());
        let eager = on_cpu(&layer(&x).unwrap());
        let stream = cuda.cuda_stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        let y = layer(&x);
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).unwrap().unwrap();
        graph.launch().unwrap();
        assert_eq!(values(&on_cpu(&y.unwrap())), values(&eager), "{dtype:?}");
    }
}

/// On a real GPU this shows that threads' work is in order; the emulated one has no order to lose.
#[test]
fn threads_share_a_gpu() {
    let device = gpu();
    let model = load("base", &device, DType::F16);
    let (_, packed) = texts();
    let states = || on_cpu(&model.forward_packed(&packed).unwrap().last_hidden_state);
    let expected = values(&states());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| values(&states()))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

mod alone {
    use super::*;

    #[test]
    #[ignore = "needs the emulated driver without Candle's kernels"]
    fn passes_of_every_kind_need_no_kernels_but_ours() {
        let device = gpu();
        let (padded, packed) = texts();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (ours, exact) =
                (load("base", &device, dtype), load("base", &Device::Cpu, DType::F64));
            let compare = |got: &Tensor, expected: &Tensor, what: &str| {
                let (got, expected) = (values(&on_cpu(got)), values(expected));
                let (difference, at) = largest_difference(&got, &expected);
                assert!(
                    difference <= tolerance(dtype),
                    "{what} in {dtype:?}: {difference} at {at}"
                );
            };
            let (got, expected) = (ours.forward(&padded).unwrap(), exact.forward(&padded).unwrap());
            compare(&got.last_hidden_state, &expected.last_hidden_state, "padded states");
            compare(&got.pooler_output.unwrap(), &expected.pooler_output.unwrap(), "pooled");
            let keep = ForwardOptions::new().with_padding_states(PaddingStates::Kept);
            let got = ours.forward_with(&padded, &keep).unwrap().last_hidden_state;
            let expected = exact.forward_with(&padded, &keep).unwrap().last_hidden_state;
            compare(&got, &expected, "states of padding");
            let got = ours.forward_packed(&packed).unwrap().last_hidden_state;
            compare(&got, &exact.forward_packed(&packed).unwrap().last_hidden_state, "packed");
            let got = ours.pooled_packed(&packed).unwrap();
            compare(&got, &exact.pooled_packed(&packed).unwrap(), "pooled packed");
        }
    }

    #[test]
    #[ignore = "needs the emulated driver without Candle's kernels"]
    fn a_decoder_with_a_cache_needs_no_kernels_but_ours() {
        let device = gpu();
        let first =
            BertInput::from_ids(Tensor::new(&[[1u32, 5, 9], [2, 6, 8]], &Device::Cpu).unwrap());
        let next = BertInput::from_ids(Tensor::new(&[[7u32, 3], [4, 1]], &Device::Cpu).unwrap());
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let states = |device: &Device, dtype: DType| {
                let model = load("decoder", device, dtype);
                let cache = model.forward(&first).unwrap().past_key_values.unwrap();
                let options = ForwardOptions::new().with_cache(cache);
                values(&on_cpu(&model.forward_with(&next, &options).unwrap().last_hidden_state))
            };
            let expected = states(&Device::Cpu, DType::F64);
            let (difference, at) = largest_difference(&states(&device, dtype), &expected);
            assert!(difference <= tolerance(dtype), "{dtype:?}: {difference} at {at}");
        }
    }
}

mod emulated {
    use super::*;

    /// What this program says with some variables set, in a process of its own.
    fn said(variables: &[(&str, &str)]) -> String {
        let name = "cuda::emulated::a_pass_without_reading_its_result";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--ignored", "--nocapture"]).env("ONLY_SAY", "1");
        let output = command.envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The program of [`said`].
    #[test]
    #[ignore = "needs the emulated driver"]
    fn a_pass_without_reading_its_result() {
        let pass = || {
            let device = match std::env::var_os("DEVICE_OF_CANDLE") {
                None => cuda_device()?,
                Some(_) => {
                    bert_kernels::cuda::use_unconfirmed_kernels();
                    Device::new_cuda(0)?
                }
            };
            let options = LoadOptions::new().with_device(device.clone());
            let model = BertModel::from_pretrained(fixture("base"), &options)?;
            println!("loaded");
            let (padded, packed) = texts();
            model.forward(&padded)?;
            model.forward_packed(&packed)?;
            let ids = Tensor::ones((64, 24), DType::U32, &Device::Cpu)?;
            model.forward(&BertInput::from_ids(ids))?;
            Ok::<_, Error>(())
        };
        let result = pass().map_err(|error| error.to_string());
        println!("said: {result:?}");
        assert!(std::env::var_os("ONLY_SAY").is_some() || result.is_ok(), "{result:?}");
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn a_missing_gpu_an_old_driver_and_an_old_gpu_are_named() {
        for (variable, value, expected) in [
            ("EMULATE_DEVICES", "0", "no CUDA-capable device is detected"),
            (
                "EMULATE_DRIVER",
                "12080",
                "the driver supports CUDA 12.8; this program needs one that supports CUDA 13.0",
            ),
            (
                "EMULATE_CAPABILITY",
                "75",
                "GPU 0 has compute capability 7.5; this program needs 8.0 or more",
            ),
        ] {
            let said = said(&[(variable, value)]);
            assert!(said.contains(expected) && said.contains("no cuda device: "), "{said}");
            assert!(said.contains("use another device"), "{said}");
        }
        assert!(said(&[]).contains("said: Ok"));
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn memory_that_is_full_is_named_in_loading_and_in_a_pass() {
        for kernels in ["", "all"] {
            for (bytes, loads) in [("1000", false), ("300000", true)] {
                let said = said(&[("EMULATE_MEMORY", bytes), ("BERT_CUDA_KERNELS", kernels)]);
                let expected = "the GPU's memory is full; pass fewer or shorter texts at a time";
                assert!(said.contains(expected), "{bytes} bytes, kernels {kernels}: {said}");
                assert_eq!(
                    said.contains("loaded"),
                    loads,
                    "{bytes} bytes, kernels {kernels}: {said}"
                );
            }
        }
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn unconfirmed_kernels_are_used_only_if_the_environment_says_so() {
        let without_candle = ("EMULATE_CANDLE_KERNELS", "copies");
        let said_by_default = said(&[without_candle, ("BERT_CUDA_KERNELS", "")]);
        assert!(said_by_default.contains("named symbol not found"), "{said_by_default}");
        let said = said(&[without_candle, ("BERT_CUDA_KERNELS", "all")]);
        assert!(said.contains("said: Ok"), "{said}");
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn a_device_of_candle_has_kernels_unless_its_gpu_is_too_old() {
        let own = ("DEVICE_OF_CANDLE", "1");
        let said_without_candle = said(&[own, ("EMULATE_CANDLE_KERNELS", "copies")]);
        assert!(said_without_candle.contains("said: Ok"), "{said_without_candle}");
        let said = said(&[own, ("EMULATE_CAPABILITY", "75")]);
        assert!(said.contains("said: Ok"), "{said}");
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn kernels_that_cannot_be_loaded_say_why() {
        let variables = [("EMULATE_FATBINS", "no"), ("BERT_CUDA_KERNELS", "all")];
        let said = said(&variables);
        let expected = "The driver is too old for CUDA 13, or this program was built without nvcc";
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    #[ignore = "needs the emulated driver"]
    fn a_pass_copies_nothing_to_the_host() {
        let said = said(&[("EMULATE_DOWNLOADS", "no"), ("BERT_CUDA_KERNELS", "all")]);
        assert!(said.contains("said: Ok"), "{said}");
    }
}
