//! Multi-head attention.

use std::collections::BTreeSet;

use bert_kernels::{
    AttentionArgs, EmbeddingWeights, Ids, LinearWeights, RelativePositions, WeightForm, attention,
    attention_with_weights, embedding, linear, linear_joined,
};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::{Error, Result};
use crate::init;
use crate::named;
use crate::named::{Named, Replace, Visit, replace_projections, visit_projections};
use crate::pass::cache::KeysAndValues;
use crate::pass::layout::Layout;
use crate::pass::state::AttentionPass;

/// `MultiHead = Concat(head₁ … head_N) Wᴼ`.
///
/// Vaswani et al. 2017, §3.2. Hugging Face: `BertSelfAttention` or `BertCrossAttention`, and the
/// first half of `BertSelfOutput`.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    projections: Projections,
    output: LinearWeights,
    /// The original indices of the heads that remain after pruning.
    pub(crate) heads: Vec<u32>,
    head_size: usize,
    distances: Option<Distances>,
    dropout: f64,
}

/// Query, key and value projections, which share their input.
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
    /// pruned, and `self.distance_embedding` for relative `positions`.
    pub(crate) fn load(
        vb: VarBuilder,
        positions: PositionEmbeddingType,
        pruned: &[usize],
        config: &BertConfig,
    ) -> Result<Self> {
        let (h, n) = (config.hidden_size, config.num_attention_heads);
        let head_size = h / n;
        let pruned: BTreeSet<usize> = pruned.iter().copied().collect();
        let heads: Vec<u32> =
            (0..n).filter(|head| !pruned.contains(head)).map(|head| head as u32).collect();
        let width = heads.len() * head_size;
        let project = |name| init::linear(vb.pp(name), (h, width), config);
        let distances = match positions {
            PositionEmbeddingType::Absolute => None,
            relative => {
                let shape = (2 * config.max_position_embeddings - 1, head_size);
                let table = init::embedding(vb.pp("self.distance_embedding"), shape, config)?;
                let with_keys = relative == PositionEmbeddingType::RelativeKeyQuery;
                Some(Distances { table, with_keys })
            }
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

    /// Self-attention of `x`: `[B, S, H]` → `[B, S, H]`.
    pub(crate) fn self_attention(
        &self,
        x: &Tensor,
        layout: &Layout,
        pass: &mut AttentionPass,
    ) -> Result<Tensor> {
        let [q, keys, values] = self.projections.of(x, 0)?;
        let all = pass.extend_cache([keys, values])?; // [B, K, H] each
        self.attend(&q, &all, layout, pass)
    }

    /// Attention of `x` to the states of another encoder, or of first tokens to all of them: `x`,
    /// `[B, Q, H]`; `tokens`, `[B, K, H]` → `[B, Q, H]`. The layout is that of `x`. Keys and values are
    /// computed unless the cache has them, which it never has for first tokens.
    pub(crate) fn attention_to(
        &self,
        x: &Tensor,
        tokens: &Tensor,
        layout: &Layout,
        pass: &mut AttentionPass,
    ) -> Result<Tensor> {
        let keys_and_values = pass.cached_or(|| self.projections.of(tokens, 1))?;
        let [q] = self.projections.of(x, 0)?;
        self.attend(&q, &keys_and_values, layout, pass)
    }

    fn attend(
        &self,
        q: &Tensor,
        [k, v]: &KeysAndValues,
        layout: &Layout,
        pass: &mut AttentionPass,
    ) -> Result<Tensor> {
        let (queries, keys) = (q.dim(1)?, k.dim(1)?);
        let distances = match &self.distances {
            Some(distances) => Some((distances.between(queries, keys)?, distances.with_keys)),
            None => None,
        };
        let (bias, sequences) = match layout {
            Layout::Padded(bias) => (self.remaining(bias.as_ref())?, None),
            Layout::Packed(sequences) => (None, Some(&**sequences)),
        };
        let factor = self.weights_factor(q, keys, pass)?;
        let args = AttentionArgs {
            heads: self.heads.len(),
            scale: (self.head_size as f64).powf(-0.5),
            mask: bias.as_ref(),
            weights_factor: factor.as_ref(),
            relative: distances.as_ref().map(|(embeddings, with_keys)| RelativePositions {
                embeddings,
                with_keys: *with_keys,
            }),
            sequences,
        };
        let attended = match &mut pass.weights {
            Some(slot) => {
                let (attended, weights) = attention_with_weights(q, k, v, args)?;
                **slot = Some(weights);
                attended
            }
            None => attention(q, k, v, args)?,
        };
        Ok(linear(&attended, &self.output)?)
    }

    /// Of what is added to the scores, the part of the remaining heads.
    fn remaining(&self, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
        Ok(match bias {
            // A mask by head is for all heads, including pruned ones.
            Some(bias) if bias.dim(1)? > self.heads.len() && bias.dim(1)? > 1 => {
                let heads = Tensor::new(&*self.heads, bias.device())?;
                Some(bias.contiguous()?.index_select(&heads, 1)?)
            }
            bias => bias.cloned(),
        })
    }

    /// Dropout and the head mask, by which the weights are multiplied: broadcastable to
    /// `[B, N, Q, K]`.
    fn weights_factor(
        &self,
        q: &Tensor,
        keys: usize,
        pass: &AttentionPass,
    ) -> Result<Option<Tensor>> {
        let (b, queries, _) = q.dims3()?;
        let shape = (b, self.heads.len(), queries, keys);
        let dropped = pass.dropout.factor(shape, self.dropout, q.dtype(), q.device())?;
        let heads = pass.head_factors(&self.heads)?.map(|it| it.to_dtype(q.dtype())).transpose()?;
        Ok(match (dropped, heads) {
            (Some(dropped), Some(heads)) => Some(dropped.broadcast_mul(&heads)?),
            (dropped, heads) => dropped.or(heads),
        })
    }

    /// Removes every head that is not in `kept`.
    pub(crate) fn keep_heads(&mut self, kept: &[u32]) -> Result<()> {
        let d = self.head_size as u32;
        let columns: Vec<u32> = (self.heads.iter().enumerate())
            .filter(|(_, head)| kept.contains(head))
            .flat_map(|(index, _)| index as u32 * d..(index as u32 + 1) * d)
            .collect();
        let form = self.projections.0.form();
        for tensor in self.projections.0.unpack_mut()?.as_flattened_mut() {
            *tensor = tensor.index_select(&Tensor::new(&*columns, tensor.device())?, 0)?;
        }
        for [weight, _] in self.output.unpack_mut()? {
            *weight = weight.index_select(&Tensor::new(&*columns, weight.device())?, 1)?;
        }
        self.projections.0.convert(form)?;
        self.output.convert(form)?;
        self.heads.retain(|head| kept.contains(head));
        Ok(())
    }
}

impl Projections {
    const NAMES: [&str; 3] = ["self.query", "self.key", "self.value"];

    /// `N` of the projections, from `first` on: `[B, S, H]` → `[B, S, H]` each.
    fn of<const N: usize>(&self, x: &Tensor, first: usize) -> Result<[Tensor; N]> {
        let outputs = linear_joined(x, &self.0, first..first + N)?;
        outputs.try_into().map_err(|_| candle_core::Error::Msg("one output each".into()).into())
    }
}

impl Distances {
    /// The embedding of the distance of each of the last `queries` positions from each of `keys`
    /// positions: `[Q, K, D]`.
    fn between(&self, queries: usize, keys: usize) -> Result<Tensor> {
        let count = self.table.weight.dim(0)?;
        let positions = count.div_ceil(2);
        if keys > positions {
            return Err(Error::TooLong { got: queries, past: keys - queries, positions });
        }
        let past = keys - queries;
        let rows = (0..queries)
            .flat_map(|q| (0..keys).map(move |k| (past + q + positions - 1 - k) as u32))
            .collect();
        Ok(embedding(&self.table, &Ids::new(rows, (queries, keys), count)?)?)
    }
}

named!(Attention {
    "" => projections,
    "self.distance_embedding" => distances,
    "output.dense" => output,
});

named!(Distances { "" => table });

impl Named for Projections {
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()> {
        visit_projections(&self.0, &Self::NAMES, at, visit)
    }

    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()> {
        replace_projections(&mut self.0, &Self::NAMES, at, replace)
    }

    fn convert(&mut self, form: WeightForm) -> Result<()> {
        Ok(self.0.convert(form)?)
    }
}
