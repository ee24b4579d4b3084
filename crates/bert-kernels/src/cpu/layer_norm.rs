//! LayerNorm of sums of rows, without storing the sums.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use pulp::{Arch, Simd, WithSimd};

use super::rows::{SharedRows, UninitMatrix};
use super::simd::arch;
use super::slices::try_cpu_slice;
use super::team;
use crate::ids::Ids;
use crate::weights::LayerNormWeights;

/// The number of elements that one thread works on at a time: fewer are not worth a second thread.
const CHUNK: usize = 1 << 14;

/// See [`Kernels::sum_layer_norm`](crate::kernels::Kernels::sum_layer_norm). `None` unless the sizes fit and
/// all tensors are on the CPU in F32 and need no gradient.
pub(crate) fn sum_layer_norm(
    terms: &[(&Tensor, Option<&Ids>)],
    weights: &LayerNormWeights,
) -> Result<Option<Tensor>> {
    let Some(dims) = weights.dims_of_sum(terms) else { return Ok(None) };
    let LayerNormWeights { gamma, beta, eps } = weights;
    let h = gamma.elem_count();
    let tensors = terms.iter().map(|(term, ids)| {
        // A table is not worth a copy.
        if ids.is_some() { Ok((*term).clone()) } else { term.contiguous() }
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let slices: Option<Vec<_>> = tensors.iter().map(try_cpu_slice).collect();
    let affine = [gamma, beta].map(try_cpu_slice);
    let (Some(slices), [Some(gamma), Some(beta)]) = (slices, affine) else { return Ok(None) };
    let rows = terms.iter().map(|(_, ids)| ids.map(Ids::values));
    let terms: Vec<_> = slices.iter().zip(rows).map(|(data, rows)| Term { data, rows }).collect();
    let rows = dims.iter().product::<usize>() / h;
    let mut output = UninitMatrix::new(rows, h)?;
    let norm = LayerNorm { terms: &terms, gamma: &gamma, beta: &beta, eps: *eps as f32 };
    norm.run(arch(), output.rows(0..rows));
    // SAFETY: `run` writes every row.
    Ok(Some(Tensor::from_vec(unsafe { output.assume_init() }, dims, &Device::Cpu)?))
}

/// `γ (x − mean) / √(variance + eps) + β` of each row, where `x` is a sum.
#[derive(Clone, Copy)]
struct LayerNorm<'a> {
    /// At least one.
    terms: &'a [Term<'a>],
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
}

/// Rows of `H` floats.
struct Term<'a> {
    data: &'a [f32],
    /// Row indices, repeated cyclically; `None` means rows in order.
    rows: Option<&'a [u32]>,
}

impl<'a> Term<'a> {
    #[inline(always)]
    fn row(&self, row: usize, h: usize) -> &'a [f32] {
        let row = self.rows.map_or(row, |rows| rows[row % rows.len()] as usize);
        &self.data[row * h..][..h]
    }
}

impl LayerNorm<'_> {
    /// Writes every row of `out`.
    fn run(self, arch: Arch, out: SharedRows) {
        let [count, h] = out.dims();
        assert_eq!(h, self.gamma.len());
        let chunk = (CHUNK / h.max(1)).max(1);
        team::for_each(count.div_ceil(chunk), |i| {
            let rows = i * chunk..((i + 1) * chunk).min(count);
            arch.dispatch(Chunk { norm: self, rows, out: &out });
        });
    }
}

/// Rows that one thread normalizes. No other chunk has them.
struct Chunk<'a> {
    norm: LayerNorm<'a>,
    rows: Range<usize>,
    out: &'a SharedRows<'a>,
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { norm, rows, out } = self;
        let h = norm.gamma.len();
        let (first, others) = (&norm.terms[0], &norm.terms[1..]);
        for row in rows {
            // SAFETY: no other chunk has the row, and floats are written.
            let out = unsafe { out.part(row, 0..h) }.write_copy_of_slice(first.row(row, h));
            for term in others {
                add(simd, term.row(row, h), out);
            }
            normalize(simd, out, norm);
        }
    }
}

