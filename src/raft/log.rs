//! The log in memory: what is stored, what is committed, who takes part.
//!
//! Entries stand behind a base: what is before it was dropped, because a snapshot stands for it
//! (Raft §7).

use crate::bugs::{self, Bug};
use std::collections::VecDeque;

use super::types::{Entry, EntryId, LogIndex, Membership, NodeId, Payload, Term};

/// What an entry weighs besides its command, against a flood of empty ones.
const ENTRY_BYTES: usize = 32;

/// What became of entries from a leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Splice {
    /// The log equals the leader's up to here.
    Matched(LogIndex),
    /// There is no entry `prev`; this one may be common.
    Missing(EntryId),
    /// The leader contradicts a committed entry: nothing was changed.
    Contradiction(LogIndex),
}

/// Invariants: `base.index <= handed <= commit <= last`, `handed <= stable <= storing <= last`;
/// indexes are consecutive, terms never fall; `memberships` is in order of index, and its first is
/// in force at the latest snapshot, so before anything that is still to be applied.
#[derive(Debug)]
pub(super) struct Log {
    base: EntryId,
    entries: VecDeque<Entry>,
    /// Everything up to here is durable on this node.
    stable: LogIndex,
    /// Everything up to here is durable once the `Ready` at hand is advanced.
    storing: LogIndex,
    commit: LogIndex,
    /// Everything up to here was given out to be applied.
    handed: LogIndex,
    memberships: Vec<(LogIndex, Membership)>,
}

/// The bytes by which limits count an entry.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_BYTES
        + match &entry.payload {
            Payload::Empty => 0,
            Payload::Command(command) => command.len(),
            Payload::Membership { command, membership } => {
                command.len() + 8 * (membership.voters.len() + membership.learners.len())
            }
        }
}

impl Log {
    /// A log of entries known to be durable, consecutive from `base` on; of them everything up to
    /// `applied`, where `membership` is in force, is in the snapshot that was found.
    pub(super) fn new(
        base: EntryId,
        entries: Vec<Entry>,
        applied: LogIndex,
        membership: Membership,
        commit: LogIndex,
    ) -> Log {
        let mut log = Log {
            base,
            entries: VecDeque::new(),
            stable: base.index,
            storing: base.index,
            commit: base.index,
            handed: base.index,
            memberships: vec![(applied, membership)],
        };
        for entry in entries {
            log.append(entry);
        }
        log.stable = log.last().index;
        log.storing = log.stable;
        // The commit index is a hint that may outlive the entries it covers.
        log.commit_to(commit.max(applied));
        log.handed = applied;
        log
    }

    /// What stands before the first entry.
    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    /// Everything up to here was given out to be applied.
    pub(super) fn handed(&self) -> LogIndex {
        self.handed
    }

    pub(super) fn last(&self) -> EntryId {
        self.entries.back().map_or(self.base, |entry| entry.id)
    }

    pub(super) fn commit(&self) -> LogIndex {
        self.commit
    }

    pub(super) fn stable(&self) -> LogIndex {
        self.stable
    }

    /// The latest membership, committed or not (dissertation §4.1).
    pub(super) fn membership(&self) -> &Membership {
        &self.memberships[self.memberships.len() - 1].1
    }

    /// Where the latest membership stands.
    pub(super) fn membership_index(&self) -> LogIndex {
        self.memberships[self.memberships.len() - 1].0
    }

    /// The latest membership that is committed.
    pub(super) fn committed_membership(&self) -> &Membership {
        &self.memberships[self.membership_place(self.commit).unwrap_or(0)].1
    }

    /// The membership in force at `index`; `None` before the latest snapshot.
    pub(super) fn membership_at(&self, index: LogIndex) -> Option<&Membership> {
        Some(&self.memberships[self.membership_place(index)?].1)
    }

    fn membership_place(&self, index: LogIndex) -> Option<usize> {
        self.memberships.partition_point(|(at, _)| *at <= index).checked_sub(1)
    }

