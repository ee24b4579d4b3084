//! Sums of rows.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::backend::kernels;
use crate::precision::widen;

/// The sum of the rows in each range, in F32 for F16 and BF16.
///
/// `x`: `[T, H]`; B ranges → `[B, H]`.
///
/// # Errors
/// When a range does not lie in `x`, or there is none.
pub fn sum_rows(x: &Tensor, ranges: &[Range<usize>]) -> Result<Tensor> {
    let (t, _) = x.dims2()?;
    if let Some(range) = ranges.iter().find(|it| it.start > it.end || it.end > t) {
        candle_core::bail!("sum_rows: rows {range:?} of {t}");
    }
    if let Some(y) = kernels(x).sum_rows(x, ranges)? {
        return Ok(y);
    }
    let x = widen(x)?;
    let sum = |rows: &Range<usize>| x.narrow(0, rows.start, rows.len())?.sum_keepdim(0);
    Tensor::cat(&ranges.iter().map(sum).collect::<Result<Vec<_>>>()?, 0)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rows_are_added_up_range_by_range() -> Result<()> {
        let x = Tensor::new(&[[1f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
        let sums = sum_rows(&x, &[0..2, 2..3, 1..1])?.to_vec2::<f32>()?;
        assert_eq!(sums, [[4., 6.], [5., 6.], [0., 0.]]);
        let refused = Range { start: 2, end: 4 };
        assert!(sum_rows(&x, &[refused]).unwrap_err().to_string().contains("rows 2..4 of 3"));
        assert!(sum_rows(&x, &[]).is_err());
        Ok(())
    }
}
