//! One layer of the encoder.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::add_norm::AddNorm;
use crate::attention::Attention;
use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::Result;
use crate::feed_forward::FeedForward;
use crate::named;
use crate::pass::layout::Layout;
use crate::pass::mask::AttentionMask;
use crate::pass::plan::Rows;
use crate::pass::state::{LayerPass, PassState};

/// One layer: self-attention and feed-forward network, each followed by Add & Norm. Between them,
/// decoders may attend to another encoder's states.
///
/// Post-norm, as in the paper. Vaswani et al. 2017, Figure 1; Devlin et al. 2018, §3.
/// Hugging Face: `BertLayer`.
#[derive(Clone, Debug)]
pub struct BertLayer {
    attention: Attention,
    attention_norm: AddNorm,
    cross_attention: Option<CrossAttention>,
    feed_forward: FeedForward,
    feed_forward_norm: AddNorm,
}

impl BertLayer {
    /// Loads `attention`, `intermediate`, `output` and, if the config has it, `crossattention`. The
    /// config's `pruned_heads` of layer number `layer` are left out.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, layer: usize, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let pruned = config.pruned_heads.get(&layer).map_or(&[][..], Vec::as_slice);
        let positions = config.position_embedding_type;
        let cross_attention = || CrossAttention::load(vb.pp("crossattention"), config);
        Ok(Self {
            attention: Attention::load(vb.pp("attention"), positions, pruned, config)?,
            attention_norm: AddNorm::load(vb.pp("attention.output.LayerNorm"), config)?,
            cross_attention: config.add_cross_attention.then(cross_attention).transpose()?,
            feed_forward: FeedForward::load(vb.clone(), config)?,
            feed_forward_norm: AddNorm::load(vb.pp("output.LayerNorm"), config)?,
        })
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`, in evaluation and without another encoder's states.
    ///
    /// # Errors
    /// When `x` or `mask` does not fit the layer or each other.
    pub fn forward(&self, x: &Tensor, mask: &AttentionMask) -> Result<Tensor> {
        let (b, s, _) = x.dims3()?;
        mask.check_layer([b, s, s], self.heads())?;
        let layout = Layout::Padded(mask.bias(x.device())?);
        self.forward_rows(x, &layout, Rows::All, PassState::default().layer(0)?)
    }

    /// `x`: `[B, S, H]` → `[B, S, H]`, or `[B, 1, H]` for the first tokens only; packed, `[1, T, H]` →
    /// `[1, T, H]` or `[1, B, H]`.
    pub(crate) fn forward_rows(
        &self,
        x: &Tensor,
        layout: &Layout,
        rows: Rows,
        mut pass: LayerPass,
    ) -> Result<Tensor> {
        let attention = &mut pass.self_attention;
        let (x, attended) = match rows {
            Rows::All => (x.clone(), self.attention.self_attention(x, layout, attention)?),
            Rows::First => {
                let (first, layout) = layout.first_tokens(x)?;
                let attended = self.attention.attention_to(&first, x, &layout, attention)?;
                (first, attended)
            }
        };
        let mut x = self.attention_norm.forward(&attended, &x, pass.dropout)?;
        if let (Some(cross), Some((states, mut pass))) =
            (&self.cross_attention, pass.cross_attention)
        {
            let (states, layout) = (&states.states, &states.layout);
            let attended = cross.attention.attention_to(&x, states, layout, &mut pass)?;
            x = cross.norm.forward(&attended, &x, pass.dropout)?;
        }
        let transformed = self.feed_forward.forward(&x)?;
        self.feed_forward_norm.forward(&transformed, &x, pass.dropout)
    }

    /// The original indices of the heads that remain after pruning.
    pub(crate) fn heads(&self) -> &[u32] {
        &self.attention.heads
    }

    /// Removes all heads of self-attention that are not in `kept`.
    pub(crate) fn keep_heads(&mut self, kept: &[u32]) -> Result<()> {
        self.attention.keep_heads(kept)
    }
}

/// Attention to another encoder's states, followed by Add & Norm.
///
/// Vaswani et al. 2017, §3.2.3. Hugging Face: `BertAttention` with `is_cross_attention`.
#[derive(Clone, Debug)]
struct CrossAttention {
    attention: Attention,
    norm: AddNorm,
}

impl CrossAttention {
    fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        let positions = PositionEmbeddingType::Absolute;
        Ok(Self {
            attention: Attention::load(vb.clone(), positions, &[], config)?,
            norm: AddNorm::load(vb.pp("output.LayerNorm"), config)?,
        })
    }
}

named!(BertLayer {
    "attention" => attention,
    "attention.output.LayerNorm" => attention_norm,
    "crossattention" => cross_attention,
    "" => feed_forward,
    "output.LayerNorm" => feed_forward_norm,
});

named!(CrossAttention { "" => attention, "output.LayerNorm" => norm });
