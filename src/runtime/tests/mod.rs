//! Whole clusters in one thread: the production consensus loop, gate, wire and log on a clock, a
//! network and a disk that the test drives. No real time, no port.

mod failover;
mod snapshots;
mod store;
mod world;

use world::World;

use crate::cluster::{Address, Failure, FailureKind, Request};
use crate::raft::NodeId;
use crate::runtime::ticker::TICK_MS;
use crate::shmem::{NodeState, RoleCode};

fn id(node: i64) -> NodeId {
    NodeId::new(node).unwrap()
}

fn address(node: i64) -> Address {
    Address::new("host", 7400 + node as u16).unwrap()
}

fn add(node: i64) -> Request {
    Request::AddNode { node: id(node), address: address(node) }
}

/// Three nodes, each configured with the other two, formed.
fn three(seed: u64) -> World {
    three_with(seed, "")
}

/// The same, with more lines in their configurations.
fn three_with(seed: u64, settings: &'static str) -> World {
    let mut world = World::new(seed);
    world.settings = settings;
    for node in 1..=3 {
        world.boot(node, &[1, 2, 3]);
    }
    world.run_until_leader();
    world
}

#[test]
fn nodes_that_name_one_another_form_one_cluster() {
    for seed in 0..20 {
        let mut world = three(seed);
        assert_eq!(world.clusters().len(), 1);
        world.run_ms(3000);
        for node in 1..=3 {
            let view = world.view(node);
            assert_eq!(view.state, NodeState::Member, "{view:?}");
            assert_eq!(view.members.len(), 3);
            assert_eq!((view.has_quorum, view.reachable), (true, 3));
            assert_eq!(view.last_error, "");
        }
    }
}

#[test]
fn while_one_is_missing_nobody_forms_and_the_status_says_who() {
    let mut world = World::new(1);
    world.boot(1, &[1, 2, 3]);
    world.boot(2, &[1, 2, 3]);
    world.run_ms(5000);
    let view = world.view(1);
    assert_eq!(view.state, NodeState::Forming);
    assert_eq!(view.last_error, "waiting for host:7403");
    let answer = world.ask(2, Request::RemoveNode { node: id(1), force: false }, 1000);
    assert!(matches!(answer, Err(Failure { kind: FailureKind::Unavailable, .. })), "{answer:?}");
    // The guide adds the founders by hand, too; that is no error.
    let answer = world.ask(1, add(3), 1000).unwrap();
    assert!(answer.value && answer.notice.contains("will be a member"), "{answer:?}");
    world.boot(3, &[1, 2, 3]);
    world.run_until_leader();
}

/// However much a node hears before it carries any of it out.
#[test]
fn the_genesis_entry_is_on_disk_before_it_is_handed_out() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        world.batches = true;
        for node in 1..=3 {
            world.boot(node, &[1, 2, 3]);
        }
        world.run_until_leader();
        assert_eq!(world.clusters().len(), 1);
    }
}

#[test]
fn a_crash_while_forming_cannot_make_two_clusters() {
    for crash_after in 0..60 {
        let mut world = World::new(crash_after);
        for node in 1..=3 {
            world.boot(node, &[1, 2, 3]);
        }
        world.crash_after_effects(1, crash_after as u32);
        world.run_ms(500);
        world.crash(1);
        world.run_ms(500);
        world.boot(1, &[1, 2, 3]);
        world.run_until_leader();
        world.run_ms(3000);
        assert_eq!(world.clusters().len(), 1, "crash after {crash_after} effects");
        assert!((1..=3).all(|node| world.view(node).state == NodeState::Member));
    }
}

