//! No message makes a node panic, whatever it says. Debug builds also check every invariant after
//! each.

use pgraft::raft::*;

use crate::support::*;

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Mostly small numbers, sometimes the largest.
    fn number(&mut self) -> u64 {
        match self.next() % 12 {
            0 => u64::MAX - self.next() % 2,
            _ => self.next() % 8,
        }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn coin(&mut self) -> bool {
        self.one_in(2)
    }

    fn id(&mut self) -> EntryId {
        at(self.number(), self.number())
    }

    fn entries(&mut self, prev: EntryId) -> Vec<Entry> {
        let mut id = prev;
        (0..self.next() % 4)
            .map(|_| {
                id = if self.one_in(8) {
                    self.id()
                } else {
                    at(id.term.0.wrapping_add(self.next() % 2), id.index.0.wrapping_add(1))
                };
                let some = |chance: &mut Chance| {
                    (1..5).filter(|_| chance.coin()).map(crate::support::id).collect()
                };
                let payload = match self.next() % 3 {
                    0 => Payload::Empty,
                    1 => Payload::Command(vec![1]),
                    _ => Payload::Membership {
                        membership: Membership { voters: some(self), learners: some(self) },
                        command: vec![],
                    },
                };
                Entry { id, payload }
            })
            .collect()
    }

    fn snapshot(&mut self) -> SnapshotMeta {
        let data = vec![0; (self.next() % 4) as usize];
        let some = |chance: &mut Chance| {
            (1..5).filter(|_| chance.coin()).map(crate::support::id).collect()
        };
        let membership = match self.coin() {
            true => Membership { voters: ids(&[1, 2, 3]), learners: ids(&[]) },
            false => Membership { voters: some(self), learners: some(self) },
        };
        let bytes = if self.one_in(8) { self.number() } else { data.len() as u64 };
        let checksum = crc32c::crc32c(&data);
        SnapshotMeta { last: self.id(), membership, bytes, checksum }
    }

    fn body(&mut self) -> Body {
        match self.next() % 12 {
            10 => Body::InstallSnapshot {
                snapshot: self.snapshot(),
                offset: self.number() / 4,
                data: vec![0; (self.next() % 4) as usize],
                round: self.number(),
            },
            11 => Body::SnapshotAnswer {
                round: self.number(),
                promise_ms: self.number() as u32,
                last: self.id(),
                received: self.number(),
            },
            0 => {
                Body::RequestVote { last: self.id(), pre_vote: self.coin(), transfer: self.coin() }
            }
            1 => Body::VoteAnswer {
                granted: self.coin(),
                pre_vote: self.coin(),
                lease_left_ms: self.number() as u32,
            },
            2 | 3 => {
                let prev = self.id();
                let entries = self.entries(prev);
                let commit = LogIndex(self.number());
                Body::AppendEntries { prev, entries, commit, round: self.number() }
            }
            4 => accepted(self.number(), self.number()),
            5 => rejected(self.number(), self.id(), self.number()),
            6 => Body::Heartbeat { commit: LogIndex(self.number()), round: self.number() },
            7 => Body::HeartbeatAnswer { round: self.number(), promise_ms: self.number() as u32 },
            8 => Body::TimeoutNow,
            _ if self.coin() => Body::ReadIndex { token: self.number() },
            _ => {
                let index = self.coin().then(|| LogIndex(self.number()));
                Body::ReadIndexAnswer { token: self.number(), index }
            }
        }
    }
}

/// Everything at random: messages, time, calls. Terms stay small for most of it, so that elections
/// are won and there is a leader to talk nonsense to.
#[test]
fn nonsense_never_panics() {
    let (mut led, mut installed, mut compacted) = (0, 0, 0);
    for seed in 1..400 {
        let mut chance = Chance(seed * 0x9e37_79b9);
        let mut node = if seed % 2 == 0 { leader() } else { fresh() };
        for _ in 0..400 {
            let term = match chance.next() % 60 {
                0 => chance.number(),
                1..=3 => node.term().0.saturating_add(1),
                _ => node.term().0,
            };
            let from = crate::support::id(1 + (chance.next() % 5) as u32);
            match chance.next() % 16 {
                0..=9 => node.step(from, Message { term: Term(term), body: chance.body() }),
                10 => (0..chance.next() % 12).for_each(|_| node.tick()),
                11 => drop(node.propose(vec![0; (chance.next() % 9) as usize])),
                12 => {
                    let change = match chance.next() % 3 {
                        0 => MembershipChange::AddLearner(from),
                        1 => MembershipChange::Promote(from),
                        _ => MembershipChange::Remove(from),
                    };
                    drop(node.propose_membership(change, vec![]));
                }
                13 => drop(node.transfer_leadership(from)),
                14 if chance.one_in(3) => {
                    let applied = LogIndex(chance.number());
                    if let Some((last, membership)) = node.snapshot_point(applied) {
                        let meta = SnapshotMeta { last, membership, bytes: 1, checksum: 0 };
                        compacted += usize::from(node.compact(meta, chance.next() % 3).is_some());
                    }
                }
                14 => match chance.next() % 5 {
                    0 => node.leader_refused(from),
                    1 => node.peer_unreachable(from),
                    2 => drop(node.force_election()),
                    3 => drop(node.read_index(chance.next() % 4)),
                    _ => node.set_may_vote(!chance.one_in(8)),
                },
                _ => {
                    if let Some(mut ready) = node.ready() {
                        let stored = Durable::attest();
                        ready.promises(&stored);
                        installed += usize::from(ready.snapshot.is_some());
                        if chance.coin() {
                            node.tick();
                        }
                        node.advance(stored);
                    }
                }
            }
            led += usize::from(node.role() == RoleKind::Leader);
        }
    }
    assert!(led > 1000, "the nonsense reached leaders too: {led}");
    assert!(installed > 10 && compacted > 10, "{installed} installed, {compacted} compacted");
}
