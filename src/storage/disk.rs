//! The few file operations that log and snapshots need, as a trait: folders of append-only files. A
//! simulator, and the tests, put a disk that fails and forgets in its place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;

/// Where the log's segments are.
pub const LOG: &str = "log";
/// Where the snapshot is.
pub const SNAPSHOT: &str = "snapshot";

/// The folders [`LOG`] and [`SNAPSHOT`] with append-only files, each named `folder/file`. Clones
/// are handles on the same disk.
pub trait Disk: Clone {
    /// The names of the files in a folder, without it, in no order.
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>>;
    /// All of a file; one longer than `bytes_max` is refused before anything is allocated.
    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>>;
    /// A part of a file, shorter than `bytes` only at the file's end.
    fn read_at(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>>;
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
    /// Puts a file in the place of another, or of none, at once: whoever looks sees one of the two.
    /// Durable with `sync_names`; until then a power failure leaves either.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable with `sync_names`.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes the files' names in a folder durable.
    fn sync_names(&mut self, folder: &str) -> io::Result<()>;
    /// Where a file is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// A real directory.
#[derive(Clone, Debug)]
pub struct FileDisk {
    dir: PathBuf,
    /// The file that was written last, open for appending. Only one is written at a time.
    open: Option<(String, Arc<File>)>,
}

impl FileDisk {
    /// The folders in `data_dir`, made if need be.
    pub fn open(data_dir: &Path) -> Result<FileDisk, StorageError> {
        for folder in [LOG, SNAPSHOT] {
            let dir = data_dir.join(folder);
            match fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StorageError::io("create directory", &dir)(error)),
            }
        }
        // Even if they were there: who made them may have been killed before this.
        sync_dir(data_dir).map_err(StorageError::io("sync", data_dir))?;
        Ok(FileDisk { dir: data_dir.to_owned(), open: None })
    }

    fn file(&mut self, name: &str) -> io::Result<Arc<File>> {
        if let Some((open, file)) = &self.open
            && open == name
        {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().append(true).open(self.dir.join(name))?);
        self.open = Some((name.to_owned(), file.clone()));
        Ok(file)
    }
}

impl Disk for FileDisk {
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.dir.join(folder))?.map(|entry| Ok(entry?.file_name()));
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

    fn read_at(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.dir.join(name))?;
        let mut part = vec![0; bytes];
        let mut read = 0;
        while read < bytes {
            match file.read_at(&mut part[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        part.truncate(read);
        Ok(part)
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
        sync_dir(path.parent().unwrap_or(&self.dir))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.as_ref().write_all(bytes)
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

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.open = None;
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open = None;
        fs::remove_file(self.dir.join(name))
    }

    fn sync_names(&mut self, folder: &str) -> io::Result<()> {
        sync_dir(&self.dir.join(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Replaces a small text file, durably: after a crash the old or the new one is there, whole. Not
/// beside another writer of the same file.
pub fn replace_file(path: &Path, text: &str, mode: u32) -> Result<(), StorageError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(&aside).map_err(StorageError::io("create", &aside))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(StorageError::io("write", &aside))?;
    fs::rename(&aside, path).map_err(StorageError::io("replace", path))?;
    sync_dir(dir).map_err(StorageError::io("sync", dir))
}

/// Removes a file, durably; false: there was none.
pub fn remove_file(path: &Path) -> Result<bool, StorageError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StorageError::io("remove", path)(error)),
    }
    sync_dir(dir).map_err(StorageError::io("sync", dir))?;
    Ok(true)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