#[inline(always)]
fn add<S: Simd>(simd: S, x: &[f32], out: &mut [f32]) {
    let ((x, x_rest), (out, out_rest)) = (S::as_simd_f32s(x), S::as_mut_simd_f32s(out));
    for (out, x) in out.iter_mut().zip(x) {
        *out = simd.add_f32s(*out, *x);
    }
    for (out, x) in out_rest.iter_mut().zip(x_rest) {
        *out += x;
    }
}

#[inline(always)]
fn normalize<S: Simd>(simd: S, row: &mut [f32], norm: LayerNorm) {
    let count = row.len() as f32;
    let (vectors, rest) = S::as_simd_f32s(row);
    let zero = simd.splat_f32s(0.);
    // Loops: closures would not be compiled for the instruction set.
    let mut sum = zero;
    for x in vectors {
        sum = simd.add_f32s(sum, *x);
    }
    let mean = (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()) / count;
    let center = simd.splat_f32s(mean);
    let mut squares = zero;
    for x in vectors {
        let deviation = simd.sub_f32s(*x, center);
        squares = simd.mul_add_e_f32s(deviation, deviation, squares);
    }
    let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
    let variance = (simd.reduce_sum_f32s(squares) + rest) / count;
    let factor = 1. / (variance + norm.eps).sqrt();

    let scale = simd.splat_f32s(factor);
    let (gamma, gamma_rest) = S::as_simd_f32s(norm.gamma);
    let (beta, beta_rest) = S::as_simd_f32s(norm.beta);
    let (vectors, rest) = S::as_mut_simd_f32s(row);
    for ((x, gamma), beta) in vectors.iter_mut().zip(gamma).zip(beta) {
        let normal = simd.mul_f32s(simd.sub_f32s(*x, center), scale);
        *x = simd.mul_add_e_f32s(normal, *gamma, *beta);
    }
    for ((x, gamma), beta) in rest.iter_mut().zip(gamma_rest).zip(beta_rest) {
        *x = (*x - mean) * factor * gamma + beta;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::archs;
    use crate::cpu::testing::{assert_near, numbers};

    #[test]
    fn rows_of_every_length_are_normalized_on_every_instruction_set() {
        for arch in archs() {
            for (rows, h) in [(1, 1), (1, 7), (3, 16), (5, 31), (101, 30), (4, 769), (65, 768)] {
                let offset = 10.;
                let x: Vec<f32> = numbers(rows * h, 1).iter().map(|x| x + offset).collect();
                let residual = numbers(rows * h, 2);
                let (table, ids) = (numbers(7 * h, 5), [6, 0, 3]);
                let (gamma, beta) = (numbers(h, 3), numbers(h, 4));
                let terms = [
                    Term { data: &x, rows: None },
                    Term { data: &residual, rows: None },
                    Term { data: &table, rows: Some(&ids) },
                ];
                for count in 1..=terms.len() {
                    let terms = &terms[..count];
                    let norm = LayerNorm { terms, gamma: &gamma, beta: &beta, eps: 1e-5 };
                    let mut out = vec![f32::NAN; rows * h];
                    norm.run(arch, SharedRows::new(&mut out, h));
                    let sums: Vec<f64> = (0..rows * h)
                        .map(|i| {
                            let looked_up = table[ids[i / h % 3] as usize * h + i % h];
                            let each = [x[i], residual[i], looked_up];
                            each[..count].iter().map(|x| f64::from(*x)).sum()
                        })
                        .collect();
                    let expected: Vec<f64> = sums
                        .chunks_exact(h)
                        .flat_map(|row| {
                            let mean = row.iter().sum::<f64>() / h as f64;
                            let variance =
                                row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / h as f64;
                            let factor = 1. / (variance + 1e-5).sqrt();
                            let parts = row.iter().zip(&gamma).zip(&beta);
                            parts.map(move |((x, gamma), beta)| {
                                (x - mean) * factor * f64::from(*gamma) + f64::from(*beta)
                            })
                        })
                        .collect();
                    assert_near(&format!("{arch:?} {rows}×{h}"), &out, &expected, 5e-5);
                }
            }
        }
    }
}
