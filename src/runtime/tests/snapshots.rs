//! Snapshots in whole clusters: nodes that are behind the log's start, new ones, crashes in the
//! middle, a leader that changes on the way.

use super::world::World;
use super::{add, id, three_with};
use crate::cluster::{Change, Request};
use crate::raft::Membership;
use crate::shmem::{Counter, NodeState};
use crate::wire;

/// A snapshot every few entries, which keeps nothing of them.
pub const FEW: &str = "raft_snapshot_entries = 10\nraft_log_keep_entries = 0\n";

fn remove(node: i64) -> Request {
    Request::RemoveNode { node: id(node), force: true }
}

/// Adds and removes a learner that does not exist, two entries a time.
fn churn(world: &mut World, times: usize) {
    for _ in 0..times {
        let at = world.leader().unwrap();
        assert!(world.ask(at, add(99), 2000).unwrap().value);
        assert!(world.ask(at, remove(99), 2000).unwrap().value);
        // Time passes, in which a snapshot may get written.
        world.run_ms(50);
    }
}

/// Fills up the log with changes of the store until a snapshot stands for all of it.
fn put_until_snapshot(world: &mut World) {
    (0..20).for_each(|_| put(world));
    while !world.view(world.leader().unwrap()).applied.is_multiple_of(10) {
        put(world);
    }
}

fn put(world: &mut World) {
    let at = world.leader().unwrap();
    let change = Change::Put { key: "filler".to_owned(), value: String::new() };
    assert!(world.ask(at, Request::Store { id: None, change }, 2000).unwrap().value);
    world.run_ms(50);
}

/// Three of which the last follower has crashed and the others have long dropped what it needs.
fn behind(seed: u64) -> (World, i64) {
    let mut world = three_with(seed, FEW);
    world.run_ms(1000);
    let node = (1..=3).rev().find(|node| Some(*node) != world.leader()).unwrap();
    world.crash(node);
    let had = world.last_on_disk(node);
    churn(&mut world, 15);
    let (_, base) = world.on_disk(world.leader().unwrap());
    assert!(base.index > had, "{base:?}, {had:?}");
    (world, node)
}

/// That a node has all that the leader has.
#[track_caller]
fn has_all(world: &World, node: i64) {
    let (leader, own) = (world.view(world.leader().unwrap()), world.view(node));
    assert_eq!((own.applied, own.state), (leader.applied, NodeState::Member), "{own:?}");
    let members = |view: &crate::shmem::View| {
        view.members.iter().map(|member| (member.id, member.voter)).collect::<Vec<_>>()
    };
    assert_eq!(members(&own), members(&leader));
}

#[test]
fn every_node_takes_the_same_snapshots_and_drops_what_they_stand_for() {
    let mut world = three_with(1, FEW);
    world.run_ms(1000);
    churn(&mut world, 12);
    world.run_ms(1000);
    let (first, base) = world.on_disk(1);
    let (meta, data) = first.unwrap();
    assert_eq!(meta.last.index.0 % 10, 0);
    assert!(base.index.0 + 10 > meta.last.index.0, "{base:?}, {meta:?}");
    let state = wire::decode_state(&data).unwrap();
    assert_eq!(state.applied, meta.last.index);
    let voters = state.members.values().filter(|member| member.voter).map(|member| member.id);
    let learners = state.members.values().filter(|member| !member.voter).map(|member| member.id);
    let listed = Membership { voters: voters.collect(), learners: learners.collect() };
    assert_eq!(meta.membership, listed, "raft and the cluster agree who takes part");
    for node in 2..=3 {
        let (other, _) = world.on_disk(node);
        assert!(other.as_ref() == Some(&(meta.clone(), data.clone())), "node {node}: {other:?}");
    }
    for node in 1..=3 {
        assert!(world.counted(node, Counter::SnapshotsTaken) >= 2);
        world.crash(node);
        world.boot(node, &[1, 2, 3]);
    }
    world.run_until_leader();
    world.run_ms(1000);
    for node in 1..=3 {
        has_all(&world, node);
        assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 0);
    }
}

