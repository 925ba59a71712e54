//! The snapshot: the file `snapshot/current`, replaced as a whole.
//!
//! It is a series of frames, `length u32 | crc32c u32 | body` as everywhere: the first describes
//! the snapshot, each other one holds the next 64 KiB of its data. A frame has a checksum of its
//! own, so that what is read for a follower is checked without reading all, and damage has a place.
//!
//! Two threads write snapshots: one in the background those that this node took, the consensus
//! thread those that a leader sent. Each prepares a file of its own aside; which of them becomes
//! `current` is decided under a lock, and a newer one is never replaced by an older.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, SNAPSHOT};
use super::error::StorageError;
use crate::raft::{EntryId, SNAPSHOT_BYTES_MAX, SnapshotMeta};
use crate::wire::codec::{Reader, Wire};
use crate::wire::{DecodeError, FRAME_HEADER_BYTES, FrameHeader, frame};

const CURRENT: &str = "snapshot/current";
/// Where a snapshot of this node's is prepared, and where one from the leader.
const TAKEN: &str = "snapshot/taken.new";
const RECEIVED: &str = "snapshot/received.new";

const MAGIC: [u8; 8] = *b"PGRAFTSN";
const FORMAT_VERSION: u16 = 1;
/// The description lists every member, some hundred bytes.
const HEADER_BYTES_MAX: u32 = 1 << 20;
/// The data in one frame.
pub(super) const BLOCK_BYTES: usize = 64 << 10;

/// What was stored: the description, and the data.
type Found = Option<(SnapshotMeta, Vec<u8>)>;

/// A handle on the stored snapshot, for any thread. Who has one must keep the directory locked.
#[derive(Clone, Debug)]
pub struct Snapshots<D: Disk> {
    disk: D,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held by who prepares a snapshot of this node's.
    taking: Mutex<()>,
    current: Mutex<Option<Current>>,
    /// The storage was closed: another process, or this one, may have opened it again since.
    /// Changes under the lock of `current`.
    closed: AtomicBool,
}

