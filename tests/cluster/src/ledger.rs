//! What writers were told about the rows they wrote, and whether it is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{ms_between, now_ns};
use crate::{Failure, Node, Result, wait_for};

/// The table that writers write to.
pub(crate) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS written
        (client int, seq bigint, node int, sent_ns bigint, PRIMARY KEY (client, seq))";

/// A row: the writer's number, and the row's among those of the writer.
pub type Key = (u32, u64);

/// A commit that a client heard of.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// The row.
    pub key: Key,
    /// Where it was written.
    pub node: u32,
    /// Of that server's WAL when it was written: a promotion begins another.
    pub timeline: u32,
    /// Before the first statement was sent.
    pub sent_ns: u64,
    /// When the client had the answer.
    pub acked_ns: u64,
}

#[derive(Default)]
struct Book {
    acks: Vec<Ack>,
    /// PREPARE TRANSACTION was acknowledged and COMMIT PREPARED was not.
    prepared: Vec<Ack>,
    /// Refused by the fence: 25006, and not because the server is a standby.
    refused: BTreeSet<Key>,
    /// By node, and SQLSTATE or "lost" for a broken connection.
    failures: BTreeMap<(u32, String), u64>,
    /// What a verdict has named as lost already.
    known_lost: BTreeSet<Key>,
}

/// All that all writers were told. Writers add to it while others look.
#[derive(Default)]
pub struct Ledger(Mutex<Book>);

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn acked(&self, ack: Ack) {
        self.book().acks.push(ack);
    }

    pub(crate) fn prepared(&self, ack: Ack) {
        self.book().prepared.push(ack);
    }

    pub(crate) fn failed(&self, node: u32, key: Key, what: &str, by_fence: bool) {
        let mut book = self.book();
        *book.failures.entry((node, what.to_owned())).or_default() += 1;
        if by_fence {
            book.refused.insert(key);
        }
    }

    /// Every acknowledged commit so far, in the order in which clients heard of them.
    pub fn acks(&self) -> Vec<Ack> {
        let mut acks = self.book().acks.clone();
        acks.sort_by_key(|ack| ack.acked_ns);
        acks
    }

    /// How many commits were acknowledged so far.
    pub fn count(&self) -> usize {
        self.book().acks.len()
    }

    /// How often writers failed, by node and SQLSTATE; "lost" is a broken connection.
    pub fn failures(&self) -> BTreeMap<(u32, String), u64> {
        self.book().failures.clone()
    }

    /// [`Ledger::failures`] for a person.
    pub fn failures_in_words(&self) -> String {
        let failures = self.failures();
        let words: Vec<String> = failures
            .iter()
            .map(|((node, what), count)| format!("node {node}: {count} times {what}"))
            .collect();
        format!("what clients were refused: {}", words.join(", "))
    }

    /// The first commit acknowledged after this moment by another node than `old`.
    pub fn first_elsewhere(&self, since_ns: u64, old: u32) -> Option<Ack> {
        let book = self.book();
        let later = book.acks.iter().filter(|ack| ack.node != old && ack.acked_ns > since_ns);
        later.min_by_key(|ack| ack.acked_ns).copied()
    }

    /// The last commit that this node acknowledged so far.
    pub fn last_of(&self, node: u32) -> Option<Ack> {
        let book = self.book();
        let there = book.acks.iter().filter(|ack| ack.node == node);
        there.max_by_key(|ack| ack.acked_ns).copied()
    }

    /// Waits for the acknowledgement of a commit on this node that is sent from now on.
    pub fn await_commit(&self, node: u32, at_most: Duration) -> Result<()> {
        let since_ns = now_ns();
        wait_for(&format!("a client's commit on node {node}"), at_most, || {
            Ok(self.last_of(node).filter(|ack| ack.sent_ns > since_ns).map(drop))
        })
        .map_err(|failure| Failure::new(format!("{failure}; {}", self.failures_in_words())))
    }

    /// Compares with what the primary has, when all is healed. Prepared transactions that nobody
    /// will commit any more are rolled back.
    pub fn compare(&self, primary: &Node) -> Result<Verdict> {
        // Before the rows are read: later ones may be acknowledged meanwhile.
        let (acks, prepared, refused) = {
            let book = self.book();
            (book.acks.clone(), book.prepared.clone(), book.refused.clone())
        };
        let mut session = primary.session()?;
        // First these: a transaction that is committed meanwhile is then seen twice, not never.
        let gids = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'written\\_%'";
        let mut waiting = BTreeSet::new();
        for row in session.rows(gids)? {
            let gid = row[0].clone().unwrap_or_default();
            let mut fields = gid.split('_').skip(1);
            let client = fields.next().and_then(|field| field.parse().ok());
            let seq = fields.next().and_then(|field| field.parse().ok());
            let (Some(client), Some(seq)) = (client, seq) else { continue };
            waiting.insert((client, seq));
        }
        let rows = session.rows("SELECT client, seq FROM written")?;
        let present: BTreeSet<Key> = rows.iter().filter_map(|row| key_of(row)).collect();
        for (client, seq) in &waiting {
            if prepared.iter().any(|ack| ack.key == (*client, *seq)) {
                let sql = format!("ROLLBACK PREPARED 'written_{client}_{seq}'");
                // Its writer may have had the answer only now, and somebody may have been faster.
                let _ = session.run(&sql);
            }
        }
        let mut book = self.book();
        let known = &book.known_lost;
        let verdict = judge(&acks, &prepared, &refused, &present, &waiting, known);
        book.known_lost.extend(verdict.lost.iter().map(|ack| ack.key));
        // Rolled back above: they have been judged.
        book.prepared.retain(|ack| !prepared.iter().any(|judged| judged.key == ack.key));
        Ok(verdict)
    }
}

