//! Atomic file replacement: write a temporary file, then rename it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A temporary file that other users of the folder can read once it has its name.
pub(crate) fn shared_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.suffix(".incomplete");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// New files for one folder. Without [`StagedFiles::rename`] they are deleted.
pub(crate) struct StagedFiles {
    folder: PathBuf,
    written: Vec<(NamedTempFile, PathBuf)>,
}

impl StagedFiles {
    /// For `folder`, which is created if need be.
    pub(crate) fn new(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), written: Vec::new() })
    }

    /// Writes the file that will be called `name`, and waits for the disk.
    pub(crate) fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let file = shared_file(&self.folder)?;
        let mut writer = BufWriter::with_capacity(1 << 20, file.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.as_file().sync_all()?;
        self.written.push((file, self.folder.join(name)));
        Ok(())
    }

    /// Gives the files their names, in the order in which they were written.
    pub(crate) fn rename(self) -> std::io::Result<()> {
        for (file, path) in self.written {
            file.persist(path)?;
        }
        Ok(())
    }
}
