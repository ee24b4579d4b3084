//! The position-wise feed-forward network.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};

use crate::activation::Activation;
use crate::cpu::gemm::{Rows, Threads, multiply, row_blocks, tile_size};
use crate::cpu::shared::{SharedRows, with_scratch};
use crate::cpu::simd::{Fused, arch};
use crate::cpu::team;
use crate::floats::floats;
use crate::linear::{LinearWeights, linear, linear_activation};

/// Tokens that one thread takes at a time: what lies between the two products stays in its cache.
const ROWS: usize = 144;

/// `activation(x W₁ᵀ + b₁) W₂ᵀ + b₂`. Vaswani et al. 2017, §3.3.
///
/// `x`: `[…, H]`; `expand`: H to F; `contract`: F to H → `[…, H]`, in the dtype of `x`. Of many
/// tokens and with packed weights, `[…, F]` is never stored.
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
    let rows = x.elem_count() / expand.dims(0)[1].max(1);
    let enough = rows >= 2 * ROWS * rayon::current_num_threads();
    let fits = expand.dims(0)[0] == contract.dims(0)[1] && x.dims().last() == expand.dims(0).last();
    let (Some((first, second)), Some(fused), true, true) = (packed, fused, enough, fits) else {
        return linear(&linear_activation(x, expand, activation)?, contract);
    };
    let [f, h] = expand.dims(0);
    let [o, _] = contract.dims(0);
    let x = x.contiguous()?;
    let mut output = vec![0.; rows * o];
    let (height, _) = tile_size(arch());
    let blocks = row_blocks(rows, height, rayon::current_num_threads());
    {
        let (x, out) = (floats(&x)?, SharedRows::new(&mut output, rows * o));
        let x = x.slice();
        team::for_each(blocks.len(), |i| {
            let Range { start, end } = blocks[i].clone();
            let count = end - start;
            // SAFETY: the blocks do not overlap.
            let out = unsafe { out.part(0, start * o..end * o) };
            with_scratch(count * f, |expanded| {
                let x = Rows { data: &x[start * h..end * h], count };
                multiply(arch(), x, first, 0..1, fused, &mut [&mut *expanded], Threads::This);
                let x = Rows { data: expanded, count };
                multiply(arch(), x, second, 0..1, Fused::Linear, &mut [out], Threads::This);
            });
        });
    }
    let dims = [&x.dims()[..x.rank() - 1], &[o]].concat();
    Tensor::from_vec(output, dims, &Device::Cpu)
}
