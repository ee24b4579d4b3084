//! Each kernel by itself, at the sizes of bert-base. `cargo bench`; items are multiply-adds of products, or
//! numbers of what is normalized.

use bert_kernels::{
    Activation, AttentionArgs, EmbeddingWeights, LayerNormWeights, LinearWeights, Lookup, Sequence,
    add_layer_norm, attention, embeddings_layer_norm, feed_forward, layer_norm, linear_activation,
    linears, together,
};
use candle_core::{Device, Result, Tensor};
use divan::{Bencher, counter::ItemsCount};

const TOKENS: [usize; 5] = [1, 8, 128, 1024, 4096];
const H: usize = 768;
const F: usize = 3072;

fn main() {
    divan::main();
}

fn random(dims: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., dims, &Device::Cpu).expect("some numbers")
}

fn packed(outputs: usize, inputs: usize, maps: usize) -> LinearWeights {
    let map = || LinearWeights::new(random(&[outputs, inputs]), random(&[outputs]));
    let mut weights = LinearWeights::join((0..maps).map(|_| map())).expect("some maps");
    weights.pack().expect("F32 on the CPU");
    weights
}

fn bench(bencher: Bencher, items: usize, work: impl Fn() -> Result<Tensor> + Sync) {
    together(|| bencher.counter(ItemsCount::new(items)).bench_local(work));
}

#[divan::bench(args = TOKENS)]
fn projections(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, H]), packed(H, H, 3));
    bench(bencher, tokens * 3 * H * H, || Ok(linears(&x, &weights, 0..3)?.remove(0)));
}

#[divan::bench(args = TOKENS)]
fn linear_768_to_768(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, H]), packed(H, H, 1));
    bench(bencher, tokens * H * H, || linear_activation(&x, &weights, Activation::Linear));
}

#[divan::bench(args = TOKENS)]
fn linear_768_to_3072(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, H]), packed(F, H, 1));
    bench(bencher, tokens * H * F, || linear_activation(&x, &weights, Activation::Linear));
}

#[divan::bench(args = TOKENS)]
fn linear_gelu_768_to_3072(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, H]), packed(F, H, 1));
    bench(bencher, tokens * H * F, || linear_activation(&x, &weights, Activation::Gelu));
}

#[divan::bench(args = TOKENS)]
fn linear_3072_to_768(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, F]), packed(H, F, 1));
    bench(bencher, tokens * H * F, || linear_activation(&x, &weights, Activation::Linear));
}

#[divan::bench(args = TOKENS)]
fn feed_forward_768_3072(bencher: Bencher, tokens: usize) {
    let (x, first, second) = (random(&[tokens, H]), packed(F, H, 1), packed(H, F, 1));
    let items = 2 * tokens * H * F;
    bench(bencher, items, || feed_forward(&x, &first, Activation::Gelu, &second));
}

fn norm() -> LayerNormWeights {
    LayerNormWeights { gamma: random(&[H]), beta: random(&[H]), eps: 1e-12 }
}

#[divan::bench(args = TOKENS)]
fn norm_alone(bencher: Bencher, tokens: usize) {
    let (x, norm) = (random(&[tokens, H]), norm());
    bench(bencher, tokens * H, || layer_norm(&x, &norm));
}

#[divan::bench(args = TOKENS)]
fn residual_and_layer_norm(bencher: Bencher, tokens: usize) {
    let (x, residual, norm) = (random(&[tokens, H]), random(&[tokens, H]), norm());
    bench(bencher, tokens * H, || add_layer_norm(&x, &residual, &norm));
}

#[divan::bench(args = TOKENS)]
fn embeddings_and_layer_norm(bencher: Bencher, tokens: usize) {
    let table = |rows| EmbeddingWeights { weight: random(&[rows, H]), padding: None };
    let (words, positions, norm) = (table(30_522), table(tokens), norm());
    let row = |ids: Vec<u32>| Tensor::from_vec(ids, (1, tokens), &Device::Cpu).expect("a row");
    // Words from all over the table.
    let ids = row((0..tokens as u32).map(|i| i * 7919 % 30_522).collect());
    let places = row((0..tokens as u32).collect());
    let lookups = [(&words, &ids), (&positions, &places)];
    let lookups = lookups.map(|(table, ids)| Lookup { table, ids });
    bench(bencher, tokens * H, || embeddings_layer_norm(None, &lookups, &norm));
}

#[divan::bench(args = [(1, 8), (1, 128), (8, 128), (1, 512), (8, 512)])]
fn attention_of_12_heads(bencher: Bencher, (batch, tokens): (usize, usize)) {
    let [q, k, v] = std::array::from_fn(|_| random(&[batch, tokens, H]));
    let items = 2 * batch * tokens * tokens * H;
    bench(bencher, items, || attention(&q, &k, &v, args(None, None)));
}

#[divan::bench(args = [(1, 128), (8, 128), (8, 512)])]
fn attention_under_a_causal_mask(bencher: Bencher, (batch, tokens): (usize, usize)) {
    let [q, k, v] = std::array::from_fn(|_| random(&[batch, tokens, H]));
    let mask = (0..tokens * tokens).map(|i| if i % tokens > i / tokens { f32::MIN } else { 0. });
    let mask = Tensor::from_vec(mask.collect::<Vec<_>>(), (1, 1, tokens, tokens), &Device::Cpu);
    let mask = mask.expect("a square");
    let items = 2 * batch * tokens * tokens * H;
    bench(bencher, items, || attention(&q, &k, &v, args(Some(&mask), None)));
}

#[divan::bench]
fn attention_of_packed_sequences(bencher: Bencher) {
    let lengths: Vec<usize> = (0..64).map(|i| 20 + i * i * 236 / 3969).collect();
    let mut start = 0;
    let mut sequences = Vec::new();
    for length in &lengths {
        let rows = start..start + length;
        start = rows.end;
        sequences.push(Sequence { queries: rows.clone(), keys: rows });
    }
    let [q, k, v] = std::array::from_fn(|_| random(&[1, start, H]));
    let items = lengths.iter().map(|length| 2 * length * length * H).sum();
    bench(bencher, items, || attention(&q, &k, &v, args(None, Some(&sequences))));
}

fn args<'a>(mask: Option<&'a Tensor>, sequences: Option<&'a [Sequence]>) -> AttentionArgs<'a> {
    AttentionArgs { heads: 12, scale: 0.125, mask, weights_factor: None, relative: None, sequences }
}
