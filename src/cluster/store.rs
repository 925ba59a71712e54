//! The replicated key/value store: what a change does to it. For settings of the cluster and for
//! locks, not for application data: every node holds all of it in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use super::Uuid;
use crate::raft::{EntryId, LogIndex, NodeId, Term};

/// The longest key, in bytes of UTF-8; `kv_max_key_bytes` can only lower it.
pub const KEY_BYTES_MAX: usize = 256;
/// The longest value, in bytes of UTF-8; `kv_max_value_bytes` can only lower it.
pub const VALUE_BYTES_MAX: usize = 8192;
/// What an item counts beside its key and value: about what it takes in memory, and more than in a
/// snapshot. Without it, millions of tiny items would fit the limit.
pub const ITEM_BYTES: u64 = 64;

/// What a request wants done to the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// `key` has `value` from now on. Always done.
    Put {
        /// Where.
        key: String,
        /// What.
        value: String,
    },
    /// `key` does not exist from now on. Done if it existed.
    Delete {
        /// Which.
        key: String,
    },
    /// Like `Put`, but done only if `key` has the value expected. In bytes, up to a key and two
    /// values.
    Cas {
        /// Where.
        key: String,
        /// What it must have; `None`: it must not exist.
        expected: Option<String>,
        /// What it gets.
        value: String,
    },
}

/// Why a key or a value is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitError {
    /// The key has no byte.
    KeyEmpty,
    /// The key is longer than the limit.
    KeyTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The value, or the one expected, is longer than the limit.
    ValueTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitError::KeyEmpty => f.write_str("the key is empty"),
            LimitError::KeyTooLong { bytes, max } => {
                write!(f, "the key has {bytes} bytes, at most {max} are allowed")
            }
            LimitError::ValueTooLong { bytes, max } => {
                write!(f, "the value has {bytes} bytes, at most {max} are allowed")
            }
        }
    }
}

impl std::error::Error for LimitError {}

/// That `key` may be one where a key has at most `max` bytes.
pub fn check_key(key: &str, max: usize) -> Result<(), LimitError> {
    match key.len() {
        0 => Err(LimitError::KeyEmpty),
        bytes if bytes > max => Err(LimitError::KeyTooLong { bytes, max }),
        _ => Ok(()),
    }
}

impl Change {
    /// The key it is about.
    pub fn key(&self) -> &str {
        match self {
            Change::Put { key, .. } | Change::Delete { key } | Change::Cas { key, .. } => key,
        }
    }

    /// The value that the key gets, if any.
    pub fn value(&self) -> Option<&str> {
        match self {
            Change::Put { value, .. } | Change::Cas { value, .. } => Some(value),
            Change::Delete { .. } => None,
        }
    }

    /// That key and values are within these limits.
    pub fn check(&self, key_bytes_max: usize, value_bytes_max: usize) -> Result<(), LimitError> {
        check_key(self.key(), key_bytes_max)?;
        let expected = match self {
            Change::Cas { expected, .. } => expected.as_deref(),
            _ => None,
        };
        match self.value().into_iter().chain(expected).map(str::len).max() {
            Some(bytes) if bytes > value_bytes_max => {
                Err(LimitError::ValueTooLong { bytes, max: value_bytes_max })
            }
            _ => Ok(()),
        }
    }
}

/// Names one request for ever: the state machine carries it out at most once, however often and
/// through whichever leaders it comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// The node whose backend asked.
    pub node: NodeId,
    /// Its data directory.
    pub directory: Uuid,
    /// `Identity::boots` of the run in which it asked: higher after each start.
    pub session: u64,
    /// Its number in that run, from 1 on.
    pub serial: u64,
    /// The lowest serial that was still open when it asked: no outcome below needs remembering, and
    /// no request below is carried out any more. Invariant: `oldest <= serial`.
    pub oldest: u64,
}

/// What a key has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The value.
    pub value: String,
    /// 1 when the key came to be, one more with each change.
    pub version: u64,
    /// The log entry that changed it last.
    pub mod_index: LogIndex,
    /// That entry's term.
    pub term: Term,
}

/// All keys and what they have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Store {
    items: BTreeMap<String, Item>,
    /// Invariant: the sum of `item_bytes` over `items`.
    bytes: u64,
}

/// What a key with a value counts towards `kv_max_store_bytes`.
pub fn item_bytes(key: &str, value: &str) -> u64 {
    (key.len() + value.len()) as u64 + ITEM_BYTES
}

impl Store {
    /// What `key` has.
    pub fn get(&self, key: &str) -> Option<&Item> {
        self.items.get(key)
    }

    /// The keys that begin with `prefix`, in the order of their bytes.
    pub fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a String> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let keys = self.items.range::<str, _>(from).map(|(key, _)| key);
        keys.take_while(move |key| key.starts_with(prefix))
    }

    /// Everything, in the order of the keys' bytes.
    pub fn items(&self) -> impl ExactSizeIterator<Item = (&String, &Item)> {
        self.items.iter()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// What counts towards `kv_max_store_bytes`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Carries out what stands in the log at `entry`; whether it was done.
    pub(super) fn change(&mut self, entry: EntryId, change: Change) -> bool {
        match change {
            Change::Put { key, value } => self.set(entry, key, value),
            Change::Delete { key } => match self.items.remove(&key) {
                Some(item) => {
                    self.bytes -= item_bytes(&key, &item.value);
                    return true;
                }
                None => return false,
            },
            Change::Cas { key, expected, value } => {
                if self.items.get(&key).map(|item| &item.value) != expected.as_ref() {
                    return false;
                }
                self.set(entry, key, value);
            }
        }
        true
    }

    fn set(&mut self, entry: EntryId, key: String, value: String) {
        self.bytes += item_bytes(&key, &value);
        let (mod_index, term) = (entry.index, entry.term);
        match self.items.get_mut(&key) {
            Some(item) => {
                self.bytes -= item_bytes(&key, &item.value);
                *item = Item { value, version: item.version + 1, mod_index, term };
            }
            None => {
                let item = Item { value, version: 1, mod_index, term };
                self.items.insert(key, item);
            }
        }
    }
}

/// A store of these items, as a snapshot holds them.
impl From<BTreeMap<String, Item>> for Store {
    fn from(items: BTreeMap<String, Item>) -> Store {
        let bytes = items.iter().map(|(key, item)| item_bytes(key, &item.value)).sum();
        Store { items, bytes }
    }
}
