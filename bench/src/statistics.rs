//! What is said of repeated measurements.

/// Median, least and most.
pub fn spread(times: &[f64]) -> (f64, f64, f64) {
    let min = times.iter().copied().fold(f64::MAX, f64::min);
    (median(times.iter().copied()), min, times.iter().copied().fold(0., f64::max))
}

pub fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.into_iter().collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
