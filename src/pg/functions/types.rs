//! Values of SQL types that pgrx has no Rust type for.

use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::datum::{Datum, TimestampWithTimeZone};
use pgrx::{IntoDatum, pg_sys};

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
