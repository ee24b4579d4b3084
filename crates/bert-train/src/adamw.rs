//! The optimizer.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarMap;

use crate::error::{Error, Result, check, check_amount};
use crate::gradients::{Gradients, named_vars, wide_dtype};

/// Settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct AdamWOptions {
    /// The decay rates of the running means of gradients and of their squares.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// At each step, this share of a parameter times the learning rate is subtracted.
    pub weight_decay: f64,
}

impl Default for AdamWOptions {
    /// β 0.9 and 0.999, ε 1e-8, weight decay 0.01, as in PyTorch. The original BERT code has ε 1e-6.
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamWOptions {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets [`AdamWOptions::betas`], each from 0 to below 1.
    pub fn with_betas(self, first: f64, second: f64) -> Self {
        Self { betas: (first, second), ..self }
    }

    /// Sets [`AdamWOptions::eps`], a positive number.
    pub fn with_eps(self, eps: f64) -> Self {
        Self { eps, ..self }
    }

    /// Sets [`AdamWOptions::weight_decay`], at least 0.
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay, ..self }
    }
}

/// How a parameter is treated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParameterGroup {
    /// As [`AdamWOptions::weight_decay`].
    pub weight_decay: f64,
    /// The factor of the learning rate, for example smaller in lower layers.
    pub learning_rate_scale: f64,
}

/// Adam with decoupled weight decay. Loshchilov & Hutter 2019. PyTorch: `torch.optim.AdamW`.
///
/// `θ ← θ (1 − η λ) − η m̂ / (√v̂ + ε)`. `m̂` and `v̂` are the running means of gradients and of their
/// squares, corrected for their start at 0. Half-precision parameters have F32 means.
#[derive(Clone, Debug)]
pub struct AdamW {
    options: AdamWOptions,
    parameters: Vec<Parameter>,
}

#[derive(Clone, Debug)]
struct Parameter {
    name: String,
    var: Var,
    group: ParameterGroup,
    /// Absent before the first gradient.
    moments: Option<Moments>,
    /// What `var` is rounded from, if it has half precision. Absent before the first gradient.
    master: Option<Tensor>,
}

#[derive(Clone, Debug)]
struct Moments {
    /// Steps so far.
    step: i64,
    /// The mean of the gradients.
    first: Tensor,
    /// The mean of their squares.
    second: Tensor,
}

impl AdamW {
    /// Optimizes the parameters in `vars`. Biases and LayerNorms do not decay, as in the original
    /// BERT code.
    ///
    /// # Errors
    /// [`Error::Setting`] for impossible options.
    pub fn new(vars: &VarMap, options: AdamWOptions) -> Result<Self> {
        Self::with_groups(vars, options, |name| {
            let decays = !name.ends_with("bias") && !name.contains("LayerNorm");
            let weight_decay = if decays { options.weight_decay } else { 0. };
            ParameterGroup { weight_decay, learning_rate_scale: 1. }
        })
    }

    /// [`AdamW::new`] with a group for each parameter, chosen by its name. The group's weight decay
    /// replaces that of the options.
    ///
    /// # Errors
    /// [`Error::Setting`] for impossible options or groups.
    pub fn with_groups(
        vars: &VarMap,
        options: AdamWOptions,
        group: impl Fn(&str) -> ParameterGroup,
    ) -> Result<Self> {
        let share = |x: f64| (0. ..1.).contains(&x);
        check("betas.0", options.betas.0, share, "a number from 0 to below 1")?;
        check("betas.1", options.betas.1, share, "a number from 0 to below 1")?;
        // A parameter whose gradients are all 0 would become 0 / 0.
        let positive = |eps: f64| eps.is_finite() && eps as f32 > 0.;
        check("eps", options.eps, positive, "a positive number, as F32")?;
        check_amount("weight_decay", options.weight_decay)?;
        let mut parameters = Vec::new();
        for (name, var) in named_vars(vars) {
            let group = group(&name);
            check_amount("weight_decay", group.weight_decay)?;
            check_amount("learning_rate_scale", group.learning_rate_scale)?;
            parameters.push(Parameter { name, var, group, moments: None, master: None });
        }
        Ok(Self { options, parameters })
    }

