//! Tests of the state machine: what each command does, and that one that does not fit does nothing.

mod store;

use super::*;
use crate::raft::{EntryId, LogIndex, NodeId, Term};

fn node(id: i64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// The entry at `index`, all of one term.
fn at(index: u64) -> EntryId {
    EntryId { term: Term(1), index: LogIndex(index) }
}

fn uuid(byte: u8) -> Uuid {
    Uuid::from_bytes([byte; 16])
}

fn member(id: i64) -> Member {
    Member {
        id: node(id),
        name: format!("node{id}"),
        raft_address: Address::new("localhost", 7400 + id as u16).unwrap(),
        pg_address: None,
        directory: Some(uuid(id as u8)),
        system_identifier: None,
        voter: true,
    }
}

fn add(id: i64) -> Command {
    Command::AddLearner { member: Member { directory: None, voter: false, ..member(id) } }
}

fn genesis() -> Command {
    Command::Genesis { cluster: uuid(0xc), members: vec![member(1), member(2), member(3)] }
}

/// A state after these commands, each at the next index.
fn after(commands: impl IntoIterator<Item = Command>) -> ClusterState {
    let mut state = ClusterState::default();
    for (index, command) in (1..).zip(commands) {
        state.apply(at(index), Some(command));
    }
    state
}

/// What `command` does to `state`; that it counts as applied whatever it does.
fn apply(state: &mut ClusterState, command: Command) -> Applied {
    let index = state.applied.next();
    let applied = state.apply(at(index.0), Some(command));
    assert_eq!(state.applied, index);
    applied
}

#[track_caller]
fn does_nothing(state: &ClusterState, command: Command) {
    let mut then = state.clone();
    assert_eq!(apply(&mut then, command), Applied::Nothing);
    assert_eq!(then, ClusterState { applied: then.applied, ..state.clone() });
}

#[test]
fn genesis_forms_the_cluster_once() {
    let mut state = ClusterState::default();
    assert_eq!(apply(&mut state, genesis()), Applied::Formed);
    assert_eq!(state.uuid, Some(uuid(0xc)));
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3].map(node));
    assert!(state.members.values().all(|member| member.voter));
    does_nothing(&state, Command::Genesis { cluster: uuid(0xd), members: vec![member(9)] });
}

#[test]
fn before_genesis_nothing_fits() {
    let state = ClusterState::default();
    for command in [
        add(4),
        Command::Promote { node: node(1) },
        Command::Remove { node: node(1) },
        Command::Update { member: member(1) },
    ] {
        does_nothing(&state, command);
    }
}

#[test]
fn a_node_comes_as_a_learner_whatever_it_says() {
    let mut state = after([genesis()]);
    let keen = Command::AddLearner { member: member(4) };
    assert_eq!(apply(&mut state, keen), Applied::Added(node(4)));
    assert!(!state.members[&node(4)].voter);
}

#[test]
fn a_present_member_is_not_added_again() {
    let mut state = after([genesis(), add(4)]);
    does_nothing(&state, add(4));
    does_nothing(&state, add(1));
    apply(&mut state, Command::Promote { node: node(4) });
    does_nothing(&state, add(4));
}

#[test]
fn only_a_learner_is_promoted() {
    let mut state = after([genesis(), add(4)]);
    let promote = |id| Command::Promote { node: node(id) };
    does_nothing(&state, promote(1));
    does_nothing(&state, promote(5));
    assert_eq!(apply(&mut state, promote(4)), Applied::Promoted(node(4)));
    assert!(state.members[&node(4)].voter);
    does_nothing(&state, promote(4));
}

#[test]
fn a_removed_node_is_remembered_until_it_is_added_again() {
    let mut state = after([genesis()]);
    let remove = Command::Remove { node: node(3) };
    assert_eq!(apply(&mut state, remove.clone()), Applied::Removed(node(3)));
    assert!(!state.members.contains_key(&node(3)));
    assert!(state.removed.contains(&node(3)));
    does_nothing(&state, remove);
    does_nothing(&state, Command::Update { member: member(3) });
    does_nothing(&state, Command::Promote { node: node(3) });

    assert_eq!(apply(&mut state, add(3)), Applied::Added(node(3)));
    assert!(state.removed.is_empty());
    assert_eq!(state.members[&node(3)].directory, None, "another directory may come");
}

#[test]
fn an_update_changes_what_is_known_but_neither_vote_nor_directory() {
    let mut state = after([genesis(), add(4)]);
    let update = |id| Member {
        name: "renamed".to_owned(),
        raft_address: Address::new("elsewhere", 1).unwrap(),
        pg_address: Some(Address::new("elsewhere", 5432).unwrap()),
        system_identifier: Some(7),
        directory: Some(uuid(0xee)),
        ..member(id)
    };
    let command = Command::Update { member: update(4) };
    assert_eq!(apply(&mut state, command.clone()), Applied::Updated(node(4)));
    assert_eq!(state.members[&node(4)], Member { voter: false, ..update(4) });
    does_nothing(&state, command);

    let demoted = Command::Update { member: Member { voter: false, ..update(1) } };
    assert_eq!(apply(&mut state, demoted), Applied::Updated(node(1)));
    assert_eq!(state.members[&node(1)], Member { directory: Some(uuid(1)), ..update(1) });

    does_nothing(&state, Command::Update { member: update(5) });
}

#[test]
fn an_entry_is_applied_once() {
    let mut state = after([genesis(), add(4)]);
    let then = state.clone();
    for index in 0..=2 {
        let again = state.apply(at(index), Some(Command::Remove { node: node(1) }));
        assert_eq!(again, Applied::Nothing);
        assert_eq!(state, then);
    }
    assert_eq!(state.apply(at(3), None), Applied::Nothing);
    assert_eq!(state.applied, LogIndex(3));
}
