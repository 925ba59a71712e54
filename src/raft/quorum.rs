//! Majorities, as pure functions of the voters.

use crate::bugs::{self, Bug};
use std::collections::BTreeSet;

use super::types::NodeId;

/// What has become of a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum VoteResult {
    /// A majority granted it.
    Won,
    /// No majority can grant it any more.
    Lost,
    /// The missing answers decide.
    Pending,
}

/// How many of `voters` are more than half.
pub(super) fn majority(voters: usize) -> usize {
    if bugs::on(Bug::QuorumOffByOne) && voters > 1 { voters / 2 } else { voters / 2 + 1 }
}

/// The largest value that a majority of `voters` has reached; zero where there are no voters.
pub(super) fn reached_by_majority(
    voters: &BTreeSet<NodeId>,
    value_of: impl Fn(NodeId) -> u64,
) -> u64 {
    let mut values: Vec<u64> = voters.iter().map(|&voter| value_of(voter)).collect();
    values.sort_unstable_by(|a, b| b.cmp(a));
    values.get(majority(values.len()) - 1).copied().unwrap_or(0)
}

/// Counts a vote among `voters`; answers of others do not count. Without voters it is lost.
pub(super) fn vote_result(
    voters: &BTreeSet<NodeId>,
    granted: &BTreeSet<NodeId>,
    refused: &BTreeSet<NodeId>,
) -> VoteResult {
    let needed = majority(voters.len());
    let granted = voters.intersection(granted).count();
    let refused = voters.intersection(refused).count();
    if granted >= needed {
        VoteResult::Won
    } else if voters.len() - refused < needed {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::super::prng::Prng;
    use super::*;

    fn node(id: u32) -> NodeId {
        NodeId::new(i64::from(id)).unwrap()
    }

    /// The definition itself: try every value, count who has it.
    fn dumb_reached(values: &[u64]) -> u64 {
        let by = |least: u64| values.iter().filter(|value| **value >= least).count();
        values.iter().copied().filter(|v| by(*v) * 2 > values.len()).max().unwrap_or(0)
    }

    /// The definition itself: enumerate every way in which the missing answers may turn out.
    fn dumb_vote(answers: &[Option<bool>]) -> VoteResult {
        let missing: Vec<usize> = (0..answers.len()).filter(|at| answers[*at].is_none()).collect();
        let given = answers.iter().filter(|a| **a == Some(true)).count();
        let outcomes: BTreeSet<bool> = (0..1u32 << missing.len())
            .map(|way| (given + way.count_ones() as usize) * 2 > answers.len())
            .collect();
        match (outcomes.contains(&true), outcomes.contains(&false)) {
            (true, false) => VoteResult::Won,
            (false, true) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    #[test]
    fn the_fast_majority_agrees_with_the_dumb_one() {
        let mut prng = Prng::new(1);
        for _ in 0..50_000 {
            let size = prng.below(10);
            let spread = 1 + prng.below(8);
            let values: Vec<u64> = (0..size).map(|_| u64::from(prng.below(spread))).collect();
            let voters: BTreeSet<NodeId> = (1..=size).map(node).collect();
            let fast = reached_by_majority(&voters, |n| values[n.get() as usize - 1]);
            assert_eq!(fast, dumb_reached(&values), "{values:?}");
        }
    }

    #[test]
    fn the_fast_vote_count_agrees_with_the_dumb_one() {
        let mut prng = Prng::new(2);
        for _ in 0..50_000 {
            let size = prng.below(8);
            let answers: Vec<Option<bool>> = (0..size)
                .map(|_| [None, Some(true), Some(false)][prng.below(3) as usize])
                .collect();
            let who = |what: bool| -> BTreeSet<NodeId> {
                let all = 1..=size;
                // A node that is no voter answers too, and must not count.
                let said = all.filter(|n| answers[*n as usize - 1] == Some(what)).map(node);
                said.chain([node(100)]).collect()
            };
            let voters: BTreeSet<NodeId> = (1..=size).map(node).collect();
            let fast = vote_result(&voters, &who(true), &who(false));
            assert_eq!(fast, dumb_vote(&answers), "{answers:?}");
        }
    }
}
