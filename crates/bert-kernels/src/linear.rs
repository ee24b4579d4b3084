//! The linear map `x Wᵀ + b`.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::activate::activate;
use crate::activation::Activation;
use crate::backend::kernels;
use crate::precision::{add_repeated, matmul_transposed};
use crate::weights::{LinearWeights, WeightForm, rows_of};

/// `x Wᵀ + b` over the last dimension.
///
/// `x`: `[…, I]` → `[…, O]`, in the dtype of `x`.
///
/// # Errors
/// When the last dimension of `x` is not `I`, when dtypes or devices differ, and when the result
/// does not fit into memory.
pub fn linear(x: &Tensor, weights: &LinearWeights) -> Result<Tensor> {
    linear_activation(x, weights, Activation::Linear)
}

/// `activation(x Wᵀ + b)`.
///
/// `x`: `[…, I]` → `[…, O]`, in the dtype of `x`.
///
/// # Errors
/// As [`linear`].
pub fn linear_activation(
    x: &Tensor,
    weights: &LinearWeights,
    activation: Activation,
) -> Result<Tensor> {
    Ok(project(x, weights, 0..1, activation)?.remove(0))
}

/// [`linear`] with several projections of one input: a range of them → an output for each.
///
/// `x`: `[…, I]` → `[…, O]` for each projection, in the dtype of `x`.
///
/// # Errors
/// As [`linear`], and when the range is empty or there are no such projections.
pub fn linear_joined(
    x: &Tensor,
    weights: &LinearWeights,
    projections: Range<usize>,
) -> Result<Vec<Tensor>> {
    let count = weights.projections();
    if projections.is_empty() || projections.end > count {
        candle_core::bail!(
            "linear: projections {projections:?} requested, expected some of {count}"
        );
    }
    project(x, weights, projections, Activation::Linear)
}

impl LinearWeights {
    /// Converts the weights to `form`, if it exists for them.
    ///
    /// # Errors
    /// When `W` and `b` of the projections do not fit each other.
    pub fn convert(&mut self, form: WeightForm) -> Result<()> {
        if form == WeightForm::Unpacked {
            self.unpack_mut()?;
            return Ok(());
        }
        self.pack()?;
        match self.tensors(0) {
            Some([weight, _]) if kernels(weight).joins(weight) => self.join_projections(),
            _ => Ok(()),
        }
    }
}

/// `activation(x Wᵀ + b)` for each of the projections.
fn project(
    x: &Tensor,
    weights: &LinearWeights,
    projections: Range<usize>,
    activation: Activation,
) -> Result<Vec<Tensor>> {
    if let Some(outputs) = kernels(x).project(x, weights, projections.clone(), activation)? {
        return Ok(outputs);
    }
    match activation {
        Activation::Linear => match weights.joined(projections.clone())? {
            Some([weight, bias]) => weights.split(&reference(x, &weight, &bias)?, projections),
            None => {
                let each = |i| reference(x, &weights.weight(i)?, &weights.bias(i)?);
                projections.map(each).collect()
            }
        },
        _ => {
            let outputs = project(x, weights, projections, Activation::Linear)?;
            outputs.iter().map(|y| activate(y, activation)).collect()
        }
    }
}

/// The definition, in differentiable operations.
fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    let (leading, rows) = rows_of(x, [o, i])?;
    let y = matmul_transposed(&x.reshape((rows, i))?, weight)?;
    add_repeated(&y, bias)?.reshape([leading, &[o]].concat())
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::WeightForm::Packed;
    use crate::testing::{assert_close, strided};

    #[test]
    fn gradients_of_biases_in_half_precision_are_added_up_in_single_precision() -> Result<()> {
        const ROWS: usize = 4096;
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let zeros = |shape: &[usize]| Tensor::zeros(shape, dtype, &Device::Cpu);
            let bias = candle_core::Var::from_tensor(&zeros(&[2])?)?;
            let weights = LinearWeights::new(zeros(&[2, 3])?, bias.as_tensor().clone());
            let loss = (linear(&zeros(&[ROWS, 3])?, &weights)? / ROWS as f64)?.sum_all()?;
            let gradients = loss.backward()?;
            let got = gradients.get(&bias).unwrap().to_dtype(DType::F32)?.to_vec1::<f32>()?;
            // As PyTorch has it.
            assert_eq!(got, [1., 1.], "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn every_row_is_mapped_in_every_dtype() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let weight =
                Tensor::new(&[[1f32, 2., 3.], [0., -1., 1.]], &Device::Cpu)?.to_dtype(dtype)?;
            let bias = Tensor::new(&[10f32, 20.], &Device::Cpu)?.to_dtype(dtype)?;
            let mut weights = LinearWeights::new(weight, bias);
            let x =
                Tensor::new(&[[[1f32, 1., 1.], [2., 0., 1.]]], &Device::Cpu)?.to_dtype(dtype)?;
            for _ in 0..2 {
                let y = linear(&x, &weights)?;
                assert_eq!((y.dtype(), weights.dtype()), (dtype, dtype));
                assert_eq!(y.to_dtype(DType::F32)?.to_vec3::<f32>()?, [[[16., 20.], [15., 21.]]]);
                weights.convert(Packed)?;
            }
        }
        Ok(())
    }

    #[test]
    fn strided_inputs_and_weights_are_read_in_order() -> Result<()> {
        let (x, w) = (strided(&[2, 5, 6], 1.)?, strided(&[9, 6], 2.)?);
        let b = Tensor::zeros(9, DType::F32, &Device::Cpu)?;
        let expected = reference(&x.contiguous()?, &w.contiguous()?, &b)?;
        let mut weights = LinearWeights::new(w, b);
        for _ in 0..2 {
            assert_close(&linear(&x, &weights)?, &expected, 1e-6)?;
            assert_close(&linear_joined(&x, &weights, 0..1)?[0], &expected, 1e-6)?;
            weights.convert(Packed)?;
        }
        Ok(())
    }

    #[test]
    fn another_width_is_an_error() -> Result<()> {
        let weight = Tensor::ones((2, 3), DType::F32, &Device::Cpu)?;
        let bias = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let mut weights = LinearWeights::new(weight, bias);
        let x = Tensor::ones((3, 2), DType::F32, &Device::Cpu)?;
        for _ in 0..2 {
            assert!(linear(&x, &weights).unwrap_err().to_string().contains("expected 3"));
            weights.convert(Packed)?;
        }
        Ok(())
    }

    #[test]
    fn a_result_that_fits_no_memory_is_an_error() -> Result<()> {
        let weight = Tensor::ones((4, 0), DType::F32, &Device::Cpu)?;
        let mut weights = LinearWeights::new(weight, Tensor::ones(4, DType::F32, &Device::Cpu)?);
        // No element of `x` is stored, so it may have any number of rows.
        for rows in [(1 << 62) + 1, 1 << 50] {
            let x = Tensor::zeros((rows, 0), DType::F32, &Device::Cpu)?;
            for form in [crate::WeightForm::Unpacked, Packed] {
                weights.convert(form)?;
                if form == Packed || rows > 1 << 60 {
                    let text = linear(&x, &weights).unwrap_err().to_string();
                    assert!(text.contains("into memory; pass fewer rows"), "{text}");
                }
            }
        }
        let few = Tensor::zeros((2, 0), DType::F32, &Device::Cpu)?;
        assert_eq!(linear(&few, &weights)?.to_vec2::<f32>()?, [[1.; 4]; 2]);
        Ok(())
    }
}
