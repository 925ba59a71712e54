//! Snapshots and compaction (Raft §7): what may be dropped, how a snapshot travels, what a node
//! makes of one.

use pgraft::raft::*;

use crate::disk::{describe_state, encode};
use crate::support::*;

/// A state machine's contents up to `last`.
fn state(last: EntryId) -> Vec<EntryId> {
    let before = (1..last.index.0).map(|index| at(1, index));
    before.chain([last]).collect()
}

/// A snapshot that ends with `last`, of voters 1, 2 and 3.
fn snapshot(last: EntryId) -> (SnapshotMeta, Vec<u8>) {
    describe_state(&state(last), Membership { voters: ids(&[1, 2, 3]), learners: ids(&[]) })
}

fn piece(meta: &SnapshotMeta, offset: u64, data: &[u8]) -> Body {
    Body::InstallSnapshot { snapshot: meta.clone(), offset, data: data.to_vec(), round: 1 }
}

/// What the answers to pieces say: up to where.
fn received(messages: &[Outgoing]) -> Vec<u64> {
    let received = |out: &Outgoing| match out.message.body {
        Body::SnapshotAnswer { received, .. } => Some(received),
        _ => None,
    };
    messages.iter().filter_map(received).collect()
}

/// The pieces among these: where they begin, and their round.
fn pieces(messages: &[Message]) -> Vec<(u64, u64)> {
    let piece = |message: &Message| match message.body {
        Body::InstallSnapshot { offset, round, .. } => Some((offset, round)),
        _ => None,
    };
    messages.iter().filter_map(piece).collect()
}

/// The follower's answer that it has so much of the leader's snapshot.
fn has(node: &Node, received: u64, round: u64) -> Body {
    let last = node.snapshot().expect("a snapshot").last;
    Body::SnapshotAnswer { round, promise_ms: 180, last, received }
}

/// A leader (node 1, term 2) with everything up to 2 + `more` applied, thanks to node 2; node 3
/// holds genesis. It dropped everything but the last `keep`.
fn compacted_leader(more: u64, keep: u64) -> Node {
    let mut node = leader();
    for _ in 0..more {
        node.propose(b"x".to_vec()).unwrap();
    }
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(2 + more, round));
    compact(&mut node, keep);
    node
}

fn compact(node: &mut Node, keep: u64) -> Option<EntryId> {
    let applied = node.commit();
    let (last, membership) = node.snapshot_point(applied).unwrap();
    let (meta, _) = describe_state(&state(last), membership);
    node.compact(meta, keep)
}

/// Ticks until the next heartbeat round.
fn next_round(node: &mut Node) -> Said {
    let round = node.current_round();
    for _ in 0..HEARTBEAT {
        node.tick();
    }
    assert_eq!(node.current_round(), round + 1);
    drain(node)
}

/// A leader whose node 3 was found to be behind its log, with the first piece on its way.
fn sending() -> (Node, Said) {
    let mut node = compacted_leader(6, 2);
    let round = node.current_round();
    let said = step(&mut node, 3, 2, rejected(1, at(1, 1), round));
    (node, said)
}

/// An election timeout passes in which node 2 answers, and nobody else.
fn fall_silent(node: &mut Node) {
    for _ in 0..ELECTION {
        node.tick();
        let round = node.current_round();
        step(node, 2, 2, Body::HeartbeatAnswer { round, promise_ms: 180 });
    }
}

fn state_of(node: &Node, peer: u32) -> ProgressState {
    node.progress().find(|(node, _)| *node == id(peer)).unwrap().1.state
}

/// §7: once a snapshot is durable, the entries it stands for go, but the last few that a follower
/// may still want one by one.
#[test]
fn what_a_snapshot_stands_for_is_dropped() {
    let mut node = compacted_leader(6, 2);
    assert!(node.entry(LogIndex(6)).is_none());
    assert_eq!(node.entry(LogIndex(7)).unwrap().id, at(2, 7));
    assert_eq!((node.last(), node.commit()), (at(2, 8), LogIndex(8)));
    assert_eq!(node.snapshot().unwrap().last, at(2, 8));
    // It goes on as before.
    node.propose(b"y".to_vec()).unwrap();
    let said = drain(&mut node);
    let (prev, entries, ..) = appends(&said.to(2)).remove(0);
    assert_eq!((prev, entries.len()), (at(2, 8), 1));
}

