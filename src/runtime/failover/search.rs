//! The leader's search for the next primary: it asks every voter how far its server has come, until
//! it knows enough to choose.
//!
//! With `synchronous_mode` on, each server first stops receiving WAL, and the answers of a majority
//! are needed: every acknowledged commit is on a majority, and so known to one of them at least.
//! With it off, WAL that is still on its way is given until the old lease ends.

use std::collections::BTreeMap;

use crate::bugs::{self, Bug};
use crate::cluster::ClusterState;
use crate::raft::NodeId;
use crate::wire::{Ask, Packet, PgRole, Standing};

use super::choice::{choose, diverged, obstacle};
use crate::runtime::consensus::Consensus;
use crate::runtime::effects::Effects;
use crate::runtime::event::ToMain;

/// For so long an answer that is not needed is waited for: a healthy server takes some
/// milliseconds, and may know more than the others.
const PATIENCE_NS: u64 = 500_000_000;
/// Between two rounds of questions.
const ASK_EVERY_NS: u64 = 40_000_000;

/// A search under way.
#[derive(Debug)]
pub(super) struct Search {
    /// Since when who does not answer is waited for.
    since_ns: u64,
    asked_ns: u64,
    round: u64,
    /// The first round after the old lease's end, when what is still received counts no more; 0:
    /// that has not come, or does not matter.
    drained_round: u64,
    /// The latest answers. All came after the loss: the questions did.
    standings: BTreeMap<NodeId, Standing>,
    /// Why there is none yet of servers that were to receive nothing first and receive still.
    unfrozen: BTreeMap<NodeId, String>,
}

impl Search {
    fn begin(now_ns: u64) -> Search {
        Search {
            since_ns: now_ns,
            asked_ns: 0,
            round: 0,
            drained_round: 0,
            standings: BTreeMap::new(),
            unfrozen: BTreeMap::new(),
        }
    }

    pub(super) fn answered(&mut self, from: NodeId, ask: &Ask, standing: Standing) {
        if ask.freeze && !standing_holds(&standing) {
            // Of what it has, more may be acknowledged yet: only the reason is kept.
            self.unfrozen.insert(from, standing.obstacle);
            return;
        }
        let counts = is_final(&standing) || ask.round >= self.drained_round;
        if counts && ask.round <= self.round {
            self.unfrozen.remove(&from);
            self.standings.insert(from, standing);
        }
    }

    /// Who vanished since it answered cannot be chosen, and a majority must do without it.
    fn keep_only(&mut self, present: &[NodeId]) {
        self.standings.retain(|node, _| present.contains(node));
        self.unfrozen.retain(|node, _| present.contains(node));
    }

    /// What those that answered said, in words, and why those that could not did not.
    fn reasons(&self, state: &ClusterState) -> BTreeMap<NodeId, String> {
        let of = |standing| obstacle(state, standing).unwrap_or_else(|| "could be it".to_owned());
        let answers = self.standings.iter().map(|(node, standing)| (*node, of(standing)));
        let unfrozen = self.unfrozen.iter().filter(|(_, why)| !why.is_empty());
        answers.chain(unfrozen.map(|(node, why)| (*node, why.clone()))).collect()
    }
}

/// Whether nothing more can be acknowledged with this server's help: it receives nothing until a
/// primary is named, or was one itself and is fenced.
pub(super) fn standing_holds(standing: &Standing) -> bool {
    standing.frozen || standing.pg_role == Some(PgRole::Primary)
}

/// Whether it has all that it will have.
fn is_final(standing: &Standing) -> bool {
    standing_holds(standing) || (standing.pg_role.is_some() && !standing.receiving)
}

impl<E: Effects> Consensus<E> {
    /// Goes on with the search, or begins it.
    pub(super) fn search(&mut self, now_ns: u64) {
        let Some(lost) = self.cluster.primary else { return };
        if self.failover.lead.search.is_none() {
            log::warn!("the primary, node {}, is lost: looking for the next", lost.node);
            self.failover.lead.search = Some(Search::begin(now_ns));
        }
        let voters = self.node.membership().voters.clone();
        // Others may know more although this leader has not heard of them yet; the lost one, if it
        // stands still, keeps its connections.
        let connected = |node| node != lost.node && self.links.route(node).is_some();
        // A primary that does not take leadership is no candidate, and so does not count either.
        let refuses = self.refuses_leadership();
        let asked =
            |node| (self.is_alive(node) || connected(node)) && !(refuses && node == lost.node);
        let present: Vec<NodeId> = voters.iter().copied().filter(|v| asked(*v)).collect();
        let synchronous = self.cluster.synchronous;
        let answers = self.failover.lead.is_lost_one_answering();
        let Some(search) = &mut self.failover.lead.search else { return };
        search.keep_only(&present);
        // What is received when the old lease has ended was not committed under it; a receiver that
        // was cut off from its primary does not notice.
        let drained = !synchronous && now_ns >= self.lease.starts_ns();
        if drained && search.drained_round == 0 {
            search.drained_round = search.round + 1;
            search.standings.retain(|_, standing| is_final(standing));
            (search.since_ns, search.asked_ns) = (now_ns, 0);
        }
        let is_settled = |s: &Standing| is_final(s) || (drained && s.position.timeline != 0);
        let settled = search.standings.values().filter(|s| is_settled(s)).count();
        let complete = settled == present.len();
        // Who cannot be chosen may be the one that has what was acknowledged.
        let fit = |standing: &&Standing| obstacle(&self.cluster, standing).is_none();
        let enough = !synchronous
            || search.standings.values().filter(fit).count() > voters.len() / 2
            || bugs::on(Bug::StandingsOfFew);
        let patience_over = now_ns >= search.since_ns + PATIENCE_NS && (synchronous || drained);
        if enough && !search.standings.is_empty() && (complete || patience_over) {
            return self.settle_search();
        }
        if now_ns >= search.asked_ns + ASK_EVERY_NS {
            search.asked_ns = now_ns;
            search.round += 1;
            let ask = Ask {
                term: self.node.term(),
                round: search.round,
                epoch: lost.epoch,
                // One that only lost its worker still sends WAL: who got more than the next
                // primary would have to be rewound.
                freeze: (synchronous && !bugs::on(Bug::StandingNotFrozen))
                    || (answers && !patience_over),
            };
            self.failover.lead.frozen |= ask.freeze;
            let answered = |s: &Standing| is_settled(s) && fit(&s);
            let open: Vec<NodeId> = present
                .into_iter()
                .filter(|node| !search.standings.get(node).is_some_and(answered))
                .collect();
            for node in open {
                self.ask_standing(node, ask);
            }
        }
        if patience_over && !enough {
            // Without that primary it cannot be done: it is offered leadership again.
            self.failover.hand_backs = 0;
            let Some(search) = &self.failover.lead.search else { return };
            let reasons = search.reasons(&self.cluster);
            self.say_no_candidate(&reasons, "fewer than a majority answered that could be it");
        }
    }

