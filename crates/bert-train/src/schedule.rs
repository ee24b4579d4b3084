//! How the learning rate changes from step to step.

use std::f64::consts::PI;

use crate::error::{Result, check_amount};

/// A learning rate that rises linearly from 0 during the warm-up and then stays or falls to 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    warmup: u64,
    total: u64,
    decay: Decay,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Decay {
    None,
    Linear,
    Cosine,
}

impl Schedule {
    /// `peak` after `warmup` steps. Hugging Face: `get_constant_schedule_with_warmup`.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for a rate that is negative or not finite.
    pub fn constant(peak: f64, warmup: u64) -> Result<Self> {
        Self::new(peak, warmup, warmup, Decay::None)
    }

    /// Falls linearly from `peak` to 0 at step `total`. Devlin et al. 2018, §A.2. Hugging Face:
    /// `get_linear_schedule_with_warmup`.
    ///
    /// # Errors
    /// As [`Schedule::constant`].
    pub fn linear(peak: f64, warmup: u64, total: u64) -> Result<Self> {
        Self::new(peak, warmup, total, Decay::Linear)
    }

    /// Falls from `peak` to 0 at step `total` along half a cosine, and stays at 0. Loshchilov & Hutter
    /// 2017. Hugging Face: `get_cosine_schedule_with_warmup`, which rises again after `total`.
    ///
    /// # Errors
    /// As [`Schedule::constant`].
    pub fn cosine(peak: f64, warmup: u64, total: u64) -> Result<Self> {
        Self::new(peak, warmup, total, Decay::Cosine)
    }

    fn new(peak: f64, warmup: u64, total: u64, decay: Decay) -> Result<Self> {
        check_amount("learning_rate", peak)?;
        Ok(Self { peak, warmup, total, decay })
    }

    /// The learning rate of a step. Steps are counted from 0; with a warm-up, the rate of step 0 is 0.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let length = self.total.saturating_sub(self.warmup).max(1) as f64;
        let left = self.total.saturating_sub(step) as f64 / length;
        self.peak
            * match self.decay {
                Decay::None => 1.,
                Decay::Linear => left,
                Decay::Cosine => 0.5 * (1. - (PI * left).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule) -> Vec<f64> {
        (0..9).map(|step| schedule.learning_rate(step)).collect()
    }

    #[track_caller]
    fn assert_rates(schedule: Schedule, expected: [f64; 9]) {
        for (got, expected) in rates(schedule).iter().zip(expected) {
            assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
        }
    }

    /// Expected rates: transformers 5.23.0, a warm-up of 2 of 7 steps, peak 0.5. Its cosine would be
    /// 0.048 at the last step here.
    #[test]
    fn rates_are_those_of_transformers() -> Result<()> {
        assert_rates(Schedule::linear(0.5, 2, 7)?, [0., 0.25, 0.5, 0.4, 0.3, 0.2, 0.1, 0., 0.]);
        let cosine = [
            0.,
            0.25,
            0.5,
            0.452_254_248_593_736_9,
            0.327_254_248_593_736_9,
            0.172_745_751_406_263_14,
            0.047_745_751_406_263_165,
            0.,
            0.,
        ];
        assert_rates(Schedule::cosine(0.5, 2, 7)?, cosine);
        assert_rates(Schedule::constant(0.5, 2)?, [0., 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]);
        Ok(())
    }

    #[test]
    fn rates_that_are_no_rates_are_refused() {
        for rate in [f64::NAN, f64::INFINITY, -1e-5] {
            let text = Schedule::linear(rate, 0, 10).unwrap_err().to_string();
            assert!(text.contains("learning_rate is") && text.contains("finite"), "{text}");
        }
    }

    #[test]
    fn lengths_of_zero_divide_nothing_by_zero() -> Result<()> {
        for schedule in [Schedule::linear(1., 0, 0)?, Schedule::cosine(1., 5, 2)?] {
            assert!((0..9).all(|step| schedule.learning_rate(step).is_finite()));
        }
        assert_eq!(Schedule::linear(0.5, 5, 5)?.learning_rate(5), 0.);
        Ok(())
    }
}
