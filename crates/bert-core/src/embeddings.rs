//! The sum of three embeddings.

use bert_kernels::{EmbeddingWeights, Ids, LayerNormWeights, Lookup, embeddings_layer_norm};
use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::config::{BertConfig, PositionEmbeddingType};
use crate::error::{Error, Result};
use crate::init;
use crate::named;
use crate::pass::dropout::Dropout;
use crate::pass::input::BertInput;
use crate::pass::options::ForwardOptions;
use crate::pass::tokens::{Tokens, Words, batch_and_sequence, read_ids};

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
    /// When the input does not fit the tables; see [`Error`].
    pub fn forward(&self, input: &BertInput) -> Result<Tensor> {
        self.forward_with(input, &ForwardOptions::new())
    }

    /// [`BertEmbeddings::forward`] with options. Only dropout and the length of the cache have an
    /// effect.
    ///
    /// # Errors
    /// As [`BertEmbeddings::forward`].
    pub fn forward_with(&self, input: &BertInput, options: &ForwardOptions) -> Result<Tensor> {
        self.embed(&self.check(input, options.past())?, &options.dropout)
    }

    /// Checks everything in `input` except masks and encoder states, and fills in the defaults. `past`
    /// tokens per sequence are cached.
    pub(crate) fn check(&self, input: &BertInput, past: usize) -> Result<Tokens> {
        let (v, h) = self.word_embeddings().dims2()?;
        let (words, dims) = match (&input.input_ids, &input.inputs_embeds) {
            (None, None) => return Err(Error::NoInput),
            (Some(_), Some(_)) => return Err(Error::TwoInputs),
            (Some(ids), None) => {
                let dims = batch_and_sequence("input_ids", ids, &[])?;
                (Words::Ids(read_ids("input_ids", ids, v, "vocab_size")?), dims)
            }
            (None, Some(embeds)) => {
                const NAME: &str = "inputs_embeds";
                let dims = batch_and_sequence(NAME, embeds, &[h])?;
                let words = self.word_embeddings();
                Error::check_tensor(NAME, embeds, words.dtype(), words.device())?;
                (Words::Embeds(embeds.clone()), dims)
            }
        };
        let (b, s) = dims;
        let per_token = |name, ids: &Option<Tensor>, size, field| match ids {
            Some(ids) if ids.dims() == [b, s] || ids.dims() == [1, s] => {
                read_ids(name, ids, size, field).map(Some)
            }
            Some(ids) => Err(Error::shape(name, ids, format!("[{b}, {s}] or [1, {s}]"))),
            None => Ok(None),
        };
        let types = self.token_type_embeddings.weight.dim(0)?;
        let positions = self.position_embeddings.weight.dim(0)?;
        let field = "type_vocab_size";
        let token_type_ids = match per_token("token_type_ids", &input.token_type_ids, types, field)?
        {
            Some(ids) => ids,
            None => Ids::new(vec![0; s], (1, s), types)?,
        };
        let field = "max_position_embeddings";
        let position_ids = match per_token("position_ids", &input.position_ids, positions, field)? {
            Some(ids) => ids,
            None if past + s > positions => return Err(Error::TooLong { got: s, past, positions }),
            None => Ids::new((past as u32..).take(s).collect(), (1, s), positions)?,
        };
        Ok(Tokens { words, token_type_ids, position_ids, dims })
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
