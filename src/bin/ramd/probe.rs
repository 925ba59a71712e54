//! What a server says of itself, asked over a connection of its own with a hard deadline.

use std::time::{Duration, Instant};

use crate::overview::{PgFacts, Streaming};
use crate::sql::{Line, Row, SqlError, Target};

/// The local server, in one row; then its standbys. A standby that has replayed what it received is
/// not behind only as long as it streams: else nobody knows what there is to be received.
const SQL: &str = "\
    SELECT r, CASE WHEN r THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
      (SELECT received_tli FROM pg_stat_get_wal_receiver())) \
      ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    current_setting('server_version_num'), \
    CASE WHEN r THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END, \
    CASE WHEN r THEN pg_last_wal_receive_lsn() END, \
    streams, \
    r AND pg_is_wal_replay_paused(), \
    CASE WHEN r THEN \
      CASE WHEN streams AND pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() THEN 0 \
      ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END END, \
    (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint \
    FROM (SELECT pg_is_in_recovery() AS r, EXISTS \
      (SELECT FROM pg_stat_get_wal_receiver() WHERE status = 'streaming') AS streams) s; \
    SELECT application_name, state, sync_state, replay_lsn FROM pg_stat_replication";

/// What came of a probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// How long it took.
    pub took: Duration,
    /// What it found.
    pub outcome: Result<PgFacts, SqlError>,
}

/// Asks once.
pub fn probe(line: &Line, target: &Target, at_most: Duration) -> Probe {
    let began = Instant::now();
    let outcome = line.ask(target, SQL, at_most).and_then(|rows| {
        facts(&rows).ok_or_else(|| SqlError::Here("the server's answer is not understood".into()))
    });
    Probe { took: began.elapsed(), outcome }
}

fn facts(rows: &[Row]) -> Option<PgFacts> {
    let (own, standbys) = rows.split_first()?;
    let text = |n: usize| own.get(n).and_then(Option::as_deref);
    let lsn = |n: usize| text(n).and_then(parse_lsn).unwrap_or(0);
    Some(PgFacts {
        in_recovery: text(0)? == "t",
        timeline: text(1)?.parse().ok()?,
        version: text(2)?.parse().ok()?,
        lsn: lsn(3),
        received_lsn: lsn(4),
        streaming: text(5)? == "t",
        replay_paused: text(6)? == "t",
        lag_bytes: None,
        lag_seconds: text(7).and_then(|seconds| seconds.parse().ok()),
        started_unix_ms: text(8).and_then(|ms| ms.parse().ok()).unwrap_or(0),
        standbys: standbys.iter().filter_map(standby).collect(),
    })
}

fn standby(row: &Row) -> Option<Streaming> {
    let text = |n: usize| row.get(n).and_then(Option::as_deref).unwrap_or_default().to_owned();
    let replay_lsn = parse_lsn(&text(3)).unwrap_or(0);
    (row.len() == 4).then(|| Streaming {
        name: text(0),
        state: text(1),
        sync_state: text(2),
        replay_lsn,
    })
}

/// `16/B374D848`.
pub fn parse_lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let part = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
    Some(part(high)? << 32 | part(low)?)
}

/// The other way round.
pub fn show_lsn(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_read_and_shown() {
        assert_eq!(parse_lsn("16/B374D848"), Some(0x16_B374_D848));
        assert_eq!(show_lsn(0x16_B374_D848), "16/B374D848");
        for bad in ["", "16", "16/", "g/0", "1/123456789"] {
            assert_eq!(parse_lsn(bad), None, "{bad}");
        }
    }
}
