//! The page once more, in a SysV segment whose key is known, so that programs outside PostgreSQL
//! can map it. The worker creates it and is its owner; it goes when the worker ends in order.
//!
//! A worker that was killed leaves its segment behind. The next one recognises it by the creator
//! named inside, pid and start time, and replaces it: removed and created anew, never written into,
//! so that two workers cannot both believe it theirs. A reader that still maps the old one sees its
//! heartbeat grow old, and attaches again.

use std::fmt;
use std::io;
use std::mem::size_of;

use super::page::{PageHead, StatusPage};
use crate::sys::{self, Mapping, SegmentId};

/// The owner writes, the server's group may read: the page tells nobody a secret, but it tells
/// addresses.
const MODE: u32 = 0o640;
/// How often a segment may vanish or appear between two looks before that is an error.
const ATTEMPTS_MAX: u32 = 5;

/// Why the page is not published, or not found.
#[derive(Debug)]
pub enum SysvError {
    /// The key is 0, which names no segment.
    NoKey,
    /// A running pgraft of another server holds the key.
    InUse {
        /// The key.
        key: i32,
        /// That worker.
        pid: i32,
    },
    /// The segment with this key is none of pgraft's, or none that may be looked into.
    Foreign {
        /// The key.
        key: i32,
        /// Who created it, if the kernel says so.
        pid: Option<i32>,
    },
    /// The segment is pgraft's, of another version.
    OtherVersion {
        /// The key.
        key: i32,
    },
    /// There is no segment with this key.
    Missing {
        /// The key.
        key: i32,
    },
    /// The kernel refused.
    Kernel {
        /// What was tried: "create", "attach to", "remove".
        action: &'static str,
        /// The key.
        key: i32,
        /// What it said.
        error: io::Error,
    },
}

impl fmt::Display for SysvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SysvError::NoKey => f.write_str("shared memory key 0 names no segment"),
            SysvError::InUse { key, pid } => write!(
                f,
                "shared memory key {key} is in use by the pgraft worker of another server \
                 (process {pid})"
            ),
            SysvError::Foreign { key, pid: Some(pid) } => write!(
                f,
                "shared memory key {key} is in use by another program (created by process {pid})"
            ),
            SysvError::Foreign { key, pid: None } => {
                write!(f, "shared memory key {key} is in use by another program or user")
            }
            SysvError::OtherVersion { key } => {
                write!(f, "the shared memory segment {key} is of another version of pgraft")
            }
            SysvError::Missing { key } => {
                write!(f, "there is no shared memory segment with key {key}")
            }
            SysvError::Kernel { action, key, error } => {
                write!(f, "could not {action} shared memory segment with key {key}: {error}")
            }
        }
    }
}

impl std::error::Error for SysvError {}

impl SysvError {
    /// What to do about it, as a sentence.
    pub fn hint(&self) -> &'static str {
        match self {
            SysvError::InUse { .. } | SysvError::NoKey => {
                "Give each server on this host its own postgresql_shmem_key in pgraft.conf, or 0 \
                 for none."
            }
            SysvError::Foreign { .. } => {
                "Choose another postgresql_shmem_key in pgraft.conf, or remove the segment with \
                 ipcrm(1) if nothing uses it."
            }
            SysvError::OtherVersion { .. } => "Use a reader and a server of the same version.",
            SysvError::Missing { .. } => {
                "Check that the server runs, and postgresql_shmem_key in its pgraft.conf."
            }
            SysvError::Kernel { .. } => "Check the kernel's limits with ipcs(1) -l.",
        }
    }
}

/// The worker's own segment; dropping it removes it.
#[derive(Debug)]
pub struct SysvPage {
    mapping: Mapping,
    segment: SegmentId,
    creator_pid: i32,
}