#[test]
fn the_directory_stays_small_however_much_is_written() {
    let mut world = three_with(2, FEW);
    world.run_ms(1000);
    churn(&mut world, 30);
    let after_some = (1..=3).map(|node| world.disk_bytes(node)).max().unwrap();
    churn(&mut world, 150);
    let after_more = (1..=3).map(|node| world.disk_bytes(node)).max().unwrap();
    assert!(after_more < 2 * after_some, "{after_some} bytes, then {after_more}");
}

#[test]
fn a_follower_behind_the_start_of_the_log_gets_a_snapshot() {
    let (mut world, node) = behind(3);
    world.boot(node, &[1, 2, 3]);
    world.run_ms(2000);
    has_all(&world, node);
    assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 1);
    assert_eq!(world.counted(world.leader().unwrap(), Counter::SnapshotsSent), 1);
    assert!(world.pieces.len() >= 3, "{:?}", world.pieces);
    // It may lead, with what it got.
    let leader = world.leader().unwrap();
    let to = Request::TransferLeadership { node: id(node) };
    assert!(world.ask(leader, to, 2000).unwrap().value);
    churn(&mut world, 1);
    // And restart from it.
    world.crash(node);
    world.boot(node, &[1, 2, 3]);
    world.run_until_leader();
    world.run_ms(2000);
    has_all(&world, node);
}

#[test]
fn a_new_node_joins_by_snapshot_and_becomes_a_voter() {
    let mut world = three_with(4, FEW);
    world.run_ms(1000);
    churn(&mut world, 15);
    let leader = world.leader().unwrap();
    assert!(world.ask(leader, add(4), 1000).unwrap().value);
    world.boot(4, &[1]);
    world.run_ms(4000);
    has_all(&world, 4);
    assert_eq!(world.counted(4, Counter::SnapshotsInstalled), 1);
    let view = world.view(leader);
    assert!(view.members.iter().any(|member| member.id == 4 && member.voter), "{view:?}");
    // What it knows of its own directory came with the snapshot or after it: it may vote.
    for node in (1..=3).filter(|node| *node != leader).take(1) {
        world.crash(node);
    }
    world.crash(leader);
    world.run_ms(3000);
    assert_eq!(world.leader(), None, "two of four are no majority");
    world.boot(leader, &[1, 2, 3]);
    world.run_until_leader();
}

#[test]
fn a_member_whose_record_comes_by_snapshot_alone_may_vote() {
    // A founder that was cut off before it got the genesis entry, which is gone by now.
    let (mut world, node) = behind(5);
    world.forget_log(node);
    let others: Vec<i64> = (1..=3).filter(|other| *other != node).collect();
    for &other in &others {
        world.crash(other);
        world.boot(other, &[1, 2, 3]);
    }
    world.run_until_leader();
    put_until_snapshot(&mut world);
    assert_eq!(world.cluster_of(node), None);
    world.boot(node, &[1, 2, 3]);
    world.run_ms(3000);
    has_all(&world, node);
    assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 1);
    assert_eq!(world.cluster_of(node), world.cluster_of(others[0]));
    world.crash(others[0]);
    world.crash(others[1]);
    world.boot(others[1], &[1, 2, 3]);
    world.run_until_leader();
}

#[test]
fn a_crash_at_any_effect_while_installing_loses_nothing() {
    for effects in 0..60 {
        let (mut world, node) = behind(6);
        world.boot(node, &[1, 2, 3]);
        world.crash_after_effects(node, effects);
        world.run_ms(1000);
        world.crash(node);
        world.check_histories();
        world.boot(node, &[1, 2, 3]);
        world.run_ms(3000);
        has_all(&world, node);
        world.check_histories();
    }
}

