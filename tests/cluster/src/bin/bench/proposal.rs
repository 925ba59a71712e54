//! How long a committed entry takes: nodes that do not exist are added and removed on the leader,
//! one at a time, with an fdatasync of 256 bytes on the same disk in between to compare with.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use pgraft_cluster::{Cluster, Failure, Result, Session};

use crate::report::Row;
use crate::samples::Samples;
use crate::setup;

const ROUNDS: u32 = 200;
/// A slow disk ends it earlier.
const AT_MOST: Duration = Duration::from_secs(40);
/// The first few find connections and caches cold.
const WARM_UP_ROUNDS: u32 = 5;
const BYTES: [u8; 256] = [0x5A; 256];
const ABSENT: u32 = 9;

pub fn measure() -> Result<Vec<Row>> {
    setup::form("proposal", "")?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    setup::make_leader(cluster, 1)?;
    let mut session = cluster.node(1).session()?;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(cluster.folder().join("fdatasync"))
        .map_err(Failure::while_doing("make the file to sync"))?;
    let (mut entries, mut syncs) = (Vec::new(), Vec::new());
    // Nobody listens on port 1: the learner is never there.
    let add = format!("SELECT pgraft_add_node('127.0.0.1:1', {ABSENT})");
    let remove = format!("SELECT pgraft_remove_node({ABSENT})");
    let (fsyncs_before, seconds_before) = fsyncs(&mut session)?;
    let began = Instant::now();
    for round in 0..ROUNDS + WARM_UP_ROUNDS {
        if began.elapsed() > AT_MOST {
            break;
        }
        for sql in [&add, &remove] {
            let entry = timed(|| Ok(session.run(sql)?))?;
            let sync = timed(|| sync(&mut file))?;
            if round >= WARM_UP_ROUNDS {
                entries.push(entry);
                syncs.push(sync);
            }
        }
    }
    let (fsyncs_after, seconds_after) = fsyncs(&mut session)?;
    let own_ms = (seconds_after - seconds_before) / (fsyncs_after - fsyncs_before) * 1e3;
    eprintln!("  {} entries; the leader's own fsync took {own_ms:.3} ms on average", entries.len());
    eprintln!("  where it ended: {}", indexes(cluster)?);
    let count = entries.len();
    let (entries, syncs) = (Samples::new(entries), Samples::new(syncs));
    let row = |what: String, share: f64| {
        let (entry, sync) = (entries.quantile(share), syncs.quantile(share));
        Row::plain(
            what,
            format!("{entry:.2} ms, {:.2} times the fdatasync's {sync:.2} ms", entry / sync),
        )
    };
    Ok(vec![
        row(format!("A committed membership entry, {count} one at a time: p50"), 0.5),
        row("the same: p99".to_owned(), 0.99),
    ])
}

/// How long it takes, in milliseconds.
fn timed(mut what: impl FnMut() -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    what()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn sync(file: &mut File) -> Result<()> {
    file.write_all(&BYTES)
        .and_then(|()| file.sync_data())
        .map_err(Failure::while_doing("sync the file to compare with"))
}

/// How often this node's Raft log was synced so far, and how many seconds that took.
fn fsyncs(session: &mut Session) -> Result<(f64, f64)> {
    let mut metric = |name: &str| -> Result<f64> {
        let sql = format!("SELECT value FROM pgraft_get_metrics() WHERE metric = '{name}'");
        let value = session.value(&sql)?.and_then(|text| text.parse().ok());
        value.ok_or_else(|| Failure::new(format!("no metric {name}")))
    };
    Ok((
        metric("pgraft_fsync_duration_seconds_count")?,
        metric("pgraft_fsync_duration_seconds_sum")?,
    ))
}

/// The leader's indexes: that every entry was committed is not taken on trust.
fn indexes(cluster: &Cluster) -> Result<String> {
    let status = pgraft_cluster::Status::of(cluster.node(1))?;
    Ok(format!("commit {}, applied {}", status.get("commit_index"), status.get("applied_index")))
}
