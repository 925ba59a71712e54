//! ramd's own log: lines with a time and a level, to standard error, which may be a file.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use log::{LevelFilter, Log, Metadata, Record};
use pgraft::sys::daemon::standard_error_to;

struct ToStandardError;

impl Log for ToStandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What the SQL client says of itself is for its own developers.
        metadata.level() <= log::max_level() && metadata.target().starts_with("ramd")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (time, level) = (time(crate::clock::unix_ms()), record.level().as_str());
        let text = record.args().to_string().replace('\n', " ");
        // Nowhere to say that nothing can be said.
        let _ = writeln!(io::stderr().lock(), "{time} {level:5} {text}");
    }

    fn flush(&self) {}
}

/// From now on lines go to standard error.
pub fn begin(level: LevelFilter) {
    // Fails only if it was called before.
    let _ = log::set_logger(&ToStandardError);
    log::set_max_level(level);
}

/// From now on standard error is this file; again after SIGHUP, when it was moved away.
pub fn to_file(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
    standard_error_to(&file)
}

/// `2026-11-27 14:35:10.123 UTC`.
pub fn time(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let (year, month, day) = pgraft::calendar::date(days);
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    let (seconds, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{ms:03} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000 UTC");
        assert_eq!(time(1_795_790_110_123), "2026-11-27 14:35:10.123 UTC");
        assert_eq!(time(4_107_542_399_999), "2100-02-28 23:59:59.999 UTC");
        assert_eq!(time(4_107_542_400_000), "2100-03-01 00:00:00.000 UTC");
    }
}