/// A snapshot that is overtaken while it is written drops nothing, nor does one that keeps all.
#[test]
fn a_snapshot_overtaken_changes_nothing() {
    let mut node = leader();
    let (last, membership) = node.snapshot_point(LogIndex(2)).unwrap();
    let (older, _) = describe_state(&state(last), membership);
    node.propose(b"x".to_vec()).unwrap();
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(3, round));
    assert_eq!(compact(&mut node, 99), Some(EntryId::default()), "all of it is kept");
    assert_eq!(node.compact(older, 0), None);
    assert_eq!(node.snapshot().unwrap().last, at(2, 3));
    assert!(node.entry(LogIndex(1)).is_some());
}

/// §7: the snapshot has the membership in force where it ends, not a later one.
#[test]
fn a_snapshot_point_has_the_membership_of_its_place() {
    let mut node = leader();
    assert_eq!(node.snapshot_point(LogIndex(0)), None, "there is nothing yet");
    node.propose_membership(MembershipChange::AddLearner(id(4)), vec![]).unwrap();
    drain(&mut node);
    assert_eq!(node.snapshot_point(LogIndex(3)), None, "it was not handed out");
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(3, round));
    let membership =
        |learners: &[u32]| Membership { voters: ids(&[1, 2, 3]), learners: ids(learners) };
    assert_eq!(node.snapshot_point(LogIndex(2)), Some((at(2, 2), membership(&[]))));
    assert_eq!(node.snapshot_point(LogIndex(3)), Some((at(2, 3), membership(&[4]))));
    compact(&mut node, 0);
    assert_eq!(node.snapshot_point(LogIndex(3)), None, "there is one");
    assert_eq!(*node.membership(), membership(&[4]), "it outlives the entry that made it");
    assert_eq!(*node.committed_membership(), membership(&[4]));
}

/// §7: a follower that needs what was dropped gets the snapshot, one piece at a time, and what
/// follows it after that.
#[test]
fn a_follower_behind_the_log_gets_the_snapshot_piece_by_piece() {
    let (mut node, said) = sending();
    let meta = node.snapshot().unwrap().clone();
    let begun = Note::SendsSnapshot { to: id(3), last: at(2, 8) };
    assert!(said.notes.contains(&begun), "{:?}", said.notes);
    assert_eq!(pieces(&said.to(3)).iter().map(|piece| piece.0).collect::<Vec<_>>(), [0]);
    assert!(!node.sends_snapshot(), "nothing of it has arrived");
    node.propose(b"y".to_vec()).unwrap();
    let said = drain(&mut node);
    assert_eq!(said.to(3), [], "neither an append nor another piece before the answer");
    let round = node.current_round();
    let answer = has(&node, 40, round);
    let said = step(&mut node, 3, 2, answer);
    assert_eq!(pieces(&said.to(3)), [(40, round)]);
    assert!(node.sends_snapshot());
    let answer = has(&node, meta.bytes, round);
    let said = step(&mut node, 3, 2, answer);
    assert!(said.notes.contains(&Note::SentSnapshot { to: id(3), last: meta.last }));
    let (prev, entries, ..) = appends(&said.to(3)).remove(0);
    assert_eq!((prev, entries.len()), (at(2, 8), 1), "and on from there");
    assert_eq!(state_of(&node, 3), ProgressState::Replicate);
    assert!(!node.sends_snapshot());
}

/// A follower counts for nothing that it has not installed.
#[test]
fn a_snapshot_under_way_counts_for_nothing() {
    let (mut node, _) = sending();
    let meta = node.snapshot().unwrap().clone();
    node.propose(b"y".to_vec()).unwrap();
    drain(&mut node);
    let commit = node.commit();
    let round = node.current_round();
    let answer = has(&node, meta.bytes - 1, round);
    step(&mut node, 3, 2, answer);
    let matched = |node: &Node| node.progress().find(|(n, _)| *n == id(3)).unwrap().1.matched;
    assert_eq!((matched(&node), node.commit()), (LogIndex(0), commit));
    let answer = has(&node, meta.bytes, round);
    step(&mut node, 3, 2, answer);
    assert_eq!(matched(&node), meta.last.index);
}

