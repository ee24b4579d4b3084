//! LayerNorm of sums of rows, without storing the sums.

use std::mem::MaybeUninit;
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

/// See [`layer_norm`](crate::layer_norm) and [`add_layer_norm`](crate::add_layer_norm): one or two
/// terms.
pub(crate) fn layer_norm(terms: &[&Tensor], weights: &LayerNormWeights) -> Result<Option<Tensor>> {
    let (dims, h) = (terms[0].dims(), weights.gamma.elem_count());
    if h == 0 || dims.last() != Some(&h) || terms.iter().any(|term| term.dims() != dims) {
        return Ok(None);
    }
    let terms = terms.iter().map(|term| term.contiguous()).collect::<Result<Vec<_>>>()?;
    let terms: Vec<_> = terms.iter().map(|term| (term, None)).collect();
    normalized_sum(&terms, dims, weights)
}

/// See [`embeddings_layer_norm`](crate::embeddings_layer_norm): the tables and the ids of their rows.
pub(crate) fn embeddings_layer_norm(
    x: Option<&Tensor>,
    lookups: &[(&Tensor, &Ids)],
    weights: &LayerNormWeights,
) -> Result<Option<Tensor>> {
    let h = weights.gamma.elem_count();
    let (b, s) = match (x, lookups) {
        (Some(x), _) => (x.dims3()?.0, x.dims3()?.1),
        (None, [(_, ids), ..]) => ids.dims(),
        (None, []) => return Ok(None),
    };
    let fits = |(table, ids): &(&Tensor, &Ids)| {
        let table_fits = matches!(*table.dims(), [v, width] if v >= ids.bound() && width == h);
        table_fits && !ids.has_absent() && (ids.dims() == (b, s) || ids.dims() == (1, s))
    };
    if !lookups.iter().all(fits) || x.is_some_and(|x| x.dims() != [b, s, h]) || b * s * h == 0 {
        return Ok(None);
    }
    let x = x.map(Tensor::contiguous).transpose()?;
    let rows = lookups.iter().map(|(table, ids)| (*table, Some(ids.values())));
    let terms: Vec<_> = x.iter().map(|x| (x, None)).chain(rows).collect();
    normalized_sum(&terms, &[b, s, h], weights)
}

/// LayerNorm of the sum of some terms, `[…, H]`: rows of a tensor each, of which ids may choose.
/// `None` unless all tensors are contiguous on the CPU in F32 and need no gradient.
fn normalized_sum(
    terms: &[(&Tensor, Option<&[u32]>)],
    dims: &[usize],
    LayerNormWeights { gamma, beta, eps }: &LayerNormWeights,
) -> Result<Option<Tensor>> {
    let slices: Option<Vec<_>> = terms.iter().map(|(term, _)| try_cpu_slice(term)).collect();
    let (Some(slices), Some(gamma), Some(beta), true) =
        (slices, try_cpu_slice(gamma), try_cpu_slice(beta), beta.dims() == gamma.dims())
    else {
        return Ok(None);
    };
    let terms = slices.iter().zip(terms);
    let terms: Vec<_> = terms.map(|(data, (_, rows))| Term { data, rows: *rows }).collect();
    let mut output = UninitMatrix::new(dims.iter().product::<usize>() / gamma.len(), gamma.len())?;
    let norm = LayerNorm { terms: &terms, gamma: &gamma, beta: &beta, eps: *eps as f32 };
    norm.run(arch(), output.rows());
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
#[derive(Clone, Copy)]
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
            // SAFETY: the chunks do not overlap, and floats are written.
            let out = unsafe { out.rows_mut(rows.clone()) };
            arch.dispatch(Chunk { norm: self, rows, out });
        });
    }
}

struct Chunk<'a> {
    norm: LayerNorm<'a>,
    rows: Range<usize>,
    out: &'a mut [MaybeUninit<f32>],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { norm, rows, out } = self;
        let h = norm.gamma.len().max(1);
        let (first, others) = (&norm.terms[0], &norm.terms[1..]);
        for (row, out) in rows.zip(out.chunks_exact_mut(h)) {
            let out = out.write_copy_of_slice(first.row(row, h));
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
