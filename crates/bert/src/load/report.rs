//! What loading reports.

use std::fmt;

use candle_core::DType;

/// What became of a checkpoint's weights. Hugging Face: `output_loading_info`.
///
/// [`fmt::Display`] says it in sentences.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The checkpoint's weights that the model uses.
    pub used: Vec<String>,
    /// The checkpoint's weights that the model does not have.
    pub unused: Vec<String>,
    /// The model's weights that are missing from the checkpoint. They were newly initialized.
    pub missing: Vec<String>,
    /// The model's weights that the checkpoint has in another shape. They were newly initialized.
    pub mismatched: Vec<Mismatch>,
    /// Weights with another name in the checkpoint: that name, then the model's.
    pub renamed: Vec<(String, String)>,
    /// Tied weights: the name of the tied weight, then the name of the weight whose values it shares.
    pub tied: Vec<(String, String)>,
    /// Conversions to another dtype, and the number of weights of each.
    pub converted: Vec<(Conversion, usize)>,
    /// Whether `AutoModel` left out the pooler because the checkpoint has none.
    pub without_pooler: bool,
}

/// A weight whose shape in the checkpoint is not the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape there.
    pub got: Vec<usize>,
    /// The shape the model needs.
    pub expected: Vec<usize>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?} in place of {:?})", self.name, self.got, self.expected)
    }
}

/// From one dtype to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// As stored.
    pub from: DType,
    /// As loaded.
    pub to: DType,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.used.len();
        if !self.unused.is_empty() {
            let (unused, names) = (self.unused.len(), listing(&self.unused));
            write!(f, "{used} weights of the checkpoint were used, {unused} were not: {names}.")?;
        } else if self.mismatched.is_empty() {
            write!(f, "All {used} weights of the checkpoint were used.")?;
        } else {
            write!(f, "{used} weights of the checkpoint were used.")?;
        }
        let new = [
            ("lacks them", self.missing.len(), listing(&self.missing)),
            ("has them in another shape", self.mismatched.len(), listing(&self.mismatched)),
        ];
        for (reason, count, names) in new.into_iter().filter(|(_, count, _)| *count > 0) {
            write!(
                f,
                "\n{count} weights of the model are new, because the checkpoint {reason}: {names}. \
                 Train them before use."
            )?;
        }
        if !self.renamed.is_empty() {
            let pairs = self.renamed.iter().map(|(old, new)| format!("{old} as {new}"));
            let pairs = listing(&pairs.collect::<Vec<_>>());
            write!(f, "\n{} weights were renamed: {pairs}.", self.renamed.len())?;
        }
        for (tied, to) in &self.tied {
            write!(f, "\n{tied} is shared with {to}.")?;
        }
        if self.without_pooler {
            write!(f, "\nThe checkpoint has no pooler, so there is no pooler_output.")?;
        }
        for (Conversion { from, to }, count) in &self.converted {
            write!(f, "\n{count} weights were converted from {from:?} to {to:?}.")?;
        }
        Ok(())
    }
}

/// The first few of `names`, and how many more there are.
pub(crate) fn listing(names: &[impl ToString]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    match names.len() {
        0 => "nothing".to_owned(),
        count if count <= SHOWN => shown.join(", "),
        count => format!("{} and {} more", shown.join(", "), count - SHOWN),
    }
}
