//! The few file operations that the log needs, as a trait: a directory of append-only files. A
//! simulator, and the tests, put a disk that fails and forgets in its place.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A directory of append-only files.
pub trait Disk {
    /// The names of the files in it, in no order.
    fn list(&mut self) -> io::Result<Vec<String>>;
    /// All of a file; one longer than `bytes_max` is refused before anything is allocated.
    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>>;
    /// Makes an empty file that must not exist, durable as a name.
    fn create(&mut self, name: &str) -> io::Result<()>;
    /// Writes at the file's end.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes over bytes that the file has.
    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written to the file durable.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Cuts the file off at `len`, durably.
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Makes the files' names durable.
    fn sync_names(&mut self) -> io::Result<()>;
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A real directory.
#[derive(Debug)]
pub struct FileDisk {
    dir: PathBuf,
    /// Files open for appending.
    open: BTreeMap<String, File>,
}

impl FileDisk {
    /// The directory `log` inside `data_dir`, made if need be.
    pub fn open(data_dir: &Path) -> Result<FileDisk, super::StorageError> {
        let dir = data_dir.join("log");
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(super::StorageError::io("create directory", &dir)(error)),
        }
        // Even if it was there: who made it may have been killed before this.
        sync_dir(data_dir).map_err(super::StorageError::io("sync", data_dir))?;
        Ok(FileDisk { dir, open: BTreeMap::new() })
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().append(true).open(self.dir.join(name))?;
            // Only the last segment is written: the one before is not needed any more.
            self.open.clear();
            self.open.insert(name.to_owned(), file);
        }
        self.open.get_mut(name).ok_or_else(|| io::Error::other("file was not opened"))
    }
}

impl Disk for FileDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.dir)?.map(|entry| Ok(entry?.file_name()));
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let path = self.dir.join(name);
        if fs::metadata(&path)?.len() > bytes_max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "longer than any segment"));
        }
        fs::read(path)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        sync_dir(&self.dir)
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all(bytes)
    }

    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Not the handle for appending: Linux appends with it whatever the offset.
        let file = OpenOptions::new().write(true).open(self.dir.join(name))?;
        file.write_all_at(bytes, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let file = self.file(name)?;
        file.set_len(len)?;
        file.sync_all()
    }

    fn sync_names(&mut self) -> io::Result<()> {
        sync_dir(&self.dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
