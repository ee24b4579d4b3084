//! The affine map `x Wᵀ + b`.

use candle_core::{Result, Tensor};

use crate::precision::matmul;

/// Parameters of [`linear`], as PyTorch's `nn.Linear` stores them.
#[derive(Clone, Debug)]
pub struct LinearWeights {
    /// `W`: `[O, I]`.
    pub weight: Tensor,
    /// `b`: `[O]`.
    pub bias: Tensor,
}

/// `x Wᵀ + b` over the last dimension.
///
/// `x`: `[…, I]` → `[…, O]`, in the dtype of `x`.
///
/// # Errors
/// When the last dimension of `x` is not `I`, or dtypes or devices differ.
pub fn linear(x: &Tensor, weights: &LinearWeights) -> Result<Tensor> {
    let (o, i) = weights.weight.dims2()?;
    let Some((&last, leading)) = x.dims().split_last().filter(|(last, _)| **last == i) else {
        candle_core::bail!(
            "linear: x has shape {:?}, expected {i} in the last dimension",
            x.dims()
        );
    };
    let rows = x.reshape(((), last))?;
    matmul(&rows, &weights.weight.t()?)?
        .broadcast_add(&weights.bias)?
        .reshape([leading, &[o]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn every_row_is_mapped_in_every_dtype() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let weights = LinearWeights {
                weight: Tensor::new(&[[1f32, 2., 3.], [0., -1., 1.]], &Device::Cpu)?
                    .to_dtype(dtype)?,
                bias: Tensor::new(&[10f32, 20.], &Device::Cpu)?.to_dtype(dtype)?,
            };
            let x =
                Tensor::new(&[[[1f32, 1., 1.], [2., 0., 1.]]], &Device::Cpu)?.to_dtype(dtype)?;
            let y = linear(&x, &weights)?;
            assert_eq!(y.dtype(), dtype);
            assert_eq!(y.to_dtype(DType::F32)?.to_vec3::<f32>()?, [[[16., 20.], [15., 21.]]]);
        }
        Ok(())
    }

    #[test]
    fn another_width_is_an_error() -> Result<()> {
        let weights = LinearWeights {
            weight: Tensor::ones((2, 3), DType::F32, &Device::Cpu)?,
            bias: Tensor::zeros(2, DType::F32, &Device::Cpu)?,
        };
        let x = Tensor::ones((3, 2), DType::F32, &Device::Cpu)?;
        assert!(linear(&x, &weights).unwrap_err().to_string().contains("expected 3"));
        Ok(())
    }
}
