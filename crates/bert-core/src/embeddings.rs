//! The sum of three embeddings.

use bert_kernels::{EmbeddingWeights, LayerNormWeights, Lookup, embeddings_layer_norm};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::Result;
use crate::init;
use crate::pass::input::{BertInput, CheckedInput, Tables, Words};
use crate::pass::options::ForwardContext;
use crate::surgery::named;

/// `LayerNorm(word + token type + position)`, without the position where attention has relative
/// ones.
///
/// Devlin et al. 2018, Figure 2. Hugging Face: `BertEmbeddings`.
#[derive(Clone, Debug)]
pub struct BertEmbeddings {
    config: BertConfig,
    word_embeddings: EmbeddingWeights,
    token_type_embeddings: EmbeddingWeights,
    position_embeddings: EmbeddingWeights,
    norm: LayerNormWeights,
}

impl BertEmbeddings {
    /// Loads `word_embeddings`, `token_type_embeddings`, `position_embeddings` and `LayerNorm`.
    ///
    /// # Errors
    /// As [`BertModel::load`](crate::BertModel::load).
    pub fn load(vb: VarBuilder, config: &BertConfig) -> Result<Self> {
        config.validate()?;
        let h = config.hidden_size;
        let table = |name, rows| init::embedding(vb.pp(name), (rows, h), config);
        let words = table("word_embeddings", config.vocab_size)?;
        Ok(Self {
            word_embeddings: EmbeddingWeights { padding: config.padding_row(), ..words },
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            norm: init::layer_norm(vb.pp("LayerNorm"), config)?,
            config: config.clone(),
        })
    }

    /// `input`: B sequences of S tokens → `[B, S, H]`. The attention mask plays no part.
    ///
    /// # Errors
    /// When the input does not fit the tables; see [`Error`](crate::Error).
    pub fn forward(&self, input: &BertInput) -> Result<Tensor> {
        self.forward_with(input, &mut ForwardContext::new())
    }

    /// [`BertEmbeddings::forward`] in a context.
    ///
    /// # Errors
    /// As [`BertEmbeddings::forward`].
    pub fn forward_with(&self, input: &BertInput, context: &mut ForwardContext) -> Result<Tensor> {
        let input = self.check(input, context.past())?;
        self.embed(&input, context)
    }

    pub(crate) fn check(&self, input: &BertInput, past: usize) -> Result<CheckedInput> {
        let (dtype, device) = (self.word_embeddings().dtype(), self.word_embeddings().device());
        Tables { config: &self.config, dtype, device, past }.check(input)
    }

    pub(crate) fn embed(
        &self,
        input: &CheckedInput,
        context: &mut ForwardContext,
    ) -> Result<Tensor> {
        let mut lookups = Vec::new();
        let embeds = match &input.words {
            Words::Ids(ids) => {
                lookups.push(Lookup { table: &self.word_embeddings, ids });
                None
            }
            Words::Embeds(embeds) => Some(embeds),
        };
        let ids = &input.token_type_ids;
        lookups.push(Lookup { table: &self.token_type_embeddings, ids });
        if self.config.position_embedding_type == PositionEmbeddingType::Absolute {
            lookups.push(Lookup { table: &self.position_embeddings, ids: &input.position_ids });
        }
        let x = embeddings_layer_norm(embeds, &lookups, &self.norm)?; // [B, S, H]
        context.dropout(&x, self.config.hidden_dropout_prob)
    }

    /// `[V, H]`.
    pub(crate) fn word_embeddings(&self) -> &Tensor {
        &self.word_embeddings.weight
    }

    /// Puts another table in the place of the words': `[V, H]`, where V may be another one.
    pub(crate) fn set_word_embeddings(&mut self, table: Tensor, config: &BertConfig) {
        self.word_embeddings.weight = table;
        self.config = config.clone();
    }
}

named!(BertEmbeddings {
    "word_embeddings" => word_embeddings,
    "token_type_embeddings" => token_type_embeddings,
    "position_embeddings" => position_embeddings,
    "LayerNorm" => norm,
});