#[test]
fn a_cluster_of_one_grows_by_two_calls_in_a_row() {
    let mut world = World::new(3);
    world.boot(1, &[]);
    world.run_until_leader();
    assert!(world.ask(1, add(2), 1000).unwrap().value, "node 2 is not even started");
    assert!(world.ask(1, add(3), 1000).unwrap().value);
    let again = world.ask(1, add(3), 1000).unwrap();
    assert_eq!(again.notice, "node 3 is already a member of the cluster");
    world.boot(2, &[1]);
    world.boot(3, &[1]);
    world.run_ms(5000);
    for node in 1..=3 {
        let view = world.view(node);
        assert_eq!(view.state, NodeState::Member, "node {node}: {view:?}");
        assert_eq!(view.members.iter().filter(|member| member.voter).count(), 3);
    }
}

#[test]
fn a_follower_forwards_and_sees_what_it_asked_for() {
    let mut world = three(4);
    let follower = (1..=3).find(|node| world.view(*node).role == RoleCode::Follower).unwrap();
    assert!(world.ask(follower, add(4), 1000).unwrap().value);
    assert!(world.view(follower).members.iter().any(|member| member.id == 4));
    world.boot(4, &[1]);
    world.run_ms(3000);
    assert_eq!(world.view(4).role, RoleCode::Follower, "caught up, it votes");
    assert!(world.ask(4, Request::RemoveNode { node: id(4), force: false }, 1000).unwrap().value);
    world.run_ms(3000);
    assert_eq!(world.view(4).state, NodeState::Removed);
    assert_eq!(world.view(follower).members.len(), 3);
    assert!(world.ask(follower, add(4), 1000).unwrap().value);
    world.run_ms(3000);
    assert_eq!(world.view(4).state, NodeState::Member, "{:?}", world.view(4));
}

#[test]
fn a_leader_whose_port_refuses_is_replaced_at_once_and_waits_for_its_lease() {
    let mut world = three(5);
    world.run_ms(1000);
    let old = world.leader().unwrap();
    world.crash(old);
    world.run_ms(100);
    let new = world.leader().expect("elected within 100 ms, not after an election timeout");
    assert_ne!(new, old);
    assert!(!world.holds_lease(new), "the old one may still hold its lease");
    world.run_ms(1300);
    assert!(world.holds_lease(new));
    world.boot(old, &[1, 2, 3]);
    world.run_ms(3000);
    assert_eq!(world.leader(), Some(new), "it comes back as a follower");
}

#[test]
fn a_wiped_directory_is_refused_until_it_is_removed_and_added() {
    let mut world = three(6);
    world.run_ms(1000);
    let wiped = (1..=3).find(|node| world.view(*node).role == RoleCode::Follower).unwrap();
    let leader = world.leader().unwrap();
    world.crash(wiped);
    world.wipe(wiped);
    world.boot(wiped, &[1, 2, 3]);
    world.run_ms(3000);
    let view = world.view(wiped);
    assert_ne!(view.state, NodeState::Member);
    assert!(view.last_error.contains("not the directory that joined"), "{}", view.last_error);
    // Its vote would be the second of three: without it, nobody leads.
    let other = (1..=3).find(|node| *node != wiped && *node != leader).unwrap();
    world.crash(leader);
    world.run_ms(10_000);
    assert_eq!(world.leader(), None);
    world.boot(leader, &[1, 2, 3]);
    world.run_until_leader();
    assert!(world.ask(other, Request::RemoveNode { node: id(wiped), force: false }, 5000).is_ok());
    assert!(world.ask(other, add(wiped), 5000).unwrap().value);
    world.run_ms(5000);
    assert_eq!(world.view(wiped).state, NodeState::Member, "{:?}", world.view(wiped));
}