    /// Asks `node`, which may be this one.
    pub(super) fn ask_standing(&mut self, node: NodeId, ask: Ask) {
        match node == self.identity.node {
            true => self.on_ask_standing(node, ask),
            false => self.send(node, Packet::AskStanding(ask)),
        }
    }

    fn settle_search(&mut self) {
        let Some(search) = &self.failover.lead.search else { return };
        let standings = search.standings.clone();
        match choose(&self.cluster, &standings, self.identity.node) {
            Ok(choice) => {
                let apart = diverged(&standings, choice.node);
                let lsn = standings[&choice.node].position.lsn;
                if self.name_primary(choice.node, choice.timeline) {
                    self.failover.lead.search = None;
                    self.failover.lead.reason.clear();
                    self.tell_choice(choice.node, lsn, &apart);
                }
            }
            Err(reasons) => {
                self.say_no_candidate(&reasons, "no server can be promoted");
                // Whatever it is may pass: asked again.
                if let Some(search) = &mut self.failover.lead.search {
                    search.standings.clear();
                }
            }
        }
    }

    fn tell_choice(&self, node: NodeId, lsn: u64, apart: &[NodeId]) {
        log::info!("node {node} has the most WAL: it is to be the primary");
        for other in apart {
            log::warn!("the server of node {other} has diverged and must be rewound");
        }
        if let Some((lost, report)) = self.failover.of_primary
            && !self.cluster.synchronous
        {
            let missing = report.wal_lsn.saturating_sub(lsn);
            log::warn!(
                "node {lost} had reported {missing} bytes of WAL more than node {node} has; what \
                 it wrote since its last report, up to a second before, is not counted"
            );
        }
    }

    /// Says for each member why it is not chosen.
    fn say_no_candidate(&mut self, reasons: &BTreeMap<NodeId, String>, why: &str) {
        let of = |node: &NodeId| match reasons.get(node) {
            Some(reason) => format!("node {node}: {reason}"),
            None if self.is_alive(*node) => format!("node {node}: no answer of its server"),
            None => format!("node {node}: not reached"),
        };
        let members: Vec<String> = self.cluster.members.keys().map(of).collect();
        let reason = format!("no primary: {why} ({})", members.join(", "));
        if self.failover.lead.reason != reason {
            log::warn!("{reason}");
        }
        self.failover.lead.reason = reason;
    }

    /// For this node's own search, or another's: main looks.
    pub(super) fn look_at_standing(&mut self, ask: Ask) {
        self.fx.to_main(ToMain::WantStanding(ask));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Position;

    #[test]
    fn who_was_to_be_frozen_and_is_not_has_a_reason_and_no_standing() {
        let mut search = Search { round: 2, ..Search::begin(0) };
        let node = NodeId::new(3).unwrap();
        let ask = Ask { round: 1, freeze: true, ..Ask::default() };
        let unfrozen = Standing {
            pg_role: Some(PgRole::Standby),
            position: Position { timeline: 1, lsn: 900, history: Vec::new() },
            obstacle: "no place".to_owned(),
            ..Standing::default()
        };
        // It does not even receive now: it may begin to.
        for receiving in [true, false] {
            search.answered(node, &ask, Standing { receiving, ..unfrozen.clone() });
            assert!(search.standings.is_empty());
            let said = search.reasons(&ClusterState::default());
            assert_eq!(said, BTreeMap::from([(node, "no place".to_owned())]));
        }
        let frozen = Standing { frozen: true, obstacle: String::new(), ..unfrozen };
        search.answered(node, &Ask { round: 2, ..ask }, frozen);
        assert_eq!(search.standings.len(), 1);
        assert!(search.unfrozen.is_empty());
        search.keep_only(&[]);
        assert!(search.standings.is_empty());
    }
}
