//! `make demo`: kills the primary under a running writer, and shows what happened.

mod story;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use pgraft_cluster::clock::{ms_between, now_ns};
use pgraft_cluster::timeline;
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, Failure, Options, Result, wait_for};

const READY_AT_MOST: Duration = Duration::from_secs(60);
/// How long clients write before the kill, and after the next primary takes their writes.
const A_WHILE: Duration = Duration::from_secs(2);
/// So that the figures are those of the servers and not of the client.
const PACE: Pace =
    Pace { pause: Duration::from_millis(2), pause_after_failure: Duration::from_millis(2) };

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    println!("Three PostgreSQL servers: a primary, and two standbys that stream from it ...");
    let postgresql = "fsync = on\n".to_owned();
    let options = Options { failover: true, postgresql, ..Options::default() };
    Cluster::form("demo", options)?.run(show)
}

fn show(cluster: &mut Cluster) -> Result<()> {
    let old = cluster.next_primary(None, READY_AT_MOST)?;
    cluster.await_streaming(old, READY_AT_MOST)?;
    println!("\n{}", cluster.table());
    println!("Clients begin to insert rows, one on each server ...");
    let writers = Writers::start(cluster, cluster.node(old), &[Kind::Insert], PACE)?;
    sleep(A_WHILE);

    let postmaster = cluster.node(old).postmaster();
    let pid = postmaster.ok_or_else(|| Failure::new("the primary is down"))?.pid;
    println!("\n    $ kill -9 {pid}        # the postmaster of node {old}, the primary\n");
    let (killed_ns, killed_ms) = (now_ns(), timeline::wall_ms());
    cluster.node_mut(old).kill();
    let first = wait_for("a commit on another server", READY_AT_MOST, || {
        Ok(writers.ledger().first_elsewhere(killed_ns, old))
    })?;
    let new = cluster.next_primary(Some(old), READY_AT_MOST)?;
    sleep(A_WHILE);

    let last = writers.ledger().last_of(old).ok_or_else(|| Failure::new("nothing was written"))?;
    let verdict = writers.ledger().compare(cluster.node(new))?;
    let mut events = story::of_logs(cluster, killed_ms);
    let at_ms = |ns: u64| ms_between(killed_ns, ns);
    let client = |ms: f64, says: String| story::Event { ms, who: "client".to_owned(), says };
    events.push(client(at_ms(last.acked_ns), format!("its last commit on node {old}")));
    events.push(client(at_ms(first.acked_ns), format!("its first commit on node {}", first.node)));
    print!("{}", story::table(events));
    println!();
    println!("No writes for {:.0} ms.", ms_between(last.acked_ns, first.acked_ns));
    println!("{} commits acknowledged, {} of them lost.", verdict.acked, verdict.lost.len());
    println!("Commits on two servers at the same time: {}.", verdict.double.len());

    println!("\nNode {old} comes back: pg_rewind, standby.signal, start ...");
    cluster.rejoin(old, new)?;
    cluster.await_streaming(new, READY_AT_MOST)?;
    println!("\n{}", cluster.table());
    let ledger = writers.stop()?;
    println!("All three stream again; {} commits by now.", ledger.count());
    Ok(())
}
