//! Parameters by the names that checkpoints give them.

use bert_kernels::{EmbeddingWeights, LayerNormWeights, LinearWeights, WeightForm};
use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// A parameter of a model.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a>(Location<'a>);

#[derive(Clone, Copy, Debug)]
enum Location<'a> {
    Tensor(&'a Tensor),
    /// The weight (0) or the bias (1) of a projection, in a form that is not a tensor.
    Projection(&'a LinearWeights, usize, usize),
}

impl Parameter<'_> {
    /// Its dimensions.
    pub fn dims(&self) -> Vec<usize> {
        match self.0 {
            Location::Tensor(tensor) => tensor.dims().to_vec(),
            Location::Projection(weights, projection, 0) => weights.dims(projection).to_vec(),
            Location::Projection(weights, projection, _) => vec![weights.dims(projection)[0]],
        }
    }

    /// The number of its elements.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// Its dtype.
    pub fn dtype(&self) -> DType {
        match self.0 {
            Location::Tensor(tensor) => tensor.dtype(),
            Location::Projection(weights, ..) => weights.dtype(),
        }
    }

    /// Whether it is trained.
    pub fn is_variable(&self) -> bool {
        matches!(self.0, Location::Tensor(tensor) if tensor.is_variable())
    }

    /// Whether it is a variable, or was computed from one.
    pub(crate) fn needs_gradient(&self) -> bool {
        matches!(self.0, Location::Tensor(tensor) if tensor.track_op())
    }

    /// Its value. A packed parameter is unpacked into a new tensor.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(match self.0 {
            Location::Tensor(tensor) => tensor.clone(),
            Location::Projection(weights, projection, 0) => weights.weight(projection)?,
            Location::Projection(weights, projection, _) => weights.bias(projection)?,
        })
    }

    /// Checks that `value` can replace the parameter.
    pub(crate) fn check_replacement(&self, name: &str, value: &Tensor) -> Result<()> {
        if self.dims() != value.dims() {
            let expected = format!("{:?} like {name}", self.dims());
            return Err(Error::shape("a new parameter", value, expected));
        }
        match self.dtype() == value.dtype() {
            true => Ok(()),
            false => Err(Error::dtype("a new parameter", value, format!("{:?}", self.dtype()))),
        }
    }

    /// The new value that `replace` returns, after checking it.
    fn replacement(self, name: &str, replace: &mut Replace<'_>) -> Result<Option<Tensor>> {
        let value = replace(name, self)?;
        value.iter().try_for_each(|value| self.check_replacement(name, value))?;
        Ok(value)
    }
}

/// What [`Named::visit`] calls.
pub type Visit<'a> = dyn FnMut(&str, Parameter<'_>) -> Result<()> + 'a;
/// What [`Named::replace`] calls: it returns the new value, or `None` to keep the old one.
pub type Replace<'a> = dyn FnMut(&str, Parameter<'_>) -> Result<Option<Tensor>> + 'a;

/// A part of a model whose parameters have names. [`named!`](crate::named) implements it.
///
/// Each parameter is visited once, in the order of the forward pass. A parameter that is tied to
/// another one is not visited.
pub trait Named {
    /// Calls `visit` with every parameter and its name, which begins with `at`.
    ///
    /// # Errors
    /// What `visit` returns.
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()>;

    /// Replaces the parameters for which `replace` returns a new value. Weights keep their form.
    ///
    /// # Errors
    /// What `replace` returns, and [`Error::Shape`] or [`Error::DType`] for a value that does not fit.
    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()>;

    /// Converts the weights of linear maps to `form`.
    ///
    /// # Errors
    /// When parameters do not have the shapes that they should have.
    fn convert(&mut self, form: WeightForm) -> Result<()>;
}

/// Implements [`Named`](crate::Named) for a struct: the name that a checkpoint gives a part, and its
/// field.
///
/// ```
/// use bert_core::{BertModel, Linear, named};
///
/// struct Scorer {
///     bert: BertModel,
///     score: Linear,
/// }
///
/// named!(Scorer { "bert" => bert, "score" => score });
/// ```
#[macro_export]
macro_rules! named {
    ($part:ty { $($name:literal => $field:ident),* $(,)? }) => {
        impl $crate::Named for $part {
            fn visit(&self, at: &str, visit: &mut $crate::Visit<'_>) -> $crate::Result<()> {
                $($crate::Named::visit(&self.$field, &$crate::below(at, $name), visit)?;)*
                Ok(())
            }

            fn replace(
                &mut self,
                at: &str,
                replace: &mut $crate::Replace<'_>,
            ) -> $crate::Result<()> {
                $(
                    let name = $crate::below(at, $name);
                    $crate::Named::replace(&mut self.$field, &name, replace)?;
                )*
                Ok(())
            }

            fn convert(&mut self, form: $crate::WeightForm) -> $crate::Result<()> {
                $($crate::Named::convert(&mut self.$field, form)?;)*
                Ok(())
            }
        }
    };
}