/// Heartbeats go on; a piece is sent again only when something sent after it was answered and it
/// was not: on a slow link it may simply not be there yet.
#[test]
fn a_lost_piece_is_sent_again_once_a_later_round_is_answered() {
    let (mut node, _) = sending();
    let sent = node.current_round();
    for _ in 0..3 {
        let said = next_round(&mut node);
        let heartbeat = |m: &Message| matches!(m.body, Body::Heartbeat { .. });
        assert!(said.to(3).iter().all(heartbeat) && said.to(3).len() == 1, "{:?}", said.to(3));
        // The voters answer, or it would step down.
        let round = node.current_round();
        step(&mut node, 2, 2, Body::HeartbeatAnswer { round, promise_ms: 180 });
    }
    let answer = |round| Body::HeartbeatAnswer { round, promise_ms: 180 };
    assert_eq!(pieces(&step(&mut node, 3, 2, answer(sent)).to(3)), [], "it was sent before");
    let said = step(&mut node, 3, 2, answer(sent + 1));
    assert_eq!(pieces(&said.to(3)), [(0, sent + 3)]);
    let said = step(&mut node, 3, 2, answer(sent + 2));
    assert_eq!(pieces(&said.to(3)), [], "one in flight");
}

/// When the link breaks the transfer goes on where it was.
#[test]
fn a_broken_link_resumes_where_it_was() {
    let (mut node, _) = sending();
    let round = node.current_round();
    let answer = has(&node, 80, round);
    step(&mut node, 3, 2, answer);
    node.peer_unreachable(id(3));
    assert_eq!(pieces(&drain(&mut node).to(3)), [(80, round)]);
}

/// A follower that restarted has nothing; only an answer to something later than its last progress
/// proves that.
#[test]
fn a_follower_that_restarts_begins_again() {
    let (mut node, _) = sending();
    let round = node.current_round();
    for received in [40, 80] {
        let answer = has(&node, received, round);
        step(&mut node, 3, 2, answer);
    }
    let overtaken = has(&node, 40, round);
    assert_eq!(pieces(&step(&mut node, 3, 2, overtaken).to(3)), []);
    next_round(&mut node);
    let restarted = has(&node, 0, round + 1);
    assert_eq!(pieces(&step(&mut node, 3, 2, restarted).to(3)), [(0, round + 1)]);
}

/// A newer snapshot takes the place of the one that was being sent, whose bytes are gone.
#[test]
fn a_newer_snapshot_starts_the_transfer_again() {
    let (mut node, _) = sending();
    let round = node.current_round();
    let old = has(&node, 80, round);
    step(&mut node, 3, 2, old.clone());
    node.propose(b"y".to_vec()).unwrap();
    drain(&mut node);
    step(&mut node, 2, 2, accepted(9, round));
    compact(&mut node, 0);
    assert_eq!(pieces(&drain(&mut node).to(3)), [(0, round)]);
    assert_eq!(pieces(&step(&mut node, 3, 2, old).to(3)), [], "of another snapshot");
}

/// A leader cannot tell a follower that is behind its log from one that forgot, where it dropped
/// what they would differ in; so it says nothing, and sends the snapshot.
#[test]
fn a_follower_at_a_dropped_entry_did_not_forget() {
    let mut node = leader();
    let round = node.current_round();
    step(&mut node, 3, 2, accepted(2, round));
    for _ in 0..6 {
        node.propose(b"x".to_vec()).unwrap();
    }
    drain(&mut node);
    step(&mut node, 2, 2, accepted(8, round));
    fall_silent(&mut node);
    compact(&mut node, 0);
    let round = node.current_round();
    let said = step(&mut node, 3, 2, rejected(8, at(2, 2), round));
    let forgot = |note: &Note| matches!(note, Note::ForgotEntries { .. });
    assert!(!said.notes.iter().any(forgot), "{:?}", said.notes);
    assert_eq!(pieces(&said.to(3)), [(0, round)]);
}

/// What a live follower has not acknowledged stays, however little is to be kept: it is on its way,
/// or will be. Who is silent is not waited for.
#[test]
fn a_live_follower_is_not_made_to_need_a_snapshot() {
    let follower_at_4 = || {
        let mut node = leader();
        for _ in 0..6 {
            node.propose(b"x".to_vec()).unwrap();
        }
        drain(&mut node);
        let round = node.current_round();
        step(&mut node, 3, 2, accepted(4, round));
        step(&mut node, 2, 2, accepted(8, round));
        node
    };
    let mut node = follower_at_4();
    assert_eq!(compact(&mut node, 0), Some(at(2, 4)));
    assert_eq!(state_of(&node, 3), ProgressState::Replicate);
    let mut node = follower_at_4();
    assert_eq!(compact(&mut node, 6), Some(at(2, 2)), "more, if more is to be kept");
    let mut node = follower_at_4();
    fall_silent(&mut node);
    assert_eq!(compact(&mut node, 0), Some(at(2, 8)));
}

