//! Membership: §6 and chapter 4 of the dissertation, one server at a time.

use pgraft::raft::*;

use crate::support::*;

fn change(node: &mut Node, change: MembershipChange) -> Result<EntryId, ProposeError> {
    node.propose_membership(change, b"c".to_vec())
}

fn voters(node: &Node) -> Vec<u32> {
    node.membership().voters.iter().map(|node| node.get()).collect()
}

/// A cluster of three, led by 1, with learner 4 caught up.
fn with_learner() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.add(4, None);
    change(cluster.node(1), MembershipChange::AddLearner(id(4))).unwrap();
    cluster.stabilize();
    cluster
}

/// Dissertation §4.1: a membership is in force as soon as it is in the log.
#[test]
fn a_membership_is_in_force_when_appended() {
    let mut node = leader();
    change(&mut node, MembershipChange::Remove(id(3))).unwrap();
    assert_eq!(voters(&node), [1, 2]);
    assert_eq!(node.committed_membership().voters.len(), 3);
    assert!(node.pending_change());
    let mut follower = fresh();
    let membership = Membership { voters: ids(&[1, 2]), learners: ids(&[]) };
    let payload = Payload::Membership { membership, command: vec![] };
    let body = append(at(1, 1), vec![Entry { id: at(2, 2), payload }], 0);
    step(&mut follower, 2, 2, body);
    assert_eq!(voters(&follower), [1, 2]);
    // … and out of force when it is replaced.
    step(&mut follower, 3, 3, append(at(1, 1), vec![entry(3, 2)], 0));
    assert_eq!(voters(&follower), [1, 2, 3]);
}

/// Dissertation §4.1: the next change waits for the last one's commit.
#[test]
fn one_change_at_a_time() {
    let mut node = leader();
    change(&mut node, MembershipChange::AddLearner(id(4))).unwrap();
    let refused = change(&mut node, MembershipChange::AddLearner(id(5)));
    assert_eq!(refused, Err(ProposeError::ChangeInProgress));
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(3, round));
    assert!(!node.pending_change());
    assert!(change(&mut node, MembershipChange::AddLearner(id(5))).is_ok());
}

/// No change before the leader committed in its own term (raft-dev 2015, "bug in single-server
/// membership changes").
#[test]
fn no_change_before_a_commit_in_the_own_term() {
    let mut node = fresh();
    elect(&mut node);
    assert!(node.pending_change());
    // The genesis is not committed either: that is said first.
    let refused = change(&mut node, MembershipChange::AddLearner(id(4)));
    assert_eq!(refused, Err(ProposeError::ChangeInProgress));

    let hard_state = HardState { term: Term(1), vote: None, commit: LogIndex(1) };
    let mut node = Node::new(
        config(1),
        Restored { hard_state, entries: log_of(&[]), ..Restored::default() },
        1,
    )
    .unwrap();
    node.set_may_vote(true);
    elect(&mut node);
    let refused = change(&mut node, MembershipChange::AddLearner(id(4)));
    assert_eq!(refused, Err(ProposeError::NoCommitInTerm));
}

/// What makes no sense is refused, and changes nothing.
#[test]
fn senseless_changes_are_refused() {
    use MembershipChange::*;
    let mut node = leader();
    for (what, why) in [
        (AddLearner(id(2)), ProposeError::AlreadyMember(id(2))),
        (Promote(id(2)), ProposeError::AlreadyMember(id(2))),
        (Promote(id(9)), ProposeError::UnknownNode(id(9))),
        (Remove(id(9)), ProposeError::UnknownNode(id(9))),
    ] {
        assert_eq!(change(&mut node, what), Err(why));
    }
    assert_eq!((node.last(), voters(&node)), (at(2, 2), vec![1, 2, 3]));
    let refused = change(&mut fresh(), Remove(id(2)));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));

    let mut cluster = Cluster::new(1);
    cluster.run(1);
    let refused = change(cluster.node(1), Remove(id(1)));
    assert_eq!(refused, Err(ProposeError::LastVoter(id(1))));
}

/// There are never more members than the status page has room for.
#[test]
fn members_are_bounded() {
    let mut cluster = Cluster::new(1);
    cluster.run(1);
    for node in 2..=MEMBERS_MAX as u32 {
        change(cluster.node(1), MembershipChange::AddLearner(id(node))).unwrap();
        cluster.stabilize();
    }
    let refused = change(cluster.node(1), MembershipChange::AddLearner(id(99)));
    assert_eq!(refused, Err(ProposeError::TooManyMembers));
}

/// Dissertation §4.2.1: a new server gets the log first, and counts for nothing meanwhile.
#[test]
fn a_learner_gets_the_log_and_does_not_count() {
    let mut cluster = with_learner();
    assert_eq!(cluster.node(4).role(), RoleKind::Learner);
    assert_eq!(cluster.servers[&id(4)].disk.entries, cluster.servers[&id(1)].disk.entries);
    let commit = cluster.node(1).commit();
    cluster.partition(&[1, 4]);
    cluster.node(1).propose(b"x".to_vec()).unwrap();
    cluster.stabilize();
    assert_eq!(cluster.node(4).last(), cluster.node(1).last());
    assert_eq!(cluster.node(1).commit(), commit, "one voter and a learner are no majority");
}

