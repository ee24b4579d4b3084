//! What can go wrong in training.

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that says what was given, what was expected and, where possible, how to fix it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting has an impossible value.
    #[error("{name} is {got}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        got: f64,
        /// What it may be.
        expected: &'static str,
    },

    /// A loss is not a single number.
    #[error("the loss has shape {got:?}, expected a single number; take its mean")]
    LossShape {
        /// The loss's shape.
        got: Vec<usize>,
    },

    /// A sum of gradients and a mean of gradients were to be added.
    #[error(
        "accumulate adds losses and accumulate_mean takes their mean, so both cannot be used before \
         one step; add the losses, or clear the gradients"
    )]
    SumAndMean,

    /// No parameter has a gradient.
    #[error(
        "the loss depends on none of the {parameters} parameters that are trained; compute it from \
         the model that the parameters were taken from, without detach() on the way"
    )]
    NoGradients {
        /// The number of parameters.
        parameters: usize,
    },

    /// A gradient is infinite or not a number.
    #[error(
        "the gradient of {name} is not finite, so nothing was changed; leave the batch out with \
         Gradients::clear, and lower the learning rate if it happens again"
    )]
    NotFinite {
        /// The parameter.
        name: String,
    },

    /// Gradients and optimizer were made for different variables with one name.
    #[error(
        "the gradient of {name} belongs to another variable than the optimizer's; make a new \
         optimizer from what set_trainable returns, and restore() the old optimizer's state if the \
         shapes are the same"
    )]
    OtherVariable {
        /// The parameter.
        name: String,
    },

    /// An optimizer's saved state belongs to other parameters.
    #[error(
        "the optimizer's state has {what}; restore the state of an optimizer of the same model"
    )]
    State {
        /// What does not fit.
        what: String,
    },

    /// An operation failed in Candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Refuses a setting that `fits` does not accept.
pub(crate) fn check(
    name: &'static str,
    got: f64,
    fits: impl Fn(f64) -> bool,
    expected: &'static str,
) -> Result<()> {
    if fits(got) { Ok(()) } else { Err(Error::Setting { name, got, expected }) }
}

/// Refuses settings that are negative or not finite.
pub(crate) fn check_amount(name: &'static str, got: f64) -> Result<()> {
    check(name, got, |x| x.is_finite() && x >= 0., "a finite number, at least 0")
}
