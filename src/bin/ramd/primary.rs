//! Who is the primary, asked of the members themselves: only the one that its own pgraft has open
//! for writes is believed. So what is found was decided by the Raft log, also while this node's own
//! page is unknown.

use std::collections::BTreeMap;
use std::time::Duration;

use pgraft::cluster::{Address, Switch};
use pgraft::hand::timeline;

use crate::control_data::ControlData;
use crate::daemon::Daemon;
use crate::probe::parse_lsn;
use crate::server::Server;
use crate::sql::{Line, Row, SqlError, Target, ask_once};

/// A server that is asked to write a checkpoint may have much to write.
const CHECKPOINT_AT_MOST: Duration = Duration::from_secs(300);
/// For a few rows of a server that has answered a moment ago.
const ASK_AT_MOST: Duration = Duration::from_secs(10);

const SQL: &str = "\
    SELECT s.node_id, s.primary_id, s.cluster_id, s.fenced, s.state, r, \
    CASE WHEN NOT r \
      THEN ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END, \
    (SELECT timeline_id FROM pg_control_checkpoint()), \
    (SELECT bytes_per_wal_segment FROM pg_control_init()), \
    (SELECT system_identifier FROM pg_control_system()) \
    FROM pgraft_status() s, (SELECT pg_is_in_recovery() AS r) q";

/// The primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Its node id.
    pub id: u32,
    /// Where its Postgres is.
    pub address: Address,
    /// What it writes on.
    pub timeline: u32,
    /// That of its latest checkpoint: until it is the same, the promotion is not complete on disk.
    pub checkpoint_timeline: u32,
    /// How long its WAL segments are.
    pub segment_bytes: u64,
    /// What initdb made up, and every copy has.
    pub system_identifier: u64,
}

/// Asks members who is the primary, each over a line of its own.
#[derive(Debug, Default)]
pub struct Search {
    lines: BTreeMap<u32, Line>,
}

impl Search {
    /// The primary, if it is another node and says so itself. `Err`: why there is none.
    pub fn find(&mut self, daemon: &Daemon, hint: u32) -> Result<Primary, String> {
        let own = daemon.pgraft.node_id.get();
        let mut members = daemon.memory.get().members;
        members.retain(|member| member.id != own);
        // The one that the log names first: then the others need not be asked.
        members.sort_by_key(|member| member.id != hint);
        let mut answers = Vec::new();
        for member in members {
            let line = self.lines.entry(member.id).or_default();
            match Address::parse(&member.pg_address) {
                Ok(address) => match ask(daemon, line, member.id, address) {
                    Ok(primary) => return Ok(primary),
                    Err(why) => answers.push(format!("node {}: {why}", member.id)),
                },
                Err(error) => answers.push(format!("node {}: {error}", member.id)),
            }
        }
        match answers.is_empty() {
            true => Err("no other member is known".to_owned()),
            false => Err(format!("no other member is an open primary: {}", answers.join("; "))),
        }
    }
}

/// Asks the server at an address whether it is the primary.
pub fn ask(daemon: &Daemon, line: &Line, id: u32, address: Address) -> Result<Primary, String> {
    let target = Target::at(&daemon.settings, &address);
    let rows = line.ask(&target, SQL, daemon.settings.probe_timeout).map_err(|e| in_words(&e))?;
    let row = rows.first().ok_or("pgraft says nothing there")?;
    read(row, id, address, &daemon.pgraft.cluster_id)
}

