//! Elections: §5.1, §5.2, §5.4.1; pre-vote, leases and check-quorum; the operator's handles.

use pgraft::raft::*;

use crate::support::*;

fn asks_pre_vote(said: &Said, node: u32) -> bool {
    let asks = |m: &Message| matches!(m.body, Body::RequestVote { pre_vote: true, .. });
    said.to(node).iter().any(asks)
}

/// Figure 2, all servers: a message of a newer term is adopted, and a candidate or leader of an
/// older one becomes follower (§5.1).
#[test]
fn a_newer_term_is_adopted_by_every_role() {
    let mut follower = fresh();
    step(&mut follower, 2, 7, heartbeat(0));
    assert_eq!((follower.term(), follower.leader()), (Term(7), Some(id(2))));

    let mut candidate = fresh();
    tick_to_pre_vote(&mut candidate);
    step(&mut candidate, 2, 2, pre_vote_answer(true));
    assert_eq!(candidate.role(), RoleKind::Candidate);
    step(&mut candidate, 3, 7, heartbeat(0));
    assert_eq!((candidate.role(), candidate.term()), (RoleKind::Follower, Term(7)));

    let mut leader = leader();
    let said = step(&mut leader, 3, 7, vote(false));
    assert_eq!((leader.role(), leader.term()), (RoleKind::Follower, Term(7)));
    assert!(said.notes.iter().any(|note| matches!(note, Note::SteppedDown { .. })));
}

/// Figure 2, RequestVote 1 and AppendEntries 1: an older term is refused (§5.1), and the sender
/// learns the newer one. The answer to an old heartbeat acks no round.
#[test]
fn an_older_term_is_refused() {
    let mut node = voter(1, 5, log_of(&[]));
    let said = step(&mut node, 2, 4, request_vote(at(4, 9)));
    assert_eq!(votes(&said.to(2)), [(false, false)]);
    let said = step(&mut node, 2, 4, append(at(1, 1), vec![entry(4, 2)], 2));
    assert_eq!(node.last(), at(1, 1));
    let answer = Body::HeartbeatAnswer { round: 0, promise_ms: 0 };
    assert_eq!(said.to(2), [Message { term: Term(5), body: answer }]);
    assert_eq!(node.leader(), None);
}

/// §5.2: a follower that hears nothing for an election timeout starts an election; the timeout is
/// drawn anew each time from the shortest to twice that.
#[test]
fn election_timeouts_are_drawn_from_the_whole_range() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let restored = Restored {
            hard_state: HardState { term: Term(1), ..HardState::default() },
            entries: log_of(&[]),
            ..Restored::default()
        };
        let mut node = Node::new(config(1), restored, seed).unwrap();
        node.set_may_vote(true);
        let mut ticks = 0;
        while node.role() == RoleKind::Follower {
            node.tick();
            ticks += 1;
        }
        seen.insert(ticks);
    }
    let expected: Vec<u32> = (ELECTION..2 * ELECTION).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
}

/// §5.2: a leader heard puts the election off; so does a granted vote (figure 2, followers).
#[test]
fn heartbeats_and_granted_votes_put_the_election_off() {
    let mut node = fresh();
    for _ in 0..5 * ELECTION {
        node.tick();
        step(&mut node, 2, 1, heartbeat(0));
    }
    assert_eq!((node.role(), node.term()), (RoleKind::Follower, Term(1)));
    let mut node = fresh();
    for term in 2..50 {
        step(&mut node, 2, term, request_vote(at(1, 1)));
        (1..ELECTION).for_each(|_| node.tick());
        assert_eq!(node.role(), RoleKind::Follower, "term {term}");
    }
}

/// Figure 2, candidates: the term grows by one, the vote goes to itself, everyone is asked; and
/// nobody is asked before both are durable.
#[test]
fn a_candidate_votes_for_itself_and_stores_that_before_it_asks() {
    let mut node = fresh();
    tick_to_pre_vote(&mut node);
    node.step(id(2), Message { term: Term(2), body: pre_vote_answer(true) });
    let mut ready = node.ready().unwrap();
    assert_eq!(ready.hard_state.unwrap().vote, Some(id(1)));
    assert_eq!(ready.hard_state.unwrap().term, Term(2));
    assert!(ready.must_sync && ready.messages.is_empty());
    let stored = Durable::attest();
    let asked: Vec<NodeId> = ready.promises(&stored).iter().map(|o| o.to).collect();
    assert_eq!(asked, [id(2), id(3)]);
    node.advance(stored);
}