#[test]
fn who_was_removed_is_nobodys_leader() {
    for seed in 0..20 {
        let mut world = three(seed);
        world.run_ms(1000);
        let leader = world.leader().unwrap();
        let away = (1..=3).find(|node| *node != leader).unwrap();
        let leaving = (1..=3).find(|node| ![leader, away].contains(node)).unwrap();
        for other in [leader, leaving] {
            world.cut_off(away, other);
            world.cut_off(other, away);
        }
        world.run_ms(1000);
        world.begin(leader, Request::RemoveNode { node: id(leaving), force: true }, 60_000);
        world.run_ms(2000);
        // Whoever has the entry may be elected to commit it: the one that it removes, too.
        world.heal_links();
        for _ in 0..5000 / TICK_MS {
            world.run_ms(u64::from(TICK_MS));
            for node in [leader, away] {
                let knows = world.cluster(node).removed.contains(&id(leaving));
                let view = world.view(node);
                assert!(!knows || view.leader != leaving as u32, "seed {seed}: {view:?}");
            }
        }
        assert!(world.leader().is_some_and(|now| now != leaving), "seed {seed}");
    }
}

#[test]
fn a_node_that_restarts_refuses_a_wiped_one_before_it_has_applied_anything() {
    let mut world = three(6);
    world.run_ms(1000);
    let wiped = (1..=3).find(|node| world.view(*node).role == RoleCode::Follower).unwrap();
    let leader = world.leader().unwrap();
    let other = (1..=3).find(|node| *node != wiped && *node != leader).unwrap();
    for node in 1..=3 {
        world.crash(node);
    }
    world.wipe(wiped);
    world.boot(wiped, &[1, 2, 3]);
    world.boot(other, &[1, 2, 3]);
    // These two alone know of nothing that is committed.
    world.run_ms(5000);
    let refused = |world: &World| {
        let view = world.view(wiped);
        assert_ne!(view.state, NodeState::Member, "{view:?}");
        assert!(view.last_error.contains("not the directory that joined"), "{}", view.last_error);
    };
    refused(&world);
    world.boot(leader, &[1, 2, 3]);
    world.run_until_leader();
    world.run_ms(3000);
    refused(&world);
}

#[test]
fn a_member_that_lost_what_it_acknowledged_is_refused_by_the_leader() {
    let mut world = three(10);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let restored = (1..=3).find(|node| *node != leader).unwrap();
    let backup = world.backup(restored);
    assert!(world.ask(leader, add(4), 1000).unwrap().value);
    world.run_ms(500);
    world.crash(restored);
    world.restore(restored, &backup);
    world.boot(restored, &[1, 2, 3]);
    world.run_ms(3000);
    let told = format!("node {restored} lost log entries: remove it and add it again");
    assert_eq!(world.view(leader).last_error, told);
    let error = world.view(restored).last_error;
    assert!(error.contains("not the directory that joined"), "{error}");
    let remove = Request::RemoveNode { node: id(restored), force: false };
    assert!(world.ask(leader, remove, 1000).unwrap().value);
    assert!(world.ask(leader, add(restored), 1000).unwrap().value);
    world.run_ms(3000);
    assert_eq!(world.view(leader).last_error, "");
    assert_eq!(world.view(restored).state, NodeState::Member);
}

/// Adds nodes 4 and 5 to three, starts them, and waits until they vote.
fn five(seed: u64) -> World {
    let mut world = three(seed);
    for node in 4..=5 {
        assert!(world.ask(1, add(node), 1000).unwrap().value);
        world.boot(node, &[1]);
        world.run_ms(2000);
        assert_eq!(world.view(node).role, RoleCode::Follower, "caught up, it votes");
    }
    world
}

/// Makes everyone's disk say that the cluster's beginning is committed.
fn settle_in(world: &mut World) {
    for _ in 0..2 {
        assert!(world.ask(1, add(9), 1000).unwrap().value);
        assert!(world.ask(1, Request::RemoveNode { node: id(9), force: true }, 1000).is_ok());
        world.run_ms(500);
    }
}

#[test]
fn a_member_that_was_away_answers_a_leader_that_it_does_not_know() {
    for node in 1..=3 {
        let mut world = three(11);
        settle_in(&mut world);
        world.crash(node);
        let other = if node == 1 { 2 } else { 1 };
        assert!(world.ask(other, add(4), 5000).unwrap().value);
        world.boot(4, &[other]);
        world.run_ms(3000);
        let transfer = Request::TransferLeadership { node: id(4) };
        assert!(world.ask(other, transfer, 5000).unwrap().value);
        world.boot(node, &[1, 2, 3]);
        world.run_ms(3000);
        assert_eq!(world.leader(), Some(4));
        assert_eq!(world.view(node).applied, world.view(4).applied, "node {node}");
        assert_eq!(world.view(node).state, NodeState::Member);
    }
}