fn read(row: &Row, id: u32, address: Address, cluster: &str) -> Result<Primary, String> {
    let text = |n: usize| row.get(n).and_then(Option::as_deref).unwrap_or_default();
    let number = |n: usize| text(n).parse::<u32>().unwrap_or(0);
    if text(2) != cluster {
        return Err(format!("it is of cluster \"{}\"", text(2)));
    }
    if id != 0 && number(0) != id {
        return Err(format!("it is node {}", number(0)));
    }
    if text(4) != "member" {
        return Err(format!("its state is {}", text(4)));
    }
    if text(5) != "f" {
        return Err("it is in recovery".to_owned());
    }
    if number(1) != number(0) || text(3) != "f" {
        return Err("it is not open for writes".to_owned());
    }
    let (timeline, checkpoint_timeline) = (number(6), number(7));
    let segment_bytes = text(8).parse().unwrap_or(0);
    // SQL has no unsigned numbers.
    let system_identifier = text(9).parse::<i64>().unwrap_or(0) as u64;
    if timeline == 0 || segment_bytes == 0 || system_identifier == 0 {
        return Err("its answer is not understood".to_owned());
    }
    let id = number(0);
    Ok(Primary { id, address, timeline, checkpoint_timeline, segment_bytes, system_identifier })
}

fn in_words(error: &SqlError) -> String {
    match error {
        // undefined_function
        SqlError::Server { sqlstate, message, .. } if sqlstate == "42883" => {
            format!("{message}; is the extension pgraft in the database postgresql_database?")
        }
        other => other.to_string(),
    }
}

impl Primary {
    /// Whether its data and this server's began as the same database: another cluster may have the
    /// same name, and its server stand where a member's was. A new member has no data yet.
    pub fn is_of_our_system(&self, daemon: &Daemon, server: &Server) -> Result<(), String> {
        if !server.has_data() {
            return Ok(());
        }
        let own = ControlData::read(daemon, server)?.system_identifier;
        match own == self.system_identifier {
            true => Ok(()),
            false => Err(format!(
                "node {} at {} is of another database: its system identifier is {}, and that of \
                 \"{}\" is {own}; nothing was changed",
                self.id,
                self.address,
                self.system_identifier,
                daemon.settings.data.display()
            )),
        }
    }

    /// Sees to it that the promotion is complete on disk there: before, its control file tells of
    /// the timeline before, and pg_rewind would believe that.
    pub fn complete_promotion(&mut self, daemon: &Daemon) -> Result<(), String> {
        if self.checkpoint_timeline == self.timeline {
            return Ok(());
        }
        let target = Target::at(&daemon.settings, &self.address);
        let outcome = ask_once(&target, "CHECKPOINT", CHECKPOINT_AT_MOST);
        let again = ask(daemon, &Line::default(), self.id, self.address.clone())?;
        if again.checkpoint_timeline != again.timeline {
            let why = outcome.err().map_or_else(String::new, |error| format!(": {error}"));
            return Err(format!("node {} has not finished its promotion{why}", self.id));
        }
        *self = again;
        Ok(())
    }

    /// What its timeline descends from.
    pub fn history(&self, daemon: &Daemon) -> Result<Vec<Switch>, String> {
        if self.timeline == 1 {
            return Ok(Vec::new());
        }
        let file = timeline::file_name(self.timeline);
        let rows = self.rows(daemon, &format!("SELECT pg_read_file('pg_wal/{file}')"))?;
        let text = rows.into_iter().flatten().next().flatten().unwrap_or_default();
        timeline::parse(&text).ok_or_else(|| format!("\"{file}\" is no timeline history"))
    }

    /// Whether it still has the WAL from there on: its oldest segment is no later.
    pub fn has_wal_from(&self, daemon: &Daemon, lsn: u64) -> Result<bool, String> {
        let rows = self.rows(
            daemon,
            "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'",
        )?;
        let oldest = rows.into_iter().flatten().next().flatten().unwrap_or_default();
        Ok(oldest.as_str() <= segment(lsn, self.segment_bytes).as_str())
    }

