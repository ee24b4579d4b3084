//! Gradients of losses, summed over batches and clipped.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;

use crate::error::{Error, Result, check};

/// The gradients of some parameters, by name. There are none at first and after every step.
#[derive(Clone, Debug)]
pub struct Gradients {
    vars: Vec<(String, Var)>,
    sums: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// No gradients yet, of the parameters in `vars`.
    pub fn new(vars: &VarMap) -> Self {
        Self { vars: named_vars(vars), sums: BTreeMap::new() }
    }

    /// Adds the gradients of `loss`, a scalar. For a mean over N batches, divide each loss by N.
    ///
    /// # Errors
    /// [`Error::LossShape`] when it is not a single number, [`Error::NoGradients`] when it depends on
    /// no parameter.
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        if loss.rank() != 0 {
            return Err(Error::LossShape { got: loss.dims().to_vec() });
        }
        let mut store = loss.backward()?;
        let mut found = false;
        for (name, var) in &self.vars {
            let Some(gradient) = store.remove(var) else { continue };
            found = true;
            // Detached: what is kept must not keep the loss's graph.
            let sum = match self.sums.get(name) {
                Some(sum) => (sum + gradient.detach())?,
                None => gradient.detach(),
            };
            self.sums.insert(name.clone(), sum);
        }
        if found { Ok(()) } else { Err(Error::NoGradients { parameters: self.vars.len() }) }
    }

    /// The gradient of a parameter, in its shape and dtype.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.sums.get(name)
    }

    /// The variables that have gradients, and their names.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&str, &Var)> {
        let present = self.vars.iter().filter(|(name, _)| self.sums.contains_key(name));
        present.map(|(name, var)| (name.as_str(), var))
    }

    /// The parameters without a gradient: no loss so far depends on them.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let names = self.vars.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !self.sums.contains_key(*name))
    }

    /// The norm of all gradients taken as one vector.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when it is infinite or not a number.
    pub fn norm(&self) -> Result<f64> {
        let mut squares = 0.;
        for (name, gradient) in &self.sums {
            squares += sum_of_squares(gradient)?;
            if !squares.is_finite() {
                return Err(Error::NotFinite { name: name.clone() });
            }
        }
        Ok(squares.sqrt())
    }

    /// Scales all gradients so that their norm is at most `max_norm`; returns the norm before. PyTorch:
    /// `clip_grad_norm_`.
    ///
    /// # Errors
    /// [`Error::NotFinite`] as [`Gradients::norm`]; [`Error::Setting`] for a `max_norm` that is not
    /// positive.
    pub fn clip_norm(&mut self, max_norm: f64) -> Result<f64> {
        check("max_norm", max_norm, |max| max > 0., "a positive number")?;
        let norm = self.norm()?;
        let factor = max_norm / (norm + 1e-6);
        if factor < 1. {
            for gradient in self.sums.values_mut() {
                *gradient = (&*gradient * factor)?;
            }
        }
        Ok(norm)
    }

    /// Removes all gradients, for example those of a batch to leave out.
    pub fn clear(&mut self) {
        self.sums.clear();
    }
}

/// Summed within rows in F32, or F64 if the gradient is; then in F64.
fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let rows = gradient.to_dtype(wide_dtype(gradient))?.sqr()?;
    let rows = if rows.rank() == 0 { rows } else { rows.sum(rows.rank() - 1)? };
    let sum = rows.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sum_all()?;
    Ok(sum.to_scalar()?)
}

/// F64 for F64, and otherwise F32.
pub(crate) fn wide_dtype(tensor: &Tensor) -> DType {
    if tensor.dtype() == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The variables of a map, in the order of their names.
pub(crate) fn named_vars(vars: &VarMap) -> Vec<(String, Var)> {
    let vars = vars.data().lock().unwrap_or_else(PoisonError::into_inner);
    let mut named: Vec<_> = vars.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    named
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Init;

    fn vars() -> Result<(VarMap, Tensor, Tensor)> {
        let vars = VarMap::new();
        let a = vars.get(2, "a", Init::Const(3.), DType::F32, &Device::Cpu)?;
        let b = vars.get((1, 1), "b", Init::Const(4.), DType::F32, &Device::Cpu)?;
        Ok((vars, a, b))
    }

    #[test]
    fn gradients_of_parts_add_up_to_that_of_the_whole() -> Result<()> {
        let (vars, a, b) = vars()?;
        let mut gradients = Gradients::new(&vars);
        gradients.accumulate(&(a.sqr()?.sum_all()? / 2.)?)?;
        assert_eq!(gradients.missing().collect::<Vec<_>>(), ["b"]);
        gradients.accumulate(&((a.sum_all()? + b.sum_all()?)? / 2.)?)?;
        assert_eq!(gradients.missing().count(), 0);
        assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>()?, [3.5, 3.5]);
        assert_eq!(gradients.get("b").unwrap().to_vec2::<f32>()?, [[0.5]]);
        Ok(())
    }

    #[test]
    fn clipping_scales_all_gradients_by_one_factor() -> Result<()> {
        let (vars, a, b) = vars()?;
        let mut gradients = Gradients::new(&vars);
        gradients.accumulate(&((a.sum_all()? * 2.)? + b.sum_all()?)?)?; // 2, 2, 1: norm 3
        assert!((gradients.clip_norm(5.)? - 3.).abs() < 1e-6);
        assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>()?, [2., 2.]);
        assert!((gradients.clip_norm(1.5)? - 3.).abs() < 1e-6);
        assert!((gradients.norm()? - 1.5).abs() < 1e-5);
        Ok(())
    }

    #[test]
    fn what_is_no_loss_is_refused() -> Result<()> {
        let (vars, a, _) = vars()?;
        let mut gradients = Gradients::new(&vars);
        assert!(matches!(gradients.accumulate(&a), Err(Error::LossShape { .. })));
        let detached = a.detach().sum_all()?;
        let text = gradients.accumulate(&detached).unwrap_err().to_string();
        assert!(text.contains("none of the 2 parameters"), "{text}");
        gradients.accumulate(&(a.sum_all()? / 0.)?)?;
        let text = gradients.norm().unwrap_err().to_string();
        assert!(text.contains("the gradient of a is not finite"), "{text}");
        assert!(matches!(gradients.clip_norm(f64::NAN), Err(Error::Setting { .. })));
        Ok(())
    }
}
