//! Log replication and commit: §5.3, §5.4.2 with figure 8, on both sides.

use pgraft::raft::*;

use crate::support::*;

/// Figure 2, AppendEntries 2: without an entry that matches `prev` the append is refused.
#[test]
fn an_append_without_its_predecessor_is_refused() {
    for (prev, hint) in [
        (at(2, 9), at(2, 3)), // beyond the end
        (at(3, 3), at(2, 3)), // another term there
        (at(1, 3), at(1, 1)), // a later term there: the terms up to 1 may match
    ] {
        let mut node = voter(1, 3, log_of(&[2, 2]));
        let said = step(&mut node, 2, 3, append(prev, vec![], 0));
        let refused = AppendResult::Rejected { prev: prev.index, hint };
        assert_eq!(results(&said.to(2)), [refused]);
        assert_eq!(node.last(), at(2, 3));
    }
}

/// Figure 2, AppendEntries 3 and 4: a conflicting entry goes with all that follow it; what is new
/// is appended, and stored before the ack leaves.
#[test]
fn a_conflict_is_replaced_and_the_ack_waits_for_the_disk() {
    let mut node = voter(1, 3, log_of(&[2, 2, 2]));
    let body = append(at(2, 2), vec![entry(3, 3)], 0);
    node.step(id(2), Message { term: Term(3), body });
    let mut ready = node.ready().unwrap();
    assert_eq!(ready.entries, [entry(3, 3)]);
    assert!(ready.must_sync && ready.messages.is_empty());
    let stored = Durable::attest();
    let promises: Vec<Message> = ready.promises(&stored).into_iter().map(|o| o.message).collect();
    assert_eq!(results(&promises), [AppendResult::Accepted { matched: LogIndex(3) }]);
    node.advance(stored);
    assert_eq!(node.last(), at(3, 3));
}

/// Figure 2, AppendEntries 3: an old append that the log already holds truncates nothing.
#[test]
fn an_old_append_does_not_truncate() {
    let mut node = voter(1, 2, log_of(&[2, 2, 2]));
    let said = step(&mut node, 2, 2, append(at(1, 1), vec![entry(2, 2)], 0));
    assert_eq!(results(&said.to(2)), [AppendResult::Accepted { matched: LogIndex(2) }]);
    assert_eq!(node.last(), at(2, 4));
}

/// Figure 2, AppendEntries 5: the commit index follows the leader's, but never beyond what the
/// message proved equal.
#[test]
fn the_commit_index_never_passes_what_is_known_equal() {
    let mut node = voter(1, 3, log_of(&[2, 2, 2]));
    let said = step(&mut node, 2, 3, append(at(2, 2), vec![], 9));
    assert_eq!(node.commit(), LogIndex(2), "entries 3 and 4 may differ from the leader's");
    assert_eq!(said.committed.len(), 2);
    step(&mut node, 2, 3, append(at(1, 1), vec![], 1));
    assert_eq!(node.commit(), LogIndex(2), "it never falls");
}

/// A heartbeat proves nothing about the log: it commits only what an append of this leader proved.
#[test]
fn a_heartbeat_commits_only_what_this_leader_proved() {
    let mut node = voter(1, 3, log_of(&[2, 2]));
    let said = step(&mut node, 2, 3, heartbeat(3));
    assert_eq!(node.commit(), LogIndex(0));
    let probe_me = AppendResult::Rejected { prev: LogIndex(3), hint: at(2, 3) };
    assert_eq!(results(&said.to(2)), [probe_me]);
    step(&mut node, 2, 3, append(at(2, 3), vec![], 0));
    step(&mut node, 2, 3, heartbeat(3));
    assert_eq!(node.commit(), LogIndex(3));
    // What one leader proved says nothing about the next one's log.
    step(&mut node, 2, 3, append(at(2, 3), vec![entry(3, 4)], 0));
    step(&mut node, 3, 4, heartbeat(4));
    assert_eq!(node.commit(), LogIndex(3));
}

