//! What can go wrong between a config, a checkpoint and an input.

use candle_core::{DType, Device, DeviceLocation, Tensor};

/// What bert-core's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that says what was given, what was expected and, where possible, how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `config.json` is not a JSON object.
    #[error("config.json cannot be read as a BERT config: {0}")]
    ConfigSyntax(#[from] serde_json::Error),

    /// A field of the config has a value of the wrong kind.
    #[error("config field {field} is {got}: {source}")]
    ConfigField {
        /// The field's name in `config.json`.
        field: String,
        /// Its value.
        got: String,
        /// The kind of value that it must have.
        source: serde_json::Error,
    },

    /// `config.json` belongs to a model of another family.
    #[error(
        "config.json describes a model of type {model_type:?}, expected \"bert\"; \
         only BERT checkpoints can be loaded"
    )]
    NotBert {
        /// The config's `model_type`.
        model_type: String,
    },

    /// A field of the config has a value that no BERT can have.
    #[error("config field {field} is {got}, expected {expected}")]
    Config {
        /// The field's name in `config.json`.
        field: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        expected: String,
    },

    /// Neither `input_ids` nor `inputs_embeds` was given.
    #[error("neither input_ids nor inputs_embeds is given, expected exactly one of them")]
    NoInput,

    /// Both `input_ids` and `inputs_embeds` were given.
    #[error("both input_ids and inputs_embeds are given, expected exactly one of them")]
    TwoInputs,

    /// The batch has no rows, or its rows have no tokens.
    #[error("{name} has shape {got:?}, expected at least one sequence of at least one token")]
    EmptyInput {
        /// The input's name.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
    },

    /// A tensor has a shape that does not fit the others.
    #[error("{name} has shape {got:?}, expected {expected}")]
    Shape {
        /// The tensor's name.
        name: &'static str,
        /// Its shape.
        got: Vec<usize>,
        /// The shape, or shapes, it may have.
        expected: String,
    },

    /// A tensor has a dtype that cannot be used.
    #[error("{name} has dtype {got:?}, expected {expected}; convert it with Tensor::to_dtype")]
    DType {
        /// The tensor's name.
        name: &'static str,
        /// Its dtype.
        got: DType,
        /// The dtype, or dtypes, it may have.
        expected: String,
    },

    /// A tensor is not where the model is.
    #[error(
        "{name} is on {got:?}, but the model is on {expected:?}; move it with Tensor::to_device"
    )]
    Device {
        /// The tensor's name.
        name: &'static str,
        /// Where it is.
        got: DeviceLocation,
        /// Where the model is.
        expected: DeviceLocation,
    },

    /// An id has no row in the table it indexes.
    #[error("{name} holds {got} at {at:?}, but {field} is {size}; expected 0 to {}", size - 1)]
    IdOutOfRange {
        /// The tensor's name.
        name: &'static str,
        /// The id.
        got: i64,
        /// Its row and column.
        at: (usize, usize),
        /// How many rows the table has.
        size: usize,
        /// The config field that says so.
        field: &'static str,
    },

    /// The lengths of packed sequences do not fit their tokens.
    #[error(
        "cumulative_lengths is {got:?}, expected numbers that rise from 0 to {tokens}, the tokens of \
         input_ids"
    )]
    CumulativeLengths {
        /// What was given.
        got: Vec<usize>,
        /// `T`.
        tokens: usize,
    },

    /// Packed sequences cannot continue after cached tokens.
    #[error("packed sequences cannot continue a cache of {past} tokens; pad them for forward_with")]
    PackedCache {
        /// Tokens in the cache.
        past: usize,
    },

    /// Choices are told apart by their rows.
    #[error("multiple choice reads [B, C, S]; packed sequences do not say which belong together")]
    PackedChoices,

    /// A sequence is longer than the position table.
    #[error(
        "input has {got} tokens per row{past}, but the checkpoint has {positions} positions \
         (max_position_embeddings); truncate first", past = past_tokens(*past)
    )]
    TooLong {
        /// `S`.
        got: usize,
        /// Tokens already in the key/value cache.
        past: usize,
        /// `P`.
        positions: usize,
    },

    /// A mask holds something that is neither 0 nor 1, or NaN.
    #[error("{name} of shape {shape:?} holds {got}, expected {expected}")]
    MaskValue {
        /// The mask's name.
        name: &'static str,
        /// The mask's shape.
        shape: Vec<usize>,
        /// The value.
        got: f64,
        /// The values it may hold.
        expected: &'static str,
    },

    /// A mask of a floating dtype is a variable, or was computed from one. Attention masks have no gradients.
    #[error("{name} needs a gradient, which masks do not get; pass {name}.detach()")]
    MaskGradient {
        /// The mask's name.
        name: &'static str,
    },

    /// A layer that the model does not have was asked for.
    #[error("layer {got} of {name} asked for, expected {} to {}", -(*count as i64), *count as i64 - 1)]
    NoSuchLayer {
        /// `hidden_states`, `attentions` or `cross_attentions`.
        name: &'static str,
        /// The index.
        got: i64,
        /// How many entries there are.
        count: usize,
    },

    /// The config's feed-forward chunks do not fit the sequence.
    #[error(
        "{got} tokens cannot be split into chunks of {chunk} (chunk_size_feed_forward); \
         pad to a multiple, or set it to 0"
    )]
    ChunkSize {
        /// `S`.
        got: usize,
        /// The config's chunk size.
        chunk: usize,
    },

    /// States of another encoder were given to a model that does not attend to them.
    #[error(
        "encoder_hidden_states are given, but the model has no cross-attention; its config needs \
         is_decoder and add_cross_attention"
    )]
    NoCrossAttention,

    /// A mask over the states of another encoder was given without the states.
    #[error("encoder_attention_mask is given without encoder_hidden_states")]
    NoEncoderStates,

    /// Scores were asked for at a position that the input does not have.
    #[error(
        "scores asked for at row {}, token {}, but the input has {rows} rows of {tokens} tokens",
        got.0, got.1
    )]
    NoSuchPosition {
        /// Row and token.
        got: (usize, usize),
        /// `B`.
        rows: usize,
        /// `S`.
        tokens: usize,
    },

    /// Text can be generated by decoders only.
    #[error(
        "the model sees later tokens, so it cannot continue a text; its config needs is_decoder"
    )]
    NotADecoder,

    /// An input that cannot be continued was given to generation.
    #[error("generate cannot continue {name}; leave {name} out and pass input_ids")]
    NotForGeneration {
        /// The input's name.
        name: &'static str,
    },

    /// Settings, padding or scores from which no next token can be had.
    #[error("{what} is {got}, expected {expected}")]
    Generation {
        /// The setting.
        what: &'static str,
        /// Its value.
        got: f64,
        /// What it may be.
        expected: &'static str,
    },

    /// Heads cannot be pruned.
    #[error("cannot prune heads {heads:?} of layer {layer}: {reason}")]
    Prune {
        /// The layer.
        layer: usize,
        /// The heads.
        heads: Vec<usize>,
        /// Why not.
        reason: String,
    },

    /// A label is none of the config's classes.
    #[error("no class is called {got:?}, expected one of id2label: {}", known.join(", "))]
    UnknownLabel {
        /// The label.
        got: String,
        /// The classes.
        known: Vec<String>,
    },

    /// The parameters of a model that trains cannot be replaced.
    #[error(
        "{what} is impossible while {name} is trained, or computed from a variable: the optimizer would keep \
         the old one; call freeze() before it, set_trainable() after it, and make a new optimizer"
    )]
    Trainable {
        /// What was asked for.
        what: &'static str,
        /// A parameter that is trained, or computed from what is.
        name: String,
    },

    /// A parameter was replaced that the model does not have.
    #[error(
        "the model has no parameter {got:?}, but {} others, like {}",
        known.len(), known.first().map_or("", String::as_str)
    )]
    NoSuchParameter {
        /// The name.
        got: String,
        /// The names of the model's parameters.
        known: Vec<String>,
    },

    /// A decoder over the vocabulary was given to a model that has none.
    #[error(
        "this model has no decoder over the vocabulary; only heads for language models have one"
    )]
    NoDecoder,

    /// A label names a class that the head does not have.
    #[error(
        "label {got} at index {at} is out of range, expected 0 to {} or {ignored} for a label that \
         does not count", classes - 1
    )]
    LabelOutOfRange {
        /// The label.
        got: i64,
        /// Its index, counted row by row.
        at: usize,
        /// How many classes there are.
        classes: usize,
        /// The label that is not counted.
        ignored: i64,
    },

    /// No label counts, so the loss would be the mean of nothing.
    #[error("no label counts: all are {ignored} or first in a decoder's row; leave the batch out")]
    NoLabels {
        /// The label that is not counted.
        ignored: i64,
    },

    /// A head that reads the pooled output has a model without a pooler below it.
    #[error("the model has no pooler; load it with BertModel::load")]
    NoPooler,

    /// A key/value cache was given that another model, or another batch, filled.
    #[error(
        "past_key_values {what} {got}, expected {expected}; start a new cache for another model or batch"
    )]
    CacheMismatch {
        /// What differs.
        what: &'static str,
        /// The cache's.
        got: usize,
        /// The model's.
        expected: usize,
    },

    /// A GPU's memory is full.
    #[error(
        "the GPU's memory is full; pass fewer or shorter texts at a time, load the model in F16 or BF16, \
         or end other programs that use the GPU"
    )]
    DeviceMemoryFull,

    /// An operation failed in Candle.
    #[error(transparent)]
    Candle(candle_core::Error),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // What CUDA calls it, which Candle keeps as text.
        let text = error.to_string();
        let names = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];
        match names.iter().any(|name| text.contains(name)) {
            true => Self::DeviceMemoryFull,
            false => Self::Candle(error),
        }
    }
}