/// One that did forget is told of, and does not count before it has all again.
#[test]
fn a_follower_that_forgot_gets_the_snapshot_and_does_not_count_for_it() {
    let mut node = leader();
    let round = node.current_round();
    for _ in 0..6 {
        node.propose(b"x".to_vec()).unwrap();
    }
    drain(&mut node);
    for (peer, matched) in [(2, 7), (3, 8)] {
        step(&mut node, peer, 2, accepted(matched, round));
    }
    // Committed is 8, by node 3. The snapshot stands for what was applied up to 7.
    let (last, membership) = node.snapshot_point(LogIndex(7)).unwrap();
    node.compact(describe_state(&state(last), membership).0, 0);
    next_round(&mut node);
    let said = step(&mut node, 3, 2, rejected(8, EntryId::default(), round + 1));
    let forgot = Note::ForgotEntries { node: id(3), acknowledged: LogIndex(8), holds: LogIndex(0) };
    assert!(said.notes.contains(&forgot), "{:?}", said.notes);
    assert_eq!(pieces(&said.to(3)).len(), 1);
    next_round(&mut node);
    let bytes = node.snapshot().unwrap().bytes;
    let answer = has(&node, bytes, round + 2);
    step(&mut node, 3, 2, answer);
    node.propose(b"y".to_vec()).unwrap();
    drain(&mut node);
    assert_eq!(node.transfer_leadership(id(3)), Ok(()));
    assert_eq!(drain(&mut node).to(3), [], "it does not count: it is not told to campaign");
}

/// A follower behind the log's start is not caught up, whatever it answers.
#[test]
fn a_learner_is_not_promoted_before_it_has_the_snapshot() {
    let mut node = compacted_leader(6, 0);
    node.propose_membership(MembershipChange::AddLearner(id(4)), vec![]).unwrap();
    drain(&mut node);
    let round = node.current_round();
    step(&mut node, 2, 2, accepted(9, round));
    step(&mut node, 4, 2, rejected(8, EntryId::default(), round));
    assert_eq!(state_of(&node, 4), ProgressState::Snapshot);
    let promote = MembershipChange::Promote(id(4));
    assert_eq!(node.propose_membership(promote, vec![]), Err(ProposeError::NotCaughtUp(id(4))));
    let bytes = node.snapshot().unwrap().bytes;
    let answer = has(&node, bytes, round);
    step(&mut node, 4, 2, answer);
    assert!(node.propose_membership(promote, vec![]).is_ok());
}

/// §7, InstallSnapshot: pieces are put together in order; whatever else comes is answered with how
/// far this node is.
#[test]
fn pieces_are_taken_in_order() {
    let mut node = fresh();
    let (meta, data) = snapshot(at(1, 9));
    let mut send = |offset: usize, len: usize| {
        let said = step(&mut node, 2, 1, piece(&meta, offset as u64, &data[offset..offset + len]));
        assert!(said.snapshot.is_none());
        received(&said.messages)
    };
    assert_eq!(send(40, 40), [0], "the first is missing");
    assert_eq!(send(0, 40), [40]);
    assert_eq!(send(0, 40), [40], "again");
    assert_eq!(send(80, 10), [40], "one is missing");
    assert_eq!(send(40, 60), [100]);
    assert_eq!(send(100, 0), [100], "nothing came");
}

/// §7: the snapshot takes the place of the log, and its membership that of the log's. What says so
/// is a promise: it leaves only when all of it is durable.
#[test]
fn a_whole_snapshot_is_installed_before_it_is_acknowledged() {
    let mut node = voter(1, 1, log_of(&[1, 1, 1]));
    step(&mut node, 2, 1, append(at(1, 4), vec![], 2));
    let last = at(2, 9);
    let membership = Membership { voters: ids(&[1, 2, 4]), learners: ids(&[5]) };
    let (meta, data) = describe_state(&state(last), membership.clone());
    step(&mut node, 4, 3, piece(&meta, 0, &data[..40]));
    node.step(id(4), Message { term: Term(3), body: piece(&meta, 40, &data[40..]) });
    let mut ready = node.ready().unwrap();
    assert_eq!(ready.messages, []);
    assert_eq!(ready.snapshot.take(), Some((meta.clone(), data)));
    let hard_state = HardState { term: Term(3), vote: None, commit: LogIndex(9) };
    assert_eq!((ready.hard_state, ready.must_sync), (Some(hard_state), true));
    assert!(ready.entries.is_empty() && ready.committed.is_empty());
    let stored = Durable::attest();
    let promises = ready.promises(&stored);
    assert_eq!(received(&promises), [meta.bytes]);
    node.advance(stored);
    assert_eq!((node.last(), node.commit(), node.term()), (last, LogIndex(9), Term(3)));
    assert_eq!((node.membership(), node.committed_membership()), (&membership, &membership));
    assert_eq!(node.snapshot(), Some(&meta));
    // It is the leader's log: a heartbeat that says so is believed, and the log goes on behind it.
    let follows = |said: Said| matches!(said.to(4)[0].body, Body::HeartbeatAnswer { .. });
    assert!(follows(step(&mut node, 4, 3, heartbeat(9))));
    let said = step(&mut node, 4, 3, append(last, vec![entry(3, 10)], 9));
    assert_eq!(results(&said.to(4)), [AppendResult::Accepted { matched: LogIndex(10) }]);
    let said = step(&mut node, 4, 3, heartbeat(10));
    assert_eq!(said.committed, [entry(3, 10)]);
}