/// What the file holds.
#[derive(Clone, Debug)]
struct Current {
    meta: SnapshotMeta,
    /// Where the first frame of data begins.
    data_at: u64,
    /// Whether a power failure leaves this one.
    durable: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked left a whole value: each is set at once.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl<D: Disk> Snapshots<D> {
    /// Reads the stored snapshot, if there is one, and clears away what was never finished.
    pub(super) fn open(disk: &D) -> Result<(Snapshots<D>, Found), StorageError> {
        let mut disk = disk.clone();
        let folder = disk.path(SNAPSHOT);
        let names = disk.list(SNAPSHOT).map_err(StorageError::io("list", &folder))?;
        for aside in [TAKEN, RECEIVED] {
            remove_aside(&mut disk, aside)?;
        }
        // Who put the current one there may have been killed before this.
        disk.sync_names(SNAPSHOT).map_err(StorageError::io("sync", &folder))?;
        let mut current = None;
        let mut found = None;
        if names.iter().any(|name| CURRENT.strip_prefix("snapshot/") == Some(name)) {
            let (meta, data_at) = read_header(&mut disk)?;
            let data = read_all(&mut disk, &meta, data_at)?;
            current = Some(Current { meta: meta.clone(), data_at, durable: true });
            found = Some((meta, data));
        }
        let shared = Arc::new(Shared { current: Mutex::new(current), ..Shared::default() });
        Ok((Snapshots { disk, shared }, found))
    }

    /// Stores a snapshot that this node took, on whatever thread. Durable on return, unless one at
    /// least as new is there already, which stays. After an error the one before is there still,
    /// and it may be tried again.
    pub fn store(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageError> {
        let _one_at_a_time = lock(&self.shared.taking);
        self.put(meta, data, TAKEN)
    }

    /// Stores a snapshot from the leader; the same otherwise. Only the consensus thread's.
    pub(super) fn receive(&self, meta: &SnapshotMeta, data: &[u8]) -> Result<(), StorageError> {
        self.put(meta, data, RECEIVED)
    }

    /// Up to `bytes_max` bytes of the stored snapshot's data from `offset` on, fewer only at its
    /// end. `None`: what is stored is not the snapshot that `meta` describes.
    pub fn read(
        &self,
        meta: &SnapshotMeta,
        offset: u64,
        bytes_max: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        // Held while the file is read: so it is one file.
        let current = lock(&self.shared.current);
        let Some(Current { data_at, .. }) = current.as_ref().filter(|it| it.meta == *meta) else {
            return Ok(None);
        };
        let end = meta.bytes.min(offset.saturating_add(bytes_max as u64));
        let mut data = Vec::new();
        if offset < end {
            let first = offset / BLOCK_BYTES as u64;
            let mut disk = self.disk.clone();
            for block in first..end.div_ceil(BLOCK_BYTES as u64) {
                data.extend(read_block(&mut disk, meta, *data_at, block)?);
            }
            data.drain(..(offset - first * BLOCK_BYTES as u64) as usize);
            data.truncate((end - offset) as usize);
        }
        Ok(Some(data))
    }

    /// From now on nothing more is stored through any handle.
    pub(super) fn close(&self) {
        let _undecided = lock(&self.shared.current);
        self.shared.closed.store(true, Ordering::Release);
    }

    /// The last entry that the stored snapshot stands for, if it would survive a power failure.
    pub(super) fn durable(&self) -> Option<EntryId> {
        let current = lock(&self.shared.current);
        current.as_ref().filter(|current| current.durable).map(|current| current.meta.last)
    }

    fn put(&self, meta: &SnapshotMeta, data: &[u8], aside: &str) -> Result<(), StorageError> {
        let whole = data.len() as u64 == meta.bytes && crc32c::crc32c(data) == meta.checksum;
        if !whole || data.is_empty() || meta.bytes > SNAPSHOT_BYTES_MAX {
            let what = "the data of a snapshot is not what its description says";
            return Err(StorageError::Unfit(what.to_owned()));
        }
        if covers(lock(&self.shared.current).as_ref(), meta) {
            return Ok(());
        }
        let mut disk = self.disk.clone();
        let data_at = write_aside(&mut disk, aside, meta, data);
        let stored = data_at.and_then(|data_at| self.replace(&mut disk, aside, meta, data_at));
        if stored.is_err() {
            // Makes room; what cannot go now goes at the next attempt, or start.
            let _ = remove_aside(&mut disk, aside);
        }
        stored
    }

    /// Makes what was prepared the current snapshot, unless a newer one got there first.
    fn replace(
        &self,
        disk: &mut D,
        aside: &str,
        meta: &SnapshotMeta,
        data_at: u64,
    ) -> Result<(), StorageError> {
        let mut current = lock(&self.shared.current);
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(StorageError::Failed("the storage was closed".to_owned()));
        }
        if covers(current.as_ref(), meta) {
            return remove_aside(disk, aside);
        }
        disk.rename(aside, CURRENT).map_err(StorageError::io("replace", &disk.path(CURRENT)))?;
        let new = current.insert(Current { meta: meta.clone(), data_at, durable: false });
        disk.sync_names(SNAPSHOT).map_err(StorageError::io("sync", &disk.path(SNAPSHOT)))?;
        new.durable = true;
        Ok(())
    }
}

/// Whether what is stored stands for all that `meta` does.
fn covers(current: Option<&Current>, meta: &SnapshotMeta) -> bool {
    current.is_some_and(|it| it.durable && it.meta.last.index >= meta.last.index)
}

/// Writes a whole snapshot to a file nobody reads yet, durably; where its data begins.
fn write_aside<D: Disk>(
    disk: &mut D,
    name: &str,
    meta: &SnapshotMeta,
    data: &[u8],
) -> Result<u64, StorageError> {
    remove_aside(disk, name)?;
    let path = disk.path(name);
    disk.create(name).map_err(StorageError::io("create", &path))?;
    let mut bytes = header(meta);
    let data_at = bytes.len() as u64;
    for block in data.chunks(BLOCK_BYTES) {
        frame(|out| out.extend_from_slice(block), &mut bytes);
        disk.append(name, &bytes).map_err(StorageError::io("write", &path))?;
        bytes.clear();
    }
    disk.sync(name).map_err(StorageError::io("sync", &path))?;
    Ok(data_at)
}

fn remove_aside<D: Disk>(disk: &mut D, name: &str) -> Result<(), StorageError> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", &disk.path(name))(error))
        }
        _ => Ok(()),
    }
}

