//! The position-wise feed-forward network.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::activation::Activation;
use crate::cpu::gemm::{Rows, multiply, runs};
use crate::cpu::rows::{Output, SharedRows, with_scratch};
use crate::cpu::simd::{Fused, arch};
use crate::cpu::slices::floats;
use crate::linear::{LinearWeights, linear, linear_activation};

/// `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂`. Vaswani et al. 2017, §3.3.
///
/// `x`: `[…, H]`; `expand`: H to F; `contract`: F to H → `[…, H]`, in the dtype of `x`. With
/// packed weights what lies between the two products is stored for a part of the tokens at a time.
///
/// # Errors
/// When sizes, dtypes or devices do not fit.
pub fn feed_forward(
    x: &Tensor,
    expand: &LinearWeights,
    activation: Activation,
    contract: &LinearWeights,
) -> Result<Tensor> {
    let (packed, fused) = (expand.packed_for(x).zip(contract.packed_for(x)), Fused::of(activation));
    let fits = expand.dims(0)[0] == contract.dims(0)[1] && x.dims().last() == expand.dims(0).last();
    let (Some((first, second)), Some(fused), true) = (packed, fused, fits) else {
        return linear(&linear_activation(x, expand, activation)?, contract);
    };
    let [f, h] = expand.dims(0);
    let [o, _] = contract.dims(0);
    let x = x.contiguous()?;
    let rows = x.elem_count() / h.max(1);
    let mut output = Output::new(rows, o);
    {
        let (x, out) = (floats(&x)?, output.rows());
        for Range { start, end } in runs(rows, f.max(h)) {
            let count = end - start;
            with_scratch(count * f, |expanded| {
                let x = Rows { data: &x.slice()[start * h..end * h], count };
                multiply(arch(), x, first, 0..1, fused, &[SharedRows::new(expanded, f)]);
                let x = Rows { data: expanded, count };
                multiply(arch(), x, second, 0..1, Fused::Linear, &[out.cut(start..end)]);
            });
        }
    }
    let dims = [&x.dims()[..x.rank() - 1], &[o]].concat();
    Tensor::from_vec(output.into_vec(), dims, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_close, strided, wave};
    use candle_core::DType;

    /// Weights from `i` to `o`, and their F64.
    fn weights(i: usize, o: usize, seed: f64) -> Result<[LinearWeights; 2]> {
        let (w, b) = (wave(&[o, i], seed)?.affine(1. / i as f64, 0.)?, wave(&[o], seed + 1.)?);
        let mut packed = LinearWeights::new(w.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
        packed.pack()?;
        Ok([packed, LinearWeights::new(w, b)])
    }

    #[test]
    fn packed_weights_give_what_the_definition_does() -> Result<()> {
        // The last is worked on in three parts.
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
