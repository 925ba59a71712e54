//! How long there is no leader after SIGKILL of the leader's postmaster.
//!
//! A thread for each survivor asks it over a connection that is open already, once a millisecond;
//! not without a pause, which would take the cores from those who elect. So a time is late by that
//! millisecond and the answer's way, a tenth of one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use pgraft_cluster::{Cluster, Failure, Result, Session};

use crate::report::{Met, Row};
use crate::samples::Samples;
use crate::setup;

const KILLS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);
const LEADER_AT_MOST: Duration = Duration::from_secs(15);
/// A node that has been started again keeps an old promise for an election timeout: after this it
/// votes as any other.
const SETTLE: Duration = Duration::from_millis(1500);
/// Spreads the kills over the time between two heartbeats.
const HEARTBEAT_MS: u32 = 100;
const P50_AIM_MS: f64 = 150.0;
const P99_AIM_MS: f64 = 2000.0;

/// What a survivor said for the first time, and when.
enum Seen {
    /// Somebody else leads.
    Leader(Instant),
    /// This node does, and holds a lease.
    Lease(Instant),
}

pub fn measure() -> Result<Vec<Row>> {
    setup::form("failover", "")?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    let mut leader_ms = Vec::new();
    let mut lease_ms = Vec::new();
    for number in 0..KILLS {
        let (old, _) = cluster.leader()?;
        sleep(SETTLE + Duration::from_millis(u64::from(number * 37 % HEARTBEAT_MS)));
        let (leader, lease) = one_kill(cluster, old)?;
        eprintln!("  kill {} (node {old}): {leader:.1} ms, lease {lease:.1} ms", number + 1);
        leader_ms.push(leader);
        lease_ms.push(lease);
        cluster.node_mut(old).start()?;
    }
    let (leader, lease) = (Samples::new(leader_ms), Samples::new(lease_ms));
    let row = |what: &str, value: f64, aim, met| Row {
        figure: what.to_owned(),
        measured: format!("{value:.1} ms"),
        aim,
        met,
    };
    let (p50, p99) = (leader.quantile(0.5), leader.quantile(0.99));
    Ok(vec![
        row("New leader after SIGKILL, 20 kills: p50", p50, "< 150 ms", Met::Is(p50 < P50_AIM_MS)),
        row("the same: p99, which of 20 is the maximum", p99, "< 2 s", Met::Is(p99 < P99_AIM_MS)),
        Row::plain(
            "the same, until `pgraft_is_leader()` is true there: p50, maximum",
            format!("{:.1} ms, {:.1} ms", lease.quantile(0.5), lease.most()),
        ),
    ])
}

/// Kills that node; milliseconds until a survivor names another leader, and until one leads.
fn one_kill(cluster: &mut Cluster, old: u32) -> Result<(f64, f64)> {
    let (tell, seen) = channel();
    for node in cluster.running().filter(|node| node.id() != old) {
        let (session, tell) = (node.session()?, tell.clone());
        spawn(move || watch(session, old, &tell));
    }
    drop(tell);
    sleep(Duration::from_millis(50)); // the watchers are in their stride
    let killed = Instant::now();
    cluster.node_mut(old).kill();
    collect(&seen, killed)
}

/// Asks one survivor until it has said both, or its cluster has another leader with a lease.
fn watch(mut session: Session, old: u32, tell: &Sender<Seen>) {
    let until = Instant::now() + LEADER_AT_MOST;
    let mut named = false;
    while Instant::now() < until {
        let asked = session.rows("SELECT pgraft_get_leader(), pgraft_is_leader()");
        let Some([Some(leader), Some(is_leader)]) = asked
            .ok()
            .and_then(|rows| <[Option<String>; 2]>::try_from(rows.into_iter().next()?).ok())
        else {
            return; // the server is gone, or answers otherwise: collect() notices the silence
        };
        let now = Instant::now();
        let leader: u32 = leader.parse().unwrap_or(0);
        if !named && leader != 0 && leader != old {
            named = true;
            let _ = tell.send(Seen::Leader(now)); // nobody listens: the kill has been measured
        }
        if is_leader == "t" && tell.send(Seen::Lease(now)).is_ok() {
            return;
        }
        sleep(PAUSE);
    }
}

fn collect(seen: &Receiver<Seen>, killed: Instant) -> Result<(f64, f64)> {
    let milliseconds = |at: Instant| (at - killed).as_secs_f64() * 1e3;
    let mut leader: Option<Instant> = None;
    loop {
        match seen.recv_timeout(LEADER_AT_MOST) {
            Ok(Seen::Leader(at)) => leader = Some(leader.map_or(at, |first| first.min(at))),
            Ok(Seen::Lease(at)) => {
                let leader = leader.unwrap_or(at);
                return Ok((milliseconds(leader), milliseconds(at)));
            }
            Err(_) => return Err(Failure::new("no survivor became leader")),
        }
    }
}