/// What was appended behind the snapshot before it is durable goes to the disk with it.
#[test]
fn entries_may_follow_in_the_same_ready() {
    let mut node = fresh();
    let (meta, data) = snapshot(at(1, 9));
    node.step(id(2), Message { term: Term(1), body: piece(&meta, 0, &data) });
    let body = append(at(1, 9), vec![entry(1, 10)], 10);
    node.step(id(2), Message { term: Term(1), body });
    let ready = node.ready().unwrap();
    assert!(ready.snapshot.is_some() && ready.committed.is_empty());
    assert_eq!(ready.entries, [entry(1, 10)]);
    node.advance(Durable::attest());
    assert_eq!(drain(&mut node).committed, [entry(1, 10)]);
}

/// A snapshot that comes whole while a `Ready` is being carried out waits for the next.
#[test]
fn a_snapshot_waits_for_the_ready_at_hand() {
    let mut node = fresh();
    node.step(id(2), Message { term: Term(1), body: append(at(1, 1), vec![entry(1, 2)], 2) });
    let first = node.ready().unwrap();
    assert_eq!(first.entries, [entry(1, 2)]);
    let (meta, data) = snapshot(at(1, 9));
    node.step(id(2), Message { term: Term(1), body: piece(&meta, 0, &data) });
    assert!(node.ready().is_none());
    node.advance(Durable::attest());
    let second = node.ready().unwrap();
    assert_eq!(second.snapshot.unwrap().0, meta);
    assert!(second.entries.is_empty() && second.committed.is_empty());
    node.advance(Durable::attest());
    assert_eq!(node.last(), at(1, 9));
}

/// What is committed here is not replaced: the leader is told that all of it is here, and once what
/// it relies on is durable.
#[test]
fn a_snapshot_of_what_is_committed_is_answered_as_held() {
    let mut node = fresh();
    let body = append(at(1, 1), vec![entry(1, 2), entry(1, 3)], 3);
    node.step(id(2), Message { term: Term(1), body });
    let (meta, _) = snapshot(at(1, 2));
    node.step(id(2), Message { term: Term(1), body: piece(&meta, 0, &[]) });
    let mut ready = node.ready().unwrap();
    assert!(ready.snapshot.is_none() && received(&ready.messages).is_empty());
    assert_eq!(received(&ready.promises(&Durable::attest())), [meta.bytes]);
    assert_eq!(node.last(), at(1, 3));
    node.advance(Durable::attest());
    // Also where it was dropped.
    drain(&mut node);
    compact(&mut node, 0);
    let said = step(&mut node, 2, 1, piece(&meta, 0, &[]));
    assert_eq!(received(&said.promises), [meta.bytes]);
}

/// §7: a log that holds the entry with which the snapshot ends keeps it and what follows, and
/// learns that it is committed.
#[test]
fn a_log_that_holds_the_end_of_the_snapshot_stays() {
    let mut node = voter(1, 1, log_of(&[1, 1, 1]));
    let (meta, data) = snapshot(at(1, 3));
    let said = step(&mut node, 2, 1, piece(&meta, 0, &data[..20]));
    assert_eq!(received(&said.promises), [meta.bytes]);
    assert!(said.snapshot.is_none());
    assert_eq!((node.last(), node.commit()), (at(1, 4), LogIndex(3)));
    assert_eq!(said.committed.len(), 3);
    let said = step(&mut node, 2, 1, heartbeat(3));
    assert!(matches!(said.to(2)[0].body, Body::HeartbeatAnswer { .. }), "it is known to be equal");
}

