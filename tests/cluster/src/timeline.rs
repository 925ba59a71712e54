//! What happened when, from the servers' logs.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::Node;

/// A line of a server's log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Whose.
    pub node: u32,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    /// The kind of process: `pgraft`, `startup`, `client backend` ...
    pub process: String,
    /// What it says, without the severity.
    pub text: String,
}

/// Milliseconds since 1970, as [`LogLine::at_ms`].
pub fn wall_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// The lines of these nodes' logs from that moment on, in the order of time.
pub fn since<'a>(nodes: impl IntoIterator<Item = &'a Node>, from_ms: i64) -> Vec<LogLine> {
    let mut lines: Vec<LogLine> = nodes
        .into_iter()
        .flat_map(|node| {
            let log = node.log();
            let parsed: Vec<LogLine> =
                log.lines().filter_map(|line| parse(node.id(), line)).collect();
            parsed
        })
        .filter(|line| line.at_ms >= from_ms)
        .collect();
    lines.sort_by_key(|line| line.at_ms);
    lines
}

/// A line of `log_line_prefix = '%m [%p] %b '`; none for what goes on a line before.
fn parse(node: u32, line: &str) -> Option<LogLine> {
    let (stamp, rest) = line.split_once(" UTC [")?;
    let (_, rest) = rest.split_once("] ")?;
    let severities = ["LOG:  ", "WARNING:  ", "ERROR:  ", "FATAL:  ", "PANIC:  ", "NOTICE:  "];
    let (at, severity) =
        severities.iter().filter_map(|s| Some((rest.find(s)?, s))).min_by_key(|(at, _)| *at)?;
    Some(LogLine {
        node,
        at_ms: parse_stamp(stamp)?,
        process: rest[..at].trim().to_owned(),
        text: rest[at + severity.len()..].to_owned(),
    })
}

/// `2026-11-27 11:51:21.945`, in UTC.
fn parse_stamp(stamp: &str) -> Option<i64> {
    let numbers: Vec<i64> =
        stamp.split(['-', ' ', ':', '.']).map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let [year, month, day, hour, minute, second, ms] = numbers[..] else { return None };
    let days = days_since_1970(year, month, day);
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + ms)
}

/// Of a day in the Gregorian calendar: years are taken to begin in March, so that a leap day is
/// the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        let cases = [(1970, 1, 1, 0), (2000, 2, 29, 11_016), (2026, 11, 27, 20_784)];
        for (year, month, day, days) in cases {
            assert_eq!(days_since_1970(year, month, day), days, "{year}-{month}-{day}");
        }
    }

    #[test]
    fn a_line_is_taken_apart() {
        let line = "1970-01-02 00:00:01.500 UTC [27246] pgraft LOG:  pgraft: campaigning: LOG:  2";
        let parsed = parse(3, line).unwrap();
        assert_eq!((parsed.node, parsed.at_ms), (3, 86_401_500));
        assert_eq!((&*parsed.process, &*parsed.text), ("pgraft", "pgraft: campaigning: LOG:  2"));
        assert_eq!(parse(3, "\tIs the server running on that host?"), None);
    }
}
