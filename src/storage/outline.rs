//! What a log is apart from its entries' contents: enough to judge whether a batch fits. Reading
//! and writing go through the same judgement, so that nothing is written that could not be read.

use crate::raft::{Entry, EntryId, HardState, LogIndex, Term};

/// A log's names of entries, and its hard state.
#[derive(Debug, Default)]
pub struct Outline {
    /// The entry before the first.
    base: EntryId,
    /// What is before the base is merely not on disk any more: a batch may still replace from there
    /// on, as it did when those entries were.
    open: bool,
    last: EntryId,
    /// The first entry of each term behind the base that is not the base's.
    terms: Vec<EntryId>,
    hard_state: HardState,
}

/// What a batch does to the log's base, if it fits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// The base stays.
    Behind,
    /// The batch replaces everything that was seen so far: the log begins with it.
    Lower,
}

impl Outline {
    /// An empty log behind `base`, for good.
    pub fn new(base: EntryId, hard_state: HardState) -> Outline {
        Outline { base, last: base, hard_state, ..Outline::default() }
    }

    /// A log whose last entry is `last`, and of which nothing earlier was seen.
    pub fn partial(last: EntryId, hard_state: HardState) -> Outline {
        Outline { open: true, ..Outline::new(last, hard_state) }
    }

    /// The entry before the first.
    pub fn base(&self) -> EntryId {
        self.base
    }

    /// The last entry, or the base.
    pub fn last(&self) -> EntryId {
        self.last
    }

    /// The last hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Up to where what is there is known to be committed. A hard state may be ahead of the log: it
    /// comes with the first record of a batch that takes several. What is before the base was
    /// committed, unless that was merely not seen.
    pub fn committed(&self) -> LogIndex {
        let commit = self.hard_state.commit.min(self.last.index);
        if self.open { commit } else { commit.max(self.base.index) }
    }

    /// The name of what stands at `index`, the base included.
    pub fn id_at(&self, index: LogIndex) -> Option<EntryId> {
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let after = self.terms.partition_point(|first| first.index <= index);
        let term = if after == 0 { self.base.term } else { self.terms[after - 1].term };
        Some(EntryId { term, index })
    }

    /// Whether `id` is in the log, or its base.
    pub fn contains(&self, id: EntryId) -> bool {
        self.id_at(id.index) == Some(id)
    }

    /// Takes in a batch; `Err`: what contradicts what came before.
    pub fn follow(
        &mut self,
        prev: EntryId,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<Fit, String> {
        let fit = if entries.is_empty() { self.check_end(prev)? } else { self.fit(prev)? };
        in_order(prev, entries)?;
        if let Some(hard_state) = hard_state {
            succeeds(&self.hard_state, hard_state)?;
            self.hard_state = *hard_state;
        }
        if fit == Fit::Lower {
            self.base = prev;
        }
        self.terms.retain(|first| first.index <= prev.index);
        self.last = prev;
        for entry in entries {
            if entry.id.term != self.last.term {
                self.terms.push(entry.id);
            }
            self.last = entry.id;
        }
        Ok(fit)
    }

    /// Forgets what is before `base`, which is in the log.
    pub fn compact(&mut self, base: EntryId) {
        self.base = base;
        self.open = false;
        self.terms.retain(|first| first.index > base.index);
    }

    fn check_end(&self, prev: EntryId) -> Result<Fit, String> {
        match prev == self.last {
            true => Ok(Fit::Behind),
            false => Err(format!("the log should end with {} here", name(prev))),
        }
    }

    /// Whether entries may stand behind `prev`.
    fn fit(&self, prev: EntryId) -> Result<Fit, String> {
        let (first, last) = (prev.index.next().0, self.last.index.0);
        if prev.index > self.last.index {
            return Err(format!("entry {first} follows entry {last}"));
        }
        if prev.index < self.committed() {
            return Err(format!("committed entry {first} is replaced"));
        }
        match self.id_at(prev.index) {
            None => Ok(Fit::Lower),
            Some(id) if id == prev => Ok(Fit::Behind),
            Some(id) => Err(format!("entry {first} follows {}, not {}", name(prev), name(id))),
        }
    }
}

/// Whether `entries` stand in order behind `prev` (Raft §5.3).
pub fn in_order(prev: EntryId, entries: &[Entry]) -> Result<(), String> {
    let mut prev = prev;
    for EntryId { term, index } in entries.iter().map(|entry| entry.id) {
        if index.0 != prev.index.0 + 1 {
            return Err(format!("entry {} follows entry {}", index.0, prev.index.0));
        }
        if term < prev.term {
            let (term, before) = (term.0, prev.term.0);
            return Err(format!("entry {} of term {term} follows one of term {before}", index.0));
        }
        prev = EntryId { term, index };
    }
    Ok(())
}

/// Whether one hard state may come after another (Raft §5.2).
pub fn succeeds(known: &HardState, next: &HardState) -> Result<(), String> {
    let (Term(term), Term(before)) = (next.term, known.term);
    if term < before {
        return Err(format!("term {term} follows term {before}"));
    }
    if term == before && known.vote.is_some() && known.vote != next.vote {
        return Err(format!("the vote changes within term {before}"));
    }
    Ok(())
}

fn name(id: EntryId) -> String {
    format!("entry {} of term {}", id.index.0, id.term.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Payload;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    fn entries(ids: &[EntryId]) -> Vec<Entry> {
        ids.iter().map(|id| Entry { id: *id, payload: Payload::Empty }).collect()
    }

    #[test]
    fn every_entry_is_known_and_few_words_are_kept() {
        let log: Vec<EntryId> = (1..=40).map(|index| id(1 + index / 7, index)).collect();
        let mut outline = Outline::default();
        outline.follow(id(0, 0), &entries(&log), None).unwrap();
        for base in 0..=40 {
            if base > 0 {
                outline.compact(log[base - 1]);
            }
            for index in 0..=45 {
                let known = if index == 0 { Some(id(0, 0)) } else { log.get(index - 1).copied() };
                let known = known.filter(|_| index >= base);
                assert_eq!(outline.id_at(LogIndex(index as u64)), known, "{index} behind {base}");
            }
            let terms = log[base..].chunk_by(|a, b| a.term == b.term).count();
            assert!(outline.terms.len() <= terms, "behind {base}: {:?}", outline.terms);
        }
    }

    #[test]
    fn what_was_not_seen_may_be_replaced_and_what_was_dropped_may_not() {
        let hard_state = HardState { term: Term(2), vote: None, commit: LogIndex(4) };
        let mut open = Outline::partial(id(1, 9), hard_state);
        assert_eq!(open.follow(id(1, 6), &entries(&[id(2, 7)]), None), Ok(Fit::Lower));
        assert_eq!((open.base(), open.last()), (id(1, 6), id(2, 7)));
        assert_eq!(open.follow(id(1, 4), &entries(&[id(2, 5)]), None), Ok(Fit::Lower));
        let refused = open.follow(id(1, 3), &entries(&[id(2, 4)]), None);
        assert_eq!(refused, Err("committed entry 4 is replaced".to_owned()));

        let mut begun = Outline::new(id(1, 9), hard_state);
        let refused = begun.follow(id(1, 6), &entries(&[id(2, 7)]), None);
        assert_eq!(refused, Err("committed entry 7 is replaced".to_owned()));
    }
}