/// §5.2: one's own vote counts like any other only once it is durable. Otherwise a lone voter would
/// lead a term that it forgets in a crash.
#[test]
fn a_single_voter_leads_at_once_but_not_before_its_vote_is_durable() {
    let mut node = Node::new(config(1), Restored::default(), 1).unwrap();
    node.bootstrap(genesis(&[1], &[])).unwrap();
    drain(&mut node);
    node.tick();
    assert_eq!(node.role(), RoleKind::Candidate);
    let ready = node.ready().unwrap();
    assert_eq!(node.role(), RoleKind::Candidate);
    assert!(ready.must_sync);
    node.advance(Durable::attest());
    assert_eq!(node.role(), RoleKind::Leader);
    assert_eq!(node.commit(), LogIndex(0), "its first entry is not durable yet");
    drain(&mut node);
    assert_eq!(node.commit(), LogIndex(2));
    assert_eq!(node.confirmed_round(), node.current_round());
    assert!(node.lease_ms() > 0);
}

/// §5.2: a majority of the voters elects, however many there are; no fewer do.
#[test]
fn a_majority_elects_and_no_fewer() {
    for (size, needed) in [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)] {
        let voters: Vec<u32> = (1..=size).collect();
        let mut node = voter(1, 1, vec![genesis(&voters, &[])]);
        tick_to_pre_vote(&mut node);
        for other in 2..=size {
            step(&mut node, other, 2, pre_vote_answer(true));
        }
        for other in 2..2 + needed {
            assert_eq!(node.role(), RoleKind::Candidate, "{size} voters");
            step(&mut node, other, 2, vote(true));
            step(&mut node, other, 2, vote(true)); // a duplicate counts once
        }
        assert_eq!(node.role(), RoleKind::Leader, "{size} voters");
    }
}

/// §5.2: at most one vote a term, first come first served; the same candidate gets it again, since
/// the first answer may be lost.
#[test]
fn one_vote_a_term() {
    let mut node = fresh();
    let said = step(&mut node, 2, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(2)), [(true, false)]);
    let said = step(&mut node, 3, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(3)), [(false, false)]);
    let said = step(&mut node, 2, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(2)), [(true, false)]);
    let said = step(&mut node, 3, 3, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(3)), [(true, false)]);
}

/// §5.2 with figure 2's "persistent state": a granted vote leaves only when it is durable; a
/// refusal need not wait.
#[test]
fn a_granted_vote_is_a_promise_and_a_refusal_is_not() {
    let mut node = fresh();
    let ask = |term| Message { term: Term(term), body: request_vote(at(1, 1)) };
    node.step(id(2), ask(2));
    let mut ready = node.ready().unwrap();
    assert!(ready.messages.is_empty() && ready.must_sync);
    assert_eq!(ready.hard_state.unwrap().vote, Some(id(2)));
    let stored = Durable::attest();
    assert_eq!(ready.promises(&stored).len(), 1);
    node.advance(stored);
    node.step(id(3), ask(2));
    let ready = node.ready().unwrap();
    assert_eq!(ready.messages.len(), 1);
    assert!(!ready.must_sync);
}

/// §5.4.1: a vote goes only to a log that is at least as up-to-date: the later last term wins, then
/// the longer log.
#[test]
fn votes_go_only_to_logs_that_are_up_to_date() {
    for (last, granted) in
        [(at(1, 9), false), (at(3, 2), false), (at(3, 3), true), (at(3, 4), true), (at(4, 1), true)]
    {
        for pre_vote in [false, true] {
            let mut node = voter(1, 3, log_of(&[2, 3]));
            let body = Body::RequestVote { last, pre_vote, transfer: false };
            let said = step(&mut node, 2, 5, body);
            assert_eq!(votes(&said.to(2)), [(granted, pre_vote)], "{last:?}");
        }
    }
}

/// §5.2: a candidate that hears the leader of its own term follows it.
#[test]
fn a_candidate_follows_the_winner_of_its_term() {
    let mut node = fresh();
    tick_to_pre_vote(&mut node);
    step(&mut node, 2, 2, pre_vote_answer(true));
    step(&mut node, 3, 2, append(at(1, 1), vec![entry(2, 2)], 0));
    assert_eq!((node.role(), node.leader()), (RoleKind::Follower, Some(id(3))));
    step(&mut node, 2, 2, vote(true));
    assert_eq!(node.role(), RoleKind::Follower, "a late vote makes no second leader");
}

