//! Multi-head attention.

use bert_kernels::{
    AttentionArgs, EmbeddingWeights, LinearWeights, RelativePositions, attention,
    attention_with_weights, embedding, linear, linears,
};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::{Error, Result};
use crate::init;
use crate::pass::mask::AttentionMask;
use crate::pass::options::{AttentionKind, ForwardContext};
use crate::surgery::{Change, Named, See, named, visit_maps, visit_maps_mut};

/// The places of [`Projections`].
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// `MultiHead = Concat(head₁ … head_N) Wᴼ`.
///
/// Vaswani et al. 2017, §3.2. Hugging Face: `BertSelfAttention` or `BertCrossAttention`, and the
/// first half of `BertSelfOutput`.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    projections: Projections,
    output: LinearWeights,
    /// The heads that are left after pruning, by their first numbers.
    heads: Vec<u32>,
    head_size: usize,
    distances: Option<Distances>,
    dropout: f64,
}

/// Query, key and value, which have one input.
#[derive(Clone, Debug)]
struct Projections(LinearWeights);

/// Embeddings of distances from −(P − 1) to P − 1: `[2P − 1, D]`.
#[derive(Clone, Debug)]
struct Distances {
    table: EmbeddingWeights,
    with_keys: bool,
}

impl Attention {
    /// Loads `self.query`, `self.key`, `self.value` and `output.dense` for the heads that are not
    /// pruned, and `self.distance_embedding` where self-attention has relative positions.
    pub(crate) fn load(
        vb: VarBuilder,
        kind: AttentionKind,
        pruned: &[usize],
        config: &BertConfig,
    ) -> Result<Self> {
        let (h, n) = (config.hidden_size, config.num_attention_heads);
        let head_size = h / n;
        let heads: Vec<u32> =
            (0..n).filter(|head| !pruned.contains(head)).map(|head| head as u32).collect();
        let width = heads.len() * head_size;
        let project = |name| init::linear(vb.pp(name), (h, width), config);
        let with_keys = match (kind, config.position_embedding_type) {
            (AttentionKind::Cross, _) | (_, PositionEmbeddingType::Absolute) => None,
            (_, PositionEmbeddingType::RelativeKey) => Some(false),
            (_, PositionEmbeddingType::RelativeKeyQuery) => Some(true),
        };
        let distances = match with_keys {
            Some(with_keys) => {
                let shape = (2 * config.max_position_embeddings - 1, head_size);
                let table = init::embedding(vb.pp("self.distance_embedding"), shape, config)?;
                Some(Distances { table, with_keys })
            }
            None => None,
        };
        let projections = [project("self.query")?, project("self.key")?, project("self.value")?];
        Ok(Self {
            projections: Projections(LinearWeights::join(projections)?),
            output: init::linear(vb.pp("output.dense"), (width, h), config)?,
            heads,
            head_size,
            distances,
            dropout: config.attention_probs_dropout_prob,
        })
    }

    /// Self-attention: of `x` to the `tokens` that it belongs to, and to those before them that the
    /// cache holds.
    ///
    /// `x`: `[B, Q, H]`; `tokens`: `[B, S, H]` → `[B, Q, H]`.
    pub(crate) fn to_tokens(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let (q, k, v) = if x.shape() == tokens.shape() {
            let [q, k, v] = self.project(tokens, [QUERY, KEY, VALUE])?;
            (q, k, v)
        } else {
            let ([q], [k, v]) = (self.project(x, [QUERY])?, self.project(tokens, [KEY, VALUE])?);
            (q, k, v)
        };
        let (k, v) = context.extend_cache(k, v)?; // [B, K, H]
        self.attend(&q, &k, &v, mask, AttentionKind::Itself, context)
    }

    /// Attention of `x` to the states of another encoder.
    ///
    /// `x`: `[B, S, H]`; `states`: `[B, K, H]` → `[B, S, H]`.
    pub(crate) fn to_states(
        &self,
        x: &Tensor,
        states: &Tensor,
        mask: &AttentionMask,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let (k, v) = match context.cached_states() {
            Some(cached) => cached,
            None => {
                let [k, v] = self.project(states, [KEY, VALUE])?;
                context.cache_states(k.clone(), v.clone());
                (k, v)
            }
        };
        let [q] = self.project(x, [QUERY])?;
        self.attend(&q, &k, &v, mask, AttentionKind::Cross, context)
    }