/// The log may reach the snapshot's end by itself while the snapshot comes: then it is let go.
#[test]
fn a_snapshot_overtaken_by_the_log_is_let_go() {
    let mut node = fresh();
    let (meta, data) = snapshot(at(1, 3));
    step(&mut node, 2, 1, piece(&meta, 0, &data[..20]));
    step(&mut node, 2, 1, append(at(1, 1), vec![entry(1, 2), entry(1, 3), entry(1, 4)], 4));
    let said = step(&mut node, 2, 1, piece(&meta, 20, &data[20..]));
    assert!(said.snapshot.is_none());
    assert_eq!(received(&said.promises), [meta.bytes]);
    assert_eq!(node.last(), at(1, 4));
}

/// The next leader goes on where the former one was, if it has the same snapshot; with another, it
/// begins at the beginning.
#[test]
fn another_leader_resumes_the_same_snapshot() {
    let mut node = fresh();
    let (meta, data) = snapshot(at(1, 9));
    step(&mut node, 2, 1, piece(&meta, 0, &data[..100]));
    let said = step(&mut node, 3, 2, piece(&meta, 0, &data[..40]));
    assert_eq!(received(&said.promises), [100], "after the new term is durable");
    let (other, _) = snapshot(at(1, 8));
    let said = step(&mut node, 3, 2, piece(&other, 100, &data[100..]));
    assert_eq!(received(&said.messages), [0]);
    let said = step(&mut node, 3, 2, piece(&meta, 100, &data[100..]));
    assert_eq!(received(&said.messages), [0], "only one is kept");
}

/// Bytes that are not those announced are not installed: they are asked for again.
#[test]
fn a_damaged_snapshot_is_asked_for_again() {
    let mut node = fresh();
    let (meta, mut data) = snapshot(at(1, 9));
    data[50] ^= 1;
    let said = step(&mut node, 2, 1, piece(&meta, 0, &data));
    assert!(said.snapshot.is_none());
    assert_eq!(received(&said.messages), [0]);
    assert!(said.notes.contains(&Note::DamagedSnapshot { leader: id(2), last: at(1, 9) }));
    data[50] ^= 1;
    assert!(step(&mut node, 2, 1, piece(&meta, 0, &data)).snapshot.is_some());
}

/// What no correct leader sends is ignored, or noted, and never installed. A snapshot's size is not
/// believed before its bytes are there.
#[test]
fn lies_are_ignored() {
    let (meta, data) = snapshot(at(1, 9));
    let membership = |voters: &[u32], learners: &[u32]| Membership {
        voters: ids(voters),
        learners: ids(learners),
    };
    let crowd: Vec<u32> = (1..=MEMBERS_MAX as u32 + 1).collect();
    for lie in [
        SnapshotMeta { bytes: 0, ..meta.clone() },
        SnapshotMeta { bytes: SNAPSHOT_BYTES_MAX + 1, ..meta.clone() },
        SnapshotMeta { last: at(0, 9), ..meta.clone() },
        SnapshotMeta { last: at(1, 0), ..meta.clone() },
        SnapshotMeta { last: at(2, 9), ..meta.clone() },
        SnapshotMeta { last: at(1, u64::MAX), ..meta.clone() },
        SnapshotMeta { membership: membership(&[], &[1]), ..meta.clone() },
        SnapshotMeta { membership: membership(&[1, 2], &[2]), ..meta.clone() },
        SnapshotMeta { membership: membership(&crowd, &[]), ..meta.clone() },
    ] {
        let mut node = fresh();
        let said = step(&mut node, 2, 1, piece(&lie, 0, &data));
        assert!(said.snapshot.is_none() && said.to(2).is_empty(), "{lie:?}: {said:?}");
        assert_eq!(node.last(), at(1, 1));
    }
    let mut node = fresh();
    let huge = SnapshotMeta { bytes: SNAPSHOT_BYTES_MAX, ..meta.clone() };
    let said = step(&mut node, 2, 1, piece(&huge, u64::MAX, &data));
    assert_eq!(received(&said.messages), [0]);
    let long = vec![0; SNAPSHOT_CHUNK_BYTES + 1];
    assert!(step(&mut node, 2, 1, piece(&huge, 0, &long)).to(2).is_empty());
    let short = SnapshotMeta { bytes: 10, ..meta };
    let said = step(&mut node, 2, 1, piece(&short, 0, &data));
    assert_eq!(received(&said.messages), [0], "more than there is");
}

