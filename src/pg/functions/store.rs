//! The replicated key/value store: `pgraft_kv_put` and the others.
//!
//! The store holds UTF-8, whatever the encoding of the database that asks (`types::StoreText`).
//! Limits are checked here as far as they are the protocol's; those of the configuration are the
//! leader's to check.

use pgrx::iter::{SetOfIterator, TableIterator};
use pgrx::{name, pg_extern};

use crate::cluster::{Change, Found, KEY_BYTES_MAX, LimitError, Request, VALUE_BYTES_MAX};
use crate::pg::{command, report, shared};
use crate::runtime::failures::beyond_limit;

use super::types::{StoreText, stored};

#[pg_extern]
fn pgraft_kv_put(key: Option<&[u8]>, value: Option<&[u8]>) -> bool {
    shared::get_or_raise();
    let key = checked_key(key);
    change(Change::Put { key, value: checked_value("value", value) })
}

#[pg_extern]
fn pgraft_kv_delete(key: Option<&[u8]>) -> bool {
    shared::get_or_raise();
    change(Change::Delete { key: checked_key(key) })
}

/// A null `expected` means that there must be no such key.
#[pg_extern]
fn pgraft_kv_cas(key: Option<&[u8]>, expected: Option<&[u8]>, value: Option<&[u8]>) -> bool {
    shared::get_or_raise();
    let key = checked_key(key);
    let expected = expected.map(|expected| checked_value("expected", Some(expected)));
    change(Change::Cas { key, expected, value: checked_value("value", value) })
}

#[pg_extern]
fn pgraft_kv_get(key: Option<&[u8]>, consistent: Option<bool>) -> Option<StoreText> {
    get(key, consistent).map(StoreText)
}

#[pg_extern]
fn pgraft_kv_exists(key: Option<&[u8]>, consistent: Option<bool>) -> bool {
    get(key, consistent).is_some()
}

#[pg_extern]
fn pgraft_kv_list_keys(
    prefix: Option<&[u8]>,
    consistent: Option<bool>,
) -> SetOfIterator<'static, StoreText> {
    shared::get_or_raise();
    let prefix = checked_prefix("prefix", prefix);
    let keys = match read(Request::Keys { prefix, consistent: checked_consistent(consistent) }) {
        Found::Keys(keys) => keys,
        _ => Vec::new(),
    };
    SetOfIterator::new(keys.into_iter().map(StoreText))
}

#[pg_extern]
#[allow(clippy::type_complexity, reason = "pgrx wants the columns spelt out in the signature")]
fn pgraft_kv(
    consistent: Option<bool>,
) -> TableIterator<
    'static,
    (
        name!(key, StoreText),
        name!(value, StoreText),
        name!(version, i64),
        name!(mod_index, i64),
        name!(term, i64),
    ),
> {
    shared::get_or_raise();
    let items = match read(Request::Items { consistent: checked_consistent(consistent) }) {
        Found::Items(items) => items,
        _ => Vec::new(),
    };
    TableIterator::new(items.into_iter().map(|(key, item)| {
        let (version, mod_index, term) = (item.version, item.mod_index.0, item.term.0);
        (StoreText(key), StoreText(item.value), version as i64, mod_index as i64, term as i64)
    }))
}

fn change(change: Change) -> bool {
    command::run(Request::Store { id: None, change })
}

fn get(key: Option<&[u8]>, consistent: Option<bool>) -> Option<String> {
    shared::get_or_raise();
    let key = checked_key(key);
    match read(Request::Get { key, consistent: checked_consistent(consistent) }) {
        Found::Value(value) => value,
        _ => None,
    }
}

fn read(request: Request) -> Found {
    let mut done = command::carry_out(request);
    let found = std::mem::take(&mut done.found);
    report::tell(done);
    found
}

fn checked_consistent(consistent: Option<bool>) -> bool {
    consistent.unwrap_or_else(|| report::raise_null("consistent"))
}

fn checked_key(key: Option<&[u8]>) -> String {
    let key = checked_prefix("key", key);
    if key.is_empty() {
        refuse(LimitError::KeyEmpty);
    }
    key
}

fn checked_prefix(name: &str, text: Option<&[u8]>) -> String {
    short_text(name, text, KEY_BYTES_MAX, |bytes, max| LimitError::KeyTooLong { bytes, max })
}

fn checked_value(name: &str, text: Option<&[u8]>) -> String {
    short_text(name, text, VALUE_BYTES_MAX, |bytes, max| LimitError::ValueTooLong { bytes, max })
}

/// The argument `name`, of at most `max` bytes in UTF-8; `too_long` says what is wrong with more.
fn short_text(
    name: &str,
    text: Option<&[u8]>,
    max: usize,
    too_long: impl Fn(usize, usize) -> LimitError,
) -> String {
    let bytes = text.unwrap_or_else(|| report::raise_null(name));
    // No encoding needs more than four times the bytes of another: not worth converting.
    if bytes.len() > 4 * max {
        refuse(too_long(bytes.len(), max));
    }
    let text = stored(bytes);
    if text.len() > max {
        refuse(too_long(text.len(), max));
    }
    text
}

fn refuse(error: LimitError) -> ! {
    report::raise(beyond_limit(&error))
}
