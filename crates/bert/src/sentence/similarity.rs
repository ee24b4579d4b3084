//! How similar vectors are, and the most similar ones.

use serde::Serialize;

use crate::error::Result;
use crate::scores::largest;
use crate::task_error::TaskError;

/// A measure of how similar two vectors are: the larger the number, the more similar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SimilarityFunction {
    /// The cosine of the angle between them; 0 for a vector of zeros.
    Cosine,
    /// The dot product.
    Dot,
    /// The negative Euclidean distance.
    Euclidean,
    /// The negative Manhattan distance.
    Manhattan,
}

/// A similar vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Hit {
    /// Its index.
    pub corpus_id: usize,
    /// How similar it is.
    pub score: f32,
}

impl SimilarityFunction {
    /// The function that a checkpoint names, like `cosine`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "cosine" => Some(Self::Cosine),
            "dot" => Some(Self::Dot),
            "euclidean" => Some(Self::Euclidean),
            "manhattan" => Some(Self::Manhattan),
            _ => None,
        }
    }

    /// How similar two vectors are.
    ///
    /// # Errors
    /// [`TaskError::Option`] for vectors of different widths.
    pub fn between(self, a: &[f32], b: &[f32]) -> Result<f32> {
        check_widths(a, b)?;
        Ok(match self {
            Self::Dot => sum(a, b, |x, y| x * y),
            Self::Cosine => cosine((a, length(a)), (b, length(b))),
            Self::Euclidean => -sum(a, b, |x, y| (x - y) * (x - y)).sqrt(),
            Self::Manhattan => -sum(a, b, |x, y| (x - y).abs()),
        })
    }

    /// How similar each of `a` is to each of `b`.
    ///
    /// # Errors
    /// As [`SimilarityFunction::between`].
    pub fn matrix<V: AsRef<[f32]>, W: AsRef<[f32]>>(
        self,
        a: &[V],
        b: &[W],
    ) -> Result<Vec<Vec<f32>>> {
        self.rows(a, b).collect()
    }

    /// How similar each of `a` is to all of `b`, when it is asked for.
    fn rows<V: AsRef<[f32]>, W: AsRef<[f32]>>(
        self,
        a: &[V],
        b: &[W],
    ) -> impl Iterator<Item = Result<Vec<f32>>> {
        let is_cosine = self == Self::Cosine;
        let lengths = is_cosine.then(|| b.iter().map(|b| length(b.as_ref())).collect::<Vec<_>>());
        a.iter().map(move |a| {
            let a = a.as_ref();
            let Some(lengths) = &lengths else {
                return b.iter().map(|b| self.between(a, b.as_ref())).collect();
            };
            let own = length(a);
            let cosine = |(b, length): (&W, &f32)| {
                check_widths(a, b.as_ref())?;
                Ok(cosine((a, own), (b.as_ref(), *length)))
            };
            b.iter().zip(lengths).map(cosine).collect()
        })
    }

    /// How similar each of `a` is to the one of `b` in the same place.
    ///
    /// # Errors
    /// As [`SimilarityFunction::between`]; [`TaskError::Option`] for different numbers of vectors.
    pub fn pairwise<V: AsRef<[f32]>>(self, a: &[V], b: &[V]) -> Result<Vec<f32>> {
        if a.len() != b.len() {
            return Err(
                TaskError::option("number of vectors", b.len(), format!("{}", a.len())).into()
            );
        }
        a.iter().zip(b).map(|(a, b)| self.between(a.as_ref(), b.as_ref())).collect()
    }
}

/// The `top_k` vectors of a corpus that are most similar to each query, the most similar first.
/// sentence-transformers: `util.semantic_search`.
///
/// # Errors
/// [`TaskError::Option`] for vectors of different widths.
pub fn semantic_search<V: AsRef<[f32]>, W: AsRef<[f32]>>(
    queries: &[V],
    corpus: &[W],
    top_k: usize,
    function: SimilarityFunction,
) -> Result<Vec<Vec<Hit>>> {
    let hits = function.rows(queries, corpus).map(|scores| {
        let scores = scores?;
        let best = largest(&scores, top_k).into_iter();
        Ok(best.map(|corpus_id| Hit { corpus_id, score: scores[corpus_id] }).collect())
    });
    hits.collect()
}

/// The sum of `term` over both vectors: in eight parts, so that the compiler can use vector instructions.
fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    const PARTS: usize = 8;
    let mut parts = [0.; PARTS];
    let (a_blocks, b_blocks) = (a.chunks_exact(PARTS), b.chunks_exact(PARTS));
    let (a_rest, b_rest) = (a_blocks.remainder(), b_blocks.remainder());
    for (a, b) in a_blocks.zip(b_blocks) {
        for i in 0..PARTS {
            parts[i] += term(a[i], b[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| term(*a, *b)).sum();
    parts.iter().sum::<f32>() + rest
}

/// The cosine of the angle between two vectors with their lengths, which may be very large or very small.
fn cosine((a, a_length): (&[f32], f32), (b, b_length): (&[f32], f32)) -> f32 {
    match a_length == 0. || b_length == 0. {
        true => 0.,
        false => sum(a, b, |x, y| (x / a_length) * (y / b_length)),
    }
}

fn check_widths(a: &[f32], b: &[f32]) -> Result<()> {
    match a.len() == b.len() {
        true => Ok(()),
        false => {
            Err(TaskError::option("width of a vector", b.len(), format!("{}", a.len())).into())
        }
    }
}

fn length(a: &[f32]) -> f32 {
    sum(a, a, |x, y| x * y).sqrt()
}