/// §5.2: after a split vote the candidate waits a new timeout and asks again.
#[test]
fn a_split_vote_is_tried_again() {
    let mut node = fresh();
    tick_to_pre_vote(&mut node);
    step(&mut node, 2, 2, pre_vote_answer(true));
    step(&mut node, 2, 2, vote(false));
    step(&mut node, 3, 2, vote(false));
    assert_eq!(node.role(), RoleKind::Follower);
    assert!(asks_pre_vote(&tick_to_pre_vote(&mut node), 3));
}

/// Dissertation §9.6: who cannot win does not raise the term, however long it is alone.
#[test]
fn a_lonely_node_keeps_its_term() {
    let mut node = fresh();
    for _ in 0..50 * ELECTION {
        node.tick();
        drain(&mut node);
    }
    assert_eq!(node.term(), Term(1));
}

/// Dissertation §9.6: a pre-vote moves neither term nor vote, and is no promise to anyone.
#[test]
fn a_pre_vote_changes_nothing() {
    let mut node = fresh();
    let ask = Body::RequestVote { last: at(1, 1), pre_vote: true, transfer: false };
    for other in [2, 3] {
        let said = step(&mut node, other, 2, ask.clone());
        assert_eq!(votes(&said.to(other)), [(true, true)]);
        assert_eq!(said.to(other)[0].term, Term(2), "a grant names the term campaigned for");
        assert_eq!(said.hard_state, None);
    }
    assert_eq!(node.term(), Term(1));
}

/// Dissertation §9.6: a stale grant of a pre-vote counts for no other term.
#[test]
fn a_pre_vote_counts_only_for_its_term() {
    let mut node = voter(1, 5, log_of(&[]));
    tick_to_pre_vote(&mut node);
    for term in [2, 5, 7, u64::MAX] {
        step(&mut node, 2, term, pre_vote_answer(true));
        assert_eq!((node.role(), node.term()), (RoleKind::PreCandidate, Term(5)));
    }
    step(&mut node, 2, 6, pre_vote_answer(true));
    assert_eq!(node.role(), RoleKind::Candidate);
}

/// Dissertation §4.2.3: while a leader was heard within the shortest timeout, neither pre-vote nor
/// vote is given, and the candidate's newer term is not adopted.
#[test]
fn a_voter_that_hears_a_leader_refuses_and_keeps_its_term() {
    for pre_vote in [true, false] {
        let mut node = fresh();
        step(&mut node, 2, 1, heartbeat(0));
        let ask = Body::RequestVote { last: at(9, 9), pre_vote, transfer: false };
        for _ in 0..ELECTION {
            let said = step(&mut node, 3, 8, ask.clone());
            assert_eq!(votes(&said.to(3)), [(false, pre_vote)]);
            assert_eq!(node.term(), Term(1));
            if node.role() == RoleKind::Follower {
                node.tick();
            }
        }
        let said = step(&mut node, 3, 8, ask);
        assert_eq!(votes(&said.to(3)), [(true, pre_vote)], "the lease is over");
    }
}

/// Dissertation §4.2.3: a leader is not disturbed by a candidate either, unless it hands over.
#[test]
fn a_leader_refuses_votes_but_not_a_transfer() {
    let mut node = leader();
    let ask = |transfer| Body::RequestVote { last: at(9, 9), pre_vote: false, transfer };
    step(&mut node, 3, 8, ask(false));
    assert_eq!((node.role(), node.term()), (RoleKind::Leader, Term(2)));
    let said = step(&mut node, 3, 8, ask(true));
    assert_eq!(votes(&said.to(3)), [(true, false)]);
    assert_eq!((node.role(), node.term()), (RoleKind::Follower, Term(8)));
}

/// A voter that acked a leader and restarts does not know it any more; the leader still counts on
/// its promise, so it refuses votes for one shortest timeout.
#[test]
fn a_restarted_voter_keeps_the_promise_it_may_have_made() {
    let hard_state = HardState { term: Term(1), ..HardState::default() };
    let mut node = Node::new(
        config(1),
        Restored { hard_state, entries: log_of(&[]), ..Restored::default() },
        1,
    )
    .unwrap();
    node.set_may_vote(true);
    let said = step(&mut node, 2, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(2)), [(false, false)]);
    for _ in 0..ELECTION {
        node.tick();
    }
    let said = step(&mut node, 2, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(2)), [(true, false)]);
}

