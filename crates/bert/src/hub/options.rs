//! Options of the hub, which override the environment.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// The progress of the download of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The file's name in the repository.
    pub file: String,
    /// Bytes received.
    pub done: u64,
    /// Bytes of the whole file, if the hub says.
    pub total: Option<u64>,
}

/// Options of one repository. Absent ones come from the environment.
#[derive(Clone, Default)]
pub(crate) struct HubOptions {
    pub(crate) revision: Option<String>,
    pub(crate) cache_dir: Option<PathBuf>,
    pub(crate) endpoint: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) local_files_only: bool,
    pub(crate) on_progress: Option<Arc<dyn Fn(DownloadProgress) + Send + Sync>>,
}

impl fmt::Debug for HubOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("local_files_only", &self.local_files_only)
            .finish_non_exhaustive()
    }
}