    /// Updates every parameter that has a gradient, and clears the gradients.
    ///
    /// # Errors
    /// [`Error::Setting`] for a learning rate that is negative or not finite,
    /// [`Error::NoGradients`] when no parameter has a gradient, [`Error::NotFinite`] when a gradient is
    /// infinite or not a number, [`Error::OtherVariable`] when the gradients belong to other variables.
    /// No parameter is changed then.
    pub fn step(&mut self, gradients: &mut Gradients, learning_rate: f64) -> Result<()> {
        check_amount("learning_rate", learning_rate)?;
        let own: HashMap<_, _> =
            self.parameters.iter().map(|it| (&*it.name, it.var.id())).collect();
        for (name, var) in gradients.present() {
            if own.get(name).is_some_and(|id| *id != var.id()) {
                return Err(Error::OtherVariable { name: name.to_owned() });
            }
        }
        gradients.norm()?;
        let mut moved = false;
        for parameter in &mut self.parameters {
            if let Some(gradient) = gradients.get(&parameter.name) {
                parameter.step(gradient, learning_rate, &self.options)?;
                moved = true;
            }
        }
        gradients.clear();
        if moved { Ok(()) } else { Err(Error::NoGradients { parameters: self.parameters.len() }) }
    }

    /// The optimizer's state with PyTorch's names: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` of
    /// every parameter that has been updated; and `master.NAME`, the F32 copy, if it has half precision.
    ///
    /// # Errors
    /// When Candle cannot allocate.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let mut state = HashMap::new();
        for Parameter { name, moments, master, .. } in &self.parameters {
            if let Some(master) = master {
                state.insert(format!("master.{name}"), master.clone());
            }
            if let Some(Moments { step, first, second }) = moments {
                state.insert(format!("exp_avg.{name}"), first.clone());
                state.insert(format!("exp_avg_sq.{name}"), second.clone());
                state.insert(format!("step.{name}"), Tensor::new(*step as f64, &Device::Cpu)?);
            }
        }
        Ok(state)
    }

    /// Restores what [`AdamW::state`] returned. The next step is then the one that would have followed.
    /// Without the F32 copies, those begin at the parameters' values.
    ///
    /// # Errors
    /// [`Error::State`] when it is the state of other parameters; the optimizer is then unchanged.
    pub fn restore(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let restored = self.parameters.iter().map(|parameter| parameter.restore(state));
        let restored = restored.collect::<Result<Vec<_>>>()?;
        let known = restored.iter().filter(|(moments, _)| moments.is_some()).count();
        let read = 3 * known + restored.iter().filter(|(_, master)| master.is_some()).count();
        if read != state.len() {
            let got = state.len();
            let what = format!("{got} tensors, of which only {read} belong to {known} parameters");
            return Err(Error::State { what });
        }
        for (parameter, (moments, master)) in self.parameters.iter_mut().zip(restored) {
            // The copy of a parameter that had half precision then, and has not now, is not needed.
            let is_half = wide_dtype(&parameter.var) != parameter.var.dtype();
            (parameter.moments, parameter.master) = (moments, master.filter(|_| is_half));
        }
        Ok(())
    }
}

impl Parameter {
    fn step(&mut self, gradient: &Tensor, rate: f64, options: &AdamWOptions) -> Result<()> {
        let (beta1, beta2) = options.betas;
        let wide = wide_dtype(&self.var);
        let gradient = gradient.to_dtype(wide)?;
        let (first, second) = ((&gradient * (1. - beta1))?, (gradient.sqr()? * (1. - beta2))?);
        let mut moments = Moments { step: 1, first, second };
        if let Some(past) = &self.moments {
            moments.step += past.step;
            moments.first = ((&past.first * beta1)? + moments.first)?;
            moments.second = ((&past.second * beta2)? + moments.second)?;
        }
        let Moments { step, first, second } = moments;
        let learning_rate = rate * self.group.learning_rate_scale;
        let corrections = (1. - beta1.powf(step as f64), 1. - beta2.powf(step as f64));
        let root = ((second.sqrt()? / corrections.1.sqrt())? + options.eps)?;
        let update = ((&first / root)? * (learning_rate / corrections.0))?;
        let theta = self.theta(wide)?;
        let kept = (theta * (1. - learning_rate * self.group.weight_decay))?;
        let theta = (kept - update)?;
        self.var.set(&theta.to_dtype(self.var.dtype())?)?;
        self.master = Some(theta).filter(|_| wide != self.var.dtype());
        self.moments = Some(Moments { step, first, second });
        Ok(())
    }

    /// The parameter's value: the copy's, where the variable still is what the copy is rounded to.
    fn theta(&self, wide: DType) -> Result<Tensor> {
        let var = self.var.as_detached_tensor();
        let theta = var.to_dtype(wide)?;
        let Some(master) = &self.master else { return Ok(theta) };
        let unchanged = master.to_dtype(var.dtype())?.eq(&var)?;
        Ok(unchanged.where_cond(master, &theta)?)
    }

