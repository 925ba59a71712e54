//! The snapshot file, and what log and snapshot are to each other.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::super::snapshot::BLOCK_BYTES;
use super::super::testing::{Fault, Loss};
use super::*;
use crate::raft::Durable;

const CURRENT: &str = "snapshot/current";

/// A disk with entries 1 to 6, all of them committed.
fn six() -> (MemDisk, Storage<MemDisk>) {
    let disk = MemDisk::new();
    let (mut storage, _) = open(&disk).unwrap();
    for index in 1..=6 {
        storage.save(Some(&hard_state(1, 1, index)), &[entry(1, index, 150)], true).unwrap();
    }
    (disk, storage)
}

#[test]
fn a_snapshot_is_read_as_it_was_stored() {
    for bytes in [1, 100, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7] {
        let (disk, storage) = six();
        let (meta, data) = snapshot(id(1, 4), bytes);
        storage.snapshots().store(&meta, &data).unwrap();
        let (again, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.snapshot, Some((meta.clone(), data.clone())));
        assert_eq!((recovered.base, recovered.entries.len()), (id(0, 0), 6));
        for snapshots in [storage.snapshots(), again.snapshots()] {
            for at in [0, 1, bytes / 2, bytes - 1, bytes, bytes + 1, BLOCK_BYTES, usize::MAX] {
                for max in [0, 1, 300, BLOCK_BYTES, BLOCK_BYTES + 3, usize::MAX] {
                    let end = at.saturating_add(max).min(bytes);
                    let part = data.get(at..end).unwrap_or_default();
                    let read = snapshots.read(&meta, at as u64, max).unwrap();
                    assert_eq!(read.as_deref(), Some(part), "{max} at {at} of {bytes}");
                }
            }
            let other = SnapshotMeta { checksum: meta.checksum ^ 1, ..meta.clone() };
            assert_eq!(snapshots.read(&other, 0, 100).unwrap(), None);
        }
        assert_eq!(disk.names().iter().filter(|name| name.starts_with("snapshot/")).count(), 1);
    }
}

#[test]
fn an_older_snapshot_never_replaces_a_newer_one() {
    let (disk, storage) = six();
    let (newer, older) = (snapshot(id(1, 5), 50), snapshot(id(1, 3), 70));
    for (meta, data) in [&newer, &older, &newer] {
        storage.snapshots().store(meta, data).unwrap();
    }
    assert_eq!(open(&disk).unwrap().1.snapshot, Some(newer));
}

#[test]
fn data_that_is_not_as_described_is_not_stored() {
    let (disk, mut storage) = six();
    let (meta, data) = snapshot(id(1, 4), 50);
    let (nothing, _) = snapshot(id(1, 4), 0);
    let cases = [(&meta, &data[1..]), (&meta, &[1; 50][..]), (&nothing, &[][..])];
    for (meta, data) in cases {
        let error = storage.snapshots().store(meta, data).unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)), "{error}");
    }
    let error = storage.install(&meta, &data[1..], None).unwrap_err();
    assert!(matches!(error, StorageError::Unfit(_)), "{error}");
    assert_eq!(open(&disk).unwrap().1.snapshot, None);
}

/// A snapshot of the node's own that could not be stored costs nothing but the attempt.
#[test]
fn a_snapshot_that_did_not_fit_is_tried_again() {
    for fault in [Fault::NoSpace(3), Fault::Io] {
        for operations in 0.. {
            let (disk, mut storage) = six();
            let snapshots = storage.snapshots();
            let (meta, data) = snapshot(id(1, 4), 50);
            disk.fail_after(operations, fault);
            if snapshots.store(&meta, &data).is_ok() {
                assert!(operations >= 5, "create, write, sync, rename, sync of names");
                break;
            }
            assert!(!disk.names().iter().any(|name| name.ends_with(".new")), "{fault:?}");
            let error = storage.compact(id(1, 4)).unwrap_err();
            assert!(matches!(error, StorageError::Unfit(_)), "not durable: {error}");

            snapshots.store(&meta, &data).unwrap();
            disk.power_cut(Loss::Keep(0));
            assert_eq!(open(&disk).unwrap().1.snapshot, Some((meta, data)), "{fault:?}");
        }
    }
}

