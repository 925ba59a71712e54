//! Whether a server in recovery waits for WAL, or still has something to replay: a standby that is
//! only late is not one that starves.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::primary::segment_start;
use crate::server::Server;
use crate::settings::Settings;
use crate::sql::ask_once;

/// What the startup process of a server waits on that has tried its own WAL, the archive and the
/// primary, in PostgreSQL's words. Where replay is held back (`recovery_min_apply_delay`, a
/// conflict with a query), or `restore_command` runs, it waits on something else.
const FOR_WAL: [&str; 2] = ["RecoveryWalStream", "RecoveryRetrieveRetryInterval"];
const SQL: &str = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'";

/// What a page of WAL begins with: magic, flags, timeline, and the LSN of the page.
const PAGE_HEADER_BYTES: usize = 16;

/// Whether the server, which answers, says that its recovery waits for WAL. `Err`: in words.
pub fn waits_for_wal(server: &Server, settings: &Settings) -> Result<bool, String> {
    let postmaster = server.postmaster().ok_or("the server is down")?;
    let target = server.target(settings, &postmaster).ok_or("it does not listen yet")?;
    let rows = ask_once(&target, SQL, settings.probe_timeout).map_err(|error| error.to_string())?;
    let event = rows.into_iter().flatten().next().flatten().unwrap_or_default();
    Ok(FOR_WAL.contains(&event.as_str()))
}

/// The segment of WAL that a recovery reads or looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtWork {
    /// Its timeline: the newest that the recovery knows to lead to where it goes.
    pub timeline: u32,
    /// The last sixteen digits of its name.
    pub segment: String,
    /// Whether `restore_command` fetches it just now.
    pub restores: bool,
}

impl AtWork {
    /// Of this server, as the titles of its processes say; `None`: they do not.
    pub fn of(server: &Server) -> Option<AtWork> {
        let processes = server.processes();
        let title = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
        let (startup, work) = processes
            .iter()
            .find_map(|pid| Some((*pid, AtWork::in_title(title(*pid)?.trim_matches('\0'))?)))?;
        let restores = processes.iter().any(|pid| parent(*pid) == Some(startup));
        Some(AtWork { restores, ..work })
    }

    /// `startup recovering 0000...`, `startup waiting for 0000...`.
    fn in_title(title: &str) -> Option<AtWork> {
        let name = title.split("startup").nth(1)?.split_whitespace().last()?;
        let (timeline, segment) = name.split_at_checked(8).filter(|_| is_segment(name))?;
        let timeline = u32::from_str_radix(timeline, 16).ok()?;
        Some(AtWork { timeline, segment: segment.to_owned(), restores: false })
    }
}

fn is_segment(name: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    name.len() == 24 && name.bytes().all(hex)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The state and the parent come after the name, which may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the WAL behind this segment is there, on whatever timeline.
pub fn has_wal_behind(data: &Path, segment: &str, segment_bytes: u64) -> bool {
    let Some(next) = segment_start(segment, segment_bytes).map(|start| start + segment_bytes)
    else {
        return false;
    };
    let entries = fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
    let is_next =
        |name: &str| is_segment(name) && segment_start(&name[8..], segment_bytes) == Some(next);
    let mut paths = entries.filter(|e| e.file_name().to_str().is_some_and(is_next));
    // A file that is to be used later has its name already, and still what it was used for before.
    paths.any(|entry| begins_with(&entry.path()) == Some(next))
}

/// The LSN that a segment's first page says it begins with.
fn begins_with(path: &Path) -> Option<u64> {
    let mut header = [0; PAGE_HEADER_BYTES];
    File::open(path).ok()?.read_exact(&mut header).ok()?;
    let lsn = header.last_chunk::<8>()?;
    Some(u64::from_ne_bytes(*lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::remove_tree;

    #[test]
    fn a_title_names_the_segment() {
        for what in ["recovering", "waiting for"] {
            let title = format!("postgres: node1: startup {what} 000000030000000000000007");
            let work = AtWork::in_title(&title).unwrap();
            assert_eq!((work.timeline, work.segment.as_str()), (3, "0000000000000007"));
        }
        // Held up by a query.
        let title = "postgres: startup recovering 000000030000000000000007 waiting";
        assert_eq!(AtWork::in_title(title), None);
        assert_eq!(AtWork::in_title("postgres: node1: startup"), None);
        assert_eq!(AtWork::in_title("postgres: checkpointer"), None);
    }

    #[test]
    fn a_process_knows_its_parent() {
        let own = std::process::id() as i32;
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id() as i32));
    }

    #[test]
    fn only_a_segment_that_says_so_itself_has_the_wal_behind_another() {
        const MB: u64 = 1 << 20;
        let data = std::env::temp_dir().join(format!("ramd-recovery-{}", std::process::id()));
        remove_tree(&data).unwrap();
        fs::create_dir_all(data.join("pg_wal")).unwrap();
        let write = |name: &str, lsn: u64| {
            let mut page = [0_u8; 64];
            page[8..16].copy_from_slice(&lsn.to_ne_bytes());
            fs::write(data.join("pg_wal").join(name), page).unwrap();
        };
        let behind = |segment| has_wal_behind(&data, segment, 16 * MB);
        assert!(!behind("0000000000000005"));
        // Begun for later use, and used before.
        write("000000010000000000000006", 0);
        assert!(!behind("0000000000000005"));
        write("000000010000000000000006", 2 * 16 * MB);
        assert!(!behind("0000000000000005"));
        write("000000020000000000000006", 6 * 16 * MB);
        assert!(behind("0000000000000005") && !behind("0000000000000006"));
        write("000000020000000100000000", 1 << 32);
        assert!(behind("00000000000000FF"));
        fs::write(data.join("pg_wal/000000020000000000000008"), "short").unwrap();
        assert!(!behind("0000000000000007") && !behind("none"));
        remove_tree(&data).unwrap();
    }
}
