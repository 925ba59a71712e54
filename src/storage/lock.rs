//! One server a directory: an flock on the file `LOCK`, which names its holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::error::StorageError;

/// Held while the directory is in use; the kernel frees it when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or names who has it.
    pub fn acquire(dir: &Path) -> Result<DirLock, StorageError> {
        let path = dir.join("LOCK");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StorageError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only to name it: unreadable is unknown.
                let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
                let pid = holder.trim().parse().ok();
                return Err(StorageError::Locked { path: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(StorageError::io("lock", &path)(error)),
        }
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(StorageError::io("write", &path))?;
        Ok(DirLock { _file: file })
    }
}
