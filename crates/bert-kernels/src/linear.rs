//! The affine map `x Wᵀ + b`.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::activation::{Activation, activate};
use crate::cpu::gemm::{PackedMatrix, Rows, multiply};
use crate::cpu::rows::{Output, SharedRows};
use crate::cpu::simd::{Fused, arch};
use crate::cpu::slices::{floats, floats_of};
use crate::precision::matmul;

/// Parameters of [`linear`], or of several such maps of one input.
///
/// As loaded they are what PyTorch's `nn.Linear` stores. Packed, for inference on the CPU in F32, they
/// lie in the order in which the product reads them, and are unpacked exactly where somebody asks.
#[derive(Clone, Debug)]
pub struct LinearWeights {
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// `W`, `[O, I]`, and `b`, `[O]`, of each map.
    Named(Vec<[Tensor; 2]>),
    Packed(Arc<PackedMatrix>),
}

impl LinearWeights {
    /// One map. `weight`: `[O, I]`; `bias`: `[O]`.
    pub fn new(weight: Tensor, bias: Tensor) -> Self {
        Self { form: Form::Named(vec![[weight, bias]]) }
    }

    /// Several maps of one input.
    ///
    /// # Errors
    /// When there are none, or packed ones cannot be unpacked.
    pub fn join(weights: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut joined = Vec::new();
        for mut weights in weights {
            joined.extend_from_slice(weights.named()?);
        }
        if joined.is_empty() {
            candle_core::bail!("linear: no maps to join");
        }
        Ok(Self { form: Form::Named(joined) })
    }

    /// How many maps these are.
    pub fn maps(&self) -> usize {
        match &self.form {
            Form::Named(maps) => maps.len(),
            Form::Packed(matrix) => matrix.parts(),
        }
    }

    /// The dimensions of a map's `W`: `[O, I]`.
    pub fn dims(&self, map: usize) -> [usize; 2] {
        match &self.form {
            Form::Named(maps) => {
                let dims = maps[map][0].dims();
                [dims[0], dims[dims.len() - 1]]
            }
            Form::Packed(matrix) => [matrix.columns(map), matrix.depth()],
        }
    }

    /// `W` and `b` of a map, in their dtype.
    ///
    /// # Errors
    /// When they are packed and cannot be unpacked.
    pub fn get(&self, map: usize) -> Result<[Tensor; 2]> {
        match &self.form {
            Form::Named(maps) => Ok(maps[map].clone()),
            Form::Packed(matrix) => {
                let (weight, bias) = matrix.unpack(map);
                let (o, i) = (matrix.columns(map), matrix.depth());
                let weight = Tensor::from_vec(weight, (o, i), &Device::Cpu)?;
                Ok([weight, Tensor::from_vec(bias, o, &Device::Cpu)?])
            }
        }
    }

    /// `W` and `b` of a map where they are not packed.
    pub fn tensors(&self, map: usize) -> Option<&[Tensor; 2]> {
        match &self.form {
            Form::Named(maps) => Some(&maps[map]),
            Form::Packed(_) => None,
        }
    }

    /// `W` and `b` of each map, to be changed; unpacked first if need be.
    ///
    /// # Errors
    /// When they are packed and cannot be unpacked.
    pub fn named(&mut self) -> Result<&mut [[Tensor; 2]]> {
        if let Form::Packed(_) = self.form {
            let maps = (0..self.maps()).map(|map| self.get(map)).collect::<Result<_>>()?;
            self.form = Form::Named(maps);
        }
        match &mut self.form {
            Form::Named(maps) => Ok(maps),
            Form::Packed(_) => candle_core::bail!("unpacked weights are packed"),
        }
    }

    /// Packs the weights, if the CPU computes with them in F32 and none of them is trained. With the
    /// feature `accelerate`, Apple's products are used, which want them as they are.
    ///
    /// # Errors
    /// When they do not have the shapes of one input's maps.
    pub fn pack(&mut self) -> Result<()> {
        let Form::Named(maps) = &self.form else { return Ok(()) };
        if cfg!(feature = "accelerate") {
            return Ok(());
        }
        let [_, i] = self.dims(0);
        let contiguous = maps
            .iter()
            .map(|[weight, bias]| {
                if weight.dims() != [bias.elem_count(), i] {
                    candle_core::bail!(
                        "linear: W has shape {:?}, b {:?}",
                        weight.dims(),
                        bias.dims()
                    );
                }
                Ok((weight.contiguous()?, bias.contiguous()?))
            })
            .collect::<Result<Vec<_>>>()?;
        let maps: Option<Vec<_>> = contiguous
            .iter()
            .map(|(weight, bias)| Some((floats_of(weight)?, floats_of(bias)?)))
            .collect();
        let Some(maps) = maps else { return Ok(()) };
        let maps: Vec<_> =
            maps.iter().map(|(weight, bias)| (weight.slice(), bias.slice())).collect();
        let packed = PackedMatrix::new(arch(), i, &maps);
        self.form = Form::Packed(Arc::new(packed));
        Ok(())
    }

