//! The cache on disk, in huggingface_hub's layout.
//!
//! `blobs/` has contents by their ETag, `snapshots/<commit>/` links to them by name, `refs/` has the
//! commits of branches, and `.no_exist/` lists files that a commit does not have.

use std::fs::File;
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo, Repo};

use crate::error::Error;
use crate::files::atomic::{if_there, shared_file};

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

    /// Where a commit's file is, if it is in the cache.
    pub(super) fn path(&self, file: &str, commit: &str) -> PathBuf {
        self.repo.pointer_path(commit).join(file)
    }

    pub(super) fn get(&self, file: &str) -> Option<PathBuf> {
        Some(self.path(file, &self.commit()?)).filter(|path| path.is_file())
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
            let _ = File::create_new(path);
            let _ = self.point_at(commit);
        }
    }

    /// Records the commit of the revision, in a temporary file that is then renamed. As long as the cache
    /// has files of the commit that it knows, that one stays.
    fn point_at(&self, commit: &str) -> Result<()> {
        let path = self.folder.join("refs").join(&self.revision);
        let known = std::fs::read_to_string(&path);
        let known = known.ok().filter(|known| known.trim() == commit || self.commit().is_some());
        if self.revision == commit || known.is_some() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(parent)?;
        let mut temporary = shared_file(parent)?;
        temporary.write_all(commit.as_bytes())?;
        temporary.persist(path)?;
        Ok(())
    }

    /// A lock that one process has at a time, in huggingface_hub's place for it, as long as the value
    /// lives.
    pub(super) fn lock(&self, etag: &str) -> Result<File> {
        let cache = self.folder.parent().unwrap_or(&self.folder);
        let folder = cache.join(".locks").join(self.folder.file_name().unwrap_or_default());
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{etag}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.lock() {
            // On a file system without locks, two processes may download side by side.
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            locked => locked?,
        }
        Ok(file)
    }

    /// What there is of a blob already, under the name that huggingface_hub gives it.
    pub(super) fn unfinished(&self, blob: &Path) -> Result<File> {
        std::fs::create_dir_all(blob.parent().unwrap_or(blob))?;
        File::options().create(true).truncate(false).write(true).open(unfinished_path(blob))
    }

    /// Gives a blob that is complete its name, once the disk has it.
    pub(super) fn keep(&self, unfinished: File, blob: &Path) -> Result<()> {
        unfinished.sync_all()?;
        drop(unfinished);
        match std::fs::rename(unfinished_path(blob), blob) {
            // Another process has done it, where locks do not work.
            Err(_) if blob.is_file() => Ok(()),
            renamed => renamed,
        }
    }

    /// Links a blob to its name in the snapshot of a commit, and records the commit of the revision.
    pub(super) fn link(&self, file: &str, blob: &Path, commit: &str) -> Result<PathBuf> {
        let path = self.path(file, commit);
        let up: PathBuf = std::iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        if !path.is_file() {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            // A link to a blob that is gone, from an earlier time.
            if_there(std::fs::remove_file(&path))?;
            name_blob(blob, &path, || symlink(&target, &path))?;
        }
        self.point_at(commit)?;
        Ok(path)
    }

    pub(super) fn unwritable(&self, source: std::io::Error) -> Error {
        Error::Cache { folder: self.folder.clone(), source }
    }
}

/// Links a blob to its name. On a file system without links, it is moved there.
fn name_blob(blob: &Path, path: &Path, link: impl FnOnce() -> Result<()>) -> Result<()> {
    match link() {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => std::fs::rename(blob, path),
        _ => Ok(()),
    }
}

fn unfinished_path(blob: &Path) -> PathBuf {
    let mut path = blob.as_os_str().to_owned();
    path.push(".incomplete");
    path.into()
}

#[cfg(unix)]
fn symlink(target: &Path, path: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn symlink(target: &Path, path: &Path) -> Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

/// Whether a text is the name of a single file.
pub(super) fn is_file_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.len() <= 128
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_links_a_snapshot_gets_the_blob_itself() {
        let folder = tempfile::tempdir().unwrap();
        let (blob, path) = (folder.path().join("blob"), folder.path().join("name"));
        std::fs::write(&blob, "text").unwrap();
        name_blob(&blob, &path, || Err(ErrorKind::PermissionDenied.into())).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
        // Another process has made it.
        name_blob(&blob, &path, || Err(ErrorKind::AlreadyExists.into())).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
    }
}
