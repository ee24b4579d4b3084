//! Rows of an embedding table.

use candle_core::{Result, Tensor};

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
    let rows = weights.weight.index_select(&ids.flatten_all()?, 0)?.reshape((b, s, h))?;
    match weights.padding {
        Some(id) if rows.track_op() => {
            let is_padding = ids.eq(id)?.unsqueeze(2)?.broadcast_as((b, s, h))?;
            is_padding.where_cond(&rows.detach(), &rows)
        }
        _ => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

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