    /// Whether `node` is a voter of the latest committed membership or of any after it.
    pub(super) fn may_be_voter(&self, node: NodeId) -> bool {
        let uncommitted = self.memberships.iter().rev().take_while(|(at, _)| *at > self.commit);
        let mut memberships = uncommitted.map(|(_, membership)| membership);
        memberships.any(|membership| membership.voters.contains(&node))
            || self.committed_membership().voters.contains(&node)
    }

    /// The entry at `index`; `None` outside the log, the base included.
    pub(super) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let at = index.0.checked_sub(self.base.index.0)?.checked_sub(1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The name of what stands at `index`, the base included.
    pub(super) fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        if index == self.base.index { Some(self.base) } else { Some(self.entry(index)?.id) }
    }

    /// The term at `index`, or zero where nothing is known to stand.
    pub(super) fn term_at(&self, index: LogIndex) -> Term {
        self.id_at(index).map_or(Term(0), |id| id.term)
    }

    /// Whether `id` is in the log.
    pub(super) fn contains(&self, id: EntryId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// The latest entry at or before `index` whose term is at most `term`; `None` if it was before
    /// the base. A binary search, because terms never fall.
    pub(super) fn latest_at_most(&self, index: LogIndex, term: Term) -> Option<EntryId> {
        if index < self.base.index || term < self.base.term {
            return None;
        }
        let considered = index.0.saturating_sub(self.base.index.0);
        let (mut low, mut high) = (0, self.entries.len().min(considered as usize));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.entries[middle].id.term <= term { low = middle + 1 } else { high = middle }
        }
        Some(if low == 0 { self.base } else { self.entries[low - 1].id })
    }

    /// Entries from `from` on, as many as fit `bytes_max`, at least one if there is any.
    pub(super) fn slice(&self, from: LogIndex, bytes_max: usize) -> Vec<Entry> {
        self.range(from, self.last().index, bytes_max)
    }

