//! Each kernel alone, with the sizes of bert-base. Run `cargo bench`. Items are multiply-adds, or the
//! elements that are normalized.

use bert_kernels::{
    Activation, AttentionArgs, EmbeddingWeights, Ids, LayerNormWeights, LinearWeights, Lookup,
    Sequence, Sequences, WeightForm, add_layer_norm, attention, embeddings_layer_norm,
    feed_forward, layer_norm, linear_activation, linear_joined, with_thread_team,
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

fn packed(outputs: usize, inputs: usize, projections: usize) -> LinearWeights {
    let projection = || LinearWeights::new(random(&[outputs, inputs]), random(&[outputs]));
    let mut weights = LinearWeights::join((0..projections).map(|_| projection())).expect("some");
    weights.convert(WeightForm::Packed).expect("F32 on the CPU");
    weights
}

fn bench(bencher: Bencher, items: usize, work: impl Fn() -> Result<Tensor> + Sync) {
    with_thread_team(|| bencher.counter(ItemsCount::new(items)).bench_local(work));
}

#[divan::bench(args = TOKENS)]
fn projections(bencher: Bencher, tokens: usize) {
    let (x, weights) = (random(&[tokens, H]), packed(H, H, 3));
    bench(bencher, tokens * 3 * H * H, || Ok(linear_joined(&x, &weights, 0..3)?.remove(0)));
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
    let row = |ids: Vec<u32>, bound| Ids::new(ids, (1, tokens), bound).expect("ids in range");
    // Words from all over the table.
    let ids = row((0..tokens as u32).map(|i| i * 7919 % 30_522).collect(), 30_522);
    let position_ids = row((0..tokens as u32).collect(), tokens);
    let lookups = [(&words, &ids), (&positions, &position_ids)];
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
    let sequences = Sequences::new(sequences).expect("all rows");
    let [q, k, v] = std::array::from_fn(|_| random(&[1, start, H]));
    let items = lengths.iter().map(|length| 2 * length * length * H).sum();
    bench(bencher, items, || attention(&q, &k, &v, args(None, Some(&sequences))));
}

fn args<'a>(mask: Option<&'a Tensor>, sequences: Option<&'a Sequences>) -> AttentionArgs<'a> {
    AttentionArgs { heads: 12, scale: 0.125, mask, weights_factor: None, relative: None, sequences }
}
