//! Files that are written aside and get their names when they are whole.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file to write to aside, which whoever shares the folder can read once it has its name.
pub(crate) fn shared_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.suffix(".incomplete");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// New files of one folder. Dropped before [`Aside::rename`], they leave no trace.
pub(crate) struct Aside {
    folder: PathBuf,
    written: Vec<(NamedTempFile, PathBuf)>,
}

impl Aside {
    /// In `folder`, which is made where it is not there.
    pub(crate) fn new(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), written: Vec::new() })
    }

    /// Writes the file that will be called `name`, down to the disk.
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

    /// Gives all of them their names, in the order in which they were written.
    pub(crate) fn rename(self) -> std::io::Result<()> {
        for (file, path) in self.written {
            file.persist(path)?;
        }
        Ok(())
    }
}
