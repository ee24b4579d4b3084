//! The bits of the fast path: F32 on the CPU, frozen, without padding.

use bert::*;

use crate::support::*;

/// FNV-1a over the bits of every element.
fn hash(sum: u64, tensor: &Tensor) -> u64 {
    let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    let bytes = values.iter().flat_map(|x| x.to_bits().to_le_bytes());
    bytes.fold(sum, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Runs padded, packed and pooled passes of several sizes, and a head.
fn checksum() -> u64 {
    let config = BertConfig::from_json(
        r#"{"vocab_size": 97, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 200, "max_position_embeddings": 160, "initializer_range": 0.2}"#,
    )
    .unwrap();
    let options = LoadOptions::new();
    let model = BertModel::from_config(&config, 5, &options).unwrap();
    let words = BertForMaskedLM::from_config(&config, 6, &options).unwrap();
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for lengths in [vec![8], vec![128], vec![160; 3], vec![17, 160, 1, 64, 3, 99]] {
        let longest = lengths.iter().copied().max().unwrap();
        let id = |row: usize, i: usize| ((31 * row + 7 * i) % 96) as u32 + 1;
        let rows = || lengths.iter().copied().enumerate();
        let padded = |value: &dyn Fn(usize, usize) -> u32| {
            let values = rows().flat_map(|(row, length)| {
                (0..longest).map(move |i| if i < length { value(row, i) } else { 0 })
            });
            Tensor::from_vec(values.collect(), (lengths.len(), longest), &Device::Cpu).unwrap()
        };
        let input = BertInput::from_ids(padded(&id)).with_attention_mask(padded(&|_, _| 1));
        let output = model.forward(&input).unwrap();
        sum = hash(sum, &output.last_hidden_state);
        sum = hash(sum, &output.pooler_output.unwrap());
        sum = hash(sum, &model.pooled(&input).unwrap());
        sum = hash(sum, &words.forward(&input).unwrap().logits);
        let ids: Vec<u32> =
            rows().flat_map(|(row, length)| (0..length).map(move |i| id(row, i))).collect();
        let mut ends = vec![0];
        ends.extend(lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let packed = PackedInput::new(Tensor::new(ids, &Device::Cpu).unwrap(), ends);
        sum = hash(sum, &model.forward_packed(&packed).unwrap().last_hidden_state);
    }
    sum
}

/// Prints a number that two builds can be compared by, on one machine: instruction sets round
/// differently.
#[test]
fn the_fast_path_gives_the_same_bits_every_time_and_on_every_thread() {
    let first = checksum();
    println!("checksum of the fast path: {first:016x}");
    let other = std::thread::spawn(checksum).join().unwrap();
    assert_eq!((first, checksum()), (other, first));
    assert_ne!(hash(first, &ids(&[&[1]]).to_dtype(DType::F32).unwrap()), first);
}
