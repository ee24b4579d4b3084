//! Vectors of whole texts, as sentence-transformers makes them and under its names.

mod activation;
mod cross_encoder;
mod features;
mod files;
mod modules;
mod multi_vector_encoder;
mod options;
mod pooling;
mod quantization;
mod sentence_transformer;
mod similarity;
mod sparse_encoder;
mod texts;

pub use cross_encoder::{CrossEncoder, CrossEncoderOptions, Ranked};
pub use multi_vector_encoder::{MultiVectorEncoder, max_sim};
pub use options::SentenceOptions;
pub use pooling::PoolingMode;
pub use quantization::{
    EmbeddingPrecision, QuantizedEmbeddings, quantize_embeddings, value_ranges,
};
pub use sentence_transformer::SentenceTransformer;
pub use similarity::{Hit, SimilarityFunction, semantic_search};
pub use sparse_encoder::{SparseEncoder, SparseVector};
