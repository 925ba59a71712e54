//! Log lines that a stranger can cause: the first of a kind and source at once, then at most one a
//! minute that says how many were left out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::cluster::Address;

/// At most one line a source and kind in this time.
const QUIET: Duration = Duration::from_secs(60);
/// Sources remembered apart; further ones share one line.
const SOURCES_MAX: usize = 256;

/// Who caused the line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Source {
    /// A caller from there.
    Ip(IpAddr),
    /// A peer that was dialled.
    Dialled(Address),
    /// This node itself.
    Here,
    /// One of too many to tell apart.
    Others,
}

/// What the line is about; a flood of one kind does not hide the others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// A handshake refused; by refusal code.
    Refused(u8),
    /// A connection without a handshake.
    NoHandshake,
    /// A frame that could not be read.
    BadFrame,
    /// Too many connections.
    Full,
    /// The listener could not accept.
    Accept,
}

#[derive(Debug)]
struct Seen {
    logged: Instant,
    suppressed: u64,
}

/// What was logged when.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<BTreeMap<(Source, Kind), Seen>>);

impl Notices {
    /// The words to end the line with (empty, or how many were left out), or `None` to log nothing.
    pub(super) fn may_log(&self, source: Source, kind: Kind, now: Instant) -> Option<String> {
        let mut seen = lock(&self.0);
        let mut key = (source, kind);
        if seen.len() >= SOURCES_MAX && !seen.contains_key(&key) {
            seen.retain(|_, s| now.saturating_duration_since(s.logged) < QUIET);
            if seen.len() >= SOURCES_MAX {
                key.0 = Source::Others;
            }
        }
        match seen.get_mut(&key) {
            None => {
                seen.insert(key, Seen { logged: now, suppressed: 0 });
                Some(String::new())
            }
            Some(s) if now.saturating_duration_since(s.logged) < QUIET => {
                s.suppressed += 1;
                None
            }
            Some(s) => {
                s.logged = now;
                let words = match std::mem::take(&mut s.suppressed) {
                    0 => String::new(),
                    n => format!(" ({n} more like it were not logged)"),
                };
                Some(words)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> Source {
        Source::Ip(IpAddr::V4(n.into()))
    }

    #[test]
    fn the_first_line_comes_at_once_the_next_after_a_minute_with_a_count() {
        let (notices, start) = (Notices::default(), Instant::now());
        let at = |s, kind| notices.may_log(ip(1), kind, start + Duration::from_secs(s));
        assert_eq!(at(0, Kind::BadFrame).as_deref(), Some(""));
        assert_eq!(at(1, Kind::BadFrame), None);
        assert_eq!(at(59, Kind::BadFrame), None);
        assert_eq!(at(2, Kind::Full).as_deref(), Some(""), "another kind has its own line");
        let third = at(61, Kind::BadFrame);
        assert_eq!(third.as_deref(), Some(" (2 more like it were not logged)"));
        assert_eq!(at(200, Kind::BadFrame).as_deref(), Some(""));
    }

    #[test]
    fn many_sources_share_one_line_and_bounded_memory() {
        let (notices, now) = (Notices::default(), Instant::now());
        let lines =
            (0..10_000).filter(|n| notices.may_log(ip(*n), Kind::BadFrame, now).is_some()).count();
        assert_eq!(lines, SOURCES_MAX + 1);
        assert!(lock(&notices.0).len() <= SOURCES_MAX + 6);
        let later = now + QUIET;
        assert!(notices.may_log(ip(99_999), Kind::BadFrame, later).is_some());
        assert_eq!(lock(&notices.0).len(), 1);
    }
}
