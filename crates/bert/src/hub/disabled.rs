//! The hub without the feature `hub`: every file is an error.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::hub::options::HubOptions;

/// A model repository that this build cannot reach.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    pub(crate) id: String,
    pub(crate) options: HubOptions,
}

impl Repo {
    pub(crate) fn new(id: &str, options: HubOptions) -> Self {
        Self { id: id.to_owned(), options }
    }

    pub(crate) fn find(&self, names: &[&str]) -> Result<Option<(usize, PathBuf)>> {
        let reason = "this program was built without the feature `hub`; \
                      pass the path of a folder that holds the checkpoint"
            .to_owned();
        Err(Error::Hub { repo: self.id.clone(), file: names.join(" or "), reason })
    }

    pub(crate) fn listing(&self) -> Option<Vec<String>> {
        None
    }
}