#[test]
fn what_was_left_aside_is_cleared_away() {
    let (disk, _) = six();
    for name in ["snapshot/taken.new", "snapshot/received.new"] {
        disk.with_file(name, |bytes| bytes.extend(b"half a snapshot"));
    }
    disk.with_file("snapshot/lost+found", |bytes| bytes.extend(b"whatever"));
    let (storage, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.snapshot, None);
    let left: Vec<String> =
        disk.names().into_iter().filter(|name| name.starts_with("snapshot/")).collect();
    assert_eq!(left, ["snapshot/lost+found"]);
    let (meta, data) = snapshot(id(1, 4), 50);
    storage.snapshots().store(&meta, &data).unwrap();
}

#[test]
fn nothing_is_stored_through_a_storage_that_was_closed() {
    let (disk, storage) = six();
    let snapshots = storage.snapshots();
    drop(storage);
    let (_storage, _) = open(&disk).unwrap();
    let (meta, data) = snapshot(id(1, 4), 50);
    snapshots.store(&meta, &data).unwrap_err();
    assert_eq!(open(&disk).unwrap().1.snapshot, None);
}

/// While it stores its own snapshot in the background, one arrives from a leader.
#[test]
fn a_snapshot_from_the_leader_wins_over_an_older_one_on_its_way() {
    for at in ["create", "append", "sync"] {
        for (own, leaders) in [(id(1, 4), id(3, 90)), (id(1, 6), id(1, 5))] {
            let disk = Interrupted::default();
            let (mut storage, _) = Storage::open_with(disk.clone(), SEGMENT_BYTES).unwrap();
            for index in 1..=6 {
                let commit = hard_state(1, 1, index);
                storage.save(Some(&commit), &[entry(1, index, 150)], true).unwrap();
            }
            let snapshots = storage.snapshots();
            let (meta, data) = snapshot(leaders, 60);
            let storage = Arc::new(Mutex::new(storage));
            let leaders_turn = {
                let (storage, meta, data) = (storage.clone(), meta.clone(), data.clone());
                move || _ = storage.lock().unwrap().install(&meta, &data, None).unwrap()
            };
            *disk.interrupt.lock().unwrap() = Some((at, Box::new(leaders_turn)));
            let (own_meta, own_data) = snapshot(own, 50);
            snapshots.store(&own_meta, &own_data).unwrap();
            assert!(disk.interrupt.lock().unwrap().is_none(), "{at} was interrupted");

            let newest =
                if own.index > leaders.index { (own_meta, own_data) } else { (meta, data) };
            let part = snapshots.read(&newest.0, 5, 10).unwrap();
            assert_eq!(part.as_deref(), Some(&newest.1[5..15]));
            assert!(!disk.disk.names().iter().any(|name| name.ends_with(".new")));
            disk.disk.power_cut(Loss::Keep(0));
            let (_, recovered) = open(&disk.disk).unwrap();
            assert_eq!(recovered.snapshot, Some(newest), "{at}");
        }
    }
}

type Interrupt = (&'static str, Box<dyn FnOnce() + Send>);

/// A disk on which something happens before an operation on a file with the name of an own
/// snapshot.
#[derive(Clone, Default)]
struct Interrupted {
    disk: MemDisk,
    interrupt: Arc<Mutex<Option<Interrupt>>>,
}

impl Interrupted {
    fn before(&self, operation: &str, name: &str) {
        let mut waiting = self.interrupt.lock().unwrap();
        if name == "snapshot/taken.new"
            && let Some((_, act)) = waiting.take_if(|(at, _)| *at == operation)
        {
            drop(waiting);
            act();
        }
    }
}

impl Disk for Interrupted {
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }
    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        self.disk.read(name, bytes_max)
    }
    fn read_at(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.disk.read_at(name, offset, bytes)
    }
    fn create(&mut self, name: &str) -> io::Result<()> {
        self.before("create", name);
        self.disk.create(name)
    }
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.before("append", name);
        self.disk.append(name, bytes)
    }
    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.overwrite(name, offset, bytes)
    }
    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.before("sync", name);
        self.disk.sync(name)
    }
    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.disk.truncate(name, len)
    }
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_names(&mut self, folder: &str) -> io::Result<()> {
        self.disk.sync_names(folder)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
}

#[test]
fn the_log_is_not_cut_further_than_a_snapshot_covers() {
    let (disk, mut storage) = six();
    storage.compact(id(0, 0)).unwrap();
    let (meta, data) = snapshot(id(1, 4), 50);
    storage.snapshots().store(&meta, &data).unwrap();
    storage.compact(id(1, 3)).unwrap();
    storage.compact(id(1, 2)).unwrap();
    let recovered = open(&disk).unwrap().1;
    assert!(recovered.base.index.0 > 0 && recovered.base.index.0 <= 3, "{:?}", recovered.base);
    for base in [id(1, 5), id(2, 4), id(1, 99)] {
        let (mut storage, _) = open(&disk).unwrap();
        let before = disk.names();
        let error = storage.compact(base).unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)), "{error}");
        assert_eq!(disk.names(), before);
    }
}

