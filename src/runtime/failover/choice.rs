//! Which server is to be the next primary, given how far each has come. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use crate::bugs::{self, Bug};
use crate::cluster::ClusterState;
use crate::raft::NodeId;
use crate::wire::{PgRole, Standing};

/// The server to be the next primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// Whose.
    pub(super) node: NodeId,
    /// The timeline it is to write on: a new one, or its own if it is a primary, fenced, already.
    pub(super) timeline: u32,
}

/// The server whose WAL holds the most of the cluster's history; of equal ones the running
/// primary, which needs no promotion, then `me`. `Err`: why none can be it, for each.
///
/// A timeline of a later epoch is ahead of one of an earlier epoch, whatever the LSNs: each epoch's
/// primary was chosen because nothing that counts was lost on it. A timeline that no epoch has was
/// made by hand.
pub(super) fn choose(
    state: &ClusterState,
    standings: &BTreeMap<NodeId, Standing>,
    me: NodeId,
) -> Result<Choice, BTreeMap<NodeId, String>> {
    let rank = |node: NodeId, standing: &Standing| {
        let epoch = state.epoch_of(&standing.position);
        let epoch = epoch.filter(|_| !bugs::on(Bug::LongestWal));
        let runs = standing.pg_role == Some(PgRole::Primary);
        (epoch, standing.position.lsn, runs, node == me, Reverse(node))
    };
    let fit = standings.iter().filter(|(_, standing)| obstacle(state, standing).is_none());
    match fit.max_by_key(|(node, standing)| rank(**node, standing)) {
        Some((&node, best)) => {
            let timeline = match best.pg_role {
                Some(PgRole::Primary) => best.position.timeline,
                _ => next_timeline(state, standings),
            };
            Ok(Choice { node, timeline })
        }
        None => Err(standings
            .iter()
            .map(|(node, standing)| (*node, obstacle(state, standing).unwrap_or_default()))
            .collect()),
    }
}

/// Why a server cannot be primary; `None`: it can.
pub(super) fn obstacle(state: &ClusterState, standing: &Standing) -> Option<String> {
    let Standing { pg_role, position, system_identifier, .. } = standing;
    let wanted = state.primary.and_then(|primary| state.members.get(&primary.node));
    let wanted = wanted.and_then(|member| member.system_identifier);
    if pg_role.is_none() {
        Some("its server is starting".to_owned())
    } else if position.timeline == 0 {
        Some("its WAL position is unknown".to_owned())
    } else if wanted.is_some_and(|wanted| wanted != *system_identifier) {
        Some("its server holds another database cluster".to_owned())
    } else if state.epoch_of(position).is_none() {
        Some(format!("timeline {} was not begun by pgraft", position.timeline))
    } else {
        Some(standing.obstacle.clone()).filter(|obstacle| !obstacle.is_empty())
    }
}

/// Those whose WAL is no part of what `best` has: they must be rewound before they can follow it.
pub(super) fn diverged(standings: &BTreeMap<NodeId, Standing>, best: NodeId) -> Vec<NodeId> {
    let Some(chosen) = standings.get(&best) else { return Vec::new() };
    let apart = |standing: &Standing| {
        let order = standing.position.compare(&chosen.position);
        !matches!(order, Some(Ordering::Less | Ordering::Equal))
    };
    let others = standings.iter().filter(|(node, standing)| **node != best && apart(standing));
    others.map(|(node, _)| *node).collect()
}

