//! Tests of the storage, all but those of `directory.rs` on a disk in memory.

mod crashes;
mod damage;
mod directory;
mod faults;
mod model;
mod power;
mod properties;
mod snapshots;
mod torture;

use super::testing::MemDisk;
use super::*;
use crate::raft::{
    Entry, EntryId, HardState, LogIndex, Membership, NodeId, Payload, SnapshotMeta, Term,
};

/// Small, so that a few batches roll over.
const SEGMENT_BYTES: u64 = 400;

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    // No two alike, and no zeros: what is lost must differ from what was written.
    let command = (0..bytes).map(|at| (term * 31 + index * 7 + at as u64) as u8 | 1).collect();
    Entry { id: id(term, index), payload: Payload::Command(command) }
}

fn hard_state(term: u64, vote: u32, commit: u64) -> HardState {
    HardState { term: Term(term), vote: NodeId::new(vote.into()), commit: LogIndex(commit) }
}

/// A snapshot of `last` whose data no other has.
fn snapshot(last: EntryId, bytes: usize) -> (SnapshotMeta, Vec<u8>) {
    let seed = last.term.0 * 37 + last.index.0 * 11;
    let data: Vec<u8> = (0..bytes as u64).map(|at| (seed + at + at / 251) as u8 | 1).collect();
    let node = |id| NodeId::new(id).unwrap();
    let meta = SnapshotMeta {
        last,
        membership: Membership { voters: [node(1), node(2)].into(), learners: [node(3)].into() },
        bytes: data.len() as u64,
        checksum: crc32c::crc32c(&data),
    };
    (meta, data)
}

/// What is remembered, without what was cut off.
type State = (HardState, Vec<Entry>);

fn state(recovered: &Recovered) -> State {
    (recovered.hard_state, recovered.entries.clone())
}

fn open(disk: &MemDisk) -> Result<(Storage<MemDisk>, Recovered), StorageError> {
    Storage::open_with(disk.clone(), SEGMENT_BYTES)
}

/// Batches as a term with a few entries, a vote and a suffix replaced by a new leader leave them,
/// and the state after each.
fn history() -> Vec<(Option<HardState>, Vec<Entry>)> {
    vec![
        (Some(hard_state(1, 1, 0)), vec![entry(1, 1, 30)]),
        (Some(hard_state(1, 1, 1)), vec![entry(1, 2, 40), entry(1, 3, 25), entry(1, 4, 10)]),
        (None, vec![entry(1, 5, 60)]),
        (Some(hard_state(3, 2, 2)), vec![]),
        (Some(hard_state(3, 2, 3)), vec![entry(3, 4, 35), entry(3, 5, 5)]),
        (Some(hard_state(4, 0, 5)), vec![entry(4, 6, 90), entry(4, 7, 20)]),
    ]
}

fn follow(state: &mut State, hard_state: Option<HardState>, entries: &[Entry]) {
    state.0 = hard_state.unwrap_or(state.0);
    if let Some(first) = entries.first() {
        state.1.truncate(first.id.index.prev().0 as usize);
        state.1.extend_from_slice(entries);
    }
}

/// A disk that holds `history`, and the states after 0, 1, … batches of it.
fn written() -> (MemDisk, Vec<State>) {
    let disk = MemDisk::new();
    let (mut storage, recovered) = open(&disk).unwrap();
    let mut states = vec![state(&recovered)];
    for (hard_state, entries) in history() {
        storage.save(hard_state.as_ref(), &entries, true).unwrap();
        let mut next = states.last().unwrap().clone();
        follow(&mut next, hard_state, &entries);
        states.push(next);
    }
    (disk, states)
}

#[test]
fn what_is_saved_is_there_after_a_restart() {
    let (disk, states) = written();
    assert!(disk.names().len() >= 2, "the history must roll over");
    for _ in 0..2 {
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(&state(&recovered), states.last().unwrap());
        assert_eq!(recovered.torn, None);
    }
}

#[test]
fn writing_goes_on_after_a_restart() {
    let (disk, states) = written();
    let (mut storage, _) = open(&disk).unwrap();
    let bytes = storage.bytes();
    storage.save(None, &[entry(4, 8, 11)], true).unwrap();
    assert!(storage.bytes() > bytes);
    let mut expected = states.last().unwrap().clone();
    follow(&mut expected, None, &[entry(4, 8, 11)]);
    let (again, recovered) = open(&disk).unwrap();
    assert_eq!(state(&recovered), expected);
    assert_eq!(again.bytes(), storage.bytes());
}

#[test]
fn the_real_disk_remembers_too() {
    let dir = directory::TempDir::new("log");
    let mut expected = State::default();
    for batches in history().chunks(2) {
        let disk = FileDisk::open(dir.path()).unwrap();
        let (mut storage, recovered) = Storage::open_with(disk, SEGMENT_BYTES).unwrap();
        assert_eq!(state(&recovered), expected);
        for (hard_state, entries) in batches {
            storage.save(hard_state.as_ref(), entries, true).unwrap();
            follow(&mut expected, *hard_state, entries);
        }
    }
    let disk = FileDisk::open(dir.path()).unwrap();
    assert_eq!(state(&Storage::open(disk).unwrap().1), expected);
}

#[test]
fn a_moved_commit_index_waits_for_the_next_batch() {
    let (disk, _) = written();
    let (mut storage, _) = open(&disk).unwrap();
    storage.save(Some(&hard_state(4, 0, 7)), &[], false).unwrap();
    assert_eq!(open(&disk).unwrap().1.hard_state.commit, LogIndex(5));
    storage.save(None, &[entry(4, 8, 1)], true).unwrap();
    assert_eq!(open(&disk).unwrap().1.hard_state.commit, LogIndex(7));
}

#[test]
fn a_batch_too_long_for_a_record_takes_several() {
    let disk = MemDisk::new();
    let (mut storage, _) = open(&disk).unwrap();
    let entries: Vec<Entry> = (1..=5).map(|index| entry(1, index, 3 << 20)).collect();
    storage.save(Some(&hard_state(1, 1, 5)), &entries, true).unwrap();
    assert_eq!(state(&open(&disk).unwrap().1), (hard_state(1, 1, 5), entries));
    // A crash between the records: the commit index is no further than the log.
    disk.remove_file(&disk.names().pop().unwrap());
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries.len(), 3);
    assert_eq!(recovered.hard_state, hard_state(1, 1, 3));
}

#[test]
fn an_entry_that_no_frame_could_carry_is_not_stored() {
    let (mut storage, _) = open(&MemDisk::new()).unwrap();
    let error = storage.save(None, &[entry(1, 1, 40 << 20)], true).unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { .. }), "{error}");
}
