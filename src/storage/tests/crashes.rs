//! The power fails at every operation of every step that stores, takes, installs or compacts, and
//! takes with it whatever it may: what comes back is what was promised, or that and the step then
//! on its way.

use super::super::testing::{Fault, Loss};
use super::model::{Act, Rig};
use super::*;

fn save(hard_state: Option<HardState>, entries: impl IntoIterator<Item = Entry>) -> Act {
    Act::Save(hard_state, entries.into_iter().collect())
}

fn take(last: EntryId, bytes: usize) -> Act {
    let (meta, data) = snapshot(last, bytes);
    Act::Take(meta, data)
}

fn install(last: EntryId, bytes: usize, hard_state: HardState) -> Act {
    let (meta, data) = snapshot(last, bytes);
    Act::Install(meta, data, hard_state)
}

/// Some segments of committed entries, snapshots of them, and the log cut behind them.
fn own_snapshots() -> Vec<Act> {
    let mut acts = vec![save(Some(hard_state(1, 1, 0)), [entry(1, 1, 30)])];
    for index in (2..20).step_by(2) {
        let commit = hard_state(1, 1, index - 1);
        acts.push(save(Some(commit), [entry(1, index, 90), entry(1, index + 1, 60)]));
        if index % 6 == 2 {
            acts.push(take(id(1, index - 1), 40));
            acts.push(Act::Compact(id(1, index.saturating_sub(4))));
        }
    }
    acts.push(Act::Compact(id(1, 13)));
    acts
}

/// Segments whose entries were replaced go, although their indexes are high.
fn replaced() -> Vec<Act> {
    let mut acts = vec![save(Some(hard_state(1, 1, 3)), (1..=4).map(|at| entry(1, at, 90)))];
    acts.extend((5..12).map(|index| save(None, [entry(1, index, 120)])));
    acts.push(save(Some(hard_state(2, 2, 4)), [entry(2, 5, 80), entry(2, 6, 80)]));
    acts.push(save(Some(hard_state(2, 2, 6)), [entry(2, 7, 120)]));
    acts.push(take(id(2, 6), 500));
    acts.push(Act::Compact(id(2, 6)));
    acts.push(save(None, [entry(2, 8, 120)]));
    acts
}

/// Snapshots from a leader: on an empty log, beyond the log, instead of a log that contradicts it,
/// and one that the log leads up to.
fn installs() -> Vec<Act> {
    vec![
        install(id(3, 7), 300, hard_state(3, 0, 7)),
        save(None, [entry(3, 8, 200), entry(3, 9, 150)]),
        save(Some(hard_state(3, 1, 8)), [entry(3, 10, 200)]),
        install(id(5, 40), 60, hard_state(6, 2, 40)),
        save(None, (41..45).map(|at| entry(6, at, 90))),
        install(id(7, 43), 90, hard_state(7, 1, 43)),
        save(None, (44..50).map(|at| entry(7, at, 120))),
        install(id(7, 46), 80, hard_state(7, 1, 46)),
        Act::Compact(id(7, 45)),
        save(Some(hard_state(8, 2, 49)), [entry(8, 50, 10)]),
        take(id(7, 49), 10),
        Act::Compact(id(7, 49)),
    ]
}

/// A snapshot from a leader that ends within a log of many segments, which contradicts it. While
/// they go, one that is left in front begins behind the snapshot.
fn contradicted() -> Vec<Act> {
    let mut acts = vec![save(Some(hard_state(1, 1, 0)), [entry(1, 1, 30)])];
    acts.extend((2..12).map(|index| save(Some(hard_state(1, 1, 1)), [entry(1, index, 220)])));
    acts.push(install(id(3, 4), 40, hard_state(3, 2, 4)));
    acts.push(save(None, [entry(3, 5, 20)]));
    acts
}

/// Everything that a power failure may do now, unless it is too much.
fn losses(disk: &MemDisk) -> Vec<Loss> {
    let bytes = disk.unsynced_bytes();
    let mut losses = vec![Loss::Keep(usize::MAX)];
    losses.extend((0..=bytes).step_by(1 + bytes / 24).map(Loss::Keep));
    losses.extend((0..disk.unsynced_names()).map(Loss::Names));
    losses.extend((0..6).map(Loss::Sectors));
    losses
}

