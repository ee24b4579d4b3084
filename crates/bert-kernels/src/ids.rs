//! Row indices that were checked once.

use std::sync::{Arc, OnceLock};

use candle_core::{Device, Result, Tensor};

/// Indices of a table's rows, `[B, S]`, on the host. A tensor of them is made when an operation on a
/// device needs one, and kept.
#[derive(Clone, Debug)]
pub struct Ids {
    values: Arc<[u32]>,
    dims: (usize, usize),
    bound: usize,
    tensor: OnceLock<Tensor>,
}

impl Ids {
    /// An index that names no row: [`gather_rows`](crate::gather_rows) gives zeros for it.
    pub const ABSENT: u32 = u32::MAX;

    /// `values`: row-major, of shape `dims`, each below `bound` or [`Ids::ABSENT`].
    ///
    /// # Errors
    /// When a value is out of range or their number is not that of `dims`.
    pub fn new(values: Vec<u32>, dims: (usize, usize), bound: usize) -> Result<Self> {
        if dims.0.checked_mul(dims.1) != Some(values.len()) {
            candle_core::bail!("ids: {} values for shape {dims:?}", values.len());
        }
        let is_outside = |id: &&u32| **id != Self::ABSENT && **id as usize >= bound;
        if let Some(id) = values.iter().find(is_outside) {
            candle_core::bail!("ids: {id} is out of range, expected 0 to below {bound}");
        }
        Ok(Self { values: values.into(), dims, bound, tensor: OnceLock::new() })
    }

    /// The indices, row by row.
    pub fn values(&self) -> &[u32] {
        &self.values
    }

    /// `(B, S)`.
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// Every index is below this number.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Whether [`Ids::ABSENT`] is among the indices.
    pub fn has_absent(&self) -> bool {
        self.values.contains(&Self::ABSENT)
    }

    /// The indices as a tensor on `device`: `[B, S]`, U32.
    ///
    /// # Errors
    /// When the device cannot allocate.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        if let Some(tensor) = self.tensor.get().filter(|it| it.device().same_device(device)) {
            return Ok(tensor.clone());
        }
        let tensor = Tensor::from_slice(&self.values, self.dims, device)?;
        // Not kept if there is one: for another device, or the same from a faster thread.
        let _ = self.tensor.set(tensor.clone());
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_or_of_another_shape_are_errors() {
        assert!(Ids::new(vec![0, 2, Ids::ABSENT], (1, 3), 3).is_ok());
        let error = |values, dims, bound| Ids::new(values, dims, bound).unwrap_err().to_string();
        assert!(error(vec![0, 3], (1, 2), 3).contains("3 is out of range"));
        assert!(error(vec![0, 1], (2, 2), 3).contains("2 values"));
        assert!(error(vec![], (usize::MAX, 2), 3).contains("0 values"));
    }
}