/// A timeline that no server can have begun yet.
pub(super) fn next_timeline(state: &ClusterState, standings: &BTreeMap<NodeId, Standing>) -> u32 {
    let named = state.timelines.keys().next_back().copied();
    let seen = standings.values().map(|standing| standing.position.timeline);
    let named = named.filter(|_| !bugs::on(Bug::TimelineTwice));
    named.into_iter().chain(seen).max().unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Command, Member, Position, Primary, Switch, Uuid};
    use crate::raft::{EntryId, LogIndex, Term};

    fn id(node: u32) -> NodeId {
        NodeId::new(node.into()).unwrap()
    }

    /// Three members, of one database cluster, and these primaries one after the other.
    fn state(primaries: &[(u32, u32)]) -> ClusterState {
        let mut state = ClusterState::default();
        let member = |node| Member {
            id: id(node),
            name: String::new(),
            raft_address: crate::cluster::Address::new("localhost", 7400).unwrap(),
            pg_address: None,
            directory: None,
            system_identifier: Some(7),
            voter: true,
        };
        let members = (1..=3).map(member).collect();
        let genesis = Command::Genesis { cluster: Uuid::from_bytes([1; 16]), members };
        let named = primaries.iter().zip(1..).map(|(&(node, timeline), epoch)| {
            Command::SetPrimary { primary: Primary { node: id(node), epoch, timeline } }
        });
        for (command, index) in [genesis].into_iter().chain(named).zip(1..) {
            state.apply(EntryId { term: Term(1), index: LogIndex(index) }, Some(command));
        }
        state
    }

    fn standby(timeline: u32, lsn: u64, history: &[(u32, u64)]) -> Standing {
        let history = history.iter().map(|&(timeline, ends)| Switch { timeline, ends }).collect();
        Standing {
            pg_role: Some(PgRole::Standby),
            position: Position { timeline, lsn, history },
            system_identifier: 7,
            ..Standing::default()
        }
    }

    fn primary(timeline: u32, lsn: u64) -> Standing {
        Standing { pg_role: Some(PgRole::Primary), ..standby(timeline, lsn, &[]) }
    }

    fn chosen(state: &ClusterState, standings: &[(u32, Standing)], me: u32) -> Option<(u32, u32)> {
        let standings = standings.iter().map(|(node, s)| (id(*node), s.clone())).collect();
        let choice = choose(state, &standings, id(me)).ok()?;
        Some((choice.node.get(), choice.timeline))
    }

    #[test]
    fn the_standby_with_the_most_wal_is_promoted_onto_a_timeline_of_its_own() {
        let state = state(&[(1, 1)]);
        let standings = [(2, standby(1, 50, &[])), (3, standby(1, 60, &[]))];
        assert_eq!(chosen(&state, &standings, 2), Some((3, 2)));
    }

    #[test]
    fn of_equal_ones_the_leader_itself() {
        let state = state(&[(1, 1)]);
        let standings = [(2, standby(1, 60, &[])), (3, standby(1, 60, &[]))];
        assert_eq!(chosen(&state, &standings, 2), Some((2, 2)));
        assert_eq!(chosen(&state, &standings, 3), Some((3, 2)));
    }

    #[test]
    fn the_timeline_of_the_later_epoch_is_ahead_however_long_the_other() {
        let state = state(&[(1, 1), (2, 2)]);
        let standings = [(1, primary(1, 900)), (3, standby(2, 70, &[(1, 50)]))];
        assert_eq!(chosen(&state, &standings, 1), Some((3, 3)));
        let standings = standings.map(|(node, s)| (id(node), s)).into_iter().collect();
        assert_eq!(diverged(&standings, id(3)), [id(1)]);
    }

    #[test]
    fn a_running_primary_whose_successor_never_wrote_is_named_again_without_promotion() {
        let state = state(&[(1, 1), (2, 2)]);
        let standings = [(1, primary(1, 60)), (3, standby(1, 60, &[]))];
        assert_eq!(chosen(&state, &standings, 3), Some((1, 1)));
    }

    #[test]
    fn a_number_is_not_the_measure_of_a_timeline() {
        // Node 2 was named for timeline 2 and vanished; node 1 went on with timeline 1. 2 comes
        // back, promoted after all, and it is 1's history that counts.
        let state = state(&[(1, 1), (2, 2), (1, 1)]);
        let standings = [(2, primary(2, 900)), (3, standby(1, 80, &[]))];
        assert_eq!(chosen(&state, &standings, 2), Some((3, 3)));
    }

    #[test]
    fn who_was_promoted_by_hand_or_is_something_else_is_no_candidate() {
        let state = state(&[(1, 1)]);
        let foreign = Standing { system_identifier: 8, ..standby(1, 99, &[]) };
        let paused = Standing { obstacle: "recovery is paused".into(), ..standby(1, 99, &[]) };
        let starting = Standing { pg_role: None, ..standby(1, 99, &[]) };
        let by_hand = standby(9, 99, &[(1, 10)]);
        for bad in [foreign, paused, starting, by_hand, Standing::default()] {
            let standings = [(2, bad.clone()), (3, standby(1, 5, &[]))];
            assert_eq!(chosen(&state, &standings, 2).map(|(node, _)| node), Some(3), "{bad:?}");
            let alone = [(id(2), bad)].into_iter().collect();
            let why = choose(&state, &alone, id(2)).unwrap_err();
            assert!(why.values().all(|why| !why.is_empty()), "{why:?}");
        }
    }

    #[test]
    fn who_was_promoted_by_hand_onto_a_number_of_ours_is_no_candidate() {
        let mut state = state(&[(1, 1), (2, 2), (1, 3)]);
        for (timeline, fork) in [(2, (1, 50)), (3, (2, 60))] {
            let fork = Switch { timeline: fork.0, ends: fork.1 };
            let entry = EntryId { term: Term(1), index: state.applied.next() };
            state.apply(entry, Some(Command::SetFork { timeline, fork }));
        }
        let ends = [1, 2, 3, 9].map(|timeline| state.end_of(timeline));
        assert_eq!(ends, [Some(50), Some(60), None, None]);
        let by_hand = [
            standby(2, 900, &[(1, 40)]),
            standby(3, 900, &[(1, 40), (2, 45)]),
            standby(3, 900, &[(1, 50), (2, 45)]),
        ];
        for bad in by_hand {
            let standings = [(3, bad.clone()), (2, standby(2, 55, &[(1, 50)]))];
            assert_eq!(chosen(&state, &standings, 2), Some((2, 4)), "{bad:?}");
        }
        let standings = [(3, standby(3, 70, &[(1, 50), (2, 60)])), (2, standby(2, 55, &[(1, 50)]))];
        assert_eq!(chosen(&state, &standings, 2), Some((3, 4)));
    }

    #[test]
    fn no_promotion_gets_a_timeline_that_anyone_may_have() {
        let state = state(&[(1, 4), (2, 5)]);
        let standings = [(3, standby(4, 5, &[]))];
        assert_eq!(chosen(&state, &standings, 3), Some((3, 6)));
    }
}