/// Joins a prefix and a name as `at.name`. If one is empty, returns the other.
pub fn below(at: &str, name: &str) -> String {
    match (at, name) {
        ("", name) => name.to_owned(),
        (at, "") => at.to_owned(),
        (at, name) => format!("{at}.{name}"),
    }
}

impl Named for Tensor {
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()> {
        visit(at, Parameter(Location::Tensor(self)))
    }

    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()> {
        if let Some(value) = Parameter(Location::Tensor(self)).replacement(at, replace)? {
            *self = value;
        }
        Ok(())
    }

    fn convert(&mut self, _form: WeightForm) -> Result<()> {
        Ok(())
    }
}

impl<T: Named> Named for Option<T> {
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()> {
        self.iter().try_for_each(|part| part.visit(at, visit))
    }

    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.replace(at, replace))
    }

    fn convert(&mut self, form: WeightForm) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.convert(form))
    }
}

impl<T: Named> Named for Vec<T> {
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()> {
        let mut parts = self.iter().enumerate();
        parts.try_for_each(|(i, part)| part.visit(&below(at, &i.to_string()), visit))
    }

    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()> {
        let mut parts = self.iter_mut().enumerate();
        parts.try_for_each(|(i, part)| part.replace(&below(at, &i.to_string()), replace))
    }

    fn convert(&mut self, form: WeightForm) -> Result<()> {
        self.iter_mut().try_for_each(|part| part.convert(form))
    }
}

impl Named for LinearWeights {
    fn visit(&self, at: &str, visit: &mut Visit<'_>) -> Result<()> {
        visit_projections(self, &[""], at, visit)
    }

    fn replace(&mut self, at: &str, replace: &mut Replace<'_>) -> Result<()> {
        replace_projections(self, &[""], at, replace)
    }

    fn convert(&mut self, form: WeightForm) -> Result<()> {
        Ok(LinearWeights::convert(self, form)?)
    }
}

/// [`Named::visit`] for joined projections, each with a name.
pub(crate) fn visit_projections(
    weights: &LinearWeights,
    names: &[&str],
    at: &str,
    visit: &mut Visit<'_>,
) -> Result<()> {
    for (projection, name) in names.iter().enumerate() {
        for (which, kind) in ["weight", "bias"].iter().enumerate() {
            let location = match weights.tensors(projection) {
                Some(tensors) => Location::Tensor(&tensors[which]),
                None => Location::Projection(weights, projection, which),
            };
            visit(&below(&below(at, name), kind), Parameter(location))?;
        }
    }
    Ok(())
}

/// [`Named::replace`] for joined projections, each with a name.
pub(crate) fn replace_projections(
    weights: &mut LinearWeights,
    names: &[&str],
    at: &str,
    replace: &mut Replace<'_>,
) -> Result<()> {
    let mut values = Vec::new();
    visit_projections(weights, names, at, &mut |name, parameter| {
        values.push(parameter.replacement(name, replace)?);
        Ok(())
    })?;
    if values.iter().all(Option::is_none) {
        return Ok(());
    }
    let form = weights.form();
    let tensors = weights.unpack_mut()?.as_flattened_mut();
    for (tensor, value) in tensors.iter_mut().zip(values) {
        if let Some(value) = value {
            *tensor = value;
        }
    }
    Ok(weights.convert(form)?)
}

/// Refuses `what` while a parameter is trained, or computed from what is: the optimizer would continue with the
/// old ones.
pub(crate) fn refuse_trained(part: &impl Named, what: &'static str) -> Result<()> {
    part.visit("", &mut |name, parameter| match parameter.needs_gradient() {
        true => Err(Error::Trainable { what, name: name.to_owned() }),
        false => Ok(()),
    })
}

/// Whether any parameter needs a gradient.
pub(crate) fn is_trained(part: &impl Named) -> bool {
    refuse_trained(part, "inference").is_err()
}

named!(EmbeddingWeights { "weight" => weight });
named!(LayerNormWeights { "weight" => gamma, "bias" => beta });
