//! The position-wise feed-forward network.

use candle_core::{Result, Tensor};

use crate::activation::Activation;
use crate::backend::kernels;
use crate::linear::{linear, linear_activation};
use crate::weights::LinearWeights;

/// `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂`. Vaswani et al. 2017, §3.3.
///
/// `x`: `[…, H]`; `expand`: H to F; `contract`: F to H → `[…, H]`, in the dtype of `x`.
///
/// # Errors
/// When sizes, dtypes or devices do not fit.
pub fn feed_forward(
    x: &Tensor,
    expand: &LinearWeights,
    activation: Activation,
    contract: &LinearWeights,
) -> Result<Tensor> {
    let y = kernels(x).feed_forward(x, expand, activation, contract)?;
    y.map_or_else(|| linear(&linear_activation(x, expand, activation)?, contract), Ok)
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::WeightForm;
    use crate::testing::{assert_close, strided, wave};

    /// Weights from `i` to `o`, and their F64.
    fn weights(i: usize, o: usize, seed: f64) -> Result<[LinearWeights; 2]> {
        let (w, b) = (wave(&[o, i], seed)?.affine(1. / i as f64, 0.)?, wave(&[o], seed + 1.)?);
        let mut packed = LinearWeights::new(w.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        packed.convert(WeightForm::Packed)?;
        Ok([packed, LinearWeights::new(w, b)])
    }

    #[test]
    fn packed_weights_give_what_the_definition_does() -> Result<()> {
        // The last one takes three runs.
        for (batch, s, h, f, o) in
            [(1, 1, 1, 1, 1), (1, 7, 31, 65, 17), (3, 5, 16, 64, 16), (2, 225, 5, 20_000, 7)]
        {
            let [expand, expand_f64] = weights(h, f, 2.)?;
            let [contract, contract_f64] = weights(f, o, 3.)?;
            let x = wave(&[batch, s, h], 1.)?;
            for activation in [Activation::Gelu, Activation::Relu, Activation::Mish] {
                let expected = feed_forward(&x, &expand_f64, activation, &contract_f64)?;
                let got = feed_forward(&x.to_dtype(DType::F32)?, &expand, activation, &contract)?;
                assert_close(&got, &expected, 1e-5)?;
            }
        }
        Ok(())
    }

    #[test]
    fn strided_inputs_are_read_in_order() -> Result<()> {
        let ([expand, _], [contract, _]) = (weights(6, 9, 2.)?, weights(9, 6, 3.)?);
        let x = strided(&[2, 5, 6], 1.)?;
        let got = feed_forward(&x, &expand, Activation::Gelu, &contract)?;
        assert_close(
            &got,
            &feed_forward(&x.contiguous()?, &expand, Activation::Gelu, &contract)?,
            0.,
        )
    }
}
