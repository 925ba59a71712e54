//! Leadership transfer (dissertation §3.10) and its way with leases.

use pgraft::raft::*;

use crate::support::*;

/// §3.10: a target that has the whole log is told at once; one that lags gets the log first, and
/// nothing is proposed meanwhile.
#[test]
fn the_target_catches_up_first() {
    let mut node = leader();
    node.transfer_leadership(id(2)).unwrap();
    assert!(drain(&mut node).to(2).iter().any(|m| m.body == Body::TimeoutNow));
    assert_eq!(node.transferring(), Some(id(2)));

    let mut node = leader();
    node.propose(b"x".to_vec()).unwrap();
    node.transfer_leadership(id(2)).unwrap();
    assert!(drain(&mut node).to(2).iter().all(|m| m.body != Body::TimeoutNow));
    assert_eq!(node.propose(b"y".to_vec()), Err(ProposeError::Transferring));
    let add = MembershipChange::AddLearner(id(4));
    assert_eq!(node.propose_membership(add, vec![]), Err(ProposeError::Transferring));
    let round = node.current_round();
    let said = step(&mut node, 2, 2, accepted(3, round));
    assert!(said.to(2).iter().any(|m| m.body == Body::TimeoutNow));
}

/// §3.10: the target campaigns without a pre-vote, and voters do not refuse it for the leader's
/// sake. The whole move takes no election timeout.
#[test]
fn the_target_takes_over_at_once() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.run(HEARTBEAT);
    cluster.node(1).transfer_leadership(id(3)).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.leader(), Some(id(3)));
    assert_eq!(cluster.node(1).leader(), Some(id(3)));
    let won = Note::BecameLeader { term: Term(3), old_lease_left_ms: 0 };
    assert!(cluster.notes.contains(&(id(3), won)), "a leader that hands over has no lease left");
}

/// Only a voter other than the leader can be handed leadership, and only by the leader.
#[test]
fn senseless_transfers_are_refused() {
    let mut node = voter(1, 1, vec![genesis(&[1, 2, 3], &[4])]);
    let refused = node.transfer_leadership(id(2));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
    elect(&mut node);
    assert_eq!(node.transfer_leadership(id(1)), Err(ProposeError::AlreadyLeader));
    assert_eq!(node.transfer_leadership(id(4)), Err(ProposeError::NotVoter(id(4))));
    assert_eq!(node.transfer_leadership(id(9)), Err(ProposeError::UnknownNode(id(9))));
    node.transfer_leadership(id(2)).unwrap();
    node.transfer_leadership(id(2)).unwrap();
    assert_eq!(node.transfer_leadership(id(3)), Err(ProposeError::Transferring));
}

/// §3.10: a target that does not catch up within an election timeout is given up, and the leader
/// goes on as before.
#[test]
fn a_transfer_to_a_laggard_is_given_up() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.partition(&[3]);
    cluster.node(1).propose(b"x".to_vec()).unwrap();
    cluster.node(1).transfer_leadership(id(3)).unwrap();
    cluster.run(ELECTION - 1);
    assert_eq!(cluster.node(1).transferring(), Some(id(3)));
    cluster.run(1);
    assert_eq!(cluster.node(1).transferring(), None);
    assert_eq!((cluster.leader(), cluster.node(1).term()), (Some(id(1)), Term(2)));
    assert!(cluster.node(1).propose(b"y".to_vec()).is_ok());
}

/// Once `TimeoutNow` left it may arrive any time, and its receiver waits for no lease. So the old
/// term never carries one again: when the target does not take over, the leader asks for the next
/// term, in which the message is stale.
#[test]
fn a_transfer_that_failed_after_timeout_now_costs_a_term() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.partition(&[3]);
    let confirmed = cluster.node(1).confirmed_round();
    cluster.node(1).transfer_leadership(id(3)).unwrap();
    cluster.run(ELECTION - 1);
    assert_eq!(cluster.node(1).confirmed_round(), confirmed, "no lease while it may be overtaken");
    cluster.run(1);
    assert_eq!((cluster.leader(), cluster.node(1).term()), (Some(id(1)), Term(3)));
    cluster.cut.clear();
    cluster.node(3).step(id(1), Message { term: Term(2), body: Body::TimeoutNow });
    cluster.stabilize();
    cluster.run(3 * ELECTION);
    assert_eq!(cluster.leader(), Some(id(1)), "the late message changed nothing");
}

/// A leader that still waits for its predecessor's lease must not hand over: its successor would
/// not wait.
#[test]
fn an_old_lease_is_waited_for_before_a_handover() {
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    node.force_election().unwrap();
    step(&mut node, 3, 2, pre_vote_answer(true));
    step(&mut node, 3, 2, vote(true));
    assert_eq!(node.role(), RoleKind::Leader);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(2, round));
    step(&mut node, 3, 2, accepted(2, round));
    node.set_timeouts(10 * ELECTION, HEARTBEAT).unwrap();
    node.transfer_leadership(id(2)).unwrap();
    let mut ticks = 0;
    while drain(&mut node).to(2).iter().all(|m| m.body != Body::TimeoutNow) {
        node.tick();
        ticks += 1;
    }
    // What is left of three quarters of the promise, and two ticks that may come at once.
    assert_eq!(ticks, ELECTION - ELECTION / 4 + 2);
}

/// Only the leader can send a node into an election.
#[test]
fn timeout_now_of_another_is_ignored() {
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    step(&mut node, 3, 1, Body::TimeoutNow);
    assert_eq!(node.role(), RoleKind::Follower);
    step(&mut node, 2, 1, Body::TimeoutNow);
    assert_eq!((node.role(), node.term()), (RoleKind::Candidate, Term(2)));
}

/// A leader deposed in the middle of a transfer forgets it.
#[test]
fn a_deposed_leader_transfers_no_more() {
    let mut node = leader();
    node.transfer_leadership(id(2)).unwrap();
    step(&mut node, 3, 9, heartbeat(0));
    assert_eq!(node.transferring(), None);
}