impl SysvPage {
    /// Publishes a page at `key`, after removing what a dead worker left there.
    pub fn publish_at(key: i32) -> Result<SysvPage, SysvError> {
        if key == 0 {
            return Err(SysvError::NoKey);
        }
        let kernel = |action| move |error| SysvError::Kernel { action, key, error };
        let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..ATTEMPTS_MAX {
            match sys::segment_create(key, size_of::<StatusPage>(), MODE) {
                Ok(segment) => {
                    return SysvPage::fill(segment).map_err(kernel("attach to"));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => return Err(kernel("create")(error)),
            }
            remove_if_stale(key)?;
        }
        Err(kernel("create")(last))
    }

    fn fill(segment: SegmentId) -> io::Result<SysvPage> {
        let creator_pid = sys::own_pid();
        let creator_start = sys::process_start_time(creator_pid).unwrap_or(0);
        let mapping = Mapping::attach(segment, false).inspect_err(|_| {
            // It was created a moment ago by us and cannot be used: nothing more can be done if it
            // cannot be removed either.
            let _ = sys::segment_remove(segment);
        })?;
        let published = SysvPage { mapping, segment, creator_pid };
        published.page().init(creator_pid, creator_start);
        Ok(published)
    }

    /// The page in it.
    pub fn page(&self) -> &StatusPage {
        // SAFETY: the segment was created with this size, zeroed, which is a valid StatusPage (only
        // atomics), and shmat aligns to pages of memory. It stays mapped while `self` lives. Other
        // processes that may write to it are our own forks only, and through atomics.
        unsafe { self.mapping.start().cast::<StatusPage>().as_ref() }
    }
}

impl Drop for SysvPage {
    fn drop(&mut self) {
        // A forked child has a copy of this value, but the segment is its parent's.
        if self.creator_pid == sys::own_pid() {
            self.page().clear();
            // Removed by hand meanwhile: then it is gone, as it should be.
            let _ = sys::segment_remove(self.segment);
        }
    }
}

/// A page published by some worker, mapped to be read.
#[derive(Debug)]
pub struct SysvReader {
    mapping: Mapping,
}

impl SysvReader {
    /// Maps the page at `key`. Attach again when it is no longer fresh: a new worker makes a new
    /// segment.
    pub fn attach(key: i32) -> Result<SysvReader, SysvError> {
        if key == 0 {
            return Err(SysvError::NoKey);
        }
        let (segment, mapping) = find(key)?.ok_or(SysvError::Missing { key })?;
        let head = head_of(key, segment, &mapping)?;
        let usable = head.is_valid() && mapping.bytes() >= size_of::<StatusPage>();
        if usable { Ok(SysvReader { mapping }) } else { Err(SysvError::OtherVersion { key }) }
    }

    /// The page. Only to be read: the mapping faults on writes.
    pub fn page(&self) -> &StatusPage {
        // SAFETY: `attach` saw that the mapping is large enough and holds a page of this layout;
        // shmat aligns to pages of memory; it stays mapped while `self` lives. The worker writes
        // to it through atomics only.
        unsafe { self.mapping.start().cast::<StatusPage>().as_ref() }
    }

    /// Whether the worker that made the page still runs.
    pub fn creator_lives(&self) -> bool {
        let (pid, start_time) = self.page().creator();
        sys::process_lives(pid, start_time)
    }
}

/// Maps the page at `key` to be read.
pub fn attach_readonly(key: i32) -> Result<SysvReader, SysvError> {
    SysvReader::attach(key)
}

/// Removes the segment at `key` if it is of a pgraft worker that no longer runs.
fn remove_if_stale(key: i32) -> Result<(), SysvError> {
    let Some((segment, mapping)) = find(key)? else { return Ok(()) };
    let (pid, start_time) = head_of(key, segment, &mapping)?.creator();
    if sys::process_lives(pid, start_time) {
        return Err(SysvError::InUse { key, pid });
    }
    match sys::segment_remove(segment) {
        Ok(()) => Ok(()),
        // Another server was faster. By number, so that it is never its new segment that goes.
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) => Err(SysvError::Kernel { action: "remove", key, error }),
    }
}

/// Finds and maps the segment; `None`: there is none (any more).
fn find(key: i32) -> Result<Option<(SegmentId, Mapping)>, SysvError> {
    let found =
        sys::segment_find(key).and_then(|segment| Ok((segment, Mapping::attach(segment, true)?)));
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(SysvError::Foreign { key, pid: None })
        }
        Err(error) => Err(SysvError::Kernel { action: "attach to", key, error }),
    }
}

/// The head of the page in a segment that is pgraft's, of any version.
fn head_of(key: i32, segment: SegmentId, mapping: &Mapping) -> Result<&PageHead, SysvError> {
    let creator = sys::segment_stat(segment).ok().map(|stat| stat.creator_pid);
    if mapping.bytes() < size_of::<PageHead>() {
        return Err(SysvError::Foreign { key, pid: creator });
    }
    // SAFETY: the mapping is large enough, aligned to a page of memory, and lives as long as the
    // reference returned. PageHead is atomics only: any bytes are a valid one, also if another
    // program writes there.
    let head = unsafe { mapping.start().cast::<PageHead>().as_ref() };
    match (head.is_pgraft(), creator) {
        (true, _) => Ok(head),
        // Made a moment ago, and not yet filled in.
        (false, Some(pid)) if head.is_blank() && sys::pid_in_use(pid) => {
            Err(SysvError::InUse { key, pid })
        }
        (false, pid) => Err(SysvError::Foreign { key, pid }),
    }
}

/// Whether the error says that the segment does not exist: by key, by number, or being removed.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::EIDRM))
}
