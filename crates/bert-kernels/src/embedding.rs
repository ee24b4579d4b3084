//! Rows of embedding tables, alone and added up.

use candle_core::{DType, Device, Result, Tensor};

use crate::cpu::layer_norm::{LayerNorm, Term};
use crate::cpu::rows::Output;
use crate::cpu::simd::arch;
use crate::cpu::slices::floats_of;
use crate::layer_norm::{LayerNormWeights, layer_norm};

/// Parameters of [`embedding`].
#[derive(Clone, Debug)]
pub struct EmbeddingWeights {
    /// One row per id: `[V, H]`.
    pub weight: Tensor,
    /// The id whose row gets no gradient. PyTorch: `nn.Embedding`'s `padding_idx`.
    pub padding: Option<u32>,
}

/// The rows of a table that `ids` name.
///
/// `ids`: `[B, S]`, U32, each below `V`, which the caller has checked → `[B, S, H]`.
///
/// # Errors
/// When the shapes are not these.
pub fn embedding(weights: &EmbeddingWeights, ids: &Tensor) -> Result<Tensor> {
    let (b, s) = ids.dims2()?;
    let (_, h) = weights.weight.dims2()?;
    let table = weights.weight.contiguous()?;
    let rows = table.index_select(&ids.flatten_all()?, 0)?.reshape((b, s, h))?;
    match weights.padding {
        Some(id) if rows.track_op() => {
            let is_padding = ids.eq(id)?.unsqueeze(2)?.broadcast_as((b, s, h))?;
            is_padding.where_cond(&rows.detach(), &rows)
        }
        _ => Ok(rows),
    }
}

/// Ids and the table they are looked up in.
#[derive(Clone, Copy, Debug)]
pub struct Lookup<'a> {
    /// `[V, H]`.
    pub table: &'a EmbeddingWeights,
    /// `[B or 1, S]`, U32, each below `V`.
    pub ids: &'a Tensor,
}

/// `LayerNorm(x + Σ embedding)`: the sum of Devlin et al. 2018, Figure 2, and what follows it.
///
/// `x`: `[B, S, H]`, if there is one; otherwise the first lookup has `B` rows → `[B, S, H]`.
///
/// # Errors
/// As [`embedding`] and [`layer_norm`].
pub fn embeddings_layer_norm(
    x: Option<&Tensor>,
    lookups: &[Lookup],
    norm: &LayerNormWeights,
) -> Result<Tensor> {
    if let Some(y) = fused(x, lookups, norm)? {
        return Ok(y);
    }
    let mut sum = x.cloned();
    for Lookup { table, ids } in lookups {
        let rows = embedding(table, ids)?;
        sum = Some(match sum {
            Some(sum) => sum.broadcast_add(&rows)?,
            None => rows,
        });
    }
    match sum {
        Some(sum) => layer_norm(&sum, norm),
        None => candle_core::bail!("embeddings: nothing to add up"),
    }
}