/// A candidate whose term ran ahead could never be led again if it did not depose the leader of the
/// older term that it ignores (the liveness half of §5.1).
#[test]
fn a_candidate_ahead_deposes_the_leader_it_cannot_follow() {
    let mut leader = leader();
    let mut ahead = voter(3, 5, log_of(&[]));
    let said = step(&mut ahead, 1, 2, heartbeat(0));
    let answer = said.to(1).remove(0);
    step(&mut leader, 3, answer.term.0, answer.body);
    assert_eq!((leader.role(), leader.term()), (RoleKind::Follower, Term(5)));
}

/// Dissertation §6.2, check-quorum: a leader that hears no majority for an election timeout steps
/// down; one that hears half of the others stays.
#[test]
fn a_leader_without_a_quorum_steps_down() {
    let mut alone = leader();
    for tick in 1..=ELECTION {
        assert_eq!(alone.role(), RoleKind::Leader, "tick {tick}");
        assert!(alone.has_quorum());
        alone.tick();
    }
    assert_eq!((alone.role(), alone.leader()), (RoleKind::Follower, None));

    let mut heard = leader();
    for _ in 0..5 * ELECTION {
        heard.tick();
        let round = heard.current_round();
        step(&mut heard, 3, 2, Body::HeartbeatAnswer { round, promise_ms: 180 });
    }
    assert_eq!(heard.role(), RoleKind::Leader);
}

/// Dissertation §6.4.1: the lease is counted from when a round is sent. A sole voter has nobody to
/// send one to, but without a `Ready` for each round its lease would end and never come back.
#[test]
fn a_sole_voters_rounds_come_out_too() {
    let mut node = Node::new(config(1), Restored::default(), 1).unwrap();
    node.bootstrap(genesis(&[1], &[])).unwrap();
    node.tick();
    drain(&mut node);
    assert_eq!(node.role(), RoleKind::Leader);
    for _ in 0..3 {
        let before = node.current_round();
        (0..HEARTBEAT).for_each(|_| node.tick());
        let ready = node.ready().expect("a round began");
        assert!(ready.messages.is_empty() && !ready.must_sync);
        assert_eq!(node.confirmed_round(), before + 1);
        node.advance(Durable::attest());
        assert!(node.ready().is_none());
    }
}

/// Check-quorum counts voters, not learners.
#[test]
fn learners_do_not_make_a_quorum() {
    let mut node = voter(1, 1, vec![genesis(&[1, 2, 3], &[4])]);
    elect(&mut node);
    for _ in 0..ELECTION {
        node.tick();
        let round = node.current_round();
        step(&mut node, 4, 2, Body::HeartbeatAnswer { round, promise_ms: 180 });
    }
    assert_eq!(node.role(), RoleKind::Follower);
    assert_eq!(node.confirmed_round(), 0);
}

/// A voter that may have forgotten its votes gives none and never campaigns; losing the right ends
/// a campaign and a leadership.
#[test]
fn who_may_not_vote_neither_votes_nor_campaigns() {
    let mut node = fresh();
    node.set_may_vote(false);
    for pre_vote in [true, false] {
        let ask = Body::RequestVote { last: at(9, 9), pre_vote, transfer: true };
        let said = step(&mut node, 2, 5, ask);
        assert_eq!(votes(&said.to(2)), [(false, pre_vote)]);
    }
    for _ in 0..5 * ELECTION {
        node.tick();
    }
    assert_eq!(node.role(), RoleKind::Follower);
    assert_eq!(node.force_election(), Err(ProposeError::NotVoter(id(1))));
    step(&mut node, 2, 5, Body::TimeoutNow);
    assert_eq!(node.role(), RoleKind::Follower);

    let mut node = leader();
    node.set_may_vote(false);
    assert_eq!(node.role(), RoleKind::Follower);
}

