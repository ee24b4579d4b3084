//! From logits to probabilities.

use candle_core::{DType, Device, Tensor};

use crate::error::Result;

/// The rows of `[…, C]` scores, as F32 on the host.
pub(crate) fn rows(scores: &Tensor) -> Result<Vec<Vec<f32>>> {
    let scores = scores.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
    Ok(scores.to_vec2()?)
}

/// The `[…]` scores, as F32 on the host.
pub(crate) fn column(scores: &Tensor) -> Result<Vec<f32>> {
    Ok(scores.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.to_vec1()?)
}

/// `exp(xᵢ) / Σ exp(xⱼ)`.
pub(crate) fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = scores.iter().map(|x| f64::from(x - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|x| (x / sum) as f32).collect()
}

/// `1 / (1 + exp(−x))`.
pub(crate) fn sigmoid(x: f32) -> f32 {
    (1. / (1. + (-f64::from(x)).exp())) as f32
}

/// The index of the largest score; of equal ones the first. 0 without scores.
pub(crate) fn argmax(scores: &[f32]) -> usize {
    let larger = |best: usize, i: usize| if scores[i] > scores[best] { i } else { best };
    (1..scores.len()).fold(0, larger)
}

/// The indices of the `count` largest scores, the largest first; of equal ones the first.
pub(crate) fn largest(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // What is no number comes last.
    let key = |i: usize| if scores[i].is_nan() { f32::NEG_INFINITY } else { scores[i] };
    let first = |a: &usize, b: &usize| key(*b).total_cmp(&key(*a)).then(a.cmp(b));
    let count = count.min(order.len());
    if count < order.len() && count > 0 {
        order.select_nth_unstable_by(count - 1, first);
    }
    order.truncate(count);
    order.sort_unstable_by(first);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_whatever_the_scores() {
        for scores in [&[0.0f32, 1., -2.][..], &[1e30, -1e30], &[500., 501.], &[-3.]] {
            let sum: f32 = softmax(scores).iter().sum();
            assert!((sum - 1.).abs() < 1e-6, "{scores:?}");
        }
        assert_eq!([sigmoid(0.), sigmoid(1e9), sigmoid(-1e9)], [0.5, 1., 0.]);
    }

    #[test]
    fn of_equal_scores_the_first_counts() {
        let scores = [1., 3., 2., 3., 0.];
        assert_eq!(argmax(&scores), 1);
        assert_eq!(largest(&scores, 3), [1, 3, 2]);
        assert_eq!(largest(&scores, 9), [1, 3, 2, 0, 4]);
        assert_eq!(largest(&scores, 0), [0; 0]);
        assert_eq!(largest(&[], 2), [0; 0]);
        assert_eq!(largest(&[f32::NAN, 1., -f32::NAN, 2.], 2), [3, 1]);
    }
}
