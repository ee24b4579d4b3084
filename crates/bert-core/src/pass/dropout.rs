//! Dropout with a generator of its own: Candle's CPU generator cannot be seeded.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::Result;

/// Dropout as a pass applies it: none in evaluation. Clones share the generator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dropout(Option<Arc<Mutex<ChaCha8Rng>>>);

impl Dropout {
    /// For training.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Some(Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed)))))
    }

    pub(crate) fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// In training, `x` with each element zeroed with probability `p` and the others divided by
    /// `1 − p`; in evaluation `x` itself. Srivastava et al. 2014.
    pub(crate) fn apply(&self, x: &Tensor, p: f64) -> Result<Tensor> {
        match self.factor(x.shape(), p, x.dtype(), x.device())? {
            Some(factor) => Ok(x.mul(&factor)?),
            None => Ok(x.clone()),
        }
    }

    /// What [`Dropout::apply`] multiplies a tensor of this shape by, if anything.
    pub(crate) fn factor(
        &self,
        shape: impl Into<Shape>,
        p: f64,
        dtype: DType,
        device: &Device,
    ) -> Result<Option<Tensor>> {
        let Some(generator) = self.0.as_ref().filter(|_| p > 0.) else { return Ok(None) };
        let shape = shape.into();
        let kept = if p < 1. { (1. / (1. - p)) as f32 } else { 0. };
        let mut generator = generator.lock().unwrap_or_else(PoisonError::into_inner);
        let factor: Vec<f32> = (0..shape.elem_count())
            .map(|_| if generator.random::<f64>() < p { 0. } else { kept })
            .collect();
        Ok(Some(Tensor::from_vec(factor, shape, device)?.to_dtype(dtype)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, p: f64) -> Result<Vec<f32>> {
        let ones = Tensor::ones(20_000, DType::F32, &Device::Cpu)?;
        Ok(Dropout::seeded(seed).apply(&ones, p)?.to_vec1()?)
    }

    #[test]
    fn dropout_keeps_the_asked_share_and_the_mean() -> Result<()> {
        let values = drawn(7, 0.1)?;
        let kept = values.iter().filter(|v| **v != 0.).count() as f64 / values.len() as f64;
        assert!((kept - 0.9).abs() < 0.01, "kept {kept}");
        assert!(values.iter().all(|v| *v == 0. || (*v - 1. / 0.9).abs() < 1e-6));
        assert!(drawn(7, 1.)?.iter().all(|v| *v == 0.));
        Ok(())
    }

    #[test]
    fn the_same_seed_drops_the_same_elements() -> Result<()> {
        assert_eq!(drawn(3, 0.5)?, drawn(3, 0.5)?);
        assert_ne!(drawn(3, 0.5)?, drawn(4, 0.5)?);
        Ok(())
    }

    #[test]
    fn evaluation_drops_nothing() -> Result<()> {
        let x = Tensor::arange(0f32, 8., &Device::Cpu)?;
        let y = Dropout::default().apply(&x, 0.5)?;
        assert_eq!(y.to_vec1::<f32>()?, x.to_vec1::<f32>()?);
        Ok(())
    }
}