    fn range(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Vec<Entry> {
        let start = from.0.saturating_sub(self.base.index.0).saturating_sub(1) as usize;
        let mut bytes = 0;
        let mut taken = Vec::new();
        for entry in self.entries.range(start.min(self.entries.len())..) {
            bytes += entry_bytes(entry);
            if entry.id.index > to || (bytes > bytes_max && !taken.is_empty()) {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }

    /// Adds one entry behind the last.
    pub(super) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.id.index, self.last().index.next());
        debug_assert!(entry.id.term >= self.last().term);
        if let Payload::Membership { membership, .. } = &entry.payload
            && entry.id.index > self.membership_index()
        {
            self.memberships.push((entry.id.index, membership.clone()));
        }
        self.entries.push_back(entry);
    }

    /// Makes the log equal to the leader's up to the last of `entries`, which are well-formed
    /// (Raft figure 2, AppendEntries steps 2 to 4).
    pub(super) fn splice(&mut self, mut prev: EntryId, mut entries: Vec<Entry>) -> Splice {
        if prev.index < self.base.index {
            // What is before the base is committed, so the leader's is the same (Raft §5.4).
            let known = usize::try_from(self.base.index.0 - prev.index.0).unwrap_or(usize::MAX);
            if entries.len() < known {
                return Splice::Matched(self.base.index);
            }
            prev = entries[known - 1].id;
            entries.drain(..known);
        }
        if !self.contains(prev) {
            if prev.index <= self.commit {
                return Splice::Contradiction(prev.index);
            }
            return Splice::Missing(
                self.latest_at_most(prev.index, prev.term).unwrap_or(self.base),
            );
        }
        let matched = LogIndex(prev.index.0 + entries.len() as u64);
        // Only a conflict truncates: an old message that is a prefix of the log must not (Raft
        // §5.3).
        let careless = bugs::on(Bug::TruncateCommitted);
        let news = |entry: &Entry| !self.contains(entry.id) || careless;
        let Some(first) = entries.iter().position(news) else {
            return Splice::Matched(matched);
        };
        let start = entries[first].id.index;
        if start <= self.commit && !careless {
            return Splice::Contradiction(start);
        }
        self.truncate(start.prev());
        for entry in entries.into_iter().skip(first) {
            self.append(entry);
        }
        Splice::Matched(matched)
    }

    /// Drops everything behind `keep`, memberships included.
    fn truncate(&mut self, keep: LogIndex) {
        let careless = bugs::on(Bug::TruncateCommitted);
        assert!(keep >= self.commit || careless, "committed entries are never truncated");
        self.entries.truncate((keep.0 - self.base.index.0) as usize);
        self.memberships.retain(|(index, _)| *index <= keep);
        self.stable = self.stable.min(keep);
        self.storing = self.storing.min(keep);
    }

    /// Raises the commit index, never beyond the log.
    pub(super) fn commit_to(&mut self, index: LogIndex) {
        self.commit = self.commit.max(index.min(self.last().index));
    }

    /// What to drop so that of the entries up to `end` at most `entries` stay, and `bytes_max`.
    pub(super) fn before_tail(&self, end: LogIndex, entries: u64, bytes_max: usize) -> LogIndex {
        let (mut before, mut bytes) = (end, 0);
        while end.0 - before.0 < entries
            && let Some(entry) = self.entry(before)
        {
            bytes += entry_bytes(entry);
            if bytes > bytes_max {
                break;
            }
            before = before.prev();
        }
        before
    }

    /// A snapshot stands for everything up to `applied`: drops the entries up to `base`, neither
    /// beyond what was handed out.
    pub(super) fn compact(&mut self, applied: LogIndex, base: LogIndex) {
        assert!(base <= applied && applied <= self.handed, "compacted beyond what was applied");
        let in_force = self.membership_place(applied).unwrap_or(0);
        self.memberships.drain(..in_force);
        if let Some(id) = self.id_at(base) {
            self.entries.drain(..(base.0 - self.base.index.0) as usize);
            self.base = id;
        }
    }

    /// A snapshot from the leader takes the place of everything: nothing of this log is known to be
    /// in the leader's (Raft §7). It counts as stable, for it is stored before anything else is.
    pub(super) fn replace(&mut self, last: EntryId, membership: Membership) {
        assert!(last.index > self.commit, "a snapshot takes nothing back");
        *self = Log::new(last, Vec::new(), last.index, membership, last.index);
    }

    /// Whether something waits to be stored.
    pub(super) fn has_unstored(&self) -> bool {
        self.stable < self.last().index
    }

    /// Everything not durable yet, which is durable from the next call of `stored` on.
    pub(super) fn take_unstored(&mut self) -> Vec<Entry> {
        self.storing = self.last().index;
        if !self.has_unstored() {
            return Vec::new();
        }
        self.range(self.stable.next(), self.storing, usize::MAX)
    }

    /// What `take_unstored` gave out and was not replaced since is durable.
    pub(super) fn stored(&mut self) {
        self.stable = self.storing;
    }

    /// The next entries to apply: committed, durable here, and not given out before.
    pub(super) fn take_committed(&mut self, bytes_max: usize) -> Vec<Entry> {
        let end = self.commit.min(self.stable);
        if self.handed >= end {
            return Vec::new();
        }
        let entries = self.range(self.handed.next(), end, bytes_max);
        self.handed = entries.last().map_or(self.handed, |entry| entry.id.index);
        entries
    }

    /// The bytes of the entries behind `after` and up to `end`, both in the log.
    pub(super) fn bytes_between(&self, after: LogIndex, end: LogIndex) -> usize {
        let at = |index: LogIndex| (index.0 - self.base.index.0) as usize;
        self.entries.range(at(after)..at(end)).map(entry_bytes).sum()
    }

    pub(super) fn assert_invariants(&self) {
        let last = self.last().index;
        assert!(self.base.index <= self.handed, "handed out before the log's base");
        assert!(self.handed <= self.commit, "handed out what is not committed");
        assert!(self.handed <= self.stable, "handed out what is not durable");
        assert!(self.commit <= last, "committed beyond the log");
        assert!(self.stable <= self.storing && self.storing <= last, "stored beyond the log");
        assert_eq!(last.0, self.base.index.0 + self.entries.len() as u64, "a gap in the log");
        assert!(self.memberships[0].0 <= self.handed, "no membership for what is applied");
        assert!(self.membership_index() <= last, "a membership beyond the log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    /// A log with these terms at 1, 2, 3, …
    fn log(terms: &[u64], commit: u64) -> Log {
        let entries = terms.iter().zip(1..).map(|(term, index)| entry(*term, index)).collect();
        let base = EntryId::default();
        Log::new(base, entries, base.index, Membership::default(), LogIndex(commit))
    }

    fn entry(term: u64, index: u64) -> Entry {
        Entry { id: id(term, index), payload: Payload::Empty }
    }

    #[test]
    fn a_commit_hint_beyond_the_log_is_cut() {
        assert_eq!(log(&[1, 1], 9).commit(), LogIndex(2));
    }

    #[test]
    fn latest_at_most_agrees_with_a_walk() {
        let terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
        let log = log(&terms, 0);
        for index in 0..=12 {
            for term in 0..=8 {
                let walk = (1..=terms.len() as u64)
                    .filter(|at| *at <= index && terms[*at as usize - 1] <= term)
                    .max()
                    .unwrap_or(0);
                let found = log.latest_at_most(LogIndex(index), Term(term)).unwrap();
                assert_eq!(found.index.0, walk);
            }
        }
    }

    /// A log with these terms at 1, 2, 3, … of which the first `base` were dropped.
    fn compacted(terms: &[u64], base: u64) -> Log {
        let mut log = log(terms, terms.len() as u64);
        log.take_committed(usize::MAX);
        log.compact(LogIndex(base), LogIndex(base));
        log.assert_invariants();
        log
    }

    #[test]
    fn a_tail_is_so_many_entries_and_bytes() {
        let log = compacted(&[1, 1, 1, 1, 1], 1);
        for (entries, bytes_max, before) in [
            (0, usize::MAX, 4),
            (2, usize::MAX, 2),
            (3, usize::MAX, 1),
            (u64::MAX, usize::MAX, 1),
            (3, 2 * ENTRY_BYTES, 2),
            (3, 0, 4),
        ] {
            let tail = log.before_tail(LogIndex(4), entries, bytes_max);
            assert_eq!(tail, LogIndex(before), "{entries} entries, {bytes_max} bytes");
        }
    }

    #[test]
    fn nothing_is_said_of_what_was_dropped() {
        let log = compacted(&[1, 1, 2, 4], 3);
        assert_eq!(log.latest_at_most(LogIndex(2), Term(9)), None);
        assert_eq!(log.latest_at_most(LogIndex(9), Term(1)), None);
        assert_eq!(log.latest_at_most(LogIndex(9), Term(2)), Some(id(2, 3)));
        assert_eq!((log.id_at(LogIndex(2)), log.id_at(LogIndex(3))), (None, Some(id(2, 3))));
        assert!(log.entry(LogIndex(3)).is_none() && log.entry(LogIndex(4)).is_some());
    }

    #[test]
    fn an_append_that_begins_before_the_base_is_taken_from_the_base_on() {
        let entries = |terms: &[u64], from| {
            terms.iter().zip(from..).map(|(term, index)| entry(*term, index)).collect::<Vec<_>>()
        };
        let mut log = compacted(&[1, 1, 2, 4], 3);
        assert_eq!(log.splice(id(0, 0), entries(&[1, 1], 1)), Splice::Matched(LogIndex(3)));
        assert_eq!(log.splice(id(1, 1), entries(&[1, 2], 2)), Splice::Matched(LogIndex(3)));
        let reaching = entries(&[1, 2, 4, 5], 2);
        assert_eq!(log.splice(id(1, 1), reaching), Splice::Matched(LogIndex(5)));
        assert_eq!(log.last(), id(5, 5));
        let other = entries(&[1, 3, 4], 2);
        assert_eq!(log.splice(id(1, 1), other), Splice::Contradiction(LogIndex(3)));
    }

    #[test]
    fn memberships_are_known_from_the_snapshot_on() {
        let membership = |voter| Membership {
            voters: [NodeId::new(voter).unwrap()].into(),
            ..Membership::default()
        };
        let mut log = log(&[1], 1);
        for index in 2..=5 {
            let payload =
                Payload::Membership { membership: membership(index as i64), command: vec![] };
            log.append(Entry { id: id(1, index), payload });
        }
        log.take_unstored();
        log.stored();
        log.commit_to(LogIndex(4));
        log.take_committed(usize::MAX);
        log.compact(LogIndex(3), LogIndex(1));
        log.assert_invariants();
        assert_eq!(log.membership_at(LogIndex(2)), None);
        for index in 3..=5 {
            assert_eq!(log.membership_at(LogIndex(index)), Some(&membership(index as i64)));
        }
        assert_eq!(log.committed_membership(), &membership(4));
        assert_eq!(log.membership(), &membership(5));
        let may: Vec<i64> =
            (1..=6).filter(|node| log.may_be_voter(NodeId::new(*node).unwrap())).collect();
        assert_eq!(may, [4, 5]);
    }

    #[test]
    fn a_prefix_already_held_truncates_nothing() {
        let mut log = log(&[1, 1, 2], 0);
        assert_eq!(log.splice(id(1, 1), vec![entry(1, 2)]), Splice::Matched(LogIndex(2)));
        assert_eq!(log.last(), id(2, 3));
    }

    #[test]
    fn a_conflict_replaces_the_tail() {
        let mut log = log(&[1, 1, 2, 2], 1);
        assert_eq!(log.splice(id(1, 2), vec![entry(3, 3)]), Splice::Matched(LogIndex(3)));
        assert_eq!((log.last(), log.stable()), (id(3, 3), LogIndex(2)));
    }

    #[test]
    fn a_committed_entry_is_never_replaced() {
        let mut log = log(&[1, 1, 2], 2);
        let spliced = log.splice(id(1, 1), vec![entry(3, 2)]);
        assert_eq!(spliced, Splice::Contradiction(LogIndex(2)));
        assert_eq!(log.splice(id(3, 2), vec![]), Splice::Contradiction(LogIndex(2)));
        assert_eq!(log.last(), id(2, 3));
    }

    #[test]
    fn what_was_replaced_while_it_was_stored_counts_as_not_stored() {
        let mut log = log(&[1], 0);
        log.append(entry(1, 2));
        log.append(entry(1, 3));
        assert_eq!(log.take_unstored().len(), 2);
        log.splice(id(1, 2), vec![entry(2, 3)]);
        log.stored();
        assert_eq!(log.stable(), LogIndex(2));
        assert_eq!(log.take_unstored(), vec![entry(2, 3)]);
    }

    #[test]
    fn committed_entries_come_once_and_only_when_durable() {
        let mut log = log(&[1], 0);
        log.append(entry(1, 2));
        log.commit_to(LogIndex(2));
        assert_eq!(log.take_committed(usize::MAX), vec![entry(1, 1)]);
        log.take_unstored();
        assert_eq!(log.take_committed(usize::MAX), vec![]);
        log.stored();
        assert_eq!(log.take_committed(usize::MAX), vec![entry(1, 2)]);
        assert_eq!(log.take_committed(usize::MAX), vec![]);
    }
}
