//! Rows of tables, alone and added up.

use candle_core::{Result, Tensor};

use crate::backend::kernels;
use crate::ids::Ids;
use crate::layer_norm::layer_norm;
use crate::precision::{add_repeated, widen};
use crate::weights::{EmbeddingWeights, LayerNormWeights};

/// The rows of `x` that `rows` names, and zeros for [`Ids::ABSENT`].
///
/// `x`: `[R, H]`; `rows`: `[B, S]` → `[B, S, H]`.
///
/// # Errors
/// When `x` has fewer rows than [`Ids::bound`], or is not `[R, H]`.
pub fn gather_rows(x: &Tensor, rows: &Ids) -> Result<Tensor> {
    let ((r, h), (b, s)) = (x.dims2()?, rows.dims());
    if rows.bound() > r {
        candle_core::bail!("gather_rows: ids up to {}, but x has {r} rows", rows.bound());
    }
    if let Some(y) = kernels(x).gather_rows(x, rows)? {
        return Ok(y);
    }
    // Candle takes the largest number of a dtype for a row of zeros.
    x.contiguous()?.index_select(&rows.tensor(x.device())?.flatten_all()?, 0)?.reshape((b, s, h))
}

/// The embeddings of `ids`. PyTorch: `nn.Embedding`.
///
/// `ids`: `[B, S]` → `[B, S, H]`. The row of [`EmbeddingWeights::padding`] gets no gradient.
///
/// # Errors
/// As [`gather_rows`].
pub fn embedding(weights: &EmbeddingWeights, ids: &Ids) -> Result<Tensor> {
    let table = &weights.weight;
    let rows = match table.track_op() {
        // The gradient is a sum over all tokens with an id, which would stop growing in 16 bits.
        true => gather_rows(&widen(table)?, ids)?.to_dtype(table.dtype())?,
        false => gather_rows(table, ids)?,
    };
    let Some(id) = weights.padding.filter(|_| rows.track_op()) else { return Ok(rows) };
    let is_padding = ids.tensor(rows.device())?.eq(id)?.unsqueeze(2)?;
    is_padding.broadcast_as(rows.shape())?.where_cond(&rows.detach(), &rows)
}

/// Ids and the table that they belong to.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// `[V, H]`.
    pub table: &'a EmbeddingWeights,
    /// `[B or 1, S]`.
    pub ids: &'a Ids,
}