/// A snapshot that contradicts what is committed here is not taken.
#[test]
fn a_snapshot_that_contradicts_what_is_committed_is_noted() {
    let committed = || {
        let mut node = voter(1, 3, log_of(&[2, 3]));
        step(&mut node, 2, 3, append(at(3, 3), vec![], 3));
        node
    };
    for (last, index) in [(at(1, 2), 2), (at(2, 9), 3)] {
        let mut node = committed();
        let (meta, data) = snapshot(last);
        let said = step(&mut node, 2, 3, piece(&meta, 0, &data));
        let noted = Note::Contradiction { leader: id(2), index: LogIndex(index) };
        assert!(said.notes.contains(&noted), "{:?}", said.notes);
        assert!(said.snapshot.is_none() && node.last() == at(3, 3));
    }
}

/// A deposed leader learns of the newer term when it sends a snapshot, too.
#[test]
fn a_piece_of_an_old_term_is_answered_in_the_new_one() {
    let mut node = voter(1, 5, log_of(&[]));
    let (meta, data) = snapshot(at(1, 9));
    let said = step(&mut node, 2, 4, piece(&meta, 0, &data));
    assert_eq!(said.to(2).iter().map(|message| message.term).collect::<Vec<_>>(), [Term(5)]);
    assert!(received(&said.messages).is_empty() && said.snapshot.is_none());
}

/// A leader believes no answer that no follower could give.
#[test]
fn senseless_answers_move_nothing() {
    let (mut node, _) = sending();
    let bytes = node.snapshot().unwrap().bytes;
    let round = node.current_round();
    let other = Body::SnapshotAnswer { round, promise_ms: 180, last: at(2, 7), received: bytes };
    for body in [has(&node, bytes + 1, round), has(&node, 40, round + 7), other] {
        let said = step(&mut node, 3, 2, body);
        assert_eq!(pieces(&said.to(3)), []);
        assert_eq!(state_of(&node, 3), ProgressState::Snapshot);
    }
    let round = node.current_round();
    let stranger = has(&node, bytes, round);
    assert_eq!(step(&mut node, 9, 2, stranger).to(9), []);
}

fn restored(term: u64, last: EntryId, base: EntryId, entries: Vec<Entry>) -> Restored {
    let hard_state = HardState { term: Term(term), vote: Some(id(2)), commit: LogIndex(0) };
    Restored { hard_state, snapshot: Some(snapshot(last).0), base, entries }
}

/// A node goes on from its snapshot: what it stands for is committed and not handed out again.
#[test]
fn a_restart_goes_on_behind_the_snapshot() {
    let entries = vec![entry(1, 4), entry(1, 5), entry(2, 6)];
    let restored = restored(2, at(1, 5), at(1, 3), entries);
    let mut node = Node::new(config(1), restored, 1).unwrap();
    assert_eq!((node.commit(), node.last(), node.term()), (LogIndex(5), at(2, 6), Term(2)));
    assert_eq!(node.membership().voters, ids(&[1, 2, 3]));
    assert!(drain(&mut node).committed.is_empty());
    let said = step(&mut node, 2, 2, append(at(2, 6), vec![], 6));
    assert_eq!(said.committed, [entry(2, 6)]);
    assert_eq!(node.snapshot().unwrap().last, at(1, 5));
}

/// A crash may leave the snapshot without the term in which it came. Nothing was promised in that
/// term, so it is a new one.
#[test]
fn a_snapshot_may_be_newer_than_the_term() {
    let mut node = Node::new(config(1), restored(2, at(4, 9), at(4, 9), vec![]), 1).unwrap();
    node.set_may_vote(true);
    assert_eq!(node.term(), Term(4));
    let said = drain(&mut node);
    assert_eq!(said.hard_state, Some(HardState { term: Term(4), vote: None, commit: LogIndex(9) }));
}