#[test]
fn a_crash_at_any_effect_while_joining_by_snapshot_leaves_a_voter() {
    for effects in 0..80 {
        let (mut world, node) = behind(5);
        world.forget_log(node);
        let others: Vec<i64> = (1..=3).filter(|other| *other != node).collect();
        for &other in &others {
            world.crash(other);
            world.boot(other, &[1, 2, 3]);
        }
        world.run_until_leader();
        put_until_snapshot(&mut world);
        world.boot(node, &[1, 2, 3]);
        world.crash_after_effects(node, effects);
        world.run_ms(1000);
        world.crash(node);
        world.boot(node, &[1, 2, 3]);
        world.run_ms(3000);
        has_all(&world, node);
        // Its vote is needed now.
        world.crash(others[0]);
        world.crash(others[1]);
        world.boot(others[1], &[1, 2, 3]);
        world.run_until_leader();
    }
}

#[test]
fn a_transfer_goes_on_under_the_next_leader() {
    let (mut world, node) = behind(7);
    world.pieces_left = 2;
    world.boot(node, &[1, 2, 3]);
    world.run_ms(1000);
    let old = world.leader().unwrap();
    assert_eq!(world.pieces, [(old, node, 0), (old, node, 100)]);
    assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 0);
    // It has no log to win an election with; the other leads.
    world.crash(old);
    world.run_until_leader();
    let new = world.leader().unwrap();
    world.pieces_left = usize::MAX;
    world.run_ms(2000);
    let offsets: Vec<u64> =
        world.pieces.iter().filter(|piece| piece.0 == new).map(|piece| piece.2).collect();
    assert_eq!(offsets[..2], [0, 200], "after the first, which asks, where the former one was");
    has_all(&world, node);
}

#[test]
fn a_transfer_goes_on_after_the_link_broke() {
    let (mut world, node) = behind(8);
    world.pieces_left = 2;
    world.boot(node, &[1, 2, 3]);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    world.break_links(leader, node);
    world.pieces_left = usize::MAX;
    world.run_ms(1000);
    let offsets: Vec<u64> = world.pieces.iter().map(|piece| piece.2).collect();
    assert_eq!(offsets[..3], [0, 100, 200]);
    has_all(&world, node);
    assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 1);
}

#[test]
fn none_is_taken_while_a_live_follower_gets_the_last() {
    let (mut world, node) = behind(9);
    world.pieces_left = 1;
    world.boot(node, &[1, 2, 3]);
    world.run_ms(500);
    let leader = world.leader().unwrap();
    let before = world.on_disk(leader).0.unwrap().0;
    assert_eq!(world.pieces.len(), 1);
    churn(&mut world, 12);
    assert_eq!(world.on_disk(leader).0.unwrap().0, before, "it would begin again");
    world.crash(node);
    world.run_ms(2000);
    churn(&mut world, 1);
    assert_ne!(world.on_disk(leader).0.unwrap().0, before, "nobody waits for the dead");
}

#[test]
fn one_that_cannot_be_written_is_said_and_tried_again() {
    let mut world = three_with(10, FEW);
    world.run_ms(1000);
    world.no_snapshots = Some("the disk is full");
    churn(&mut world, 8);
    let leader = world.leader().unwrap();
    let said = world.view(leader).last_error;
    assert_eq!(said, "could not take a snapshot: the disk is full");
    world.no_snapshots = None;
    churn(&mut world, 8);
    assert_eq!(world.counted(leader, Counter::SnapshotsTaken), 0, "not at once again");
    world.run_ms(10_000);
    churn(&mut world, 1);
    world.run_ms(1000);
    assert_eq!(world.view(leader).last_error, "");
    assert_eq!(world.counted(leader, Counter::SnapshotsTaken), 1);
}