/// A leader that contradicts a committed entry is not believed; nothing is truncated.
#[test]
fn a_committed_entry_is_never_truncated() {
    let mut node = voter(1, 2, log_of(&[2, 2]));
    step(&mut node, 2, 2, append(at(2, 3), vec![], 3));
    assert_eq!(node.commit(), LogIndex(3));
    let said = step(&mut node, 3, 4, append(at(2, 2), vec![entry(4, 3)], 3));
    assert_eq!(node.last(), at(2, 3));
    let note = Note::Contradiction { leader: id(3), index: LogIndex(3) };
    assert!(said.notes.contains(&note));
    assert!(results(&said.to(3)).is_empty());
}

/// §5.3: commit takes a majority that has stored the entry; the leader itself counts only once its
/// own disk has it (dissertation §10.2.1).
#[test]
fn the_leader_counts_itself_only_once_it_stored_the_entry() {
    let mut node = leader();
    node.propose(b"a".to_vec()).unwrap();
    let ready = node.ready().unwrap();
    assert_eq!(
        appends(&[ready.messages[0].message.clone()])[0].1.len(),
        1,
        "sent beside the write"
    );
    let round = node.current_round();
    node.step(id(2), Message { term: Term(2), body: accepted(3, round) });
    assert_eq!(node.commit(), LogIndex(2), "one of three has it on disk");
    node.advance(Durable::attest());
    assert_eq!(node.commit(), LogIndex(3));
}

/// An entry that others committed is handed out only once it is durable here too.
#[test]
fn committed_entries_are_handed_out_only_when_durable_here() {
    let mut node = leader();
    node.propose(b"a".to_vec()).unwrap();
    let first = node.ready().unwrap();
    assert!(first.committed.is_empty());
    let round = node.current_round();
    for other in [2, 3] {
        node.step(id(other), Message { term: Term(2), body: accepted(3, round) });
    }
    assert_eq!(node.commit(), LogIndex(3), "the others are a majority");
    assert!(node.ready().is_none(), "the write at hand is not reported yet");
    node.advance(Durable::attest());
    assert_eq!(node.ready().unwrap().committed.len(), 1);
}

/// §5.4.2: entries of earlier terms are not committed by counting, only along with one of the
/// current term.
#[test]
fn only_entries_of_the_current_term_are_committed_by_counting() {
    let mut node = voter(1, 2, log_of(&[2, 2]));
    elect(&mut node);
    let round = node.current_round();
    for other in [2, 3] {
        step(&mut node, other, 3, accepted(3, round));
    }
    assert_eq!(node.commit(), LogIndex(0), "all hold the entries of term 2");
    step(&mut node, 2, 3, accepted(4, round));
    assert_eq!(node.commit(), LogIndex(4));
}

/// Figure 8: an entry of term 2 on a majority can still be lost, so it must not be committed there.
#[test]
fn figure_8() {
    let mut cluster = Cluster::new(5);
    // (a) node 1 leads term 2 and replicates its entry to node 2 only.
    cluster.win(1);
    cluster.partition(&[1, 2]);
    cluster.stabilize();
    assert_eq!(cluster.node(2).last(), at(2, 2));
    assert_eq!(cluster.node(3).last(), at(1, 1));
    // (b) node 1 crashes; node 5 leads term 3 by the votes of 3 and 4, and keeps its entry.
    cluster.crash(1);
    cluster.win(5);
    assert_eq!(cluster.node(5).last(), at(3, 2));
    cluster.crash(5);
    cluster.network.clear();
    // (c) node 1 is back, leads term 4 and brings the entry of term 2 to node 3 too: a majority.
    cluster.cut.clear();
    cluster.restart(1);
    cluster.win(1);
    assert_eq!(cluster.node(1).term(), Term(4));
    // Its probes bring what it has; its own first entry gets lost on the way.
    while let Some((from, to, mut message)) = cluster.network.pop_front() {
        if let Body::AppendEntries { entries, .. } = &mut message.body {
            entries.retain(|entry| entry.id.term == Term(2));
        }
        if to != id(4) {
            cluster.network.push_front((from, to, message));
            cluster.deliver_one();
        }
    }
    let holders = |cluster: &mut Cluster| {
        (1..=3)
            .filter(|node| {
                cluster.servers[&id(*node)].disk.entries.get(1).map(|e| e.id) == Some(at(2, 2))
            })
            .count()
    };
    assert_eq!(holders(&mut cluster), 3, "the entry of term 2 is on a majority");
    for node in 1..=3 {
        assert_eq!(cluster.node(node).commit(), LogIndex(0), "and yet not committed");
    }
    // (d) node 1 crashes; node 5, with a later last term, wins and overwrites it everywhere.
    cluster.crash(1);
    cluster.restart(5);
    cluster.cut.clear();
    cluster.partition(&[1]);
    cluster.win(5);
    cluster.stabilize();
    assert_eq!(cluster.leader(), Some(id(5)));
    for node in [2, 3, 4] {
        assert_eq!(cluster.servers[&id(node)].disk.entries[1].id, at(3, 2));
    }
}

