//! What can go wrong with the directory, in words.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why something could not be stored or read back. `Err` of a write means that the log takes no
/// further write in this process.
#[derive(Debug)]
pub enum StorageError {
    /// The operating system refused.
    Io {
        /// What was tried: "write", "sync", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Stored bytes are not what was written, before the end of what was written.
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Another process uses the directory.
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who, if it could be read.
        pid: Option<i32>,
    },
    /// The directory lies inside the Postgres data directory.
    InsidePgData {
        /// The directory.
        path: PathBuf,
    },
    /// An entry is longer than any that the network could carry.
    TooLarge {
        /// Its record's length.
        bytes: usize,
    },
    /// What was to be stored does not fit what is: nothing of it was written.
    Unfit(String),
    /// An earlier write failed; see there.
    Failed(String),
}

impl StorageError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.to_owned();
        move |error| StorageError::Io { action, path, error }
    }

    /// Whether stored data is damaged, as opposed to out of reach.
    pub fn is_damage(&self) -> bool {
        matches!(self, StorageError::Damaged { .. })
    }

    /// What to do about it, a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            StorageError::Io { error, .. } if error.kind() == io::ErrorKind::StorageFull => {
                "Free space on that file system; a node that was started goes on by itself."
            }
            StorageError::TooLarge { .. } | StorageError::Unfit(_) => {
                "This is a bug of pgraft: please report it."
            }
            StorageError::Io { .. } | StorageError::Failed(_) => {
                "Check that the directory exists, that the server's user owns it, and its disk."
            }
            StorageError::Damaged { .. } => {
                "Do not repair it by hand: remove the node from the cluster, move raft_data_dir \
                 aside, and add the node again."
            }
            StorageError::Locked { .. } => "Each server needs a raft_data_dir of its own.",
            StorageError::InsidePgData { .. } => {
                "Put raft_data_dir elsewhere: a base backup must not clone a node's identity."
            }
        }
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Io { action, path, error } => {
                write!(f, "could not {action} \"{}\": {error}", path.display())
            }
            StorageError::Damaged { path, offset, what } => {
                write!(f, "\"{}\" is damaged at offset {offset}: {what}", path.display())
            }
            StorageError::Locked { path, pid: Some(pid) } => {
                write!(f, "raft_data_dir \"{}\" is in use by process {pid}", path.display())
            }
            StorageError::Locked { path, pid: None } => {
                write!(f, "raft_data_dir \"{}\" is in use by another process", path.display())
            }
            StorageError::InsidePgData { path } => write!(
                f,
                "raft_data_dir \"{}\" is inside the Postgres data directory",
                path.display()
            ),
            StorageError::TooLarge { bytes } => {
                write!(f, "cannot store a log record of {bytes} bytes")
            }
            StorageError::Unfit(what) => {
                write!(f, "cannot store what would not be readable: {what}")
            }
            StorageError::Failed(earlier) => write!(f, "an earlier write failed: {earlier}"),
        }
    }
}

impl std::error::Error for StorageError {}
