//! The sum of three embeddings.

use bert_kernels::{EmbeddingWeights, LayerNormWeights, Lookup, embeddings_layer_norm};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::Result;
use crate::init;
use crate::named;
use crate::pass::dropout::Dropout;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardOptions;
use crate::pass::tokens::{Tables, Tokens, Words};

/// `LayerNorm(word + token type + position)`, without positions if attention has relative ones.
///
/// Devlin et al. 2018, Figure 2. Hugging Face: `BertEmbeddings`.
#[derive(Clone, Debug)]
pub struct BertEmbeddings {
    word_embeddings: EmbeddingWeights,
    token_type_embeddings: EmbeddingWeights,
    position_embeddings: EmbeddingWeights,
    norm: LayerNormWeights,
    absolute_positions: bool,
    dropout: f64,
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
            absolute_positions: config.position_embedding_type == PositionEmbeddingType::Absolute,
            dropout: config.hidden_dropout_prob,
        })
    }

    /// `input`: B sequences of S tokens → `[B, S, H]`. The attention mask has no effect.
    ///
    /// # Errors
    /// When the input does not fit the tables; see [`Error`](crate::Error).
    pub fn forward(&self, input: &BertInput) -> Result<Tensor> {
        self.forward_with(input, &ForwardOptions::new())
    }

    /// [`BertEmbeddings::forward`] with options. Only dropout and the length of the cache have an
    /// effect.
    ///
    /// # Errors
    /// As [`BertEmbeddings::forward`].
    pub fn forward_with(&self, input: &BertInput, options: &ForwardOptions) -> Result<Tensor> {
        self.embed(&self.tables()?.check(input, options.past())?, &options.dropout)
    }

    /// The tables that an input is checked against.
    pub(crate) fn tables(&self) -> Result<Tables<'_>> {
        let (words, width) = self.word_embeddings().dims2()?;
        Ok(Tables {
            words,
            token_types: self.token_type_embeddings.weight.dim(0)?,
            positions: self.position_embeddings.weight.dim(0)?,
            width,
            dtype: self.word_embeddings().dtype(),
            device: self.word_embeddings().device(),
        })
    }

    pub(crate) fn embed(&self, tokens: &Tokens, dropout: &Dropout) -> Result<Tensor> {
        let mut lookups = Vec::new();
        let embeds = match &tokens.words {
            Words::Ids(ids) => {
                lookups.push(Lookup { table: &self.word_embeddings, ids });
                None
            }
            Words::Embeds(embeds) => Some(embeds),
        };
        let ids = &tokens.token_type_ids;
        lookups.push(Lookup { table: &self.token_type_embeddings, ids });
        if self.absolute_positions {
            lookups.push(Lookup { table: &self.position_embeddings, ids: &tokens.position_ids });
        }
        let x = embeddings_layer_norm(embeds, &lookups, &self.norm)?; // [B, S, H]
        dropout.apply(&x, self.dropout)
    }

    /// `[V, H]`.
    pub(crate) fn word_embeddings(&self) -> &Tensor {
        &self.word_embeddings.weight
    }

    /// Replaces the table of words: `[V, H]`, where V may be another one. `padding` is the row of
    /// padding.
    pub(crate) fn set_word_embeddings(&mut self, weight: Tensor, padding: Option<u32>) {
        self.word_embeddings = EmbeddingWeights { weight, padding };
    }
}

named!(BertEmbeddings {
    "word_embeddings" => word_embeddings,
    "token_type_embeddings" => token_type_embeddings,
    "position_embeddings" => position_embeddings,
    "LayerNorm" => norm,
});
