//! Rows of an embedding table.

use candle_core::{Result, Tensor};

/// The rows of `table` that `ids` name.
///
/// `table`: `[V, H]`; `ids`: `[B, S]`, U32, each below `V`, which the caller has checked
/// → `[B, S, H]`.
///
/// # Errors
/// When the shapes are not these.
pub fn embedding(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (b, s) = ids.dims2()?;
    let (_, h) = table.dims2()?;
    table.index_select(&ids.flatten_all()?, 0)?.reshape((b, s, h))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn ids_select_rows_in_order() -> Result<()> {
        let table = Tensor::arange(0f32, 8., &Device::Cpu)?.reshape((4, 2))?;
        let ids = Tensor::new(&[[3u32, 0], [1, 3]], &Device::Cpu)?;
        let rows = embedding(&table, &ids)?.to_vec3::<f32>()?;
        assert_eq!(rows, [[[6., 7.], [0., 1.]], [[2., 3.], [6., 7.]]]);
        Ok(())
    }
}