/// §5.3: the leader never overwrites its own log; an append that claims its term is ignored.
#[test]
fn a_leader_ignores_appends_of_its_own_term() {
    let mut node = leader();
    let said = step(&mut node, 3, 2, append(at(1, 1), vec![entry(2, 2), entry(2, 3)], 0));
    assert_eq!((node.role(), node.last()), (RoleKind::Leader, at(2, 2)));
    assert!(said.to(3).is_empty());
}

/// Batching: what is proposed between two `Ready`s goes in one append, split at its limit; the
/// pipeline stops at `inflight_max` and goes on with the answers.
#[test]
fn appends_are_batched_pipelined_and_bounded() {
    let mut node = leader();
    for _ in 0..5 {
        node.propose(vec![0; 100]).unwrap();
    }
    let sent = appends(&drain(&mut node).to(2));
    assert_eq!(sent.iter().map(|append| append.1.len()).collect::<Vec<_>>(), [5]);

    let mut config = config(1);
    config.append_bytes_max = 300;
    config.inflight_max = 3;
    let restored = Restored {
        hard_state: HardState { term: Term(1), ..HardState::default() },
        entries: log_of(&[]),
        ..Restored::default()
    };
    let mut node = Node::new(config, restored, 1).unwrap();
    node.set_may_vote(true);
    elect(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(2, round));
    for _ in 0..10 {
        node.propose(vec![0; 100]).unwrap();
    }
    let sent = appends(&drain(&mut node).to(2));
    assert_eq!(sent.iter().map(|append| append.1.len()).collect::<Vec<_>>(), [2, 2, 2]);
    let said = step(&mut node, 2, 2, accepted(4, round));
    assert_eq!(appends(&said.to(2)).len(), 1, "one answer, one more append");
    assert!(appends(&said.to(3)).is_empty(), "node 3 did not answer its probe");
}

/// A command that no append could carry is refused, and so is a flood without a quorum.
#[test]
fn proposals_are_bounded() {
    let mut node = leader();
    let bytes_max = 1 << 16;
    assert_eq!(
        node.propose(vec![0; bytes_max + 1]),
        Err(ProposeError::TooLarge { bytes: bytes_max + 1, bytes_max })
    );
    let taken = (0..1000).take_while(|_| node.propose(vec![0; bytes_max]).is_ok()).count();
    assert_eq!(taken, 15, "a megabyte, less what the entries weigh themselves");
    assert_eq!(node.propose(vec![0; bytes_max]), Err(ProposeError::Overloaded));
    drain(&mut node);
    let (round, last) = (node.current_round(), node.last().index.0);
    step(&mut node, 2, 2, accepted(last, round));
    assert!(node.propose(vec![0; bytes_max]).is_ok(), "the commit made room");
    assert_eq!(fresh().propose(vec![]), Err(ProposeError::NotLeader { leader: None }));
}

/// A lost append that no other follows is found by the next heartbeat's answer.
#[test]
fn a_lost_last_append_is_sent_again() {
    let mut node = leader();
    node.propose(b"lost".to_vec()).unwrap();
    drain(&mut node);
    (0..HEARTBEAT).for_each(|_| node.tick());
    drain(&mut node);
    let round = node.current_round();
    let said = step(&mut node, 2, 2, Body::HeartbeatAnswer { round, promise_ms: 180 });
    let asked = appends(&said.to(2));
    assert_eq!((asked[0].0, asked[0].1.len()), (at(2, 3), 0), "does it have entry 3?");
    let said = step(&mut node, 2, 2, rejected(3, at(2, 2), round));
    assert_eq!(appends(&said.to(2))[0].1.len(), 1);
}