/// The same without storing the sums, where the CPU has a kernel and no gradient is wanted.
fn fused(
    x: Option<&Tensor>,
    lookups: &[Lookup],
    LayerNormWeights { gamma, beta, eps }: &LayerNormWeights,
) -> Result<Option<Tensor>> {
    let h = gamma.elem_count();
    let (b, s) = match (x, lookups) {
        (Some(x), _) => (x.dims3()?.0, x.dims3()?.1),
        (None, [first, ..]) => first.ids.dims2()?,
        (None, []) => return Ok(None),
    };
    let rows_fit = lookups.iter().all(|Lookup { table, ids }| {
        let (dims, shape) = (ids.dims(), table.weight.dims());
        (dims == [b, s] || dims == [1, s]) && shape.len() == 2 && shape[1] == h
    });
    let fits = beta.dims() == gamma.dims() && x.is_none_or(|x| x.dims() == [b, s, h]);
    let on_cpu = lookups.iter().all(|it| it.ids.device().is_cpu() && it.ids.dtype() == DType::U32);
    if !rows_fit || !fits || !on_cpu || b * s * h == 0 {
        return Ok(None);
    }
    let x = x.map(Tensor::contiguous).transpose()?;
    let ids: Vec<Vec<u32>> =
        lookups.iter().map(|it| it.ids.flatten_all()?.to_vec1()).collect::<Result<_>>()?;
    for (ids, Lookup { table, .. }) in ids.iter().zip(lookups) {
        let v = table.weight.dim(0)?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= v) {
            candle_core::bail!("embeddings: id {id} of a table of {v} rows");
        }
    }
    let floats = x.iter().chain(lookups.iter().map(|it| &it.table.weight)).map(floats_of);
    let (Some(floats), Some(gamma), Some(beta)) =
        (floats.collect::<Option<Vec<_>>>(), floats_of(gamma), floats_of(beta))
    else {
        return Ok(None);
    };
    let rows = x.iter().map(|_| None).chain(ids.iter().map(|ids| Some(ids.as_slice())));
    let terms: Vec<Term> =
        floats.iter().zip(rows).map(|(floats, rows)| Term { data: floats.slice(), rows }).collect();
    let (gamma, beta, eps) = (gamma.slice(), beta.slice(), *eps as f32);
    let mut output = Output::new(b * s, h);
    LayerNorm { terms: &terms, gamma, beta, eps }.run(arch(), b * s, output.rows());
    Ok(Some(Tensor::from_vec(output.into_vec(), (b, s, h), &Device::Cpu)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_close, strided, wave};
    use candle_core::Var;

    #[test]
    fn sums_of_rows_are_normalized_with_and_without_a_kernel() -> Result<()> {
        let rows_of_5 = |rows, seed, dtype| wave(&[rows, 5], seed)?.to_dtype(dtype);
        let ids = Tensor::new(&[[3u32, 0], [1, 3], [2, 2]], &Device::Cpu)?;
        let places = Tensor::new(&[[0u32, 1]], &Device::Cpu)?;
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
            let [words, positions] =
                [(&words, &ids), (&positions, &places)].map(|(table, ids)| Lookup { table, ids });
            let from_ids = embeddings_layer_norm(None, &[words, positions], &norm)?;
            let vectors = embedding(words.table, &ids)?;
            let from_vectors = embeddings_layer_norm(Some(&vectors), &[positions], &norm)?;
            let alone =
                layer_norm(&vectors.broadcast_add(&embedding(positions.table, &places)?)?, &norm)?;
            for y in [&from_ids, &from_vectors, &alone] {
                results.push(y.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?);
            }
            let beyond = Tensor::new(&[[4u32, 0]], &Device::Cpu)?;
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
    fn strided_vectors_tables_and_ids_are_read_in_order() -> Result<()> {
        let x = strided(&[2, 3, 5], 1.)?;
        let table = strided(&[4, 5], 2.)?;
        let ids = Tensor::new(&[[3u32, 0], [1, 3], [2, 2]], &Device::Cpu)?.t()?;
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
        let ids = Tensor::new(&[[3u32, 0], [1, 3]], &Device::Cpu)?;
        let rows = embedding(&EmbeddingWeights { weight, padding: None }, &ids)?;
        assert_eq!(rows.to_vec3::<f32>()?, [[[6., 7.], [0., 1.]], [[2., 3.], [6., 7.]]]);
        Ok(())
    }

    #[test]
    fn the_padding_row_is_read_but_gets_no_gradient() -> Result<()> {
        let table = Var::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
        let weights = EmbeddingWeights { weight: table.as_tensor().clone(), padding: Some(1) };
        let ids = Tensor::new(&[[2u32, 1, 2]], &Device::Cpu)?;
        let rows = embedding(&weights, &ids)?;
        assert_eq!(rows.to_vec3::<f32>()?, [[[5., 6.], [3., 4.], [5., 6.]]]);
        let gradients = rows.sum_all()?.backward()?;
        let gradient = gradients.get(&table).unwrap().to_vec2::<f32>()?;
        assert_eq!(gradient, [[0., 0.], [0., 0.], [2., 2.]]);
        Ok(())
    }
}
