//! What is said of repeated measurements.

/// Median, least and most.
pub fn spread(times: &[f64]) -> (f64, f64, f64) {
    let min = times.iter().copied().fold(f64::MAX, f64::min);
    (median(times.iter().copied()), min, times.iter().copied().fold(0., f64::max))
}

pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&numbers.into_iter().collect::<Vec<_>>(), 0.5)
}

/// The number below which a share of them lies.
pub fn quantile(numbers: &[f64], share: f64) -> f64 {
    let mut numbers = numbers.to_vec();
    numbers.sort_by(f64::total_cmp);
    numbers[((numbers.len() as f64 * share) as usize).min(numbers.len() - 1)]
}