#[test]
fn one_that_cannot_be_read_is_replaced_though_nothing_is_written_any_more() {
    let (mut world, node) = behind(18);
    let leader = world.leader().unwrap();
    world.damage_snapshot(leader);
    world.boot(node, &[1, 2, 3]);
    world.run_ms(2000);
    has_all(&world, node);
    assert_eq!(world.counted(node, Counter::SnapshotsInstalled), 1);
}

#[test]
fn a_node_that_restarts_from_a_snapshot_refuses_a_wiped_one() {
    let mut world = three_with(11, FEW);
    world.run_ms(1000);
    churn(&mut world, 10);
    let leader = world.leader().unwrap();
    let wiped = (1..=3).find(|node| *node != leader).unwrap();
    let other = (1..=3).find(|node| *node != wiped && *node != leader).unwrap();
    for node in 1..=3 {
        world.crash(node);
    }
    world.wipe(wiped);
    world.boot(wiped, &[1, 2, 3]);
    world.boot(other, &[1, 2, 3]);
    world.run_ms(5000);
    let view = world.view(wiped);
    assert_ne!(view.state, NodeState::Member);
    assert!(view.last_error.contains("not the directory that joined"), "{}", view.last_error);
}

#[test]
fn a_removed_node_that_restarts_from_a_snapshot_knows_it() {
    let mut world = three_with(12, FEW);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let node = (1..=3).find(|node| *node != leader).unwrap();
    // Its removal is the last that its own snapshot has in it.
    while world.view(leader).applied % 10 != 9 {
        put(&mut world);
    }
    assert!(world.ask(leader, remove(node), 1000).unwrap().value);
    world.run_ms(1000);
    let state = wire::decode_state(&world.on_disk(node).0.unwrap().1).unwrap();
    assert!(state.removed.contains(&id(node)));
    world.crash(node);
    world.boot(node, &[]);
    assert_eq!(world.view(node).state, NodeState::Removed, "before anyone says so");
    churn(&mut world, 10);
    for node in 1..=3 {
        world.crash(node);
        world.boot(node, &[1, 2, 3]);
    }
    world.run_until_leader();
    world.run_ms(3000);
    assert_eq!(world.view(node).state, NodeState::Removed);
    let leader = world.leader().unwrap();
    assert!(world.ask(leader, add(node), 1000).unwrap().value);
    world.run_ms(4000);
    has_all(&world, node);
}

#[test]
fn a_change_that_came_by_snapshot_is_answered() {
    let mut world = three_with(13, FEW);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let asked = (1..=3).find(|node| *node != leader).unwrap();
    // It is heard, and hears nothing.
    for other in (1..=3).filter(|other| *other != asked) {
        world.cut_off(other, asked);
    }
    let change = Change::Put { key: "k".to_owned(), value: "v".to_owned() };
    let token = world.begin(asked, Request::Store { id: None, change }, 60_000);
    world.run_ms(1500);
    churn(&mut world, 15);
    assert!(world.answer(asked, token).is_none());
    world.heal_links();
    let answer = world.wait(asked, token, 5000);
    assert!(answer.as_ref().is_ok_and(|done| done.value), "{answer:?}");
    assert_eq!(world.counted(asked, Counter::SnapshotsInstalled), 1);
    let state = wire::decode_state(&world.on_disk(asked).0.unwrap().1).unwrap();
    assert_eq!(state.store.get("k").unwrap().value, "v");
    // Its own changes go on.
    let change = Change::Delete { key: "k".to_owned() };
    assert!(world.ask(asked, Request::Store { id: None, change }, 5000).unwrap().value);
}

#[test]
fn a_node_that_hears_of_new_members_by_snapshot_alone_talks_to_them() {
    let (mut world, node) = behind(14);
    let leader = world.leader().unwrap();
    assert!(world.ask(leader, add(4), 1000).unwrap().value);
    world.boot(4, &[1, 2, 3]);
    world.run_ms(3000);
    put_until_snapshot(&mut world);
    world.boot(node, &[1, 2, 3]);
    world.run_ms(3000);
    has_all(&world, node);
    let third = (1..=3).find(|other| *other != node && *other != leader).unwrap();
    // These three are a majority of four, if 4 and the one that was away hear one another.
    world.cut_off(leader, third);
    world.crash(leader);
    world.run_until_leader();
    let to = Request::TransferLeadership { node: id(4) };
    let at = world.leader().unwrap();
    assert!(at == 4 || world.ask(at, to, 3000).unwrap().value);
    world.run_ms(3000);
    has_all(&world, node);
}