impl Error {
    /// A tensor of another shape than `expected`.
    pub(crate) fn shape(name: &'static str, got: &Tensor, expected: impl Into<String>) -> Self {
        Self::Shape { name, got: got.dims().to_vec(), expected: expected.into() }
    }

    /// A field of a config with an impossible value.
    pub(crate) fn config(field: &'static str, got: impl ToString, expected: impl ToString) -> Self {
        Self::Config { field, got: got.to_string(), expected: expected.to_string() }
    }

    /// A tensor of another dtype than `expected`.
    pub(crate) fn dtype(name: &'static str, got: &Tensor, expected: impl Into<String>) -> Self {
        Self::DType { name, got: got.dtype(), expected: expected.into() }
    }

    /// Checks that a tensor is on a device.
    pub(crate) fn check_device(name: &'static str, tensor: &Tensor, device: &Device) -> Result<()> {
        if tensor.device().same_device(device) {
            return Ok(());
        }
        let (got, expected) = (tensor.device().location(), device.location());
        Err(Self::Device { name, got, expected })
    }

    /// Checks the dtype and the device of a tensor.
    pub(crate) fn check_tensor(
        name: &'static str,
        tensor: &Tensor,
        dtype: DType,
        device: &Device,
    ) -> Result<()> {
        if tensor.dtype() != dtype {
            return Err(Self::dtype(name, tensor, format!("{dtype:?}")));
        }
        Self::check_device(name, tensor, device)
    }
}

/// ` after N cached`, or nothing where N is 0.
fn past_tokens(past: usize) -> String {
    if past == 0 { String::new() } else { format!(" after {past} cached") }
}