/// A log and a snapshot that do not fit together are refused: entries would be missing.
#[test]
fn a_gap_between_snapshot_and_log_is_refused() {
    let entries = || vec![entry(1, 4), entry(1, 5)];
    let none = Restored { base: at(1, 3), entries: entries(), ..Restored::default() };
    let hard_state = HardState { term: Term(1), ..HardState::default() };
    for broken in [
        Restored { hard_state, ..none },
        restored(1, at(1, 2), at(1, 3), entries()),
        restored(1, at(1, 6), at(1, 3), entries()),
        restored(2, at(2, 5), at(1, 3), entries()),
        restored(2, at(2, 3), at(1, 3), entries()),
    ] {
        let error = Node::new(config(1), broken, 1).unwrap_err();
        assert!(matches!(error, ConfigError::SnapshotApart { .. }), "{error}");
        assert!(error.to_string().contains("does not fit the snapshot"), "{error}");
    }
    let mut bad = restored(1, at(1, 3), at(1, 3), entries());
    bad.snapshot.as_mut().unwrap().bytes = 0;
    let error = Node::new(config(1), bad, 1).unwrap_err();
    assert_eq!(error.to_string(), "restored snapshot at entry 3 of term 1 is not valid");
    let behind = restored(1, at(1, 3), at(1, 3), vec![entry(1, 5)]);
    assert!(matches!(Node::new(config(1), behind, 1), Err(ConfigError::LogBroken { .. })));
}

/// A whole cluster: one far behind and a new one catch up by snapshot, and hold the same state.
#[test]
fn a_node_far_behind_and_a_new_one_catch_up() {
    let mut cluster = Cluster::new(3);
    cluster.win(1);
    cluster.stabilize();
    cluster.crash(3);
    for n in 0..20u8 {
        cluster.node(1).propose(vec![n]).unwrap();
        cluster.stabilize();
    }
    cluster.run(ELECTION);
    for node in [1, 2] {
        cluster.snapshot(node, 0);
    }
    cluster.add(4, None);
    cluster.node(1).propose_membership(MembershipChange::AddLearner(id(4)), vec![]).unwrap();
    cluster.restart(3);
    cluster.run(3 * HEARTBEAT);
    let state = encode(&cluster.servers[&id(1)].state);
    for node in [2, 3, 4] {
        assert_eq!(encode(&cluster.servers[&id(node)].state), state, "node {node}");
    }
    assert!(cluster.servers[&id(3)].disk.snapshot.is_some());
    assert_eq!(cluster.node(4).role(), RoleKind::Learner);
    // The new one's first entry is the one behind the snapshot.
    assert_eq!(cluster.servers[&id(4)].disk.base, at(2, 22));
    for node in [2, 3, 4] {
        cluster.crash(node);
        cluster.restart(node);
    }
    cluster.run(3 * HEARTBEAT);
    for node in [2, 3, 4] {
        assert_eq!(encode(&cluster.servers[&id(node)].state), state, "node {node}, restarted");
    }
}

/// The leader changes while a snapshot is under way; the next one has the same and goes on with it.
#[test]
fn a_transfer_goes_on_under_the_next_leader() {
    let mut cluster = Cluster::new(4);
    cluster.win(1);
    cluster.stabilize();
    cluster.crash(4);
    for n in 0..20u8 {
        cluster.node(1).propose(vec![n]).unwrap();
        cluster.stabilize();
    }
    cluster.run(ELECTION);
    for node in [1, 2, 3] {
        cluster.snapshot(node, 0);
    }
    cluster.restart(4);
    let has = |cluster: &Cluster, text: &str| cluster.trace.iter().any(|line| line.contains(text));
    for _ in 0..10 * HEARTBEAT {
        let up = cluster.up();
        cluster.tick(&up);
        while !has(&cluster, "has 120") && cluster.deliver_one() {}
    }
    assert!(has(&cluster, "has 120"), "{}", cluster.trace.join("\n"));
    cluster.crash(1);
    cluster.network.clear();
    cluster.win(2);
    cluster.trace.clear();
    cluster.run(3 * HEARTBEAT);
    let all = cluster.trace.join("\n");
    assert!(has(&cluster, "bytes 0..40 of 352"), "the first piece asks: {all}");
    assert!(!has(&cluster, "bytes 40..80") && has(&cluster, "bytes 120..160"), "{all}");
    assert_eq!(cluster.servers[&id(4)].state, cluster.servers[&id(2)].state);
}

/// A snapshot from the leader that is not stored yet overtakes one of this node's own: nothing that
/// is stored may be dropped for it.
#[test]
fn a_snapshot_overtaken_by_the_leaders_drops_nothing() {
    let mut node = fresh();
    step(&mut node, 2, 1, append(at(1, 1), vec![entry(1, 2), entry(1, 3)], 3));
    let (last, membership) = node.snapshot_point(LogIndex(3)).unwrap();
    let (own, _) = describe_state(&state(last), membership);
    let (meta, data) = snapshot(at(1, 9));
    node.step(id(2), Message { term: Term(1), body: piece(&meta, 0, &data) });
    assert_eq!(node.compact(own, 0), None);
    assert_eq!(node.snapshot(), Some(&meta));
}