#[test]
fn what_a_snapshot_stands_for_is_not_written_again() {
    let (disk, mut storage) = six();
    let (meta, data) = snapshot(id(1, 6), 50);
    storage.snapshots().store(&meta, &data).unwrap();
    storage.compact(id(1, 6)).unwrap();
    let error = storage.save(None, &[entry(2, 6, 1)], true).unwrap_err();
    assert!(error.to_string().contains("entry 6"), "{error}");
    let (mut storage, _) = open(&disk).unwrap();
    storage.save(Some(&hard_state(2, 0, 6)), &[entry(2, 7, 1)], true).unwrap();
    let error = storage.install(&snapshot(id(2, 6), 9).0, &snapshot(id(2, 6), 9).1, None);
    error.expect("a snapshot is there that is as new");
    let (meta, data) = snapshot(id(3, 90), 40);
    storage.install(&meta, &data, Some(&hard_state(3, 0, 90))).unwrap();
    for index in [89, 90, 92] {
        let (mut storage, _) = open(&disk).unwrap();
        let error = storage.save(None, &[entry(3, index, 1)], true).unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)), "{error}");
    }
}

#[test]
fn a_snapshot_that_contradicts_what_is_committed_is_refused() {
    let (disk, mut storage) = six();
    let (meta, data) = snapshot(id(2, 5), 50);
    let error = storage.install(&meta, &data, Some(&hard_state(2, 0, 5))).unwrap_err();
    assert!(error.to_string().contains("contradicts committed entry 5"), "{error}");
    assert_eq!(open(&disk).unwrap().1.snapshot, None);
}

#[test]
fn the_snapshot_of_another_log_is_refused() {
    let (disk, _) = six();
    let (other, storage) = six();
    let (meta, data) = snapshot(id(2, 5), 50);
    storage.snapshots().store(&meta, &data).unwrap();
    let file = other.with_file(CURRENT, |bytes| bytes.clone());
    disk.with_file(CURRENT, |bytes| *bytes = file);
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("entry 5 is committed and not the snapshot's last"), "{error}");
}