    /// What the state has of this parameter.
    #[allow(clippy::type_complexity)]
    fn restore(
        &self,
        state: &HashMap<String, Tensor>,
    ) -> Result<(Option<Moments>, Option<Tensor>)> {
        let name = &self.name;
        let get = |what| state.get(&format!("{what}.{name}"));
        let (first, second, step) = match (get("exp_avg"), get("exp_avg_sq"), get("step")) {
            (None, None, None) => return Ok((None, None)),
            (Some(first), Some(second), Some(step)) => (first, second, step),
            _ => return Err(Error::State { what: format!("only a part of what {name} needs") }),
        };
        let own = |moment: &Tensor| {
            let (got, expected) = (moment.dims(), self.var.dims());
            if got != expected {
                let what = format!("shape {got:?} for {name}, whose shape is {expected:?}");
                return Err(Error::State { what });
            }
            let sum = moment.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
            if !sum.is_finite() {
                return Err(Error::State {
                    what: format!("a number for {name} that is not finite"),
                });
            }
            Ok(moment.to_device(self.var.device())?.to_dtype(wide_dtype(&self.var))?)
        };
        let (first, second) = (own(first)?, own(second)?);
        if second.lt(0f64)?.to_dtype(DType::F64)?.sum_all()?.to_scalar::<f64>()? > 0. {
            return Err(Error::State { what: format!("a negative mean of squares for {name}") });
        }
        let master = get("master").map(own).transpose()?;
        let step = step.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let step = match step[..] {
            [step] if (1. ..1e15).contains(&step) && step.fract() == 0. => step as i64,
            _ => return Err(Error::State { what: format!("{step:?} as the step of {name}") }),
        };
        Ok((Some(Moments { step, first, second }), master))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::Init;

    /// One parameter of the value 1 whose loss is `factor · x`.
    fn one(dtype: DType) -> Result<(VarMap, Tensor)> {
        let vars = VarMap::new();
        let x = vars.get((), "x.weight", Init::Const(1.), dtype, &Device::Cpu)?;
        Ok((vars, x))
    }

    fn value(x: &Tensor) -> Result<f64> {
        Ok(x.to_dtype(DType::F64)?.to_scalar()?)
    }

    #[test]
    fn the_first_step_has_the_length_of_the_learning_rate() -> Result<()> {
        for dtype in [DType::F64, DType::F32, DType::BF16] {
            let (vars, x) = one(dtype)?;
            let mut optimizer = AdamW::new(&vars, AdamWOptions::new().with_weight_decay(0.5))?;
            let mut gradients = Gradients::new(&vars);
            gradients.accumulate(&(&x * 7.)?)?;
            optimizer.step(&mut gradients, 0.1)?;
            // 1 − 0.1 · 0.5 of decay, and 0.1 against the gradient's sign.
            assert!((value(&x)? - 0.85).abs() < 3e-3, "{dtype:?}: {}", value(&x)?);
            assert_eq!(gradients.missing().count(), 1);
        }
        Ok(())
    }

    #[test]
    fn steps_below_half_precision_add_up() -> Result<()> {
        let (vars, x) = one(DType::BF16)?;
        let options = AdamWOptions::new().with_weight_decay(0.);
        let mut optimizer = AdamW::new(&vars, options)?;
        let mut gradients = Gradients::new(&vars);
        let mut steps = |optimizer: &mut AdamW, count: usize| -> Result<f64> {
            for _ in 0..count {
                gradients.accumulate(&(&x * 3.)?)?;
                optimizer.step(&mut gradients, 1e-4)?;
            }
            value(&x)
        };
        // BF16 has steps of 0.0039 below 1.
        assert!((steps(&mut optimizer, 400)? - 0.96).abs() < 0.002);
        // A value that was set from outside counts.
        let var = vars.data().lock().unwrap()["x.weight"].clone();
        var.set(&Tensor::new(2f32, &Device::Cpu)?.to_dtype(DType::BF16)?)?;
        assert_eq!(steps(&mut optimizer, 1)?, 2.);
        // And a restored optimizer goes on.
        let state = optimizer.state()?;
        assert_eq!(state["master.x.weight"].dtype(), DType::F32);
        let mut restored = AdamW::new(&vars, options)?;
        restored.restore(&state)?;
        assert!((steps(&mut restored, 399)? - 1.96).abs() < 0.005);
        // Also with parameters of another dtype.
        let (vars, _) = one(DType::F32)?;
        AdamW::new(&vars, options)?.restore(&state)?;
        Ok(())
    }

    #[test]
    fn biases_and_norms_do_not_decay() -> Result<()> {
        let vars = VarMap::new();
        let names = ["dense.weight", "dense.bias", "LayerNorm.weight"];
        let tensors = names
            .map(|name| vars.get((), name, Init::Const(1.), DType::F64, &Device::Cpu).unwrap());
        let mut optimizer = AdamW::new(&vars, AdamWOptions::new().with_weight_decay(0.5))?;
        let mut gradients = Gradients::new(&vars);
        gradients.accumulate(&((&tensors[0] + &tensors[1])? + &tensors[2])?)?;
        optimizer.step(&mut gradients, 0.1)?;
        for (tensor, expected) in tensors.iter().zip([0.85, 0.9, 0.9]) {
            assert!((value(tensor)? - expected).abs() < 1e-6);
        }
        Ok(())
    }

    #[test]
    fn a_restored_optimizer_goes_on_as_if_it_had_never_stopped() -> Result<()> {
        let (vars, x) = one(DType::F64)?;
        let mut optimizer = AdamW::new(&vars, AdamWOptions::default())?;
        let mut gradients = Gradients::new(&vars);
        let mut steps = |optimizer: &mut AdamW, count: usize| -> Result<f64> {
            for _ in 0..count {
                gradients.accumulate(&x.sqr()?)?;
                optimizer.step(&mut gradients, 0.1)?;
            }
            value(&x)
        };
        steps(&mut optimizer, 3)?;
        let (state, start) = (optimizer.state()?, value(&x)?);
        let expected = steps(&mut optimizer, 3)?;

        vars.data().lock().unwrap()["x.weight"].set(&Tensor::new(start, &Device::Cpu)?)?;
        let mut restored = AdamW::new(&vars, AdamWOptions::default())?;
        restored.restore(&state)?;
        assert_eq!(steps(&mut restored, 3)?, expected);
        Ok(())
    }

    #[test]
    fn bad_settings_gradients_and_states_are_refused_and_change_nothing() -> Result<()> {
        let (vars, x) = one(DType::F32)?;
        for options in [
            AdamWOptions { betas: (1., 0.9), ..AdamWOptions::default() },
            AdamWOptions { eps: f64::NAN, ..AdamWOptions::default() },
            AdamWOptions { eps: 0., ..AdamWOptions::default() },
            AdamWOptions { eps: 1e-50, ..AdamWOptions::default() },
            AdamWOptions { weight_decay: -1., ..AdamWOptions::default() },
        ] {
            assert!(matches!(AdamW::new(&vars, options), Err(Error::Setting { .. })));
        }
        let mut optimizer = AdamW::new(&vars, AdamWOptions::default())?;
        let mut gradients = Gradients::new(&vars);
        let text = optimizer.step(&mut gradients, f64::NAN).unwrap_err().to_string();
        assert!(text.contains("learning_rate is NaN"), "{text}");
        assert!(matches!(optimizer.step(&mut gradients, 0.1), Err(Error::NoGradients { .. })));
        gradients.accumulate(&(&x * f64::NAN)?)?;
        let text = optimizer.step(&mut gradients, 0.1).unwrap_err().to_string();
        assert!(text.contains("x.weight") && text.contains("nothing was changed"), "{text}");
        assert_eq!(value(&x)?, 1.);

        let number = Tensor::new(1f32, &Device::Cpu)?;
        let whole = ["exp_avg.x.weight", "exp_avg_sq.x.weight", "step.x.weight"];
        for (names, number) in [
            (&whole[..1], &number),
            (&["exp_avg.y", "exp_avg_sq.y", "step.y"], &number),
            (&whole, &(&number * -1.)?),
            (&whole, &(&number * f64::NAN)?),
        ] {
            let state = names.iter().map(|name| ((*name).to_owned(), number.clone())).collect();
            assert!(matches!(optimizer.restore(&state), Err(Error::State { .. })), "{names:?}");
        }

        // The same names, other variables.
        let (others, y) = one(DType::F32)?;
        let mut gradients = Gradients::new(&others);
        gradients.accumulate(&y.sqr()?)?;
        let text = optimizer.step(&mut gradients, 0.1).unwrap_err().to_string();
        assert!(text.contains("make a new optimizer"), "{text}");
        Ok(())
    }
}
