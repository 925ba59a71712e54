//! Linearizable reads (dissertation §6.4).

use pgraft::raft::*;

use crate::support::*;

fn answer(node: &Node) -> Body {
    Body::HeartbeatAnswer { round: node.current_round(), promise_ms: 180 }
}

/// §6.4: a read waits for a round that began after it; an answer to an older round does not do.
#[test]
fn a_read_waits_for_a_majority_that_was_asked_after_it() {
    let mut node = leader();
    let older = answer(&node);
    node.read_index(7).unwrap();
    let said = drain(&mut node);
    assert!(said.reads.is_empty());
    assert!(said.to(2).iter().any(|m| matches!(m.body, Body::Heartbeat { .. })));
    assert!(step(&mut node, 2, 2, older).reads.is_empty());
    let newer = answer(&node);
    let said = step(&mut node, 2, 2, newer);
    assert_eq!(said.reads, [ReadReady { token: 7, index: Some(LogIndex(2)) }]);
}

/// §6.4: before its first own commit the leader does not know what is committed: the read waits.
#[test]
fn a_read_waits_for_a_commit_in_the_own_term() {
    let mut node = voter(1, 2, log_of(&[2, 2]));
    elect(&mut node);
    node.read_index(7).unwrap();
    drain(&mut node);
    let confirmed = answer(&node);
    assert!(step(&mut node, 2, 3, confirmed).reads.is_empty());
    let round = node.current_round();
    let said = step(&mut node, 2, 3, accepted(4, round));
    assert_eq!(said.reads, [ReadReady { token: 7, index: Some(LogIndex(4)) }]);
}

/// Reads that come together share a round; one that comes after the round left does not.
#[test]
fn reads_share_a_round_that_has_not_left() {
    let mut node = leader();
    let before = node.current_round();
    node.read_index(1).unwrap();
    node.read_index(2).unwrap();
    assert_eq!(node.current_round(), before + 1);
    drain(&mut node);
    node.read_index(3).unwrap();
    assert_eq!(node.current_round(), before + 2);
}

/// A leader that is deposed fails the reads it holds, local and remote.
#[test]
fn a_deposed_leader_fails_its_reads() {
    let mut node = leader();
    node.read_index(7).unwrap();
    step(&mut node, 3, 2, Body::ReadIndex { token: 8 });
    let said = step(&mut node, 2, 9, heartbeat(0));
    assert_eq!(said.reads, [ReadReady { token: 7, index: None }]);
    let failed = Body::ReadIndexAnswer { token: 8, index: None };
    assert!(said.to(3).iter().any(|m| m.body == failed));
}

/// A follower's read goes to the leader and comes back; a lone leader answers at once.
#[test]
fn a_read_on_a_follower_is_forwarded() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.node(2).read_index(7).unwrap();
    cluster.stabilize();
    let ready = ReadReady { token: 7, index: Some(LogIndex(2)) };
    assert_eq!(cluster.servers[&id(2)].reads, [ready]);

    let mut cluster = Cluster::new(1);
    cluster.run(1);
    cluster.node(1).read_index(3).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.servers[&id(1)].reads.len(), 1);
}

/// A forwarded read that gets lost, or whose leader is replaced, fails; one without a leader is
/// refused at once. An answer nobody waits for, or of another node, is ignored.
#[test]
fn a_forwarded_read_never_hangs() {
    let mut node = fresh();
    assert_eq!(node.read_index(1), Err(ProposeError::NotLeader { leader: None }));
    step(&mut node, 2, 1, heartbeat(0));
    node.read_index(1).unwrap();
    let wrong = Body::ReadIndexAnswer { token: 1, index: Some(LogIndex(9)) };
    assert!(step(&mut node, 3, 1, wrong.clone()).reads.is_empty());
    for _ in 0..ELECTION {
        assert!(drain(&mut node).reads.is_empty());
        step(&mut node, 2, 1, heartbeat(0));
        node.tick();
    }
    assert_eq!(drain(&mut node).reads, [ReadReady { token: 1, index: None }]);
    assert!(step(&mut node, 2, 1, wrong).reads.is_empty());
    node.read_index(2).unwrap();
    let said = step(&mut node, 3, 2, heartbeat(0));
    assert_eq!(said.reads, [ReadReady { token: 2, index: None }]);
}

/// Waiting reads are bounded on both sides.
#[test]
fn waiting_reads_are_bounded() {
    let mut node = leader();
    for token in 0..READS_MAX as u64 {
        node.read_index(token).unwrap();
    }
    assert_eq!(node.read_index(0), Err(ProposeError::Overloaded));
    let said = step(&mut node, 2, 2, Body::ReadIndex { token: 5 });
    let refused = Body::ReadIndexAnswer { token: 5, index: None };
    assert!(said.to(2).iter().any(|m| m.body == refused));
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    for token in 0..READS_MAX as u64 {
        node.read_index(token).unwrap();
    }
    assert_eq!(node.read_index(u64::MAX), Err(ProposeError::Overloaded));
}
