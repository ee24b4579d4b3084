//! The position-wise feed-forward network.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::activation::Activation;
use crate::cpu::gemm::{Rows, multiply, runs};
use crate::cpu::shared::{Output, SharedRows, with_scratch};
use crate::cpu::simd::{Fused, arch};
use crate::floats::floats;
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
