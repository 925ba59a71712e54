//! Timeline history files, `pg_wal/00000002.history`: read, and written as placeholders.
//!
//! A promotion takes the first number above the server's own for which there is no history file
//! (src/backend/access/transam/timeline.c, findNewestTimeLine). pgraft's log says which number it
//! is to be, one that no other promotion has; so numbers below it that were never used get a
//! placeholder, a file of nothing but a comment. A standby fetches the history of each number up to
//! its primary's, so a placeholder stays once the promotion has happened. One that nothing came of
//! has to go before recovery looks: it would take the empty history for its own target and refuse
//! to start.

use crate::cluster::{SWITCHES_MAX, Switch};

/// The longest history file that is read: a thousand lines with long reasons.
pub const HISTORY_BYTES_MAX: u64 = 512 << 10;

const MARK: &str = "# pgraft: placeholder";

/// The name of a timeline's history file in `pg_wal`.
pub fn file_name(timeline: u32) -> String {
    format!("{timeline:08X}.history")
}

/// The timeline whose history file has this name.
pub fn of_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".history")?;
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    if digits.len() != 8 || !digits.bytes().all(upper) {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

/// What a placeholder holds.
pub fn placeholder(timeline: u32, taken: u32) -> String {
    format!("{MARK}, timeline {timeline} was never used; a promotion took {taken}\n")
}

/// Whether it is a placeholder.
pub fn is_placeholder(text: &str) -> bool {
    text.starts_with(MARK)
}

/// Which placeholders are to go, given each history file's number and whether it is one: those
/// above every real one, `current` included, came of promotions that did not happen.
pub fn stray(files: &[(u32, bool)], current: u32) -> Vec<u32> {
    let real = files.iter().filter(|(_, placeholder)| !placeholder).map(|&(number, _)| number);
    let newest = real.chain([current]).max().unwrap_or(current);
    let stray = files.iter().filter(|&&(number, placeholder)| placeholder && number > newest);
    stray.map(|&(number, _)| number).collect()
}

/// Reads a history file as Postgres does. `None`: it is none, or longer than a position can be.
pub fn parse(text: &str) -> Option<Vec<Switch>> {
    let mut switches: Vec<Switch> = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut fields = line.split_ascii_whitespace();
        let timeline = fields.next()?.parse().ok()?;
        let (high, low) = fields.next()?.split_once('/')?;
        let ends = u64::from(hex(high)?) << 32 | u64::from(hex(low)?);
        let increases = switches.last().is_none_or(|last| last.timeline < timeline);
        if timeline == 0 || !increases || switches.len() == SWITCHES_MAX {
            return None;
        }
        switches.push(Switch { timeline, ends });
    }
    Some(switches)
}

fn hex(digits: &str) -> Option<u32> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    if all { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_history_is_read() {
        let text = "1\t0/3000148\tno recovery target specified\n\n# a comment\n\
                    2\tA/1C0000F0\tbefore 2000-01-01 00:00:00+00\n";
        let want = [(1, 0x300_0148), (2, 0xA_1C00_00F0)];
        let want = want.map(|(timeline, ends)| Switch { timeline, ends });
        assert_eq!(parse(text), Some(want.to_vec()));
        assert_eq!(parse(""), Some(vec![]));
        assert_eq!(parse(&placeholder(2, 5)), Some(vec![]));
    }

    #[test]
    fn what_is_no_history_is_unknown() {
        for text in ["1", "1 3000148", "x 0/1", "1 0/x", "1 0/123456789", "2 0/1\n1 0/2", "0 0/1"] {
            assert_eq!(parse(text), None, "{text}");
        }
        let long: String = (1..=SWITCHES_MAX + 1).map(|n| format!("{n} 0/{n:X}\n")).collect();
        assert_eq!(parse(&long), None);
    }

    #[test]
    fn file_names_are_postgres_own() {
        assert_eq!(file_name(26), "0000001A.history");
        assert_eq!(of_file_name("0000001A.history"), Some(26));
        for name in ["0000001a.history", "1A.history", "0000001A.history.ready", "000000+1.history"]
        {
            assert_eq!(of_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn placeholders_that_nothing_came_of_are_stray() {
        assert!(is_placeholder(&placeholder(2, 3)));
        assert!(!is_placeholder("1\t0/1\tx"));
        assert_eq!(stray(&[(2, true), (3, true)], 1), [2, 3]);
        assert_eq!(stray(&[(2, true), (3, false), (4, true)], 1), [4]);
        assert_eq!(stray(&[(2, true)], 3), [0; 0]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = (parse(&text), of_file_name(&text));
        }

        #[test]
        fn what_looks_like_one_never_panics(text in "[0-9A-F/ \t\n#]{0,100}") {
            let _ = parse(&text);
        }
    }
}