/// Dissertation §4.2.1: only a learner that caught up is promoted; then it counts.
#[test]
fn a_learner_is_promoted_once_it_caught_up() {
    let mut node = leader();
    change(&mut node, MembershipChange::AddLearner(id(4))).unwrap();
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(3, round));
    for _ in 0..PROMOTE_LAG_MAX + 10 {
        node.propose(vec![]).unwrap();
    }
    drain(&mut node);
    let last = node.last().index.0;
    step(&mut node, 2, 2, accepted(last, round));
    let promote = MembershipChange::Promote(id(4));
    assert_eq!(change(&mut node, promote), Err(ProposeError::NotCaughtUp(id(4))), "never heard");
    step(&mut node, 4, 2, accepted(1, round));
    assert_eq!(change(&mut node, promote), Err(ProposeError::NotCaughtUp(id(4))), "far behind");
    step(&mut node, 4, 2, accepted(last - 10, round));
    change(&mut node, promote).unwrap();
    assert_eq!(voters(&node), [1, 2, 3, 4]);
    drain(&mut node);
    step(&mut node, 2, 2, accepted(last + 1, round));
    assert_eq!(node.commit(), LogIndex(last), "two of four");
    step(&mut node, 4, 2, accepted(last + 1, round));
    assert_eq!(node.commit(), LogIndex(last + 1));
}

/// An id that comes back is a new server: answers of the old one do not count for it.
#[test]
fn acks_of_a_removed_server_do_not_count_for_its_successor() {
    let mut cluster = with_learner();
    let last = cluster.node(1).last().index.0;
    let round = cluster.node(1).current_round();
    change(cluster.node(1), MembershipChange::Remove(id(4))).unwrap();
    cluster.stabilize();
    cluster.crash(4);
    change(cluster.node(1), MembershipChange::AddLearner(id(4))).unwrap();
    cluster.stabilize();
    let late = Message { term: Term(2), body: accepted(last, round) };
    cluster.node(1).step(id(4), late);
    let refused = change(cluster.node(1), MembershipChange::Promote(id(4)));
    assert_eq!(refused, Err(ProposeError::NotCaughtUp(id(4))));
}

/// Dissertation §4.2.2: a leader that removes itself does not count itself, and steps down once its
/// removal is committed; the best voter left takes over at once.
#[test]
fn a_leader_that_is_removed_hands_over_after_the_commit() {
    let mut node = leader();
    change(&mut node, MembershipChange::Remove(id(1))).unwrap();
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(3, round));
    assert_eq!((node.commit(), node.role()), (LogIndex(2), RoleKind::Leader), "one of two");
    let said = step(&mut node, 3, 2, accepted(3, round));
    assert_eq!((node.commit(), node.role()), (LogIndex(3), RoleKind::Follower));
    let told = said.messages.iter().filter(|o| o.message.body == Body::TimeoutNow).count();
    assert_eq!(told, 1);
    for _ in 0..5 * ELECTION {
        node.tick();
    }
    assert_eq!(node.role(), RoleKind::Follower, "a removed node never campaigns");

    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    change(cluster.node(1), MembershipChange::Remove(id(1))).unwrap();
    cluster.stabilize();
    assert!(cluster.leader().is_some_and(|leader| leader != id(1)));
    assert_eq!(voters(cluster.node(1)), [2, 3]);
}

/// Dissertation §4.2.2, figure 4.6: a leader that appended its own removal and lost its leadership
/// before anyone else had it holds the longer log. The others cannot win without it, so it must
/// campaign, and without its own vote lead once more.
#[test]
fn a_removed_leader_campaigns_until_its_removal_is_committed() {
    let mut cluster = Cluster::new(2);
    cluster.win(1);
    cluster.stabilize();
    cluster.partition(&[1]);
    change(cluster.node(1), MembershipChange::Remove(id(1))).unwrap();
    cluster.run(2 * ELECTION);
    cluster.crash(1);
    cluster.restart(1);
    assert_eq!(voters(cluster.node(1)), [2]);
    assert_eq!(voters(cluster.node(2)), [1, 2]);
    cluster.cut.clear();
    cluster.run(6 * ELECTION);
    assert_eq!(cluster.leader(), Some(id(2)));
    assert_eq!(voters(cluster.node(2)), [2]);
    assert_eq!(cluster.node(1).role(), RoleKind::Follower);
    let commit = cluster.node(2).commit();
    assert_eq!(commit, cluster.node(2).last().index);
}