/// A closed link: what was on its way is sent again as soon as the follower answers a probe.
#[test]
fn a_closed_link_goes_back_to_probing() {
    let mut node = leader();
    node.propose(b"lost".to_vec()).unwrap();
    drain(&mut node);
    node.peer_unreachable(id(2));
    let progress = node.progress().find(|(peer, _)| *peer == id(2)).unwrap().1;
    assert_eq!((progress.state, progress.matched), (ProgressState::Probe, LogIndex(2)));
    let sent = appends(&drain(&mut node).to(2));
    assert_eq!((sent.len(), sent[0].0, sent[0].1.len()), (1, at(2, 2), 1));
    // That too is lost, since the link is down; heartbeats ask again, without the entries.
    (0..HEARTBEAT).for_each(|_| node.tick());
    let sent = appends(&drain(&mut node).to(2));
    assert_eq!((sent.len(), sent[0].1.len()), (1, 0));
    let round = node.current_round();
    let said = step(&mut node, 2, 2, accepted(2, round));
    assert_eq!(appends(&said.to(2))[0].1.len(), 1);
}

/// Stale and repeated answers, in any order, move nothing backwards.
#[test]
fn stale_answers_are_harmless() {
    let mut node = leader();
    for _ in 0..3 {
        node.propose(b"x".to_vec()).unwrap();
    }
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(5, round));
    assert_eq!(node.commit(), LogIndex(5));
    for body in
        [accepted(3, round), accepted(5, round), rejected(4, at(1, 1), round), accepted(2, 1)]
    {
        step(&mut node, 2, 2, body);
    }
    step(&mut node, 2, 1, rejected(4, at(1, 1), 1));
    step(&mut node, 2, 2, accepted(99, round));
    let progress = node.progress().find(|(peer, _)| *peer == id(2)).unwrap().1;
    assert_eq!((progress.matched, progress.state), (LogIndex(5), ProgressState::Replicate));
}

/// A follower that lost entries it had acked does not count until it has them again, and the
/// operator is told. What was committed stays so.
#[test]
fn a_follower_that_forgot_entries_does_not_count() {
    let mut node = leader();
    for _ in 0..3 {
        node.propose(b"x".to_vec()).unwrap();
    }
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(5, round));
    (0..HEARTBEAT).for_each(|_| node.tick());
    drain(&mut node);
    // Its disk was wiped. The answer is to what was sent after the ack.
    let later = node.current_round();
    assert!(later > round);
    let said = step(&mut node, 2, 2, rejected(5, at(0, 0), later));
    let note = Note::ForgotEntries { node: id(2), acknowledged: LogIndex(5), holds: LogIndex(0) };
    assert!(said.notes.contains(&note));
    let late = step(&mut node, 2, 2, accepted(5, round));
    assert!(late.notes.is_empty());
    node.propose(b"y".to_vec()).unwrap();
    drain(&mut node);
    assert_eq!(
        node.progress().next().unwrap().1.matched,
        LogIndex(0),
        "an ack from before the loss"
    );
    (0..HEARTBEAT).for_each(|_| node.tick());
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(4, round));
    assert_eq!(node.commit(), LogIndex(5));
    step(&mut node, 2, 2, accepted(6, round));
    assert_eq!(node.commit(), LogIndex(6), "it has everything again and counts");
}

/// News of the commit reaches followers with the next `Ready`, not with the next heartbeat.
#[test]
fn followers_learn_of_a_commit_at_once() {
    let mut node = leader();
    node.propose(b"x".to_vec()).unwrap();
    drain(&mut node);
    let round = node.current_round();
    let said = step(&mut node, 2, 2, accepted(3, round));
    let told = Body::Heartbeat { commit: LogIndex(3), round };
    assert_eq!(said.to(2), [Message { term: Term(2), body: told }]);
}

/// A heartbeat never tells a follower a commit index beyond what it is known to hold.
#[test]
fn a_heartbeat_carries_at_most_the_followers_match() {
    let mut node = leader();
    let round = node.current_round();
    step(&mut node, 3, 2, accepted(1, round));
    (0..HEARTBEAT).for_each(|_| node.tick());
    let said = drain(&mut node);
    let commits: Vec<u64> = said
        .to(3)
        .iter()
        .filter_map(|m| match m.body {
            Body::Heartbeat { commit, .. } => Some(commit.0),
            _ => None,
        })
        .collect();
    assert_eq!(commits, [1]);
}