/// A learner and a stranger never campaign (§6; dissertation §4.2.1), but vote if asked: the
/// candidate may know of a promotion that they do not.
#[test]
fn only_voters_campaign() {
    for log in [vec![genesis(&[1, 2], &[3])], vec![genesis(&[1, 2], &[])], vec![]] {
        let last = log.last().map_or(at(0, 0), |entry| entry.id);
        let mut node = voter(3, 1, log);
        for _ in 0..5 * ELECTION {
            node.tick();
        }
        assert!(drain(&mut node).messages.is_empty());
        assert_eq!(node.force_election(), Err(ProposeError::NotVoter(id(3))));
        step(&mut node, 1, 1, Body::TimeoutNow);
        assert!(!matches!(node.role(), RoleKind::Candidate | RoleKind::PreCandidate));
        let said = step(&mut node, 1, 2, request_vote(last));
        assert_eq!(votes(&said.to(1)), [(true, false)]);
    }
}

/// A vote of a learner, a stranger or a removed node elects nobody.
#[test]
fn votes_of_others_than_voters_do_not_count() {
    let mut node = voter(1, 1, vec![genesis(&[1, 2, 3], &[4])]);
    tick_to_pre_vote(&mut node);
    step(&mut node, 4, 2, pre_vote_answer(true));
    step(&mut node, 9, 2, pre_vote_answer(true));
    assert_eq!(node.role(), RoleKind::PreCandidate);
    step(&mut node, 2, 2, pre_vote_answer(true));
    step(&mut node, 4, 2, vote(true));
    step(&mut node, 9, 2, vote(true));
    assert_eq!(node.role(), RoleKind::Candidate);
}

/// A leader whose port refuses is gone: the first of its voters asks at once, the others two ticks
/// a rank later, and neither counts on its lease any more.
#[test]
fn a_refused_leader_is_replaced_at_once_and_in_turn() {
    let entries = vec![genesis(&[1, 2, 3, 4], &[])];
    for (node_id, wait) in [(1, 0), (3, 2), (4, 4)] {
        let mut node = voter(node_id, 1, entries.clone());
        step(&mut node, 2, 1, heartbeat(0));
        node.leader_refused(id(2));
        let mut ticks = 0;
        while node.role() == RoleKind::Follower {
            node.tick();
            node.leader_refused(id(2)); // each attempt to dial says it again
            ticks += 1;
        }
        assert_eq!((ticks, node.role()), (wait, RoleKind::PreCandidate), "node {node_id}");
    }
    let mut node = voter(3, 1, entries);
    step(&mut node, 2, 1, heartbeat(0));
    node.leader_refused(id(2));
    let said = step(&mut node, 1, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(1)), [(true, false)]);
    let left =
        |m: &Message| matches!(m.body, Body::VoteAnswer { lease_left_ms: LEASE_LEFT_MS, .. });
    assert!(said.to(1).iter().any(left), "the old lease still has to be waited for");
}

/// The suspicion ends when a leader is heard; one about another node is none.
#[test]
fn a_suspicion_ends_when_a_leader_is_heard() {
    let mut node = voter(3, 1, log_of(&[]));
    step(&mut node, 2, 1, heartbeat(0));
    node.leader_refused(id(1));
    assert_eq!(votes(&step(&mut node, 1, 2, request_vote(at(1, 1))).to(1)), [(false, false)]);
    node.leader_refused(id(2));
    step(&mut node, 2, 1, heartbeat(0));
    (0..4).for_each(|_| node.tick());
    assert_eq!(node.role(), RoleKind::Follower);
    assert_eq!(votes(&step(&mut node, 1, 2, request_vote(at(1, 1))).to(1)), [(false, false)]);
}

/// After a vote split among those who suspect the leader, they try again within a few ticks.
#[test]
fn a_split_after_a_refused_leader_is_retried_soon() {
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    node.leader_refused(id(2));
    drain(&mut node);
    step(&mut node, 3, 1, pre_vote_answer(false));
    step(&mut node, 2, 1, pre_vote_answer(false));
    assert_eq!(node.role(), RoleKind::Follower);
    let mut ticks = 0;
    while node.role() == RoleKind::Follower {
        node.tick();
        ticks += 1;
    }
    assert!((HEARTBEAT..=2 * HEARTBEAT).contains(&ticks), "{ticks}");
}