/// `LayerNorm(x + Σ embedding)`: the sum of Devlin et al. 2018, Figure 2, and the LayerNorm after it.
///
/// `x`: `[B, S, H]`. Without it, the first lookup's ids are `[B, S]` → `[B, S, H]`.
///
/// # Errors
/// As [`embedding`] and [`layer_norm`], and when there is nothing to add up.
pub fn embeddings_layer_norm(
    x: Option<&Tensor>,
    lookups: &[Lookup],
    norm: &LayerNormWeights,
) -> Result<Tensor> {
    x.map(Tensor::dims3).transpose()?;
    let tables = lookups.iter().map(|it| (&it.table.weight, Some(it.ids)));
    let terms: Vec<_> = x.map(|x| (x, None)).into_iter().chain(tables).collect();
    if let Some(y) = kernels(&norm.gamma).sum_layer_norm(&terms, norm)? {
        return Ok(y);
    }
    let rows = lookups.iter().map(|it| embedding(it.table, it.ids));
    let terms = x.cloned().map(Ok).into_iter().chain(rows);
    match terms.reduce(|sum, rows| add_repeated(&sum?, &rows?)) {
        Some(sum) => layer_norm(&sum?, norm),
        None => candle_core::bail!("embeddings: there is nothing to add up"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::testing::{assert_close, strided, wave};

    #[test]
    fn gradients_of_tables_in_half_precision_are_added_up_in_single_precision() -> Result<()> {
        const ROWS: usize = 4096;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let positions = Var::zeros((1, 1, 2), dtype, &Device::Cpu)?;
            let words = Tensor::zeros((ROWS, 1, 2), dtype, &Device::Cpu)?;
            let sum = add_repeated(&words, &positions)?;
            let gradients = (sum / ROWS as f64)?.sum_all()?.backward()?;
            let got = gradients.get(&positions).unwrap().to_dtype(DType::F32)?;
            assert_eq!(got.flatten_all()?.to_vec1::<f32>()?, [1., 1.], "{dtype:?}");
            // And those of one row that all tokens have.
            let table = Var::zeros((3, 2), dtype, &Device::Cpu)?;
            let weights = EmbeddingWeights { weight: table.as_tensor().clone(), padding: None };
            let rows = embedding(&weights, &Ids::new(vec![1; ROWS], (1, ROWS), 3)?)?;
            assert_eq!(rows.dtype(), dtype);
            let gradients = (rows / ROWS as f64)?.sum_all()?.backward()?;
            let got = gradients.get(&table).unwrap().to_dtype(DType::F32)?.to_vec2::<f32>()?;
            assert_eq!(got, [[0., 0.], [1., 1.], [0., 0.]], "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn sums_of_rows_are_normalized_with_and_without_a_kernel() -> Result<()> {
        let rows_of_5 = |rows, seed, dtype| wave(&[rows, 5], seed)?.to_dtype(dtype);
        let ids = Ids::new(vec![3, 0, 1, 3, 2, 2], (3, 2), 4)?;
        let position_ids = Ids::new(vec![0, 1], (1, 2), 2)?;
        let mut results = Vec::new();
        for dtype in [DType::F32, DType::F64] {
            let table = |rows, factor| {
                Ok::<_, candle_core::Error>(EmbeddingWeights {
                    weight: rows_of_5(rows, factor, dtype)?,
                    padding: None,
                })
            };
            let (words, positions) = (table(4, 1.7)?, table(2, 0.9)?);
            let norm = LayerNormWeights {
                gamma: rows_of_5(1, 0.2, dtype)?.flatten_all()?,
                beta: rows_of_5(1, 0.4, dtype)?.flatten_all()?,
                eps: 1e-12,
            };
            let [words, positions] = [(&words, &ids), (&positions, &position_ids)]
                .map(|(table, ids)| Lookup { table, ids });
            let from_ids = embeddings_layer_norm(None, &[words, positions], &norm)?;
            let vectors = embedding(words.table, &ids)?;
            let from_vectors = embeddings_layer_norm(Some(&vectors), &[positions], &norm)?;
            let added = embedding(positions.table, &position_ids)?;
            let alone = layer_norm(&vectors.broadcast_add(&added)?, &norm)?;
            for y in [&from_ids, &from_vectors, &alone] {
                results.push(y.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
            }
            let beyond = Ids::new(vec![4, 0], (1, 2), 5)?;
            let beyond = Lookup { table: words.table, ids: &beyond };
            assert!(embeddings_layer_norm(None, &[beyond, positions], &norm).is_err());
        }
        for result in &results {
            for (got, expected) in result.iter().zip(&results[3]) {
                assert!((got - expected).abs() < 1e-5, "{got}, expected {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn strided_vectors_and_tables_are_read_in_order() -> Result<()> {
        let x = strided(&[2, 3, 5], 1.)?;
        let table = strided(&[4, 5], 2.)?;
        let ids = Ids::new(vec![3, 1, 2, 0, 3, 2], (2, 3), 4)?;
        let rows = [3, 1, 2, 0, 3, 2].map(|id| table.narrow(0, id, 1));
        let rows = Tensor::cat(&rows.into_iter().collect::<Result<Vec<_>>>()?, 0)?;
        let sum = (x.contiguous()? + rows.reshape((2, 3, 5))?)?.to_dtype(DType::F64)?;
        let norm = |dtype| {
            let gamma = Tensor::ones(5, dtype, &Device::Cpu)?;
            Ok::<_, candle_core::Error>(LayerNormWeights {
                beta: gamma.zeros_like()?,
                gamma,
                eps: 1e-12,
            })
        };
        let expected = layer_norm(&sum, &norm(DType::F64)?)?;
        // Only the second has the kernel.
        for weight in [table.clone(), table.contiguous()?] {
            let table = EmbeddingWeights { weight, padding: None };
            let lookups = [Lookup { table: &table, ids: &ids }];
            let got = embeddings_layer_norm(Some(&x), &lookups, &norm(DType::F32)?)?;
            assert_close(&got, &expected, 1e-5)?;
        }
        Ok(())
    }

    #[test]
    fn ids_select_rows_in_order() -> Result<()> {
        let weight = Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((4, 2))?;
        let ids = Ids::new(vec![3, 0, 1, 3], (2, 2), 4)?;
        let rows = embedding(&EmbeddingWeights { weight: weight.clone(), padding: None }, &ids)?;
        assert_eq!(rows.to_vec3::<f32>()?, [[[6., 7.], [0., 1.]], [[2., 3.], [6., 7.]]]);
        let some = Ids::new(vec![2, Ids::ABSENT], (1, 2), 3)?;
        assert_eq!(gather_rows(&weight, &some)?.to_vec3::<f32>()?, [[[4., 5.], [0., 0.]]]);
        let beyond = Ids::new(vec![2], (1, 1), 5)?;
        assert!(gather_rows(&weight, &beyond).is_err());
        Ok(())
    }

    #[test]
    fn the_padding_row_is_read_but_gets_no_gradient() -> Result<()> {
        let table = Var::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
        let weights = EmbeddingWeights { weight: table.as_tensor().clone(), padding: Some(1) };
        let ids = Ids::new(vec![2, 1, 2], (1, 3), 3)?;
        let rows = embedding(&weights, &ids)?;
        assert_eq!(rows.to_vec3::<f32>()?, [[[5., 6.], [3., 4.], [5., 6.]]]);
        let gradients = rows.sum_all()?.backward()?;
        let gradient = gradients.get(&table).unwrap().to_vec2::<f32>()?;
        assert_eq!(gradient, [[0., 0.], [0., 0.], [2., 2.]]);
        Ok(())
    }
}