    /// The packed matrix, where `x` can be multiplied with it.
    pub(crate) fn packed_for(&self, x: &Tensor) -> Option<&PackedMatrix> {
        match &self.form {
            Form::Packed(matrix) if x.dtype() == DType::F32 && !x.track_op() => Some(matrix),
            _ => None,
        }
    }
}

/// `x Wᵀ + b` over the last dimension.
///
/// `x`: `[…, I]` → `[…, O]`, in the dtype of `x`.
///
/// # Errors
/// When the last dimension of `x` is not `I`, or dtypes or devices differ.
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
    let Some(matrix) = weights.packed_for(x) else {
        let [weight, bias] = weights.get(0)?;
        return activate(&reference(x, &weight, &bias)?, activation);
    };
    let fused = Fused::of(activation);
    match &product(x, matrix, 0..1, fused.unwrap_or(Fused::Linear))?[..] {
        [y] if fused.is_some() => Ok(y.clone()),
        [y] => activate(y, activation),
        outputs => candle_core::bail!("linear: {} outputs of one map", outputs.len()),
    }
}

/// [`linear`] with some of several maps: their numbers, in order → an output for each.
///
/// `x`: `[…, I]` → `[…, O]` of each map, in the dtype of `x`.
///
/// # Errors
/// As [`linear`], and when there are no such maps.
pub fn linears(
    x: &Tensor,
    weights: &LinearWeights,
    maps: std::ops::Range<usize>,
) -> Result<Vec<Tensor>> {
    if maps.end > weights.maps() {
        candle_core::bail!("linear: maps {maps:?} of {}", weights.maps());
    }
    match weights.packed_for(x) {
        Some(matrix) => product(x, matrix, maps, Fused::Linear),
        None => maps
            .map(|map| {
                let [weight, bias] = weights.get(map)?;
                reference(x, &weight, &bias)
            })
            .collect(),
    }
}

fn reference(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (o, i) = weight.dims2()?;
    let leading = leading(x, i)?;
    let rows = x.reshape(((), i))?;
    matmul(&rows, &weight.t()?)?.broadcast_add(bias)?.reshape([leading, &[o]].concat())
}

fn product(
    x: &Tensor,
    matrix: &PackedMatrix,
    maps: std::ops::Range<usize>,
    activation: Fused,
) -> Result<Vec<Tensor>> {
    let leading = leading(x, matrix.depth())?;
    let x = x.contiguous()?;
    let rows: usize = leading.iter().product();
    let mut outputs: Vec<Output> =
        maps.clone().map(|map| Output::new(rows, matrix.columns(map))).collect();
    {
        let x = floats(&x)?;
        let outs: Vec<SharedRows> = outputs.iter_mut().map(Output::rows).collect();
        let x = Rows { data: x.slice(), count: rows };
        multiply(arch(), x, matrix, maps.clone(), activation, &outs);
    }
    outputs
        .into_iter()
        .zip(maps)
        .map(|(output, map)| {
            let dims = [leading, &[matrix.columns(map)]].concat();
            Tensor::from_vec(output.into_vec(), dims, &Device::Cpu)
        })
        .collect()
}

/// The dimensions of `x` but for the last, which must be `i`.
fn leading(x: &Tensor, i: usize) -> Result<&[usize]> {
    match x.dims().split_last() {
        Some((last, leading)) if *last == i => Ok(leading),
        _ => candle_core::bail!(
            "linear: x has shape {:?}, expected {i} in the last dimension",
            x.dims()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{assert_close, strided};

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
                assert_eq!(y.dtype(), dtype);
                assert_eq!(y.to_dtype(DType::F32)?.to_vec3::<f32>()?, [[[16., 20.], [15., 21.]]]);
                weights.pack()?;
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
            assert_close(&linears(&x, &weights, 0..1)?[0], &expected, 1e-6)?;
            weights.pack()?;
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
            weights.pack()?;
        }
        Ok(())
    }
}
