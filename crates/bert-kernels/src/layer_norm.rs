//! LayerNorm, alone and of a residual sum.

use candle_core::{D, Result, Tensor};

use crate::backend::kernels;
use crate::precision::widen;
use crate::weights::LayerNormWeights;

/// `γ (x − mean) / √(variance + eps) + β` over the last dimension. Ba et al. 2016.
///
/// `x`: `[…, H]` → `[…, H]`, in the dtype of `x`. The variance is the mean of the squared
/// deviations (two passes): `E[x²] − E[x]²` loses all digits when the mean is large.
///
/// # Errors
/// When `H` is not the size of γ and β, or dtypes or devices differ.
pub fn layer_norm(x: &Tensor, weights: &LayerNormWeights) -> Result<Tensor> {
    let y = kernels(x).sum_layer_norm(&[(x, None)], weights)?;
    y.map_or_else(|| reference(x, weights), Ok)
}

/// The definition, in differentiable operations.
fn reference(x: &Tensor, weights: &LayerNormWeights) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = widen(x)?;
    let deviation = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = deviation.sqr()?.mean_keepdim(D::Minus1)?;
    deviation
        .broadcast_div(&(variance + weights.eps)?.sqrt()?)?
        .broadcast_mul(&widen(&weights.gamma)?)?
        .broadcast_add(&widen(&weights.beta)?)?
        .to_dtype(dtype)
}

/// `LayerNorm(x + residual)`, the "Add & Norm" box of Vaswani et al. 2017, Figure 1.
///
/// `x`, `residual`: `[…, H]` each → `[…, H]`, in the dtype of `x`.
///
/// # Errors
/// As [`layer_norm`], and when the two shapes differ.
pub fn add_layer_norm(x: &Tensor, residual: &Tensor, weights: &LayerNormWeights) -> Result<Tensor> {
    let y = kernels(x).sum_layer_norm(&[(x, None), (residual, None)], weights)?;
    y.map_or_else(|| reference(&x.add(residual)?, weights), Ok)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::testing::{assert_close, strided};

    fn weights(h: usize, eps: f64) -> Result<LayerNormWeights> {
        Ok(LayerNormWeights {
            gamma: Tensor::ones(h, DType::F32, &Device::Cpu)?,
            beta: Tensor::zeros(h, DType::F32, &Device::Cpu)?,
            eps,
        })
    }

    #[test]
    fn a_large_mean_does_not_drown_the_variance() -> Result<()> {
        let x = Tensor::new(&[[5000f32, 5000.25, 5000.5, 5000.75]], &Device::Cpu)?;
        let y = layer_norm(&x, &weights(4, 1e-12)?)?.to_vec2::<f32>()?;
        // Deviations ∓0.375, ∓0.125 over their root mean square 0.2795085.
        for (got, expected) in y[0].iter().zip([-1.341_641, -0.447_214, 0.447_214, 1.341_641]) {
            assert!((got - expected).abs() < 1e-5, "{got} is not {expected}");
        }
        Ok(())
    }

    #[test]
    fn gamma_beta_and_eps_are_used() -> Result<()> {
        let weights = LayerNormWeights {
            gamma: Tensor::new(&[2f32, 3.], &Device::Cpu)?,
            beta: Tensor::new(&[10f32, 20.], &Device::Cpu)?,
            eps: 3.,
        };
        let x = Tensor::new(&[[-1f32, 1.]], &Device::Cpu)?;
        // Variance 1, so the deviations are halved.
        assert_eq!(layer_norm(&x, &weights)?.to_vec2::<f32>()?, [[9., 21.5]]);
        Ok(())
    }

    #[test]
    fn the_residual_is_added_before_the_norm() -> Result<()> {
        let x = Tensor::new(&[[1f32, 4., 2.]], &Device::Cpu)?;
        let residual = Tensor::new(&[[0.5f32, -1., 7.]], &Device::Cpu)?;
        let weights = weights(3, 1e-5)?;
        let expected = layer_norm(&(&x + &residual)?, &weights)?.to_vec2::<f32>()?;
        assert_eq!(add_layer_norm(&x, &residual, &weights)?.to_vec2::<f32>()?, expected);
        Ok(())
    }

    #[test]
    fn strided_inputs_are_read_in_order() -> Result<()> {
        let (x, residual, weights) =
            (strided(&[2, 5, 6], 1.)?, strided(&[2, 5, 6], 2.)?, weights(6, 1e-12)?);
        let (apart, beside) = (x.contiguous()?, residual.contiguous()?);
        assert_close(&layer_norm(&x, &weights)?, &layer_norm(&apart, &weights)?, 0.)?;
        let expected = add_layer_norm(&apart, &beside, &weights)?;
        assert_close(&add_layer_norm(&x, &residual, &weights)?, &expected, 0.)
    }
}
