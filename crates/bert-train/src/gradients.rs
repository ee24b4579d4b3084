//! Gradients of losses, summed over batches and clipped.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;

use crate::error::{Error, Result, check};

/// The gradients of some parameters, by name. There are none at first and after every step.
///
/// They are added up in F32, or in F64 for F64 parameters.
#[derive(Clone, Debug)]
pub struct Gradients {
    vars: Vec<(String, Var)>,
    sums: BTreeMap<String, Tensor>,
    /// The number of items over which the sums are means; 0 for sums.
    items: f64,
}

impl Gradients {
    /// No gradients yet, of the parameters in `vars`.
    pub fn new(vars: &VarMap) -> Self {
        Self { vars: named_vars(vars), sums: BTreeMap::new(), items: 0. }
    }

    /// Adds the gradients of `loss`, a scalar.
    ///
    /// # Errors
    /// [`Error::LossShape`] when it is not a single number, [`Error::NoGradients`] when it depends on
    /// no parameter, [`Error::SumAndMean`] after [`Gradients::accumulate_mean`].
    pub fn accumulate(&mut self, loss: &Tensor) -> Result<()> {
        self.merge(self.of(loss, 0.)?)
    }

    /// Adds a part of a batch whose `loss` is a mean over `items`, like the labels that count. After all
    /// parts, the gradients are those of the mean over the items of the whole batch: parts with more
    /// items weigh more. Hugging Face: `num_items_in_batch` of the `Trainer`.
    ///
    /// # Errors
    /// As [`Gradients::accumulate`], and [`Error::SumAndMean`] after it; [`Error::Setting`] for 0 items.
    pub fn accumulate_mean(&mut self, loss: &Tensor, items: usize) -> Result<()> {
        let (items, expected) = (items as f64, "the number of items of the mean, at least 1");
        check("items", items, |items| items > 0., expected)?;
        self.merge(self.of(loss, items)?)
    }

    /// The gradients of one loss: a mean over `items`, or a sum if there are none.
    fn of(&self, loss: &Tensor, items: f64) -> Result<Self> {
        if loss.rank() != 0 {
            return Err(Error::LossShape { got: loss.dims().to_vec() });
        }
        let mut store = loss.backward()?;
        let mut sums = BTreeMap::new();
        for (name, var) in &self.vars {
            if let Some(gradient) = store.remove(var) {
                // Detached: what is kept must not keep the loss's graph.
                sums.insert(name.clone(), gradient.detach().to_dtype(wide_dtype(var))?);
            }
        }
        if sums.is_empty() {
            return Err(Error::NoGradients { parameters: self.vars.len() });
        }
        Ok(Self { vars: self.vars.clone(), sums, items })
    }

    /// Adds what was accumulated elsewhere, for example by another thread, of other parts of the batch.
    ///
    /// # Errors
    /// [`Error::SumAndMean`] when one has sums and the other has means, [`Error::OtherVariable`] when they
    /// are the gradients of other variables.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        let own: BTreeMap<_, _> = self.vars.iter().map(|(name, var)| (name, var.id())).collect();
        for (name, var) in other.present() {
            if own.get(&name.to_owned()) != Some(&var.id()) {
                return Err(Error::OtherVariable { name: name.to_owned() });
            }
        }
        if other.sums.is_empty() {
            return Ok(());
        }
        if self.sums.is_empty() {
            (self.sums, self.items) = (other.sums, other.items);
            return Ok(());
        }
        if (self.items == 0.) != (other.items == 0.) {
            return Err(Error::SumAndMean);
        }
        let all = self.items + other.items;
        let weighed = |sum: &Tensor, items: f64| match items > 0. {
            true => sum * (items / all),
            false => Ok(sum.clone()),
        };
        let mut sums = BTreeMap::new();
        for (name, sum) in &self.sums {
            sums.insert(name.clone(), weighed(sum, self.items)?);
        }
        for (name, gradient) in &other.sums {
            let gradient = weighed(gradient, other.items)?;
            let sum = match sums.remove(name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            sums.insert(name.clone(), sum);
        }
        (self.sums, self.items) = (sums, all);
        Ok(())
    }