#[test]
fn a_member_that_was_away_lets_in_a_leader_that_was_wiped_and_added_again() {
    let mut world = five(12);
    settle_in(&mut world);
    world.crash(3);
    world.crash(2);
    world.wipe(2);
    world.boot(2, &[1, 3, 4, 5]);
    world.run_until_leader();
    assert!(world.ask(1, Request::RemoveNode { node: id(2), force: false }, 5000).unwrap().value);
    assert!(world.ask(1, add(2), 5000).unwrap().value);
    world.run_ms(3000);
    let transfer = Request::TransferLeadership { node: id(2) };
    assert!(world.ask(1, transfer, 5000).unwrap().value);
    world.boot(3, &[1, 2]);
    world.run_ms(5000);
    assert_eq!(world.leader(), Some(2));
    assert_eq!(world.view(3).applied, world.view(2).applied);
}

#[test]
fn leadership_is_handed_over_without_a_gap_and_by_force_with_one() {
    let mut world = three(7);
    world.run_ms(2000);
    let leader = world.leader().unwrap();
    let to = (1..=3).find(|node| *node != leader).unwrap();
    let request = Request::TransferLeadership { node: id(to) };
    assert!(world.ask(to, request, 1000).unwrap().value);
    world.run_ms(100);
    assert_eq!(world.leader(), Some(to));
    assert!(world.holds_lease(to), "the old leader ended its lease first");
    let third = (1..=3).find(|node| *node != leader && *node != to).unwrap();
    assert!(world.ask(third, Request::ForceElection, 3000).unwrap().value);
    assert_eq!(world.leader(), Some(third));
    let again = world.ask(third, Request::ForceElection, 1000).unwrap_err();
    assert_eq!(again.message, "an election was forced a moment ago");
}

#[test]
fn without_a_quorum_requests_name_who_was_not_reached() {
    let mut world = three(8);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let others: Vec<i64> = (1..=3).filter(|node| *node != leader).collect();
    world.crash(others[0]);
    world.crash(others[1]);
    world.run_ms(3000);
    assert!(!world.holds_lease(leader) && !world.view(leader).has_quorum);
    let failure = world.ask(leader, add(4), 1000).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unavailable);
    for other in others {
        let name = format!("node {other} (host:740{other})");
        assert!(failure.detail.contains(&name), "{}", failure.detail);
    }
}

#[test]
fn a_node_that_says_nothing_on_its_connections_counts_as_not_reached() {
    let mut world = three(9);
    world.run_ms(1000);
    let leader = world.leader().unwrap();
    let others: Vec<i64> = (1..=3).filter(|node| *node != leader).collect();
    for &other in &others {
        world.cut_off(other, leader);
    }
    world.run_ms(3000);
    let failure = world.ask(leader, add(4), 1000).unwrap_err();
    for other in others {
        let name = format!("node {other} (host:740{other})");
        assert!(failure.detail.contains(&name), "{}", failure.detail);
    }
}

#[test]
fn whatever_crashes_and_is_cut_off_there_is_one_lease_and_one_history() {
    for seed in 0..40 {
        // Every other one with a snapshot every few entries.
        let settings = if seed % 2 == 0 { "" } else { snapshots::FEW };
        let mut world = three_with(seed, settings);
        world.disturb(30_000);
        world.heal();
        world.run_until_leader();
        world.run_ms(5000);
        assert!((1..=3).all(|node| world.view(node).state == NodeState::Member), "seed {seed}");
        world.check_histories();
        assert_eq!(world.applied().len(), 1, "seed {seed}: all are connected, and differ");
    }
}
