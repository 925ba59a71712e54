//! What ramd must remember over its own end, and the machine's: a file in its state directory that
//! is replaced as a whole, durably, before what it says is acted on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgraft::storage::replace_file;
use serde::{Deserialize, Serialize};

use crate::overview::KnownMember;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Whether automatic failover was paused when the page was last seen.
    pub paused: bool,
    /// Somebody ordered a stop through ramd: the server stays down until a start is ordered, or
    /// somebody starts it.
    pub stopped_by_order: bool,
    /// The members when the page was last seen.
    pub members: Vec<KnownMember>,
    /// A member's Postgres, while a new member is being made from it (`--join`).
    pub joining: Option<String>,
    /// Where PostgreSQL's programs were last found: the server's own note of it goes when it is
    /// rewound or replaced.
    pub programs: Option<std::path::PathBuf>,
    /// The data directory is a copy that has not been well yet: nothing to keep, should another one
    /// take its place.
    pub untried: bool,
    /// How far ramd is with making this server a standby.
    pub step: Step,
}

/// A step of making this server a standby that ramd was at, and has to go on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// None: the data directory is as Postgres left it.
    #[default]
    None,
    /// `pg_rewind` was started and has not succeeded: no server may be started on this data
    /// directory before it did, or a copy took its place. This node's own files are kept aside.
    Rewinding,
    /// The data directory is the primary's now. This node's own files are to be put back, and it is
    /// to be told that it is a standby, before it is started.
    Settling,
    /// A complete copy stands beside and is to take the data directory's place. If this node's own
    /// files are kept aside, a rewind was begun before.
    Swapping,
}

/// The file.
#[derive(Debug)]
pub struct MemoryFile {
    path: PathBuf,
    now: Mutex<Memory>,
}

impl MemoryFile {
    /// Reads it; none there is nothing to remember. One that cannot be read is an error: it may say
    /// that the data directory is not to be touched.
    pub fn open(path: &Path) -> io::Result<MemoryFile> {
        let now = match fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(error),
        };
        Ok(MemoryFile { path: path.to_owned(), now: Mutex::new(now) })
    }

    /// As it is.
    pub fn get(&self) -> Memory {
        self.lock().clone()
    }

    /// Changes it; once this has returned `Ok` it is on disk. `Err`: in words; nothing changed.
    pub fn change(&self, change: impl FnOnce(&mut Memory)) -> Result<(), String> {
        let mut now = self.lock();
        let mut new = now.clone();
        change(&mut new);
        if new == *now {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&new).map_err(|error| error.to_string())?;
        replace_file(&self.path, &(text + "\n"), 0o640).map_err(|error| error.to_string())?;
        *now = new;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_outlives_a_restart_and_what_cannot_be_read_is_an_error() {
        let path = std::env::temp_dir().join(format!("ramd-memory-{}", std::process::id()));
        let _ = fs::remove_file(&path); // of a former run
        let memory = MemoryFile::open(&path).unwrap();
        assert_eq!(memory.get(), Memory::default());
        memory.change(|memory| memory.step = Step::Rewinding).unwrap();
        assert_eq!(MemoryFile::open(&path).unwrap().get().step, Step::Rewinding);
        // A later version may have more in it, an earlier one less.
        fs::write(&path, "{\"paused\": true, \"later\": 1}").unwrap();
        assert!(MemoryFile::open(&path).unwrap().get().paused);
        fs::write(&path, "{\"step\": \"unheard of\"}").unwrap();
        assert!(MemoryFile::open(&path).is_err());
        fs::write(&path, "").unwrap();
        assert!(MemoryFile::open(&path).is_err());
        fs::remove_file(&path).unwrap();
    }
}
