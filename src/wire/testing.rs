//! Values of every kind, drawn from a seeded generator: for tests, and for the seeds of the fuzz
//! corpus.

use std::collections::BTreeMap;

use crate::cluster::request::Done;
use crate::cluster::{
    Address, Answer, Change, ClusterState, Command, Failure, FailureKind, Found, Item, Member,
    OUTCOMES_MAX, Position, Primary, Request, RequestId, Session, Switch, Timeline, Uuid,
};
use crate::raft::*;
use crate::wire::{Ask, Hello, HelloAnswer, Packet, PgRole, Refusal, Report, Standing};

/// SplitMix64: the same seed gives the same values.
#[derive(Clone, Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn bool(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Small, large and extreme numbers alike.
    fn up_to(&mut self, max: u64) -> u64 {
        match self.below(4) {
            0 => self.below(4).min(max),
            1 => max,
            _ => self.number() >> self.below(64) & max,
        }
    }

    fn option<T>(&mut self, draw: impl FnOnce(&mut Draw) -> T) -> Option<T> {
        if self.bool() { Some(draw(self)) } else { None }
    }

    fn one_of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }

    fn node(&mut self) -> NodeId {
        NodeId::new(1 + self.up_to(i32::MAX as u64 - 1) as i64).unwrap()
    }

    fn term(&mut self) -> Term {
        Term(self.up_to(i64::MAX as u64))
    }

    fn index(&mut self) -> LogIndex {
        LogIndex(self.up_to(i64::MAX as u64))
    }

    fn entry_id(&mut self) -> EntryId {
        EntryId { term: self.term(), index: self.index() }
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.below(20)).map(|_| self.number() as u8).collect()
    }

    fn text(&mut self) -> String {
        self.one_of(&["", "n1", "Zürich", "\"quoted\" %s $1; --", "日本"]).to_owned()
    }

    fn address(&mut self) -> Address {
        let host = self.one_of(&["localhost", "::1", "10.0.0.1", "a"]);
        Address::new(host, 1 + self.up_to(65534) as u16).unwrap()
    }

    fn uuid(&mut self) -> Uuid {
        Uuid::from_random(std::array::from_fn(|_| self.number() as u8))
    }

    fn member(&mut self) -> Member {
        Member {
            id: self.node(),
            name: self.text(),
            raft_address: self.address(),
            pg_address: self.option(Draw::address),
            directory: self.option(Draw::uuid),
            system_identifier: self.option(Draw::number),
            voter: self.bool(),
        }
    }

    fn membership(&mut self) -> Membership {
        let voters = (0..1 + self.below(4)).map(|_| self.node()).collect();
        let mut membership = Membership { voters, ..Membership::default() };
        let learners: Vec<NodeId> = (0..self.below(3)).map(|_| self.node()).collect();
        let new = learners.into_iter().filter(|node| !membership.voters.contains(node));
        membership.learners = new.collect();
        membership
    }

    /// A snapshot's description.
    pub fn snapshot_meta(&mut self) -> SnapshotMeta {
        SnapshotMeta {
            last: EntryId { term: Term(1 + self.below(9)), index: LogIndex(1 + self.below(99)) },
            membership: self.membership(),
            bytes: 1 + self.up_to(SNAPSHOT_BYTES_MAX - 1),
            checksum: self.number() as u32,
        }
    }

    /// A state of the cluster.
    pub fn state(&mut self) -> ClusterState {
        let members = (0..self.below(5)).map(|_| self.member());
        let members = members.map(|member| (member.id, member)).collect();
        let mut state = ClusterState {
            applied: self.index(),
            uuid: self.option(Draw::uuid),
            members,
            primary: self.option(Draw::primary),
            timelines: (0..self.below(4)).map(|_| self.timeline()).collect(),
            paused: self.bool(),
            synchronous: self.bool(),
            ..ClusterState::default()
        };
        let items: BTreeMap<String, Item> =
            (0..self.below(4)).map(|_| (self.key(), self.item())).collect();
        state.store = items.into();
        let sessions: BTreeMap<NodeId, Session> =
            (0..self.below(3)).map(|_| (self.node(), self.session())).collect();
        state.sessions = sessions.into();
        let gone: Vec<NodeId> = (0..self.below(3)).map(|_| self.node()).collect();
        state.removed = gone.into_iter().filter(|n| !state.members.contains_key(n)).collect();
        state
    }

    fn key(&mut self) -> String {
        self.one_of(&["a", "lock/primary", "Zürich", "日本"]).to_owned()
    }

    fn value(&mut self) -> String {
        match self.below(4) {
            0 => "v".repeat(self.below(300) as usize),
            _ => self.text(),
        }
    }

    /// A change of the store.
    pub fn change(&mut self) -> Change {
        match self.below(3) {
            0 => Change::Put { key: self.key(), value: self.value() },
            1 => Change::Delete { key: self.key() },
            _ => Change::Cas {
                key: self.key(),
                expected: self.option(Draw::value),
                value: self.value(),
            },
        }
    }

    /// The name of a request.
    pub fn request_id(&mut self) -> RequestId {
        let oldest = self.up_to(u64::MAX - OUTCOMES_MAX);
        RequestId {
            node: self.node(),
            directory: self.uuid(),
            session: self.number(),
            serial: oldest + self.up_to(OUTCOMES_MAX - 1),
            oldest,
        }
    }

    fn item(&mut self) -> Item {
        Item {
            value: self.value(),
            version: self.number(),
            mod_index: self.index(),
            term: self.term(),
        }
    }

    fn session(&mut self) -> Session {
        let oldest = self.up_to(u64::MAX - OUTCOMES_MAX);
        let closed = self.bool();
        let outcomes = if closed { 0 } else { self.below(4) };
        let mut outcome = || (oldest + self.up_to(OUTCOMES_MAX - 1), self.bool());
        let outcomes = (0..outcomes).map(|_| outcome()).collect();
        let (directory, session) = (self.uuid(), self.number());
        Session { directory, session, closed, oldest, outcomes }
    }

    fn found(&mut self) -> Found {
        match self.below(4) {
            0 => Found::Nothing,
            1 => Found::Value(self.option(Draw::value)),
            2 => Found::Keys((0..self.below(3)).map(|_| self.key()).collect()),
            _ => {
                let items: BTreeMap<String, Item> =
                    (0..self.below(3)).map(|_| (self.key(), self.item())).collect();
                Found::Items(items.into_iter().collect())
            }
        }
    }

    fn entry(&mut self, id: EntryId) -> Entry {
        let payload = match self.below(3) {
            0 => Payload::Empty,
            1 => Payload::Command(self.bytes()),
            _ => Payload::Membership { membership: self.membership(), command: self.bytes() },
        };
        Entry { id, payload }
    }

    /// A log entry, of small term and index.
    pub fn any_entry(&mut self) -> Entry {
        let id = EntryId { term: Term(1 + self.below(9)), index: LogIndex(1 + self.below(99)) };
        self.entry(id)
    }

    fn switch(&mut self) -> Switch {
        Switch { timeline: self.number() as u32, ends: self.number() }
    }

    fn timeline(&mut self) -> (u32, Timeline) {
        let known = Timeline { epoch: self.number(), fork: self.option(Draw::switch) };
        (self.number() as u32, known)
    }

    /// A command.
    pub fn command(&mut self) -> Command {
        match self.below(10) {
            0 => Command::Genesis {
                cluster: self.uuid(),
                members: (0..self.below(4)).map(|_| self.member()).collect(),
            },
            1 => Command::AddLearner { member: self.member() },
            2 => Command::Promote { node: self.node() },
            3 => Command::Remove { node: self.node() },
            4 => Command::Update { member: self.member() },
            5 => Command::SetPrimary { primary: self.primary() },
            6 => Command::SetPaused { paused: self.bool() },
            7 => Command::SetSynchronous { synchronous: self.bool() },
            8 => Command::SetFork { timeline: self.number() as u32, fork: self.switch() },
            _ => Command::Store { id: self.request_id(), change: self.change() },
        }
    }

    /// A request.
    pub fn request(&mut self) -> Request {
        match self.below(13) {
            0 => Request::Init,
            1 => Request::Start,
            2 => Request::Stop,
            3 => Request::SetDebug { enabled: self.bool() },
            4 => Request::ForceElection,
            5 => Request::AddNode { node: self.node(), address: self.address() },
            6 => Request::RemoveNode { node: self.node(), force: self.bool() },
            7 => Request::TransferLeadership { node: self.node() },
            8 => Request::Store { id: self.option(Draw::request_id), change: self.change() },
            9 => Request::Get { key: self.key(), consistent: self.bool() },
            11 => Request::SetPaused { paused: self.bool() },
            10 => Request::Keys { prefix: self.text(), consistent: self.bool() },
            _ => Request::Items { consistent: self.bool() },
        }
    }

    /// A request's answer.
    pub fn answer(&mut self) -> Answer {
        use FailureKind::*;
        if self.bool() {
            return Ok(Done {
                value: self.bool(),
                found: self.found(),
                notice: self.text(),
                warning: self.text(),
            });
        }
        Err(Failure {
            kind: self.one_of(&[
                InvalidValue,
                WrongState,
                Duplicate,
                Unavailable,
                OutcomeUnknown,
                Config,
                Io,
                Busy,
                Corrupt,
                StoreFull,
            ]),
            message: self.text(),
            detail: self.text(),
            hint: self.text(),
        })
    }

    fn entries_after(&mut self, prev: EntryId) -> Vec<Entry> {
        let mut id = prev;
        (0..self.below(4))
            .map(|_| {
                id = EntryId { term: Term(id.term.0 + 1 + self.below(2)), index: id.index.next() };
                self.entry(id)
            })
            .collect()
    }

    fn body(&mut self) -> Body {
        match self.below(11) {
            0 => Body::RequestVote {
                last: self.entry_id(),
                pre_vote: self.bool(),
                transfer: self.bool(),
            },
            1 => Body::VoteAnswer {
                granted: self.bool(),
                pre_vote: self.bool(),
                lease_left_ms: self.number() as u32,
            },
            2 => {
                let prev = EntryId { term: Term(self.below(9)), index: LogIndex(self.below(99)) };
                let entries = self.entries_after(prev);
                Body::AppendEntries { prev, entries, commit: self.index(), round: self.number() }
            }
            3 => Body::AppendAnswer {
                round: self.number(),
                promise_ms: self.number() as u32,
                result: match self.bool() {
                    true => AppendResult::Accepted { matched: self.index() },
                    false => AppendResult::Rejected { prev: self.index(), hint: self.entry_id() },
                },
            },
            4 => Body::Heartbeat { commit: self.index(), round: self.number() },
            5 => Body::HeartbeatAnswer { round: self.number(), promise_ms: self.number() as u32 },
            6 => Body::TimeoutNow,
            7 => Body::ReadIndex { token: self.number() },
            8 => {
                let (mut snapshot, data) = (self.snapshot_meta(), self.bytes());
                snapshot.bytes = snapshot.bytes.max(data.len() as u64);
                let offset = self.up_to(snapshot.bytes - data.len() as u64);
                Body::InstallSnapshot { snapshot, offset, data, round: self.number() }
            }
            9 => Body::SnapshotAnswer {
                round: self.number(),
                promise_ms: self.number() as u32,
                last: self.entry_id(),
                received: self.number(),
            },
            _ => Body::ReadIndexAnswer { token: self.number(), index: self.option(Draw::index) },
        }
    }

    /// A packet.
    pub fn packet(&mut self) -> Packet {
        match self.below(10) {
            0 => Packet::Report(Report {
                pg_role: self.role(),
                wal_lsn: self.number(),
                timeline: self.number() as u32,
                fork: self.option(Draw::switch),
                receiving: self.bool(),
                stopping: self.bool(),
                names_at: self.index(),
                synchronous_at: self.index(),
            }),
            1 => Packet::Forward { request_id: self.number(), request: self.request() },
            2 => Packet::Answer {
                request_id: self.number(),
                index: self.number(),
                answer: self.answer(),
            },
            3 => Packet::Forming {
                nodes: (0..self.below(5)).map(|_| self.node()).collect(),
                complete: self.bool(),
                cluster: self.option(Draw::uuid),
            },
            4 => Packet::Genesis(self.any_entry()),
            5 => Packet::AskStanding(self.ask()),
            6 => Packet::Standing { ask: self.ask(), standing: self.standing() },
            _ => Packet::Raft(Message { term: self.term(), body: self.body() }),
        }
    }

    fn ask(&mut self) -> Ask {
        Ask { term: self.term(), round: self.number(), epoch: self.number(), freeze: self.bool() }
    }

    fn role(&mut self) -> Option<PgRole> {
        self.one_of(&[None, Some(PgRole::Primary), Some(PgRole::Standby)])
    }

    fn position(&mut self) -> Position {
        let history = (0..self.below(4)).map(|_| self.switch()).collect();
        Position { timeline: self.number() as u32, lsn: self.number(), history }
    }

    fn standing(&mut self) -> Standing {
        Standing {
            pg_role: self.role(),
            position: self.position(),
            system_identifier: self.number(),
            receiving: self.bool(),
            frozen: self.bool(),
            obstacle: self.text(),
        }
    }

    fn primary(&mut self) -> Primary {
        let epoch = 1 + self.up_to(i64::MAX as u64 - 1);
        Primary { node: self.node(), epoch, timeline: self.number() as u32 }
    }

    /// A handshake's first frame.
    pub fn hello(&mut self) -> Hello {
        Hello {
            oldest: 1,
            newest: 1,
            cluster_id: self.text(),
            cluster: self.option(Draw::uuid),
            members_at: LogIndex(self.number() >> 1),
            node: self.node(),
            directory: self.uuid(),
            name: self.text(),
            raft_address: self.option(Draw::address),
            raft_port: self.number() as u16,
            pg_port: self.number() as u16,
            system_identifier: self.option(Draw::number),
            dialled: self.option(Draw::address),
            auth_method: self.number() as u8,
            challenge: std::array::from_fn(|_| self.number() as u8),
        }
    }

    /// A handshake's answer.
    pub fn hello_answer(&mut self) -> HelloAnswer {
        use Refusal::*;
        if self.bool() {
            return HelloAnswer::Accepted(self.hello());
        }
        HelloAnswer::Refused(self.one_of(&[
            Version,
            ClusterId,
            ClusterUuid,
            DuplicateNode,
            WrongDirectory,
            Removed,
            Full,
            Oneself,
            Auth,
        ]))
    }
}