/// Dissertation §4.2.2: of two voters, the other must hold the leader's removal before it commits.
#[test]
fn removing_the_leader_of_two_needs_the_other() {
    let mut cluster = Cluster::new(2);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.partition(&[1]);
    change(cluster.node(1), MembershipChange::Remove(id(1))).unwrap();
    let commit = cluster.node(1).commit();
    cluster.stabilize();
    assert_eq!(cluster.node(1).commit(), commit);
    cluster.cut.clear();
    cluster.run(HEARTBEAT);
    assert_eq!(cluster.leader(), Some(id(2)));
}

/// A removed follower gets its removal with the commit, so that it knows, and is then left alone.
#[test]
fn a_removed_node_learns_of_it_and_falls_silent() {
    let mut cluster = with_learner();
    change(cluster.node(1), MembershipChange::Remove(id(3))).unwrap();
    cluster.stabilize();
    let removal = cluster.node(1).last().index;
    assert_eq!(cluster.node(3).commit(), removal);
    assert!(!cluster.node(3).membership().contains(id(3)));
    assert!(cluster.node(1).progress().all(|(node, _)| node != id(3)));
    cluster.run(2 * HEARTBEAT);
    cluster.trace.clear();
    cluster.run(5 * ELECTION);
    let about_3 = |line: &&String| line.starts_with("3 ->") || line.contains("-> 3");
    assert_eq!(cluster.trace.iter().find(about_3), None);
    assert_eq!(cluster.leader(), Some(id(1)));
}

/// A removed node that cannot be told in one election timeout is given up.
#[test]
fn an_unreachable_removed_node_is_given_up() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.partition(&[3]);
    change(cluster.node(1), MembershipChange::Remove(id(3))).unwrap();
    cluster.run(ELECTION + HEARTBEAT);
    cluster.trace.clear();
    cluster.run(3 * HEARTBEAT);
    assert!(cluster.trace.iter().all(|line| !line.contains("1 -x 3")), "{:#?}", cluster.trace);
}

/// Dissertation §4.2.3: a removed server that does not know it cannot disturb the others.
#[test]
fn a_removed_node_that_does_not_know_disturbs_nobody() {
    let mut cluster = Cluster::new(3);
    cluster.campaign(1);
    cluster.stabilize();
    cluster.partition(&[3]);
    change(cluster.node(1), MembershipChange::Remove(id(3))).unwrap();
    cluster.run(2 * ELECTION);
    let term = cluster.node(1).term();
    cluster.cut.clear();
    cluster.run(10 * ELECTION);
    assert_eq!((cluster.leader(), cluster.node(1).term()), (Some(id(1)), term));
}

/// A candidate's or follower's own membership may be truncated away with the entry.
#[test]
fn a_voter_whose_promotion_is_truncated_is_a_learner_again() {
    let promoted = Membership { voters: ids(&[1, 2, 3]), learners: ids(&[]) };
    let payload = Payload::Membership { membership: promoted, command: vec![] };
    let log = vec![genesis(&[1, 2], &[3]), Entry { id: at(2, 2), payload }];
    let mut node = voter(3, 2, log);
    tick_to_pre_vote(&mut node);
    assert_eq!(node.role(), RoleKind::PreCandidate);
    step(&mut node, 1, 3, append(at(1, 1), vec![entry(3, 2)], 0));
    assert_eq!(node.role(), RoleKind::Learner);
    // Forced, it asks on beside the leader, and stops when it no longer is a voter.
    let mut node = voter(3, 2, {
        let membership = Membership { voters: ids(&[1, 2, 3]), learners: ids(&[]) };
        let payload = Payload::Membership { membership, command: vec![] };
        vec![genesis(&[1, 2], &[3]), Entry { id: at(2, 2), payload }]
    });
    step(&mut node, 1, 3, heartbeat(0));
    node.force_election().unwrap();
    step(&mut node, 1, 3, append(at(1, 1), vec![entry(3, 2)], 0));
    for other in [1, 2] {
        step(&mut node, other, 4, pre_vote_answer(true));
    }
    assert_eq!((node.role(), node.term()), (RoleKind::Learner, Term(3)));
}

/// Genesis goes into an empty log only, and only into one that it names.
#[test]
fn genesis_is_for_new_clusters_only() {
    let empty = || Node::new(config(1), Restored::default(), 1).unwrap();
    let mut other_place = genesis(&[1], &[]);
    other_place.id = at(1, 2);
    for bad in
        [genesis(&[2, 3], &[]), genesis(&[], &[1]), genesis(&[1], &[1]), entry(1, 1), other_place]
    {
        let mut node = empty();
        assert_eq!(node.bootstrap(bad), Err(ProposeError::InvalidGenesis));
        assert!(node.ready().is_none(), "a refused genesis changes nothing");
    }
    let mut node = empty();
    node.bootstrap(genesis(&[1, 2], &[])).unwrap();
    assert_eq!(node.bootstrap(genesis(&[1, 2], &[])), Err(ProposeError::NotEmpty));
    let said = drain(&mut node);
    assert_eq!(said.entries, [genesis(&[1, 2], &[])]);
    assert_eq!(said.hard_state.unwrap().term, Term(1));
    assert_eq!(node.commit(), LogIndex(0), "a majority must have it first");
}
