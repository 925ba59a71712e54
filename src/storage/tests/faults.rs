//! A disk that is full or fails: the first error is the last word, and nothing promised is lost.

use super::super::testing::{Fault, Loss};
use super::*;

/// The operations of the disk that one pass over the history takes, and some more.
const OPERATIONS: u64 = 40;

#[test]
fn after_an_error_every_call_fails_and_a_restart_has_all_that_was_promised() {
    let mut failures = 0;
    for fault in [Fault::NoSpace(0), Fault::NoSpace(1), Fault::NoSpace(50), Fault::Io] {
        for operations in 0..OPERATIONS {
            let disk = MemDisk::new();
            disk.fail_after(operations, fault);
            let Ok((mut storage, _)) = open(&disk) else {
                // Not even an empty log could be made: nothing was promised.
                assert_eq!(state(&open(&disk).unwrap().1), State::default());
                continue;
            };
            let mut promised = State::default();
            let mut tried = State::default();
            for (hard_state, entries) in history() {
                follow(&mut tried, hard_state, &entries);
                if storage.save(hard_state.as_ref(), &entries, true).is_err() {
                    break;
                }
                promised = tried.clone();
            }
            if promised == tried {
                continue;
            }
            failures += 1;
            for _ in 0..3 {
                let error = storage.save(None, &[entry(9, 1, 1)], true).unwrap_err();
                assert!(matches!(error, StorageError::Failed(_)), "{error}");
            }
            drop(storage);
            let found = state(&open(&disk).unwrap().1);
            assert!(found == promised || found == tried, "{fault:?} after {operations}");
            // What the restart found and may now promise holds even if the power fails.
            disk.power_cut(Loss::Keep(0));
            assert_eq!(state(&open(&disk).unwrap().1), found, "{fault:?} after {operations}");
        }
    }
    assert!(failures > 40, "only {failures} faults hit the history");
}

/// kill -9 between the write and its sync leaves a record in memory that the next process finds.
#[test]
fn what_a_restart_finds_is_made_durable_before_it_counts() {
    let (mut disk, states) = written();
    let mut expected = states.last().unwrap().clone();
    let entries = [entry(4, 8, 700)];
    follow(&mut expected, None, &entries);
    let name = disk.names().pop().unwrap();
    let last = states.last().unwrap().1.last().unwrap().id;
    disk.append(&name, &segment::encode(last, None, &entries).0).unwrap();
    assert!(disk.unsynced_bytes() > 0);

    assert_eq!(state(&open(&disk).unwrap().1), expected);
    disk.power_cut(Loss::Keep(0));
    assert_eq!(state(&open(&disk).unwrap().1), expected);
}

#[test]
fn errors_say_what_file_and_why() {
    let disk = MemDisk::new();
    let (mut storage, _) = open(&disk).unwrap();
    disk.fail_after(0, Fault::NoSpace(3));
    let error = storage.save(None, &[entry(1, 1, 1)], true).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("could not write \"/memory/log/0000000001.log\": "), "{text}");
    assert!(error.hint().starts_with("Free space"), "{}", error.hint());

    let again = storage.save(None, &[entry(1, 1, 1)], true).unwrap_err().to_string();
    assert!(again.contains(&text), "{again}");
}