fn header(meta: &SnapshotMeta) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(
        |out| {
            out.extend_from_slice(&MAGIC);
            FORMAT_VERSION.put(out);
            meta.put(out);
        },
        &mut bytes,
    );
    bytes
}

/// The description, and where the data begins.
fn read_header<D: Disk>(disk: &mut D) -> Result<(SnapshotMeta, u64), StorageError> {
    let body = read_frame(disk, 0, HEADER_BYTES_MAX)?;
    let mut from = Reader::new(&body);
    let parsed = (|| {
        let magic: [u8; 8] = from.array()?;
        let version = u16::take(&mut from)?;
        if (magic, version) != (MAGIC, FORMAT_VERSION) {
            return Ok((magic, version, None));
        }
        let meta = SnapshotMeta::take(&mut from)?;
        from.end()?;
        Ok::<_, DecodeError>((magic, version, Some(meta)))
    })();
    let what = match parsed {
        Ok((.., Some(meta))) => return Ok((meta, (FRAME_HEADER_BYTES + body.len()) as u64)),
        Ok((MAGIC, version, None)) => format!("format version {version} is not supported"),
        Ok(_) => "this is not a pgraft snapshot".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(damaged(disk, 0, what))
}

fn read_all<D: Disk>(
    disk: &mut D,
    meta: &SnapshotMeta,
    data_at: u64,
) -> Result<Vec<u8>, StorageError> {
    let mut data = Vec::new();
    let blocks = meta.bytes.div_ceil(BLOCK_BYTES as u64);
    for block in 0..blocks {
        data.extend(read_block(disk, meta, data_at, block)?);
    }
    let end = data_at + meta.bytes + blocks * FRAME_HEADER_BYTES as u64;
    if !read_part(disk, end, 1)?.is_empty() {
        return Err(damaged(disk, end, "it should end here".to_owned()));
    }
    if crc32c::crc32c(&data) != meta.checksum {
        let what = "the data is not what its description says".to_owned();
        return Err(damaged(disk, data_at, what));
    }
    Ok(data)
}

fn read_block<D: Disk>(
    disk: &mut D,
    meta: &SnapshotMeta,
    data_at: u64,
    block: u64,
) -> Result<Vec<u8>, StorageError> {
    let before = block * BLOCK_BYTES as u64;
    let bytes = (meta.bytes - before).min(BLOCK_BYTES as u64);
    let at = data_at + before + block * FRAME_HEADER_BYTES as u64;
    let body = read_frame(disk, at, BLOCK_BYTES as u32)?;
    if body.len() as u64 != bytes {
        let what = format!("a block has {} bytes instead of {bytes}", body.len());
        return Err(damaged(disk, at, what));
    }
    Ok(body)
}

fn read_frame<D: Disk>(disk: &mut D, at: u64, bytes_max: u32) -> Result<Vec<u8>, StorageError> {
    let header = read_part(disk, at, FRAME_HEADER_BYTES)?;
    let header = header.first_chunk().ok_or(DecodeError::Truncated);
    let header = header.and_then(|header| FrameHeader::decode(header, bytes_max));
    let header = header.map_err(|error| damaged(disk, at, error.to_string()))?;
    let body = read_part(disk, at + FRAME_HEADER_BYTES as u64, header.len as usize)?;
    match header.check(&body) {
        Ok(()) => Ok(body),
        Err(error) => Err(damaged(disk, at, error.to_string())),
    }
}

fn read_part<D: Disk>(disk: &mut D, at: u64, bytes: usize) -> Result<Vec<u8>, StorageError> {
    disk.read_at(CURRENT, at, bytes).map_err(StorageError::io("read", &disk.path(CURRENT)))
}

fn damaged<D: Disk>(disk: &D, offset: u64, what: String) -> StorageError {
    StorageError::Damaged { path: disk.path(CURRENT), offset, what }
}
