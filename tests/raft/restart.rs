//! What a node makes of its disk, and the order of `ready` and `advance`.

use pgraft::raft::*;

use crate::support::*;

fn restored(term: u64, commit: u64, entries: Vec<Entry>) -> Restored {
    let hard_state = HardState { term: Term(term), vote: Some(id(2)), commit: LogIndex(commit) };
    Restored { hard_state, entries, ..Restored::default() }
}

/// Figure 2, persistent state: term, vote and log survive; committed entries are applied again.
#[test]
fn a_restart_remembers_term_vote_and_log() {
    let mut node = Node::new(config(1), restored(5, 2, log_of(&[2, 5])), 1).unwrap();
    node.set_may_vote(true);
    assert_eq!((node.term(), node.last(), node.commit()), (Term(5), at(5, 3), LogIndex(2)));
    let said = drain(&mut node);
    assert_eq!(said.committed.iter().map(|e| e.id.index.0).collect::<Vec<_>>(), [1, 2]);
    assert!(said.hard_state.is_none() && said.entries.is_empty(), "nothing new to store");
    (0..ELECTION - 1).for_each(|_| node.tick());
    let transfer = |last| Body::RequestVote { last, pre_vote: false, transfer: true };
    assert_eq!(votes(&step(&mut node, 3, 5, transfer(at(5, 9))).to(3)), [(false, false)]);
    assert_eq!(votes(&step(&mut node, 2, 5, transfer(at(5, 9))).to(2)), [(true, false)]);
}

/// The commit index is written without a sync and may name entries that were never stored.
#[test]
fn a_commit_hint_beyond_the_log_is_cut() {
    let mut node = Node::new(config(1), restored(5, 99, log_of(&[2])), 1).unwrap();
    assert_eq!(node.commit(), LogIndex(2));
    assert_eq!(drain(&mut node).committed.len(), 2);
}

/// A log with a gap, and one that is newer than its hard state, are refused: to go on with a lost
/// vote is to vote twice.
#[test]
fn a_broken_restore_is_refused() {
    let gap = vec![genesis(&[1], &[]), entry(2, 3)];
    let falls = vec![genesis(&[1], &[]), entry(3, 2), entry(2, 3)];
    for entries in [gap, falls] {
        let error = Node::new(config(1), restored(5, 0, entries), 1).unwrap_err();
        assert!(matches!(error, ConfigError::LogBroken { .. }), "{error}");
    }
    let error = Node::new(config(1), restored(1, 0, log_of(&[2])), 1).unwrap_err();
    assert_eq!(error.to_string(), "restored term 1 is older than term 2 of the last log entry");
}

/// The next `Ready` comes only after `advance`; an `advance` without one is nothing.
#[test]
fn one_ready_at_a_time() {
    let mut node = leader();
    node.propose(b"a".to_vec()).unwrap();
    assert!(node.ready().is_some());
    node.propose(b"b".to_vec()).unwrap();
    assert!(node.ready().is_none());
    node.advance(Durable::attest());
    let second = node.ready().unwrap();
    assert_eq!(second.entries.len(), 1);
    node.advance(Durable::attest());
    node.advance(Durable::attest());
    assert!(node.ready().is_none());
}

/// A moved commit index alone is written, but need not wait for the disk.
#[test]
fn a_commit_index_alone_needs_no_sync() {
    let mut node = fresh();
    step(&mut node, 2, 1, append(at(1, 1), vec![], 0));
    node.step(id(2), Message { term: Term(1), body: append(at(1, 1), vec![], 1) });
    let ready = node.ready().unwrap();
    assert_eq!(ready.hard_state.unwrap().commit, LogIndex(1));
    assert!(!ready.must_sync);
}

/// Entries replaced between `ready` and `advance` are not taken for durable.
#[test]
fn what_is_replaced_while_being_stored_is_stored_again() {
    let mut node = fresh();
    node.step(id(2), Message { term: Term(2), body: append(at(1, 1), vec![entry(2, 2)], 0) });
    let first = node.ready().unwrap();
    assert_eq!(first.entries, [entry(2, 2)]);
    let body = append(at(1, 1), vec![entry(3, 2)], 2);
    node.step(id(3), Message { term: Term(3), body });
    node.advance(Durable::attest());
    let second = node.ready().unwrap();
    assert_eq!(second.entries, [entry(3, 2)]);
    assert_eq!(second.committed.len(), 1, "only what is durable: genesis");
    node.advance(Durable::attest());
    assert_eq!(drain(&mut node).committed, [entry(3, 2)]);
}

/// A heartbeat of a new term is answered only once that term is durable: a crash must not take the
/// node back before the leader that it made believe.
#[test]
fn a_heartbeat_of_a_new_term_is_answered_after_the_sync() {
    let mut node = fresh();
    node.step(id(2), Message { term: Term(2), body: heartbeat(0) });
    let mut ready = node.ready().unwrap();
    assert!(ready.messages.is_empty() && ready.must_sync);
    let stored = Durable::attest();
    assert_eq!(ready.promises(&stored).len(), 1);
    node.advance(stored);
    node.step(id(2), Message { term: Term(2), body: heartbeat(0) });
    assert_eq!(node.ready().unwrap().messages.len(), 1, "from then on, at once");
}

/// A follower that restarts while the leader thinks it is up to date gets going again without a new
/// proposal.
#[test]
fn a_restarted_follower_learns_the_commit_index() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.crash(3);
    cluster.servers.get_mut(&id(3)).unwrap().disk.hard_state.commit = LogIndex(0);
    cluster.restart(3);
    assert_eq!(cluster.node(3).commit(), LogIndex(0));
    cluster.run(3 * HEARTBEAT);
    assert_eq!(cluster.node(3).commit(), cluster.node(1).commit());
    assert!(!cluster.notes.iter().any(|(_, note)| matches!(note, Note::ForgotEntries { .. })));
}

/// A long committed log comes out in portions, so that a restart does not hold it twice.
#[test]
fn a_long_log_is_handed_out_in_portions() {
    let long = |index| Entry { id: at(1, index), payload: Payload::Command(vec![0; 1 << 20]) };
    let entries: Vec<Entry> = [genesis(&[1], &[])].into_iter().chain((2..=20).map(long)).collect();
    let mut node = Node::new(config(1), restored(1, 20, entries), 1).unwrap();
    let mut portions = Vec::new();
    while let Some(ready) = node.ready() {
        portions.push(ready.committed.len());
        node.advance(Durable::attest());
    }
    assert_eq!(portions.iter().sum::<usize>(), 20);
    assert!(portions.len() >= 5, "{portions:?}");
}
