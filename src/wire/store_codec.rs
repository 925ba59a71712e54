//! The key/value store's values in bytes: in requests, in the log and in snapshots. Lengths beyond
//! the protocol's limits are refused here, whoever sends them.

use std::collections::BTreeMap;

use super::DecodeError;
use super::codec::{Reader, Wire, put_list, take_bytes};
use crate::cluster::{
    Change, Found, Item, KEY_BYTES_MAX, OUTCOMES_MAX, RequestId, Session, VALUE_BYTES_MAX,
};

/// A text of at most `max` bytes as Postgres can hold it.
fn take_text(from: &mut Reader<'_>, max: usize, what: &'static str) -> Result<String, DecodeError> {
    let bytes = take_bytes(from)?;
    if bytes.len() > max || bytes.contains(&0) {
        return Err(DecodeError::Invalid(what));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Invalid(what))?;
    Ok(text.to_owned())
}

/// A key.
pub(super) fn take_key(from: &mut Reader<'_>) -> Result<String, DecodeError> {
    match take_text(from, KEY_BYTES_MAX, "key")? {
        key if key.is_empty() => Err(DecodeError::Invalid("key")),
        key => Ok(key),
    }
}

/// What keys may begin with.
pub(super) fn take_prefix(from: &mut Reader<'_>) -> Result<String, DecodeError> {
    take_text(from, KEY_BYTES_MAX, "key")
}

fn take_value(from: &mut Reader<'_>) -> Result<String, DecodeError> {
    take_text(from, VALUE_BYTES_MAX, "value")
}

fn take_option<T>(
    from: &mut Reader<'_>,
    take: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    if bool::take(from)? { take(from).map(Some) } else { Ok(None) }
}

impl Wire for Change {
    // The kinds stand in the log: never renumber.
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Change::Put { key, value } => {
                1u8.put(out);
                key.put(out);
                value.put(out);
            }
            Change::Delete { key } => {
                2u8.put(out);
                key.put(out);
            }
            Change::Cas { key, expected, value } => {
                3u8.put(out);
                key.put(out);
                expected.put(out);
                value.put(out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Change, DecodeError> {
        Ok(match u8::take(from)? {
            1 => Change::Put { key: take_key(from)?, value: take_value(from)? },
            2 => Change::Delete { key: take_key(from)? },
            3 => Change::Cas {
                key: take_key(from)?,
                expected: take_option(from, take_value)?,
                value: take_value(from)?,
            },
            _ => return Err(DecodeError::Invalid("kind of change")),
        })
    }
}

impl Wire for RequestId {
    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.directory.put(out);
        self.session.put(out);
        self.serial.put(out);
        self.oldest.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<RequestId, DecodeError> {
        let id = RequestId {
            node: Wire::take(from)?,
            directory: Wire::take(from)?,
            session: Wire::take(from)?,
            serial: Wire::take(from)?,
            oldest: Wire::take(from)?,
        };
        if id.oldest > id.serial || id.serial - id.oldest >= OUTCOMES_MAX {
            return Err(DecodeError::Invalid("request id"));
        }
        Ok(id)
    }
}

impl Wire for Item {
    fn put(&self, out: &mut Vec<u8>) {
        self.value.put(out);
        self.version.put(out);
        self.mod_index.put(out);
        self.term.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Item, DecodeError> {
        Ok(Item {
            value: take_value(from)?,
            version: Wire::take(from)?,
            mod_index: Wire::take(from)?,
            term: Wire::take(from)?,
        })
    }
}

impl Wire for Session {
    fn put(&self, out: &mut Vec<u8>) {
        self.directory.put(out);
        self.session.put(out);
        self.closed.put(out);
        self.oldest.put(out);
        put_map(self.outcomes.iter(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Session, DecodeError> {
        let session = Session {
            directory: Wire::take(from)?,
            session: Wire::take(from)?,
            closed: Wire::take(from)?,
            oldest: Wire::take(from)?,
            outcomes: take_map(from, u64::take)?,
        };
        let remembered = |serial: &u64| {
            serial.checked_sub(session.oldest).is_some_and(|beyond| beyond < OUTCOMES_MAX)
        };
        let fits = session.outcomes.keys().all(remembered);
        match fits && (!session.closed || session.outcomes.is_empty()) {
            true => Ok(session),
            false => Err(DecodeError::Invalid("session")),
        }
    }
}

impl Wire for Found {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Found::Nothing => 0u8.put(out),
            Found::Value(value) => {
                1u8.put(out);
                value.put(out);
            }
            Found::Keys(keys) => {
                2u8.put(out);
                put_list(keys.iter(), out);
            }
            Found::Items(items) => {
                3u8.put(out);
                put_map(items.iter().map(|(key, item)| (key, item)), out);
            }
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Found, DecodeError> {
        Ok(match u8::take(from)? {
            0 => Found::Nothing,
            1 => Found::Value(take_option(from, take_value)?),
            2 => Found::Keys(take_counted(from, take_key)?),
            3 => Found::Items(take_pairs(from, take_key)?),
            _ => return Err(DecodeError::Invalid("kind of answer")),
        })
    }
}

/// Keys and values in the order of the keys, so that one map has one encoding only.
pub(super) fn put_map<'a, K: Wire + 'a, V: Wire + 'a>(
    pairs: impl ExactSizeIterator<Item = (&'a K, &'a V)>,
    out: &mut Vec<u8>,
) {
    (pairs.len() as u32).put(out);
    for (key, value) in pairs {
        key.put(out);
        value.put(out);
    }
}

/// What [`put_map`] wrote; another order is refused.
pub(super) fn take_map<K: Ord, V: Wire>(
    from: &mut Reader<'_>,
    take_key: fn(&mut Reader<'_>) -> Result<K, DecodeError>,
) -> Result<BTreeMap<K, V>, DecodeError> {
    take_pairs(from, take_key).map(|pairs| pairs.into_iter().collect())
}

fn take_pairs<K: Ord, V: Wire>(
    from: &mut Reader<'_>,
    take_key: fn(&mut Reader<'_>) -> Result<K, DecodeError>,
) -> Result<Vec<(K, V)>, DecodeError> {
    let pairs = take_counted(from, |from| Ok((take_key(from)?, V::take(from)?)))?;
    match pairs.is_sorted_by(|a, b| a.0 < b.0) {
        true => Ok(pairs),
        false => Err(DecodeError::Invalid("order of keys")),
    }
}

/// As many as the count says. Each takes a byte at least, so the list grows no faster than the
/// bytes are there.
fn take_counted<T>(
    from: &mut Reader<'_>,
    take: impl Fn(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    (0..u32::take(from)?).map(|_| take(from)).collect()
}
