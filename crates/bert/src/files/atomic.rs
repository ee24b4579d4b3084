//! Files that replace others as a whole: they are written under other names, then renamed.
//!
//! One rename happens or does not. For several files there is a journal: once it stands in the folder,
//! the new files count, whatever becomes of the process that renames them.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{BufWriter, Error, ErrorKind, Result, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

const JOURNAL: &str = ".save.json";
/// What the names of unfinished files begin and end with.
const UNFINISHED: (&str, &str) = (".tmp", ".incomplete");
/// Unfinished files of this age are nobody's anymore.
const ABANDONED: Duration = Duration::from_secs(60 * 60);
/// How long another process that gives files of a folder their names is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A temporary file that other users of the folder can read once it has its name.
pub(crate) fn shared_file(folder: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED.0).suffix(UNFINISHED.1);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// New files for one folder. Without [`StagedFiles::commit`] they are deleted.
pub(crate) struct StagedFiles {
    folder: PathBuf,
    written: BTreeMap<String, NamedTempFile>,
}

/// What a save does to a folder once all its files are written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Journal {
    /// The names that the new files get, and those that they have.
    renamed: BTreeMap<String, String>,
    removed: Vec<String>,
}

impl StagedFiles {
    /// For `folder`, which is created if need be. A save that was interrupted there is completed first.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let _turn = Turn::wait(folder, PATIENCE)?;
        complete(folder)?;
        sweep(folder);
        Ok(Self { folder: folder.to_owned(), written: BTreeMap::new() })
    }

    /// Writes the file that will be called `name`, and waits for the disk.
    pub(crate) fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> Result<()>,
    ) -> Result<()> {
        let file = shared_file(&self.folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        self.written.insert(name.to_owned(), file);
        Ok(())
    }

    /// Gives the files their names, and removes the other files whose names are `old`. Saves of several
    /// processes into a folder come one after the other, as far as folders can be locked.
    pub(crate) fn commit(mut self, old: impl Fn(&str) -> bool) -> Result<()> {
        let _turn = Turn::wait(&self.folder, PATIENCE)?;
        complete(&self.folder)?;
        let mut removed = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if old(&name) && !self.written.contains_key(&name) {
                removed.push(name);
            }
        }
        if removed.is_empty() && self.written.len() == 1 {
            for (name, file) in self.written {
                file.persist(self.folder.join(name))?;
            }
            return sync(&self.folder);
        }
        let mut journal = Journal { removed, ..Journal::default() };
        for (name, file) in &self.written {
            let unfinished = file.path().file_name().unwrap_or_default().to_string_lossy();
            journal.renamed.insert(name.clone(), unfinished.into_owned());
        }
        // From here on the files outlive this process.
        for file in self.written.values_mut() {
            file.disable_cleanup(true);
        }
        let written = journal.write(&self.folder);
        if written.is_err() {
            self.written.values_mut().for_each(|file| file.disable_cleanup(false));
            return written;
        }
        journal.carry_out(&self.folder)
    }
}

/// The right to give files of a folder their names, which one process has at a time. On Windows, and on file
/// systems without locks, every process has it.
struct Turn {
    /// The folder, which is locked as long as it is open.
    _folder: Option<File>,
}

