//! How long entries take to be committed, on the node that leads.

use std::collections::VecDeque;

use crate::raft::{LogIndex, Term};

/// Batches that wait; a leader that lost its quorum may pile up more, which are not timed.
const BATCHES_MAX: usize = 4096;

/// When a leader began to store which of its entries. Times are CLOCK_BOOTTIME nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Whose term it is: entries of another may have been replaced.
    term: Term,
    /// Ascending.
    batches: VecDeque<Batch>,
}

#[derive(Debug)]
struct Batch {
    first: LogIndex,
    last: LogIndex,
    began_ns: u64,
}

impl Commits {
    /// The leader of `term` begins to store entries, the first and the last of which have these
    /// indexes.
    pub(super) fn storing(&mut self, term: Term, first: LogIndex, last: LogIndex, now_ns: u64) {
        if term != self.term {
            *self = Commits { term, batches: VecDeque::new() };
        }
        if self.batches.len() < BATCHES_MAX {
            self.batches.push_back(Batch { first, last, began_ns: now_ns });
        }
    }

    /// Whether it is worth it to look at the clock.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// This node does not lead.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
    }

    /// All up to `commit` are committed: tells how long so many of them took.
    pub(super) fn committed(
        &mut self,
        commit: LogIndex,
        now_ns: u64,
        mut took: impl FnMut(u64, u64),
    ) {
        while let Some(batch) = self.batches.front_mut().filter(|batch| batch.first <= commit) {
            let last = batch.last.min(commit);
            took(now_ns.saturating_sub(batch.began_ns), last.0 - batch.first.0 + 1);
            batch.first = LogIndex(last.0 + 1);
            if batch.first > batch.last {
                self.batches.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storing(commits: &mut Commits, term: u64, first: u64, last: u64, now_ns: u64) {
        commits.storing(Term(term), LogIndex(first), LogIndex(last), now_ns);
    }

    fn committed(commits: &mut Commits, index: u64, now_ns: u64) -> Vec<(u64, u64)> {
        let mut list = Vec::new();
        commits.committed(LogIndex(index), now_ns, |took_ns, times| list.push((took_ns, times)));
        list
    }

    #[test]
    fn each_entry_is_timed_once_and_by_its_own_beginning() {
        let mut commits = Commits::default();
        storing(&mut commits, 2, 5, 7, 100);
        storing(&mut commits, 2, 8, 8, 150);
        assert_eq!(committed(&mut commits, 4, 190), []);
        assert_eq!(committed(&mut commits, 6, 200), [(100, 2)]);
        assert_eq!(committed(&mut commits, 6, 210), []);
        assert_eq!(committed(&mut commits, 9, 220), [(120, 1), (70, 1)]);
        assert!(commits.is_empty());
    }

    #[test]
    fn what_another_term_may_have_replaced_is_not_timed() {
        let mut commits = Commits::default();
        storing(&mut commits, 2, 5, 7, 100);
        storing(&mut commits, 4, 6, 6, 300);
        assert_eq!(committed(&mut commits, 6, 350), [(50, 1)]);
        storing(&mut commits, 4, 7, 7, 400);
        commits.clear();
        assert_eq!(committed(&mut commits, 7, 500), []);
    }

    #[test]
    fn what_piles_up_is_bounded() {
        let mut commits = Commits::default();
        for index in 1..=BATCHES_MAX as u64 + 10 {
            storing(&mut commits, 1, index, index, 0);
        }
        assert_eq!(committed(&mut commits, u64::MAX, 1).len(), BATCHES_MAX);
    }
}