/// Five, of which only the leader knows that one of the others was restored from a backup.
fn five_with_a_restored_one(seed: u64) -> (World, i64, i64) {
    let all = [1, 2, 3, 4, 5];
    let mut world = World::new(seed);
    world.settings = FEW;
    for node in all {
        world.boot(node, &all);
    }
    world.run_until_leader();
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let restored = all.into_iter().find(|node| *node != leader).unwrap();
    let backup = world.backup(restored);
    churn(&mut world, 1);
    world.crash(restored);
    world.restore(restored, &backup);
    world.boot(restored, &all);
    world.run_ms(2000);
    let told = format!("node {restored} lost log entries: remove it and add it again");
    assert_eq!(world.view(leader).last_error, told);
    (world, leader, restored)
}

#[test]
fn who_was_distrusted_and_was_added_again_meanwhile_is_trusted() {
    let (mut world, old, restored) = five_with_a_restored_one(15);
    let others: Vec<i64> = (1..=5).filter(|node| *node != old).collect();
    for &other in &others {
        world.cut_off(old, other);
        world.cut_off(other, old);
    }
    world.run_ms(5000);
    let new = world.leader().unwrap();
    assert_ne!(new, old);
    assert!(world.ask(new, remove(restored), 3000).unwrap().value);
    assert!(world.ask(new, add(restored), 3000).unwrap().value);
    world.run_ms(3000);
    churn(&mut world, 10);
    world.heal_links();
    world.run_ms(5000);
    assert_eq!(world.counted(old, Counter::SnapshotsInstalled), 1);
    has_all(&world, old);
    assert_eq!(world.view(old).last_error, "", "it knows nothing against it any more");
}

#[test]
fn who_was_removed_meanwhile_is_sent_away() {
    let mut world = three_with(16, FEW);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    assert!(world.ask(leader, add(4), 1000).unwrap().value);
    world.boot(4, &[1, 2, 3]);
    world.run_ms(3000);
    let node = (1..=3).find(|node| *node != leader).unwrap();
    for other in (1..=3).filter(|other| *other != node) {
        world.cut_off(other, node);
    }
    world.run_ms(1500);
    assert!(world.ask(leader, remove(4), 3000).unwrap().value);
    churn(&mut world, 10);
    world.run_ms(2000);
    assert!(!world.disconnects.contains(&(node, 4)));
    world.heal_links();
    world.run_ms(3000);
    assert!(world.counted(node, Counter::SnapshotsInstalled) > 0);
    assert!(world.disconnects.contains(&(node, 4)), "{:?}", world.disconnects);
}

#[test]
fn a_members_change_that_came_by_snapshot_is_answered() {
    let mut world = three_with(17, FEW);
    world.run_ms(1000);
    let old = world.leader().unwrap();
    // It is heard, and does not hear that it was.
    for other in (1..=3).filter(|other| *other != old) {
        world.cut_off(other, old);
    }
    let token = world.begin(old, add(98), 60_000);
    world.run_ms(5000);
    let new = world.leader().unwrap();
    assert_ne!(new, old);
    put_until_snapshot(&mut world);
    assert!(world.view(new).members.iter().any(|member| member.id == 98));
    assert!(world.answer(old, token).is_none());
    world.heal_links();
    let answer = world.wait(old, token, 5000);
    assert!(answer.as_ref().is_ok_and(|done| done.value), "{answer:?}");
    assert_eq!(world.counted(old, Counter::SnapshotsInstalled), 1);
}