fn key_of(row: &[Option<String>]) -> Option<Key> {
    Some((row[0].as_deref()?.parse().ok()?, row[1].as_deref()?.parse().ok()?))
}

/// What came out of a comparison.
#[derive(Debug, Default)]
pub struct Verdict {
    /// How many commits were acknowledged.
    pub acked: usize,
    /// Rows that were acknowledged and are gone, as far as no earlier verdict named them.
    pub lost: Vec<Ack>,
    /// For each timeline that lost rows: how long before its last acknowledged commit the first
    /// lost one was acknowledged.
    pub windows_ms: BTreeMap<u32, f64>,
    /// Commits that two primaries had at the same time: acknowledged by the old one after a later
    /// one had acknowledged its first, and not part of what the later one has.
    pub double: Vec<Ack>,
    /// Answers of the old primary that came so late and whose rows are there: they were replicated
    /// in time, and the reply was slow.
    pub late: usize,
    /// Rows that the fence refused and that are there.
    pub revived: Vec<Key>,
    /// Timelines on which more than one node wrote.
    pub shared_timelines: Vec<u32>,
}

impl Verdict {
    /// Whether there never were two primaries. Rows may be lost.
    pub fn is_one_history(&self) -> bool {
        self.double.is_empty() && self.revived.is_empty() && self.shared_timelines.is_empty()
    }

    /// The longest of [`Verdict::windows_ms`].
    pub fn window_ms(&self) -> f64 {
        self.windows_ms.values().copied().fold(0.0, f64::max)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acked, {} lost", self.acked, self.lost.len())?;
        for (timeline, ms) in &self.windows_ms {
            write!(f, " (the last {ms:.0} ms of timeline {timeline})")?;
        }
        write!(f, ", {} double, {} late", self.double.len(), self.late)?;
        if let Some(ack) = self.double.first() {
            write!(f, "; DOUBLE: {ack:?}")?;
        }
        if !self.revived.is_empty() {
            write!(f, "; REFUSED AND THERE: {:?}", self.revived)?;
        }
        if !self.shared_timelines.is_empty() {
            write!(f, "; TIMELINES OF TWO NODES: {:?}", self.shared_timelines)?;
        }
        Ok(())
    }
}

