//! Values of SQL types that pgrx has no Rust type for.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, TimestampWithTimeZone};
use pgrx::{IntoDatum, pg_sys};
use std::ffi::{CStr, c_char, c_int};

use crate::pg::report;

/// A `pg_lsn`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lsn(pub u64);

impl IntoDatum for Lsn {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.0))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::PG_LSNOID
    }
}

// SAFETY: `into_datum` gives what `type_oid` says, by value.
unsafe impl BoxRet for Lsn {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        // SAFETY: a pg_lsn is passed by value.
        unsafe { fcinfo.return_raw_datum(pg_sys::Datum::from(self.0)) }
    }
}

/// A `jsonb`, from its text.
#[derive(Clone, Debug)]
pub(super) struct Jsonb(String);

impl Jsonb {
    /// An object of strings.
    pub(super) fn object(pairs: &[(String, String)]) -> Jsonb {
        let members: Vec<String> =
            pairs.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
        Jsonb(format!("{{{}}}", members.join(",")))
    }
}

impl IntoDatum for Jsonb {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // `quoted` has escaped every zero byte.
        let text = std::ffi::CString::new(self.0).ok()?;
        let argument = Some(pg_sys::Datum::from(text.as_ptr()));
        // SAFETY: jsonb_in takes one C string, which outlives the call, and copies what it needs.
        unsafe { pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[argument]) }
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::JSONBOID
    }
}

// SAFETY: `into_datum` gives a jsonb, allocated in the memory context of the caller.
unsafe impl BoxRet for Jsonb {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: just made, in the current memory context.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

/// A `text` whose content is from the store: UTF-8, to become the database's encoding.
#[derive(Clone, Debug)]
pub(super) struct StoreText(pub String);

/// The bytes of a `text`, in the database's encoding, as the store keeps them.
pub(super) fn stored(bytes: &[u8]) -> String {
    // SAFETY: Postgres converts `len` bytes at `ptr`, which it only reads.
    let converted = convert(bytes, |ptr, len| unsafe {
        pg_sys::pg_server_to_any(ptr, len, pg_sys::pg_enc::PG_UTF8 as c_int)
    });
    String::from_utf8(converted.to_vec()).unwrap_or_else(|_| {
        report::raise_invalid("the text is not valid in the database's encoding".into(), "", "")
    })
}

/// What `with`, one of Postgres' conversions, makes of `bytes`: in memory of Postgres', or the very
/// same if there is nothing to convert. It raises what it cannot convert.
fn convert(bytes: &[u8], with: impl Fn(*const c_char, c_int) -> *mut c_char) -> &[u8] {
    let from = bytes.as_ptr().cast();
    let to = with(from, bytes.len() as c_int);
    if to.cast_const() == from {
        return bytes;
    }
    // SAFETY: what is converted ends in a zero byte, has none else, as no text has, and lives in
    // the memory context of this call, as long as the argument.
    unsafe { CStr::from_ptr(to) }.to_bytes()
}

impl IntoDatum for StoreText {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        // SAFETY: as in `stored`.
        let converted = convert(self.0.as_bytes(), |ptr, len| unsafe {
            pg_sys::pg_any_to_server(ptr, len, pg_sys::pg_enc::PG_UTF8 as c_int)
        });
        // SAFETY: copies that many bytes into a new text.
        let text = unsafe {
            pg_sys::cstring_to_text_with_len(converted.as_ptr().cast(), converted.len() as c_int)
        };
        Some(pg_sys::Datum::from(text))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

// SAFETY: `into_datum` gives a text, allocated in the memory context of the caller.
unsafe impl BoxRet for StoreText {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: just made, in the current memory context.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// A `timestamptz`, from microseconds since 1970; `None` outside what Postgres can show.
pub(super) fn timestamp(unix_us: i64) -> Option<TimestampWithTimeZone> {
    /// From 1970 to 2000, where Postgres' time begins.
    const EPOCH_SHIFT_US: i64 = 946_684_800_000_000;
    TimestampWithTimeZone::try_from(unix_us.checked_sub(EPOCH_SHIFT_US)?).ok()
}