/// The order of entries is judged before the first of several records is written, and that of hard
/// states although they wait.
#[test]
fn nothing_is_written_of_what_does_not_fit() {
    let refused = |what: &str, act: fn(&mut Storage<MemDisk>) -> Result<Durable, StorageError>| {
        let (disk, mut storage) = six();
        let before = disk.names();
        let bytes = storage.bytes();
        let error = act(&mut storage).unwrap_err();
        assert!(matches!(error, StorageError::Unfit(_)), "{what}: {error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert_eq!((disk.names(), storage.bytes()), (before, bytes), "{what}");
    };
    refused("entry 12 follows entry 10", |storage| {
        let far = [7, 8, 9, 10, 12].map(|index| entry(1, index, 3 << 20));
        storage.save(None, &far, true)
    });
    refused("term 1 follows term 3", |storage| {
        storage.save(Some(&hard_state(3, 1, 6)), &[], false)?;
        storage.save(Some(&hard_state(1, 1, 6)), &[], false)
    });
    refused("the vote changes within term 1", |storage| {
        let (meta, data) = snapshot(id(1, 90), 40);
        storage.install(&meta, &data, Some(&hard_state(1, 2, 90)))
    });
}

#[test]
fn a_commit_index_that_waits_counts() {
    let (_, mut storage) = six();
    let more = [entry(1, 7, 10), entry(1, 8, 10)];
    storage.save(None, &more, true).unwrap();
    storage.save(Some(&hard_state(1, 1, 8)), &[], false).unwrap();
    let error = storage.save(Some(&hard_state(2, 1, 8)), &[entry(2, 8, 1)], true).unwrap_err();
    assert!(error.to_string().contains("committed entry 8 is replaced"), "{error}");
}

#[test]
fn segments_may_be_missing_in_front_as_far_as_the_snapshot_covers() {
    let (full, _) = six();
    let log = full.names();
    assert!(log.len() >= 3, "{log:?}");
    let (_, whole) = open(&full).unwrap();
    for covered in 0..=6 {
        let disk = full.fork();
        let (storage, _) = open(&disk).unwrap();
        if covered > 0 {
            let (meta, data) = snapshot(id(1, covered), 50);
            storage.snapshots().store(&meta, &data).unwrap();
        }
        for gone in 1..log.len() {
            disk.remove_file(&log[gone - 1]);
            match open(&disk) {
                Ok((_, recovered)) => {
                    assert!(covered > 0 && recovered.base.index.0 <= covered);
                    let base = recovered.base.index.0 as usize;
                    assert_eq!(recovered.entries, whole.entries[base..]);
                    assert_eq!(recovered.hard_state, whole.hard_state);
                }
                Err(error) => {
                    let text = error.to_string();
                    let file = disk.path(&log[gone]);
                    let expected = format!("\"{}\" is damaged at offset 0", file.display());
                    assert!(text.starts_with(&expected), "{text}");
                }
            }
        }
        // Between the first and the last never.
        let disk = full.fork();
        let (storage, _) = open(&disk).unwrap();
        let (meta, data) = snapshot(id(1, 6), 50);
        storage.snapshots().store(&meta, &data).unwrap();
        disk.remove_file(&log[1]);
        let error = open(&disk).unwrap_err().to_string();
        assert!(error.contains("segment 2 is missing"), "{error}");
    }
}

#[test]
fn a_log_that_is_gone_is_not_made_anew_under_a_snapshot() {
    let (disk, storage) = six();
    let (meta, data) = snapshot(id(1, 6), 50);
    storage.snapshots().store(&meta, &data).unwrap();
    disk.names().iter().filter(|name| **name != CURRENT).for_each(|name| disk.remove_file(name));
    let error = open(&disk).unwrap_err().to_string();
    assert!(error.contains("it is missing, although there is a snapshot"), "{error}");
}

#[test]
fn every_change_of_the_snapshot_file_is_refused_with_its_place() {
    let (disk, storage) = six();
    let (meta, data) = snapshot(id(1, 4), 2 * BLOCK_BYTES + 300);
    storage.snapshots().store(&meta, &data).unwrap();
    let good = disk.with_file(CURRENT, |bytes| bytes.clone());
    let data_at = good.len() - data.len() - 24;
    let block_at = |block| data_at + block * (8 + BLOCK_BYTES);
    let blocks = [0, data_at, block_at(1), block_at(2)];
    let refused = |bytes: Vec<u8>, at: usize, what: &str| {
        disk.with_file(CURRENT, |file| *file = bytes);
        match open(&disk) {
            Err(StorageError::Damaged { path, offset, .. }) => {
                assert_eq!((path, offset), (disk.path(CURRENT), at as u64), "{what}");
            }
            Err(error) => panic!("{what}: {error}"),
            Ok(_) => panic!("{what}: it was taken"),
        }
    };
    // Each byte of the header and of the last block, some of the long one between.
    let sampled = (data_at + 40..blocks[3] - 10).step_by(1997);
    for at in (0..data_at + 40).chain(sampled).chain(blocks[3] - 10..good.len()) {
        let block = *blocks.iter().rfind(|block| **block <= at).unwrap();
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            refused(bad, block, &format!("byte {at} changed by {flip:#x}"));
        }
        refused(good[..at].to_vec(), block, &format!("cut at {at}"));
    }
    refused([&good[..], &[0]].concat(), good.len(), "a byte more");
    let [_, a, b, c] = blocks;
    let swapped = [&good[..a], &good[b..c], &good[a..b], &good[c..]].concat();
    refused(swapped, data_at, "blocks swapped");
    disk.with_file(CURRENT, |file| *file = good);
    open(&disk).unwrap();
}

/// What a follower gets is checked, too, when it is read.
#[test]
fn damage_that_came_later_is_not_sent_to_others() {
    let (disk, storage) = six();
    let (meta, data) = snapshot(id(1, 4), 3 * BLOCK_BYTES);
    let snapshots = storage.snapshots();
    snapshots.store(&meta, &data).unwrap();
    let at = disk.with_file(CURRENT, |bytes| {
        let at = bytes.len() - BLOCK_BYTES - 9;
        bytes[at] ^= 4;
        at
    });
    assert!(snapshots.read(&meta, 0, BLOCK_BYTES).unwrap().is_some());
    match snapshots.read(&meta, BLOCK_BYTES as u64, 5).unwrap_err() {
        StorageError::Damaged { offset, .. } => assert!(offset as usize <= at),
        error => panic!("{error}"),
    }
}
