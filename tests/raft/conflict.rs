//! Conflict hints: the search for the last common entry costs a round trip a term (§5.3, end).

use pgraft::raft::*;

use crate::support::*;

/// A leader and a follower with these logs (terms from index 2 on); returns how many appends were
/// refused until the follower equals the leader.
fn refusals(leader_terms: &[u64], follower_terms: &[u64]) -> usize {
    let term = leader_terms.iter().chain(follower_terms).copied().max().unwrap_or(1);
    let mut cluster = Cluster::new(3);
    for (node, terms) in [(1, leader_terms), (2, follower_terms), (3, leader_terms)] {
        let server = cluster.servers.get_mut(&id(node)).unwrap();
        server.disk.entries = log_of(terms);
        server.disk.hard_state = HardState { term: Term(term), vote: None, commit: LogIndex(0) };
        cluster.restart(node);
    }
    cluster.campaign(1);
    cluster.trace.clear();
    cluster.stabilize();
    assert_eq!(cluster.leader(), Some(id(1)));
    let (leader, follower) = (&cluster.servers[&id(1)], &cluster.servers[&id(2)]);
    assert_eq!(leader.disk.entries, follower.disk.entries);
    cluster
        .trace
        .iter()
        .filter(|line| line.starts_with("2 -> 1") && line.contains("Rejected"))
        .count()
}

/// However many entries, the refusals are at most the terms.
#[test]
fn refusals_grow_with_terms_not_with_entries() {
    let long = |term: u64, count: usize| vec![term; count];
    let follower_far_behind = refusals(&long(2, 1000), &[]);
    assert_eq!(follower_far_behind, 1);
    let other_term =
        refusals(&[long(2, 10), long(5, 1000)].concat(), &[long(2, 10), long(3, 1000)].concat());
    assert!(other_term <= 2, "{other_term}");
    let follower_longer = refusals(&long(2, 5), &[long(2, 5), long(3, 1000)].concat());
    assert!(follower_longer <= 1, "{follower_longer}");
}

/// The worst case: terms that alternate, so that each skips only to the next one of the other.
#[test]
fn alternating_terms_cost_a_round_trip_each() {
    for terms in [1, 2, 5, 10, 20u64] {
        let run = |odd: u64| (1..=terms).flat_map(|t| vec![2 * t + odd; 50]).collect::<Vec<u64>>();
        let refused = refusals(&run(1), &run(0));
        assert!(refused as u64 <= terms + 1, "{terms} terms, {refused} refusals");
    }
}

/// Figure 7: every kind of follower, extra and missing entries, comes to equal the leader.
#[test]
fn figure_7() {
    let leader = [2, 2, 2, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[2, 2, 2, 4, 4, 5, 5, 6, 6],
        &[2, 2, 2, 4],
        &[2, 2, 2, 4, 4, 5, 5, 6, 6, 6, 6],
        &[2, 2, 2, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[2, 2, 2, 4, 4, 4, 4],
        &[2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3],
    ];
    for (follower, at_most) in followers.into_iter().zip([1, 1, 1, 1, 2, 2]) {
        let refused = refusals(&leader, follower);
        assert!(refused <= at_most, "{follower:?}: {refused}");
    }
}
