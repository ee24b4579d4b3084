//! The cache on disk, in huggingface_hub's layout.
//!
//! `blobs/` has contents by their ETag, `snapshots/<commit>/` links to them by name, `refs/` has the
//! commits of branches, and `.no_exist/` lists files that a commit does not have.

use std::io::Write;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use crate::error::Error;
use crate::files::atomic::shared_file;

/// The cache of one repository at one revision.
pub(super) struct CachedRepo {
    pub(super) folder: PathBuf,
    revision: String,
    pub(super) repo: CacheRepo,
}

impl CachedRepo {
    pub(super) fn new(cache: &Path, repo: Repo) -> Self {
        Self {
            folder: cache.join(repo.folder_name()),
            revision: repo.revision().to_owned(),
            repo: Cache::new(cache.to_owned()).repo(repo),
        }
    }

    /// The commit of the revision in the cache, if the cache has any of its files.
    pub(super) fn commit(&self) -> Option<String> {
        let commit = std::fs::read_to_string(self.folder.join("refs").join(&self.revision));
        let commit = commit.map_or_else(|_| self.revision.clone(), |text| text.trim().to_owned());
        let held = |kind: &str| self.folder.join(kind).join(&commit).is_dir();
        (is_file_name(&commit) && (held("snapshots") || held(".no_exist"))).then_some(commit)
    }

    pub(super) fn get(&self, file: &str) -> Option<PathBuf> {
        Some(self.repo.pointer_path(&self.commit()?).join(file)).filter(|path| path.is_file())
    }

    pub(super) fn is_known_absent(&self, file: &str) -> bool {
        let absent = |commit| self.folder.join(".no_exist").join(commit).join(file).exists();
        self.commit().is_some_and(absent)
    }

    /// Records that a commit does not have a file, so that the hub is not asked again. If the record
    /// cannot be written, the hub is merely asked again.
    pub(super) fn remember_absent(&self, file: &str, commit: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(file);
        if is_file_name(commit)
            && path.parent().is_some_and(|it| std::fs::create_dir_all(it).is_ok())
        {
            let _ = std::fs::write(path, "");
            let _ = self.point_at(commit);
        }
    }

    /// Records the commit of the revision, in a temporary file that is then renamed.
    fn point_at(&self, commit: &str) -> std::io::Result<()> {
        let path = self.folder.join("refs").join(&self.revision);
        if self.revision == commit || path.is_file() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent)?;
        let mut temporary = shared_file(parent)?;
        temporary.write_all(commit.as_bytes())?;
        temporary.persist(path)?;
        Ok(())
    }

    /// Links a blob to its name in the snapshot of a commit, and records the commit of the revision.
    pub(super) fn link(&self, file: &str, blob: &Path, commit: &str) -> std::io::Result<PathBuf> {
        let path = self.repo.pointer_path(commit).join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
        let up: PathBuf = std::iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        match symlink(&target, blob, &path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            linked => linked?,
        }
        self.point_at(commit)?;
        Ok(path)
    }

    pub(super) fn unwritable(&self, source: std::io::Error) -> Error {
        Error::Cache { folder: self.folder.clone(), source }
    }
}

#[cfg(unix)]
fn symlink(target: &Path, _blob: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, blob: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, path)
}

/// Whether a text is the name of a single file.
pub(super) fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