/// What is wrong with these answers, given the rows that are there, the transactions that are
/// prepared, and those that are known to be lost.
fn judge(
    acks: &[Ack],
    prepared: &[Ack],
    refused: &BTreeSet<Key>,
    present: &BTreeSet<Key>,
    waiting: &BTreeSet<Key>,
    known_lost: &BTreeSet<Key>,
) -> Verdict {
    let mut verdict = Verdict { acked: acks.len(), ..Verdict::default() };
    let mut writers: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    let mut first_ns: BTreeMap<u32, u64> = BTreeMap::new();
    let mut last_ns: BTreeMap<u32, u64> = BTreeMap::new();
    for ack in acks {
        writers.entry(ack.timeline).or_default().insert(ack.node);
        let first = first_ns.entry(ack.timeline).or_insert(ack.acked_ns);
        *first = ack.acked_ns.min(*first);
        let last = last_ns.entry(ack.timeline).or_insert(ack.acked_ns);
        *last = ack.acked_ns.max(*last);
    }
    // When the first of all later timelines began to acknowledge.
    let mut next = u64::MAX;
    let mut ends_ns: BTreeMap<u32, u64> = BTreeMap::new();
    for (timeline, first) in first_ns.iter().rev() {
        ends_ns.insert(*timeline, next);
        next = next.min(*first);
    }
    for ack in acks {
        let is_there = present.contains(&ack.key);
        let end = ends_ns[&ack.timeline];
        if !is_there && !known_lost.contains(&ack.key) {
            verdict.lost.push(*ack);
            let window = ms_between(ack.acked_ns, last_ns[&ack.timeline]);
            let longest = verdict.windows_ms.entry(ack.timeline).or_default();
            *longest = longest.max(window);
        }
        if ack.acked_ns > end {
            match is_there && ack.sent_ns <= end {
                true => verdict.late += 1,
                false => verdict.double.push(*ack),
            }
        }
    }
    let gone = |ack: &&Ack| !present.contains(&ack.key) && !waiting.contains(&ack.key);
    verdict.lost.extend(prepared.iter().filter(gone));
    verdict.revived = refused.intersection(present).copied().collect();
    verdict.shared_timelines =
        writers.iter().filter(|(_, nodes)| nodes.len() > 1).map(|(t, _)| *t).collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(seq: u64, node: u32, timeline: u32, sent_ns: u64, acked_ns: u64) -> Ack {
        Ack { key: (1, seq), node, timeline, sent_ns, acked_ns }
    }

    /// Of rows of writer 1, by their numbers.
    fn judged(
        acks: &[Ack],
        prepared: &[Ack],
        refused: &[u64],
        present: &[u64],
        waiting: &[u64],
    ) -> Verdict {
        let keys = |numbers: &[u64]| numbers.iter().map(|seq| (1, *seq)).collect();
        let none = BTreeSet::new();
        judge(acks, prepared, &keys(refused), &keys(present), &keys(waiting), &none)
    }

    fn numbers(acks: &[Ack]) -> Vec<u64> {
        acks.iter().map(|ack| ack.key.1).collect()
    }

    #[test]
    fn one_primary_after_the_other_is_one_history() {
        let acks = [ack(1, 1, 1, 10, 11), ack(2, 1, 1, 12, 13), ack(3, 2, 2, 14, 20)];
        let verdict = judged(&acks, &[], &[], &[1, 2, 3], &[]);
        assert!(verdict.is_one_history() && verdict.lost.is_empty() && verdict.late == 0);
    }

    #[test]
    fn what_the_new_primary_has_not_is_lost_and_overlaps_are_double() {
        // 2 is lost in time; 4 was acknowledged when another had begun.
        let acks = [ack(1, 1, 1, 1, 2), ack(2, 1, 1, 3, 4), ack(3, 2, 2, 5, 6), ack(4, 1, 1, 4, 7)];
        let verdict = judged(&acks, &[], &[], &[1, 3], &[]);
        assert_eq!(numbers(&verdict.lost), [2, 4]);
        assert_eq!(numbers(&verdict.double), [4]);
    }

    #[test]
    fn what_is_known_to_be_lost_is_not_lost_again() {
        let acks = [ack(1, 1, 1, 1, 2), ack(2, 1, 1, 3, 4)];
        let (none, known) = (BTreeSet::new(), [(1, 1)].into());
        let verdict = judge(&acks, &[], &none, &[(1, 2)].into(), &none, &known);
        assert!(verdict.lost.is_empty() && verdict.windows_ms.is_empty());
    }

    #[test]
    fn a_slow_reply_is_late_only_if_the_row_was_sent_before_and_is_there() {
        let acks = [ack(1, 1, 1, 1, 9), ack(2, 2, 2, 5, 6), ack(3, 1, 1, 7, 8)];
        let verdict = judged(&acks, &[], &[], &[1, 2, 3], &[]);
        assert_eq!((verdict.late, numbers(&verdict.double)), (1, vec![3]));
    }

    #[test]
    fn a_timeline_has_one_writer_and_what_was_refused_stays_away() {
        let acks = [ack(1, 1, 3, 1, 2), ack(2, 2, 3, 3, 4)];
        let verdict = judged(&acks, &[], &[7, 8], &[1, 2, 7], &[]);
        assert_eq!(verdict.shared_timelines, [3]);
        assert_eq!(verdict.revived, [(1, 7)]);
    }

    #[test]
    fn what_was_prepared_is_there_prepared_or_committed_or_lost() {
        let prepared = [ack(1, 1, 1, 1, 2), ack(2, 1, 1, 1, 2), ack(3, 1, 1, 1, 2)];
        assert_eq!(numbers(&judged(&[], &prepared, &[], &[1], &[2]).lost), [3]);
    }
}