    /// The gradient of a parameter, in its shape.
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
        self.items = 0.;
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
    fn means_of_parts_of_any_size_make_the_mean_of_the_whole() -> Result<()> {
        let (vars, a, b) = vars()?;
        let mut gradients = Gradients::new(&vars);
        // Items whose gradients are 1, 2, 6 and, of the other parameter, 8.
        gradients.accumulate_mean(&a.sum_all()?, 1)?;
        gradients.accumulate_mean(&(((a.sum_all()? * 8.)? + (b.sum_all()? * 8.)?)? / 3.)?, 3)?;
        assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>()?, [9. / 4.; 2]);
        assert_eq!(gradients.get("b").unwrap().to_vec2::<f32>()?, [[2.]]);
        let text = gradients.accumulate_mean(&a.sum_all()?, 0).unwrap_err().to_string();
        assert!(text.contains("items is 0"), "{text}");
        // A sum is not added to a mean, nor a mean to a sum.
        assert!(matches!(gradients.accumulate(&a.sum_all()?), Err(Error::SumAndMean)));
        gradients.clear();
        gradients.accumulate(&a.sum_all()?)?;
        assert!(matches!(gradients.accumulate_mean(&a.sum_all()?, 1), Err(Error::SumAndMean)));
        // After a step, everything begins anew.
        gradients.clear();
        gradients.accumulate_mean(&a.sum_all()?, 5)?;
        assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>()?, [1.; 2]);
        // Numbers of items do not overflow.
        gradients.clear();
        gradients.accumulate_mean(&a.sum_all()?, usize::MAX)?;
        gradients.accumulate_mean(&(a.sum_all()? * 3.)?, usize::MAX)?;
        assert_eq!(gradients.get("a").unwrap().to_vec1::<f32>()?, [2.; 2]);
        Ok(())
    }

    #[test]
    fn gradients_of_threads_are_merged_as_if_one_had_computed_them() -> Result<()> {
        let (vars, a, b) = vars()?;
        let part = |loss: &Tensor, items: usize| -> Result<Gradients> {
            let mut gradients = Gradients::new(&vars);
            match items {
                0 => gradients.accumulate(loss)?,
                _ => gradients.accumulate_mean(loss, items)?,
            }
            Ok(gradients)
        };
        let both = (a.sum_all()? + (b.sum_all()? * 3.)?)?;
        let mut sums = part(&a.sum_all()?, 0)?;
        sums.merge(Gradients::new(&vars))?;
        sums.merge(part(&both, 0)?)?;
        assert_eq!(sums.get("a").unwrap().to_vec1::<f32>()?, [2., 2.]);
        assert_eq!(sums.get("b").unwrap().to_vec2::<f32>()?, [[3.]]);
        let mut means = Gradients::new(&vars);
        means.merge(part(&a.sum_all()?, 1)?)?;
        means.merge(part(&both, 2)?)?;
        assert_eq!(means.get("a").unwrap().to_vec1::<f32>()?, [1., 1.]);
        assert_eq!(means.get("b").unwrap().to_vec2::<f32>()?, [[2.]]);
        assert!(matches!(means.merge(sums), Err(Error::SumAndMean)));
        let (others, c, _) = self::vars()?;
        let mut other = Gradients::new(&others);
        other.accumulate_mean(&c.sum_all()?, 1)?;
        assert!(matches!(means.merge(other), Err(Error::OtherVariable { .. })));
        Ok(())
    }

    #[test]
    fn gradients_of_half_precision_are_added_up_in_single_precision() -> Result<()> {
        let vars = VarMap::new();
        let x = vars.get((), "x", Init::Const(1.), DType::BF16, &Device::Cpu)?;
        let mut gradients = Gradients::new(&vars);
        gradients.accumulate(&(&x * 256.)?)?;
        gradients.accumulate(&(&x * 0.5)?)?;
        assert_eq!(gradients.get("x").unwrap().to_scalar::<f32>()?, 256.5);
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
