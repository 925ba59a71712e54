//! Who asks the cluster for something: operators, and whoever repairs what was wiped.

use std::collections::BTreeMap;

use pgraft::cluster::{Answer, FailureKind, Request};

use crate::mix::{WISHES, Wish};
use crate::nemesis::Mend;
use crate::world::{What, World, address, id};

/// Nodes that exist on paper only: adding one makes an entry.
const ABSENT: [u32; 3] = [21, 22, 23];
/// How long they wait for an answer.
const PATIENCE_MS: u32 = 3000;

/// The questions under way, and the answers that a test waits for.
#[derive(Debug, Default)]
pub struct People {
    /// Numbers the questions.
    pub last_token: u64,
    /// Answers that nobody has looked at yet.
    pub answers: BTreeMap<u64, Answer>,
    /// Whether `answers` is kept.
    pub keep_answers: bool,
    /// Stops under way: when answered the server ends.
    stops: BTreeMap<u64, u32>,
}

impl World {
    /// Someone wants something.
    pub(crate) fn wish(&mut self) {
        if self.mix.wish_every_ns == 0 {
            return;
        }
        let pause = 1 + self.random.below(self.mix.wish_every_ns);
        let weights = self.mix.wishes;
        if let Some(at) = self.random.weighted(&weights) {
            self.stats.wishes += 1;
            self.ask_for(WISHES[at]);
        }
        self.schedule(self.now_ns + pause, What::Wish);
    }

    fn some_running(&mut self) -> Option<u32> {
        let leader = self.leader();
        if leader.is_some() && self.random.coin() {
            return leader;
        }
        let running: Vec<u32> =
            self.hosts.values().filter(|host| host.up.is_some()).map(|host| host.node).collect();
        (!running.is_empty()).then(|| self.random.pick(&running))
    }

    fn ask_for(&mut self, wish: Wish) {
        let Some(asked) = self.some_running() else { return };
        let all: Vec<u32> = self.hosts.keys().copied().collect();
        let (some, absent) = (self.random.pick(&all), self.random.pick(&ABSENT));
        let request = match wish {
            Wish::AddAbsent => Request::AddNode { node: id(absent), address: address(absent) },
            Wish::RemoveAbsent => Request::RemoveNode { node: id(absent), force: false },
            Wish::Add => Request::AddNode { node: id(some), address: address(some) },
            Wish::Remove => {
                let force = self.random.chance(100_000);
                // One voter more or less is a risk enough: the rest must be able to go on.
                if self.members_known() <= 3 {
                    return;
                }
                Request::RemoveNode { node: id(some), force }
            }
            Wish::Transfer => Request::TransferLeadership { node: id(some) },
            Wish::Force => Request::ForceElection,
            Wish::Stop => Request::Stop,
            Wish::PauseFailover => {
                let after = self.random.scaled(100, 15_000) * 1_000_000;
                self.schedule(self.now_ns + after, What::Mend(Mend::Unpause(asked)));
                Request::SetPaused { paused: true }
            }
            Wish::ResumeFailover => Request::SetPaused { paused: false },
            Wish::Rejoin => {
                let apart = all.into_iter().find(|&node| self.rejoin(node));
                return apart.into_iter().for_each(|node| self.mend_later(Mend::Start(node)));
            }
        };
        let token = self.request(asked, request, PATIENCE_MS);
        if wish == Wish::Stop {
            self.people.stops.insert(token, asked);
        }
    }

    /// How many voters the node that knows most knows of.
    fn members_known(&self) -> usize {
        let ups = self.hosts.values().filter_map(|host| host.up.as_ref());
        let newest = ups.max_by_key(|up| up.consensus.raft().commit());
        newest.map_or(0, |up| up.consensus.raft().membership().voters.len())
    }

    /// An answer came.
    pub(crate) fn answer_for(&mut self, host: u32, token: u64, answer: Answer) {
        if self.client_hears(token, &answer) {
            match &answer {
                Ok(_) => self.stats.answers += 1,
                Err(_) => self.stats.answers_failed += 1,
            }
            return;
        }
        match &answer {
            Ok(_) => self.stats.granted += 1,
            Err(failure) if failure.kind == FailureKind::OutcomeUnknown => self.stats.open += 1,
            Err(_) => self.stats.refused += 1,
        }
        if self.people.stops.remove(&token) == Some(host) {
            self.end_worker(host);
            self.mend_later(Mend::Start(host));
        }
        if self.people.keep_answers {
            self.people.answers.insert(token, answer);
        }
    }

    /// A process is gone: nobody answers what it was asked.
    pub(crate) fn lose_answers(&mut self, host: u32) {
        self.people.stops.retain(|_, stopping| *stopping != host);
        self.clients_lose(host);
    }
}
