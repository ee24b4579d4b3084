//! The cache on disk, in huggingface_hub's layout.
//!
//! `blobs/` has contents by their ETag, `snapshots/<commit>/` links to them by name, `refs/` has the
//! commits of branches, and `.no_exist/` lists files that a commit does not have.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// lives. A process that has it without getting anything for as long as `patience` is not waited for.
    pub(super) fn lock(&self, etag: &str, patience: Duration) -> Result<File> {
        let cache = self.folder.parent().unwrap_or(&self.folder);
        let folder = cache.join(".locks").join(self.folder.file_name().unwrap_or_default());
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{etag}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        let unfinished = unfinished_path(&self.repo.blob_path(etag));
        let length = || unfinished.metadata().map_or(0, |it| it.len());
        let (mut seen, mut since) = (length(), Instant::now());
        while let Err(error) = file.try_lock() {
            match error {
                TryLockError::WouldBlock if since.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                // Two processes may download side by side, as on a file system without locks.
                TryLockError::WouldBlock => break,
                TryLockError::Error(error) if error.kind() == ErrorKind::Unsupported => break,
                TryLockError::Error(error) => return Err(error),
            }
            if length() != seen {
                (seen, since) = (length(), Instant::now());
            }
        }
        Ok(file)
    }

    /// What there is of a blob already, and how many bytes of it, under the name that huggingface_hub gave
    /// it up to version 1.
    pub(super) fn unfinished(&self, blob: &Path) -> Result<(File, u64)> {
        std::fs::create_dir_all(blob.parent().unwrap_or(blob))?;
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).write(true);
        let file = file.open(unfinished_path(blob))?;
        let bytes = file.metadata()?.len();
        Ok((file, bytes))
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

    /// Links a blob to its name in the snapshot of a commit, and records the commit of the revision. Where
    /// there are no links, a blob that nothing else can use yet (`is_new`) is moved, and another one copied.
    pub(super) fn link(
        &self,
        file: &str,
        blob: &Path,
        commit: &str,
        is_new: bool,
    ) -> Result<PathBuf> {
        let path = self.path(file, commit);
        let up: PathBuf = std::iter::repeat_n("..", 2 + file.matches('/').count()).collect();
        let target = up.join("blobs").join(blob.file_name().unwrap_or_default());
        if !path.is_file() {
            std::fs::create_dir_all(path.parent().unwrap_or(&path))?;
            // A link to a blob that is gone, from an earlier time.
            if_there(std::fs::remove_file(&path))?;
            name_blob(blob, &path, is_new, || symlink(&target, &path))?;
        }
        self.point_at(commit)?;
        Ok(path)
    }

    pub(super) fn unwritable(&self, source: std::io::Error) -> Error {
        Error::Cache { folder: self.folder.clone(), source }
    }
}

fn name_blob(
    blob: &Path,
    path: &Path,
    is_new: bool,
    link: impl FnOnce() -> Result<()>,
) -> Result<()> {
    match link() {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) if is_new => std::fs::rename(blob, path),
        Err(_) => {
            let mut copy = shared_file(path.parent().unwrap_or(path))?;
            std::io::copy(&mut File::open(blob)?, &mut copy)?;
            copy.as_file().sync_all()?;
            copy.persist(path)?;
            Ok(())
        }
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
    fn without_links_a_new_blob_is_moved_and_another_one_copied() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let read = |name: &str| std::fs::read_to_string(at(name)).ok();
        let denied = || Err(ErrorKind::PermissionDenied.into());
        std::fs::write(at("blob"), "text").unwrap();
        name_blob(&at("blob"), &at("a"), false, denied).unwrap();
        assert_eq!((read("blob").as_deref(), read("a").as_deref()), (Some("text"), Some("text")));
        name_blob(&at("blob"), &at("b"), true, denied).unwrap();
        assert_eq!((read("blob"), read("b").as_deref()), (None, Some("text")));
        // Another process has made it.
        let made = || Err(ErrorKind::AlreadyExists.into());
        name_blob(&at("blob"), &at("b"), true, made).unwrap();
        assert_eq!(read("b").as_deref(), Some("text"));
    }
}