    /// Whether the slot is there and of use; one that has lost its WAL goes, so that pgraft makes
    /// it anew.
    pub fn has_slot(&self, daemon: &Daemon, name: &str) -> Result<bool, String> {
        let of_use = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
             WHERE slot_name = '{name}' AND wal_status = 'lost' AND NOT active"
        );
        self.rows(daemon, &of_use)?;
        let there = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{name}'");
        Ok(!self.rows(daemon, &there)?.is_empty())
    }

    fn rows(&self, daemon: &Daemon, sql: &str) -> Result<Vec<Row>, String> {
        ask_once(&Target::at(&daemon.settings, &self.address), sql, ASK_AT_MOST)
            .map_err(|error| format!("node {}: {error}", self.id))
    }
}

/// The last sixteen digits of the name of the segment that an LSN is in.
pub fn segment(lsn: u64, segment_bytes: u64) -> String {
    let in_log = (lsn & 0xffff_ffff) / segment_bytes.max(1);
    format!("{:08X}{in_log:08X}", lsn >> 32)
}

/// Whether a standby at this place can follow a primary with this history.
pub fn has_diverged(timeline: u32, lsn: u64, primary: u32, history: &[Switch]) -> bool {
    if timeline == primary {
        return false;
    }
    let end = history.iter().find(|switch| switch.timeline == timeline);
    end.is_none_or(|switch| lsn > switch.ends)
}

/// Where the history of a server on this timeline, up to this place, and that of the primary part.
pub fn fork(timeline: u32, lsn: u64, history: &[Switch]) -> Option<u64> {
    let end = history.iter().find(|switch| switch.timeline == timeline)?;
    Some(end.ends.min(lsn))
}

/// The LSN that a segment, by the last sixteen digits of its name, begins with.
pub fn segment_start(segment: &str, segment_bytes: u64) -> Option<u64> {
    let (high, low) = segment.split_at_checked(8)?;
    let low = u64::from_str_radix(low, 16).ok()?;
    parse_lsn(&format!("{high}/0")).map(|high| high + low * segment_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn segments_have_their_names() {
        assert_eq!(segment(0, 16 * MB), "0000000000000000");
        assert_eq!(segment(0x1_0200_0000, 16 * MB), "0000000100000002");
        assert_eq!(segment(0xffff_ffff, 16 * MB), "00000000000000FF");
        assert_eq!(segment(MB, MB), "0000000000000001");
        assert_eq!(segment_start("0000000100000002", 16 * MB), Some(0x1_0200_0000));
        assert_eq!(segment_start("short", 16 * MB), None);
    }

    #[test]
    fn who_has_written_past_the_fork_has_diverged() {
        let history = [Switch { timeline: 1, ends: 100 }, Switch { timeline: 2, ends: 200 }];
        assert!(!has_diverged(3, 1000, 3, &history));
        assert!(!has_diverged(1, 100, 3, &history) && has_diverged(1, 101, 3, &history));
        assert!(!has_diverged(2, 200, 3, &history) && has_diverged(2, 201, 3, &history));
        assert!(has_diverged(4, 1, 3, &history), "a timeline that the primary never was on");
        assert_eq!(fork(1, 150, &history), Some(100));
        assert_eq!(fork(1, 50, &history), Some(50));
        assert_eq!(fork(4, 50, &history), None);
    }

    #[test]
    fn only_an_open_primary_of_this_cluster_is_one() {
        let address = Address::parse("db2:5432").unwrap();
        let row = |values: [&str; 10]| values.map(|v| Some(v.to_owned())).to_vec();
        let good = ["2", "2", "ram", "f", "member", "f", "3", "3", "16777216", "-7"];
        let ask = |values| read(&row(values), 2, address.clone(), "ram");
        let primary = ask(good).unwrap();
        assert_eq!((primary.timeline, primary.system_identifier), (3, u64::MAX - 6));
        let with = |at: usize, value: &'static str| {
            let mut values = good;
            values[at] = value;
            ask(values)
        };
        for (at, value) in
            [(0, "3"), (1, "1"), (2, "other"), (3, "t"), (4, "joining"), (5, "t"), (6, "0")]
        {
            assert!(with(at, value).is_err(), "{at} {value}");
        }
        assert!(with(3, "").is_err(), "an unknown fence is no open one");
    }
}