impl Turn {
    /// Another process needs it for some renames only.
    ///
    /// # Errors
    /// When one has it for longer than `patience`.
    fn wait(folder: &Path, patience: Duration) -> Result<Self> {
        // `File::open` cannot open folders on Windows.
        if cfg!(not(unix)) {
            return Ok(Self { _folder: None });
        }
        let (folder, start) = (File::open(folder)?, Instant::now());
        while let Err(TryLockError::WouldBlock) = folder.try_lock() {
            if start.elapsed() > patience {
                let reason = "another process has locked the folder and stands still; end it";
                return Err(Error::new(ErrorKind::TimedOut, reason));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { _folder: Some(folder) })
    }
}

/// Completes a save into a folder that was interrupted, if there is one.
fn complete(folder: &Path) -> Result<()> {
    Journal::read(folder).map_or(Ok(()), |journal| journal.carry_out(folder))
}

impl Journal {
    /// That of a save in `folder` that is not over. A file that is no journal is none.
    fn read(folder: &Path) -> Option<Self> {
        let journal: Self =
            serde_json::from_slice(&std::fs::read(folder.join(JOURNAL)).ok()?).ok()?;
        let in_folder = |name: &String| !name.is_empty() && !name.contains(['/', '\\', ':']);
        let unfinished = |name: &String| is_unfinished(name);
        let names = journal.renamed.keys().chain(&journal.removed).all(in_folder);
        let ok = names && journal.renamed.values().all(|it| in_folder(it) && unfinished(it));
        ok.then_some(journal)
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let mut file = shared_file(folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(folder.join(JOURNAL))?;
        sync(folder)
    }

    /// Does what is left to do, and ends the save.
    fn carry_out(&self, folder: &Path) -> Result<()> {
        for (name, unfinished) in &self.renamed {
            if_there(std::fs::rename(folder.join(unfinished), folder.join(name)))?;
        }
        for name in &self.removed {
            if_there(std::fs::remove_file(folder.join(name)))?;
        }
        sync(folder)?;
        if_there(std::fs::remove_file(folder.join(JOURNAL)))
    }
}

/// The path of a folder's file, also while a save of several files is not over.
pub(crate) fn current(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let Some(journal) = Journal::read(folder) else { return path };
    match journal.renamed.get(name).map(|unfinished| folder.join(unfinished)) {
        Some(unfinished) if unfinished.is_file() => unfinished,
        // A path where there is nothing.
        None if journal.removed.iter().any(|removed| removed == name) => {
            folder.join(JOURNAL).join(name)
        }
        _ => path,
    }
}

fn is_unfinished(name: &str) -> bool {
    name.starts_with(UNFINISHED.0) && name.ends_with(UNFINISHED.1)
}

/// Removes unfinished files of processes that ended long ago.
fn sweep(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let age =
            entry.metadata().and_then(|it| it.modified()).ok().and_then(|it| it.elapsed().ok());
        if is_unfinished(&entry.file_name().to_string_lossy())
            && age.is_some_and(|it| it > ABANDONED)
        {
            // Another process may have removed it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Success also where the file is not there: an earlier try, or another process, has done it.
pub(crate) fn if_there(done: Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Waits until the disk has a folder's names.
fn sync(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    let _ = folder;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(folder: &Path, name: &str) -> Option<String> {
        std::fs::read_to_string(current(folder, name)).ok()
    }

    /// A folder whose save of two files was interrupted after `steps` of its four steps.
    fn interrupted(steps: usize) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "other"] {
            std::fs::write(folder.path().join(name), format!("old {name}")).unwrap();
        }
        let mut journal = Journal { removed: vec!["c".to_owned()], ..Journal::default() };
        for name in ["a", "b"] {
            let unfinished = format!(".tmp{name}.incomplete");
            std::fs::write(folder.path().join(&unfinished), format!("new {name}")).unwrap();
            journal.renamed.insert(name.to_owned(), unfinished);
        }
        journal.write(folder.path()).unwrap();
        let at = |name: &str| folder.path().join(name);
        let all: [&dyn Fn() -> Result<()>; 3] = [
            &|| std::fs::rename(at(".tmpa.incomplete"), at("a")),
            &|| std::fs::rename(at(".tmpb.incomplete"), at("b")),
            &|| std::fs::remove_file(at("c")),
        ];
        all.iter().take(steps).for_each(|step| step().unwrap());
        folder
    }

    #[test]
    fn an_interrupted_save_counts_as_a_whole_from_its_journal_on() {
        for steps in 0..=3 {
            let folder = interrupted(steps);
            let read = |name| text(folder.path(), name);
            let new = |name: &str| Some(format!("new {name}"));
            assert_eq!((read("a"), read("b"), read("c")), (new("a"), new("b"), None), "{steps}");
            assert_eq!(read("other").as_deref(), Some("old other"));
            // The next save completes it.
            StagedFiles::new(folder.path()).unwrap();
            let mut names: Vec<_> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            assert_eq!(names, ["a", "b", "other"], "{steps}");
            assert_eq!((read("a"), read("b")), (new("a"), new("b")));
        }
    }

    #[test]
    #[cfg(unix)]
    fn saves_of_several_threads_into_a_folder_are_never_mixed() {
        let folder = tempfile::tempdir().unwrap();
        let save = |files: &[&str], content: String| {
            let mut staged = StagedFiles::new(folder.path()).unwrap();
            for name in files {
                staged.write(name, |file| file.write_all(content.as_bytes())).unwrap();
            }
            staged.commit(|name| name.starts_with("part")).unwrap();
        };
        for round in 0..30 {
            std::thread::scope(|scope| {
                scope.spawn(|| save(&["config", "part"], format!("a {round}")));
                scope.spawn(|| save(&["config", "part-1", "part-2"], format!("b {round}")));
            });
            let read = |name| text(folder.path(), name);
            let (parts, others) = match read("part") {
                Some(_) => (vec!["part"], vec!["part-1", "part-2"]),
                None => (vec!["part-1", "part-2"], vec!["part"]),
            };
            assert!(parts.iter().all(|name| read(name) == read("config")), "{round}");
            assert!(others.iter().all(|name| read(name).is_none()), "{round}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_process_that_has_locked_the_folder_is_not_waited_for_forever() {
        let folder = tempfile::tempdir().unwrap();
        let wait = || Turn::wait(folder.path(), Duration::from_millis(20));
        let turn = wait().unwrap();
        assert_eq!(wait().err().map(|error| error.kind()), Some(ErrorKind::TimedOut));
        drop(turn);
        wait().unwrap();
    }

    #[test]
    fn a_journal_that_names_files_elsewhere_is_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "old").unwrap();
        for (name, unfinished) in [
            ("a", "../.tmpx.incomplete"),
            ("../a", ".tmpx.incomplete"),
            ("a", "/etc/hostname"),
            ("a", "other"),
        ] {
            let renamed = BTreeMap::from([(name.to_owned(), unfinished.to_owned())]);
            let journal = Journal { renamed, removed: Vec::new() };
            journal.write(folder.path()).unwrap();
            assert!(Journal::read(folder.path()).is_none());
            assert_eq!(text(folder.path(), "a").as_deref(), Some("old"));
        }
    }

    #[test]
    fn files_that_were_not_committed_are_gone_and_old_ones_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let mut staged = StagedFiles::new(folder.path()).unwrap();
        staged.write("a", |file| file.write_all(b"new")).unwrap();
        drop(staged);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let old = folder.path().join(".tmpold.incomplete");
        let file = File::create(&old).unwrap();
        let day = std::time::SystemTime::now() - Duration::from_secs(24 * 60 * 60);
        file.set_modified(day).unwrap();
        std::fs::write(folder.path().join(".tmpnew.incomplete"), "").unwrap();
        StagedFiles::new(folder.path()).unwrap();
        assert!(!old.exists() && folder.path().join(".tmpnew.incomplete").exists());
    }
}