/// Runs `acts`; whether the disk let them all pass. What fails is tried again once with the power
/// cut in every way, and once without.
fn run(acts: &[Act], disk: MemDisk) -> bool {
    let mut rig = Rig::new(disk, SEGMENT_BYTES);
    let mut done = 0;
    let passed = rig.reopen()
        && acts.iter().all(|act| {
            done += 1;
            rig.act(act)
        });
    if !passed {
        for loss in losses(&rig.disk) {
            let mut after = rig.cut(loss);
            assert!(after.reopen());
            // What was found counts from now on.
            let mut after = after.cut(Loss::Keep(0));
            assert!(after.reopen());
            let last = after.model().last();
            let next = entry(9, last.index.0 + 1, 20);
            assert!(after.act(&save(Some(hard_state(9, 3, 0)), [next])));
            assert!(after.reopen() && after.reopen());
        }
    }
    passed
}

#[test]
fn a_power_failure_at_any_operation_leaves_what_was_promised() {
    for acts in [own_snapshots(), replaced(), installs(), contradicted()] {
        let mut operations = 0;
        loop {
            let disk = MemDisk::new();
            disk.fail_after(operations, Fault::Halt);
            if run(&acts, disk) {
                break;
            }
            operations += 1;
        }
        // Each write, sync and change of names of a dozen steps.
        assert!(operations > 40, "{operations}");
    }
}

#[test]
fn a_failure_of_any_operation_leaves_what_was_promised() {
    for fault in [Fault::Io, Fault::NoSpace(0), Fault::NoSpace(9)] {
        for acts in [own_snapshots(), replaced(), installs(), contradicted()] {
            let mut operations = 0;
            loop {
                let disk = MemDisk::new();
                disk.fail_after(operations, fault);
                let mut rig = Rig::new(disk, SEGMENT_BYTES);
                if rig.reopen() && acts.iter().all(|act| rig.act(act)) {
                    break;
                }
                assert!(rig.reopen(), "the fault is gone");
                let mut rig = rig.cut(Loss::Keep(0));
                assert!(rig.reopen(), "and what was found is durable");
                operations += 1;
            }
        }
    }
}

/// A restart in between takes nothing from what is known of the segments.
#[test]
fn what_is_compacted_after_a_restart_is_gone() {
    for (acts, segments) in [(own_snapshots(), 4), (replaced(), 3), (installs(), 2)] {
        let mut rig = Rig::new(MemDisk::new(), SEGMENT_BYTES);
        for act in &acts {
            assert!(rig.reopen() && rig.act(act));
        }
        let names = rig.disk.names();
        let left = names.iter().filter(|name| name.starts_with("log/")).count();
        assert!(left <= segments, "{names:?}");
    }
}

/// Segments that a crash left in front of where the log begins go with the next that go.
#[test]
fn what_a_crash_left_is_gone_later() {
    let acts = contradicted();
    for operations in 0.. {
        let disk = MemDisk::new();
        let mut rig = Rig::new(disk.clone(), SEGMENT_BYTES);
        assert!(rig.reopen() && acts[..acts.len() - 2].iter().all(|act| rig.act(act)));
        disk.fail_after(operations, Fault::Halt);
        if rig.act(&acts[acts.len() - 2]) {
            assert!(operations > 10, "{operations}");
            break;
        }
        rig.power_cut(Loss::Keep(usize::MAX));
        assert!(rig.reopen());
        if rig.model().start != EntryId::default() {
            let base = rig.model().start;
            assert!(rig.act(&Act::Compact(base)));
            let names = disk.names();
            let left = names.iter().filter(|name| name.starts_with("log/")).count();
            assert_eq!(left, 1, "{names:?} after {operations}");
        }
    }
}

#[test]
fn what_is_compacted_is_gone() {
    for (acts, segments) in
        [(own_snapshots(), 4), (replaced(), 3), (installs(), 2), (contradicted(), 1)]
    {
        let disk = MemDisk::new();
        assert!(run(&acts, disk.clone()));
        let names = disk.names();
        let left = names.iter().filter(|name| name.starts_with("log/")).count();
        assert!(left <= segments, "{names:?}");
        assert!(!names.contains(&"log/0000000001.log".to_owned()), "{names:?}");
        let (storage, _) = open(&disk).unwrap();
        let bytes = |name: &String| disk.with_file(name, |bytes| bytes.len() as u64);
        let log = names.iter().filter(|name| name.starts_with("log/"));
        assert_eq!(storage.bytes(), log.map(bytes).sum::<u64>());
    }
}
