//! How long nobody can commit when the primary is killed, cut off or moved.
//!
//! Every node has a client that inserts rows, one after the other, with 2 ms between them.

use std::sync::OnceLock;

use pgraft_cluster::{Cluster, Result};

use crate::moves::{self, Cause, Moves};
use crate::report::Row;
use crate::samples::Samples;

/// How often each thing is done to the primary, if `moves=N` does not say otherwise.
const COUNT: u32 = 30;
pub static COUNT_ASKED: OnceLock<u32> = OnceLock::new();

fn count() -> u32 {
    COUNT_ASKED.get().copied().unwrap_or(COUNT)
}

pub fn all_kills() -> Result<Vec<Row>> {
    let mut rows = kills("default settings", "", Some((900.0, 1500.0)))?;
    rows.extend(kills("election timeout 300 ms", "raft_election_timeout_ms = 300\n", None)?);
    Ok(rows)
}

fn kill_postmaster(cluster: &mut Cluster, id: u32) -> Result<()> {
    cluster.node_mut(id).kill();
    Ok(())
}

fn kill_all(cluster: &mut Cluster, id: u32) -> Result<()> {
    cluster.node_mut(id).kill_all();
    Ok(())
}

fn transfer(cluster: &mut Cluster, id: u32) -> Result<()> {
    let to = cluster.nodes().iter().map(|node| node.id()).find(|other| *other != id).unwrap_or(id);
    cluster.node(id).session()?.run(&format!("SELECT pgraft_transfer_leadership({to})"))?;
    Ok(())
}

/// `aims`: for p50 and the maximum; none: those of the short timeout.
fn kills(with: &str, pgraft: &str, aims: Option<(f64, f64)>) -> Result<Vec<Row>> {
    moves::form("kills", pgraft, false)?.run(|cluster| {
        let mut rows = Vec::new();
        let kinds: [(&str, Cause); 2] =
            [("of the postmaster", kill_postmaster), ("of every process", kill_all)];
        for (what, cause) in kinds {
            let done = moves::measure(cluster, &format!("kill {what}"), count(), cause)?;
            let times = Samples::new(done.elsewhere_ms.clone());
            let figure = format!(
                "SIGKILL {what} of the primary, {with}, {} times: to the first commit elsewhere",
                count(),
            );
            let (p50, most) = (times.quantile(0.5), times.quantile(0.99));
            let measured = format!("p50 {p50:.0} ms, p99 {most:.0} ms");
            rows.push(match aims {
                Some((p50_aim, p99_aim)) => {
                    let met = p50 < p50_aim && most < p99_aim;
                    Row::aimed(figure, measured, "p50 < 900 ms, p99 < 1.5 s", met)
                }
                None => Row::aimed(figure, measured, "p50 < 350 ms", p50 < 350.0),
            });
            rows.push(lost(&done));
        }
        Ok(rows)
    })
}

fn lost(moves: &Moves) -> Row {
    let measured = format!("{} of {} acknowledged", moves.lost, moves.acked);
    Row::plain("the same: commits lost, of all so far on this cluster", measured)
}

pub fn partitions() -> Result<Vec<Row>> {
    moves::form("partitions", "", true)?.run(|cluster| {
        let done = moves::measure(cluster, "partition", count(), Cluster::isolate)?;
        let times = Samples::new(done.elsewhere_ms.clone());
        let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
        let figure = format!(
            "full partition of the primary, {} times: to the first commit elsewhere",
            count(),
        );
        let measured = format!("p50 {p50:.0} ms, p99 {p99:.0} ms");
        Ok(vec![Row::aimed(figure, measured, "p99 < 3 s", p99 < 3000.0), lost(&done)])
    })
}

pub fn switchovers() -> Result<Vec<Row>> {
    moves::form("switchovers", "", false)?.run(|cluster| {
        let done = moves::measure(cluster, "switchover", count(), transfer)?;
        let gaps = Samples::new(done.gap_ms.clone());
        let (p50, p99) = (gaps.quantile(0.5), gaps.quantile(0.99));
        let figure = format!("`pgraft_transfer_leadership()`, {} times: no commit for", count());
        let measured = format!("p50 {p50:.0} ms, p99 {p99:.0} ms");
        let mut rows = vec![Row::aimed(figure, measured, "p50 < 300 ms", p50 < 300.0)];
        rows.push(Row::aimed(
            "the same: commits lost",
            format!("{} of {}", done.lost, done.acked),
            "0",
            done.lost == 0,
        ));
        Ok(rows)
    })
}
