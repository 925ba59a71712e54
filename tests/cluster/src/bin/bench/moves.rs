//! How long nobody can commit when the primary moves, for whatever reason.

use std::time::Duration;

use pgraft_cluster::clock::{ms_between, now_ns};
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, Options, Result, wait_for};

use crate::setup;

const READY_AT_MOST: Duration = Duration::from_secs(60);
/// A node that has been started again keeps an old promise for an election timeout: after this it
/// votes as any other.
const SETTLE: Duration = Duration::from_millis(1500);
/// Spreads the moves over the time between two heartbeats.
const HEARTBEAT_MS: u32 = 100;
/// Of the writers on each node; so a time is late by at most this and the answer's way.
const PACE: Pace =
    Pace { pause: Duration::from_millis(2), pause_after_failure: Duration::from_millis(2) };

/// What moves the primary away from that node.
pub type Cause = fn(&mut Cluster, u32) -> Result<()>;

/// What came of some moves.
#[derive(Default)]
pub struct Moves {
    /// Milliseconds from the cause to the first acknowledged commit elsewhere.
    pub elsewhere_ms: Vec<f64>,
    /// Milliseconds from the last acknowledged commit of the old primary to that.
    pub gap_ms: Vec<f64>,
    /// Commits that were acknowledged, and lost.
    pub lost: usize,
    /// Commits that were acknowledged.
    pub acked: usize,
}

/// A cluster with users' defaults and these lines of pgraft.conf, whose primary moves.
pub fn form(name: &str, pgraft: &str, network: bool) -> Result<Cluster> {
    let options = Options {
        failover: true,
        network,
        postgresql: setup::postgresql("wal_keep_size = 512MB"),
        pgraft: pgraft.to_owned(),
        ..Options::default()
    };
    Cluster::form(&format!("bench-{name}"), options)
}

/// Does `cause` to the primary, so many times; after each the old one is made a standby again.
pub fn measure(cluster: &mut Cluster, what: &str, count: u32, cause: Cause) -> Result<Moves> {
    let mut moves = Moves::default();
    let mut old = cluster.next_primary(None, READY_AT_MOST)?;
    let writers = Writers::start(cluster, cluster.node(old), &[Kind::Insert], PACE)?;
    for number in 0..count {
        cluster.await_streaming(old, READY_AT_MOST)?;
        std::thread::sleep(SETTLE + Duration::from_millis(u64::from(number * 37 % HEARTBEAT_MS)));
        let began_ns = now_ns();
        cause(cluster, old)?;
        let first = wait_for("a commit on another server", READY_AT_MOST, || {
            Ok(writers.ledger().first_elsewhere(began_ns, old))
        })?;
        // The old one is silent by now, or the verdict says so.
        let last_ns = writers.ledger().last_of(old).map_or(began_ns, |ack| ack.acked_ns);
        let elsewhere_ms = ms_between(began_ns, first.acked_ns);
        let gap_ms = ms_between(last_ns, first.acked_ns);
        cluster.heal()?;
        let new = cluster.next_primary(Some(old), READY_AT_MOST)?;
        cluster.rejoin(old, new)?;
        cluster.await_streaming(new, READY_AT_MOST)?;
        let verdict = writers.ledger().compare(cluster.node(new))?;
        eprintln!(
            "  {what} {}: node {old} to {new}, {elsewhere_ms:.0} ms, no commit for {gap_ms:.0} ms; \
             {verdict}",
            number + 1,
        );
        if !verdict.is_one_history() {
            return Err(pgraft_cluster::Failure::new(format!("two primaries: {verdict}")));
        }
        moves.elsewhere_ms.push(elsewhere_ms);
        moves.gap_ms.push(gap_ms);
        moves.lost += verdict.lost.len();
        moves.acked = verdict.acked;
        old = new;
    }
    writers.stop()?;
    Ok(moves)
}
