//! What the server said in its log while it was started.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// What a server says whose data directory is of no use for a start, in PostgreSQL's words: it is
/// of another history, or has not the WAL that it needs.
const USELESS: [&str; 4] = [
    "is not a child of this server's history",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "invalid checkpoint record",
];
/// How much of the end of the log is looked at.
const BYTES_MAX: u64 = 16 << 10;

/// How long the log is.
pub fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |meta| meta.len())
}

/// What was said since the log was so long, or the end of it; empty where that cannot be read.
pub fn said_since(log: &Path, length: u64) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let from = length.max(file.metadata()?.len().saturating_sub(BYTES_MAX));
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

/// Why the server ended, if it said so. What it refuses clients with until it has ended is no
/// reason.
pub fn why_ended(said: &str) -> Option<&str> {
    let last = |line: &&str| {
        let fatal = line.contains("FATAL:") || line.contains("PANIC:");
        fatal && !line.contains("the database system is")
    };
    why_useless(said).or_else(|| said.lines().rfind(last))
}

/// The line that shows that the data directory is of no use.
pub fn why_useless(said: &str) -> Option<&str> {
    said.lines().find(|line| USELESS.iter().any(|words| line.contains(words)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "[17931] FATAL:  the database system is in recovery mode\n";

    #[test]
    fn the_reason_of_an_end_is_no_clients() {
        let useless =
            "[17929] FATAL:  requested timeline 9 is not a child of this server's history";
        let said = format!("[17922] LOG:  starting\n{useless}\n[17929] DETAIL:  x\n{REFUSED}");
        assert_eq!((why_ended(&said), why_useless(&said)), (Some(useless), Some(useless)));
        let full = "[9] PANIC:  could not write to file \"pg_wal/xlogtemp.9\": No space left";
        let said = format!("[1] FATAL:  sorry\n{full}\n{REFUSED}");
        assert_eq!((why_ended(&said), why_useless(&said)), (Some(full), None));
        assert_eq!(why_ended(REFUSED), None);
    }
}
