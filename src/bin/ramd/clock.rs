//! Time for people.

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    pgraft::sys::unix_time_us().unsigned_abs() / 1000
}
