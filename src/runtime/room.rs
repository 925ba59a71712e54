//! How much the store may still grow: what a leader proposed and has not applied counts as if it
//! were there.

use std::collections::{BTreeMap, VecDeque};

use crate::cluster::store::item_bytes;
use crate::cluster::{Change, Store};
use crate::raft::LogIndex;

/// One proposal under way.
#[derive(Debug)]
struct Proposal {
    index: LogIndex,
    key: String,
    growth: u64,
}

/// The proposals of one leadership. Only right once everything before them is applied.
#[derive(Debug, Default)]
pub struct Room {
    /// By index.
    under_way: VecDeque<Proposal>,
    /// How many of them each key has.
    keys: BTreeMap<String, u32>,
    /// The sum of theirs.
    growth: u64,
}

impl Room {
    /// By how much `change` may make the store grow, at most.
    fn growth_by(&self, store: &Store, change: &Change) -> u64 {
        let (key, Some(value)) = (change.key(), change.value()) else { return 0 };
        let bytes = item_bytes(key, value);
        match store.get(key) {
            // What is there now may be gone by then, and what it leaves be taken.
            Some(item) if !self.keys.contains_key(key) => {
                bytes.saturating_sub(item_bytes(key, &item.value))
            }
            _ => bytes,
        }
    }

    /// Whether the store stays within `bytes_max` with `change`. What makes it no larger always
    /// fits, also where the limit was lowered.
    pub fn fits(&self, store: &Store, change: &Change, bytes_max: u64) -> bool {
        let growth = self.growth_by(store, change);
        growth == 0 || store.bytes() + self.growth + growth <= bytes_max
    }

    /// `change` was proposed and stands at `index`, behind all before.
    pub fn proposed(&mut self, store: &Store, change: &Change, index: LogIndex) {
        let growth = self.growth_by(store, change);
        let key = change.key().to_owned();
        *self.keys.entry(key.clone()).or_default() += 1;
        self.growth += growth;
        self.under_way.push_back(Proposal { index, key, growth });
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: LogIndex) {
        while let Some(proposal) = self.under_way.pop_front_if(|first| first.index <= index) {
            self.growth -= proposal.growth;
            if let Some(count) = self.keys.get_mut(&proposal.key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(&proposal.key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::store::ITEM_BYTES;

    /// A store with one key, `k`, which has three bytes.
    fn store() -> Store {
        use crate::cluster::Item;
        use crate::raft::Term;
        let item =
            Item { value: "abc".to_owned(), version: 1, mod_index: LogIndex(1), term: Term(1) };
        BTreeMap::from([("k".to_owned(), item)]).into()
    }

    fn put(key: &str, bytes: usize) -> Change {
        Change::Put { key: key.to_owned(), value: "x".repeat(bytes) }
    }

    #[test]
    fn what_is_under_way_counts_until_it_is_applied() {
        let (mut room, store) = (Room::default(), store());
        let max = store.bytes() + 2 * (ITEM_BYTES + 11);
        for index in 1..=2 {
            let change = put(&index.to_string(), 10);
            assert!(room.fits(&store, &change, max));
            room.proposed(&store, &change, LogIndex(index));
        }
        assert!(!room.fits(&store, &put("3", 0), max));
        room.applied(LogIndex(1));
        assert!(room.fits(&store, &put("3", 10), max), "as if the first had changed nothing");
        assert!(!room.fits(&store, &put("3", 11), max));
        room.applied(LogIndex(7));
        assert_eq!((room.growth, room.keys.len()), (0, 0));
    }

    #[test]
    fn an_item_replaced_counts_by_the_difference() {
        let (room, store) = (Room::default(), store());
        let max = store.bytes() + 4;
        assert!(room.fits(&store, &put("k", 7), max));
        assert!(!room.fits(&store, &put("k", 8), max));
        // Full, even overfull: what makes it no larger goes.
        assert!(room.fits(&store, &put("k", 3), 0));
        assert!(room.fits(&store, &Change::Delete { key: "k".to_owned() }, 0));
        assert!(!room.fits(&store, &put("k", 4), 0));
    }

    /// Delete, then put the same again, and meanwhile another takes what the first leaves.
    #[test]
    fn an_item_that_is_changing_counts_whole() {
        let (mut room, store) = (Room::default(), store());
        let max = store.bytes() + 1;
        room.proposed(&store, &Change::Delete { key: "k".to_owned() }, LogIndex(1));
        assert!(!room.fits(&store, &put("k", 3), max), "it will not be there to be replaced");
        room.applied(LogIndex(1));
        assert!(room.fits(&Store::default(), &put("k", 3), max));
    }
}