    /// Some of queries, keys and values, one after the other: `[B, S, H]` → `[B, S, H]` each.
    fn project<const N: usize>(&self, x: &Tensor, which: [usize; N]) -> Result<[Tensor; N]> {
        let projected = linears(x, &self.projections.0, which[0]..which[N - 1] + 1)?;
        projected.try_into().map_err(|_| candle_core::Error::Msg("one output each".into()).into())
    }

    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        mask: &AttentionMask,
        kind: AttentionKind,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let (queries, keys) = (q.dim(1)?, k.dim(1)?);
        let scores = (q.dim(0)?, self.heads.len(), queries, keys);
        let mut factor = context.dropout_factor(scores, self.dropout, v.dtype(), v.device())?;
        if let Some(heads) = context.head_mask(&self.heads)? {
            let heads = heads.to_dtype(v.dtype())?;
            factor = Some(match factor {
                Some(dropped) => dropped.broadcast_mul(&heads)?,
                None => heads,
            });
        }
        let distances = match &self.distances {
            Some(distances) => Some((distances.between(queries, keys)?, distances.with_keys)),
            None => None,
        };
        let bias = match mask.bias() {
            // A mask by head is for all heads, pruned ones included.
            Some(bias) if bias.dim(1)? > self.heads.len() && bias.dim(1)? > 1 => {
                Some(bias.index_select(&Tensor::new(&*self.heads, bias.device())?, 1)?)
            }
            bias => bias.cloned(),
        };
        let args = AttentionArgs {
            heads: self.heads.len(),
            scale: (self.head_size as f64).powf(-0.5),
            mask: bias.as_ref(),
            weights_factor: factor.as_ref(),
            relative: distances.as_ref().map(|(embeddings, with_keys)| RelativePositions {
                embeddings,
                with_keys: *with_keys,
            }),
            sequences: mask.sequences(),
        };
        let attended = if context.wants_attention(kind) {
            let (attended, weights) = attention_with_weights(q, k, v, args)?;
            context.keep_attention(kind, &weights);
            attended
        } else {
            attention(q, k, v, args)?
        };
        Ok(linear(&attended, &self.output)?)
    }

    /// The heads that are left, by their first numbers.
    pub(crate) fn heads(&self) -> &[u32] {
        &self.heads
    }

    /// Removes every head that is not in `kept`.
    pub(crate) fn keep_heads(&mut self, kept: &[u32]) -> Result<()> {
        let d = self.head_size as u32;
        let columns: Vec<u32> = (self.heads.iter().enumerate())
            .filter(|(_, head)| kept.contains(head))
            .flat_map(|(place, _)| place as u32 * d..(place as u32 + 1) * d)
            .collect();
        let frozen = self.projections.0.tensors(0).is_none();
        for projection in self.projections.0.named()? {
            let columns = Tensor::new(&*columns, projection[0].device())?;
            *projection = [
                projection[0].index_select(&columns, 0)?,
                projection[1].index_select(&columns, 0)?,
            ];
        }
        for [weight, _] in self.output.named()? {
            *weight = weight.index_select(&Tensor::new(&*columns, weight.device())?, 1)?;
        }
        if frozen {
            self.projections.0.pack()?;
            self.output.pack()?;
        }
        self.heads.retain(|head| kept.contains(head));
        Ok(())
    }
}

impl Distances {
    /// The embedding of the distance of each of the last `queries` places from each of `keys`
    /// places: `[Q, K, D]`.
    fn between(&self, queries: usize, keys: usize) -> Result<Tensor> {
        let positions = self.table.weight.dim(0)?.div_ceil(2);
        if keys > positions {
            return Err(Error::TooLong { got: queries, past: keys - queries, positions });
        }
        let past = keys - queries;
        let rows: Vec<u32> = (0..queries)
            .flat_map(|q| (0..keys).map(move |k| (past + q + positions - 1 - k) as u32))
            .collect();
        let rows = Tensor::from_vec(rows, (queries, keys), self.table.weight.device())?;
        Ok(embedding(&self.table, &rows)?)
    }
}

named!(Attention {
    "" => projections,
    "self.distance_embedding" => distances,
    "output.dense" => output,
});

named!(Distances { "" => table });

impl Named for Projections {
    fn visit(&self, at: &str, see: &mut See) -> Result<()> {
        visit_maps(&self.0, &Self::NAMES, at, see)
    }

    fn visit_mut(&mut self, at: &str, change: &mut Change) -> Result<()> {
        visit_maps_mut(&mut self.0, &Self::NAMES, at, change)
    }

    fn pack(&mut self) -> Result<()> {
        Ok(self.0.pack()?)
    }
}

impl Projections {
    const NAMES: [&str; 3] = ["self.query", "self.key", "self.value"];
}