/// `force_election` asks beside a living leader, whose heartbeats do not end it, and says so to the
/// voters; without an answer it is given up.
#[test]
fn a_forced_election_goes_on_beside_a_living_leader() {
    let forced = |pre_vote| Body::RequestVote { last: at(1, 1), pre_vote, transfer: true };
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    node.force_election().unwrap();
    assert_eq!(drain(&mut node).to(3), [Message { term: Term(2), body: forced(true) }]);
    step(&mut node, 2, 1, heartbeat(0));
    let said = step(&mut node, 3, 2, pre_vote_answer(true));
    assert_eq!(said.to(2), [Message { term: Term(2), body: forced(false) }]);

    let mut node = fresh();
    node.force_election().unwrap();
    for _ in 0..ELECTION {
        step(&mut node, 2, 1, heartbeat(0));
        assert_eq!(node.role(), RoleKind::PreCandidate);
        node.tick();
    }
    assert_eq!((node.role(), node.leader()), (RoleKind::Follower, Some(id(2))));
    assert_eq!(leader().force_election(), Err(ProposeError::AlreadyLeader));
}

/// Right after a leader was heard: three quarters of the promise, in whole ticks, and the one that
/// may come at once.
const LEASE_LEFT_MS: u32 = (ELECTION - ELECTION / 4 + 1) * TICK_MS;

/// A forced winner is told how long the old lease may last, by its own promise and by the voters';
/// an answer to a heartbeat carries a promise one tick shorter than the wait.
#[test]
fn a_winner_learns_what_is_left_of_the_old_lease() {
    let mut node = fresh();
    let said = step(&mut node, 2, 1, heartbeat(0));
    let promise = Body::HeartbeatAnswer { round: 1, promise_ms: (ELECTION - 1) * TICK_MS };
    assert_eq!(said.to(2), [Message { term: Term(1), body: promise }]);
    node.force_election().unwrap();
    step(&mut node, 3, 2, pre_vote_answer(true));
    let granted = Body::VoteAnswer { granted: true, pre_vote: false, lease_left_ms: 120 };
    let said = step(&mut node, 3, 2, granted);
    let won = Note::BecameLeader { term: Term(2), old_lease_left_ms: LEASE_LEFT_MS };
    assert!(said.notes.contains(&won), "{:?}", said.notes);
}

/// Dissertation §6.4.1: a lease lasts as the shortest promise in a majority allows, less a quarter.
#[test]
fn a_lease_is_no_longer_than_a_majority_promised() {
    let mut node = voter(1, 1, vec![genesis(&[1, 2, 3, 4, 5], &[])]);
    tick_to_pre_vote(&mut node);
    for other in [2, 3] {
        step(&mut node, other, 2, pre_vote_answer(true));
    }
    for other in [2, 3] {
        step(&mut node, other, 2, vote(true));
    }
    let round = node.current_round();
    assert_eq!((node.confirmed_round(), node.role()), (0, RoleKind::Leader));
    step(&mut node, 2, 2, Body::HeartbeatAnswer { round, promise_ms: 100 });
    assert_eq!(node.confirmed_round(), 0, "two of five");
    step(&mut node, 3, 2, Body::HeartbeatAnswer { round, promise_ms: 60 });
    assert_eq!((node.confirmed_round(), node.lease_ms()), (round, 45));
    step(&mut node, 4, 2, Body::HeartbeatAnswer { round, promise_ms: 80 });
    assert_eq!(node.lease_ms(), 60);
    step(&mut node, 4, 2, Body::HeartbeatAnswer { round: u64::MAX, promise_ms: 80 });
    assert_eq!(node.confirmed_round(), round, "a round that never began is no answer");
}

/// Timeouts that change apply at once and break no promise given.
#[test]
fn new_timeouts_keep_old_promises() {
    let mut node = fresh();
    step(&mut node, 2, 1, heartbeat(0));
    node.set_timeouts(3, 1).unwrap();
    for _ in 0..5 {
        step(&mut node, 2, 1, heartbeat(0));
        node.tick();
    }
    node.set_may_vote(true);
    let said = step(&mut node, 3, 2, request_vote(at(1, 1)));
    assert_eq!(votes(&said.to(3)), [(false, false)]);
    assert!(node.set_timeouts(1, 1).is_err());
}

/// The leader's first act: an empty entry of its own term, to everyone (§5.2, §8).
#[test]
fn a_new_leader_makes_itself_known_with_an_empty_entry() {
    let mut node = fresh();
    let said = elect(&mut node);
    assert_eq!(said.entries.len(), 1);
    assert_eq!((said.entries[0].id, &said.entries[0].payload), (at(2, 2), &Payload::Empty));
    for other in [2, 3] {
        let sent = appends(&said.to(other));
        assert_eq!((sent[0].0, sent[0].1.len()), (at(1, 1), 1));
    }
}
