//! Never 200 for /primary on two nodes at once, through the faults of a failover: networks that are
//! cut as a whole or in one direction, workers that are stopped or killed, clocks that are set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgraft_cluster::api::Api;
use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Failure, Options, Ramd, Reigns, Result, wait_for, with};

/// A rewind or a copy, starts and pauses between them, on a machine that has other things to do.
const BACK_AT_MOST: Duration = Duration::from_secs(90);

/// Three servers, each in a network of its own with its ramd, and with a clock that can be set.
fn formed(name: &str) -> Result<(Cluster, Vec<Ramd>)> {
    let options = Options { failover: true, network: true, ..Options::default() };
    let mut cluster = Cluster::prepare(name, options)?;
    let ramds = cluster.noting_while(|cluster| {
        cluster.prepare_clock_steps()?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        cluster.next_primary(None, SOON)?;
        let mut session = cluster.node(1).session()?;
        wait_for("a table", SOON, || Ok(session.run("CREATE TABLE t (a int)").ok()))?;
        cluster.await_streaming(1, SOON)?;
        let ramds = cluster.start_ramds("")?;
        for (id, path) in [(1, "/primary"), (2, "/readiness"), (3, "/readiness")] {
            await_yes(cluster, id, path)?;
        }
        Ok(ramds)
    })?;
    Ok((cluster, ramds))
}

/// Plays faults while all are asked, and judges: what two servers said must not overlap, and there
/// were at least so many reigns. The ramds go before the cluster: they would start the servers
/// again.
fn never_two(
    name: &str,
    reigns_min: usize,
    play: impl FnOnce(&mut Cluster, &mut Vec<Ramd>) -> Result<()>,
) {
    match formed(name) {
        Ok((cluster, mut ramds)) => with(Ok(cluster), move |cluster| {
            let reigns = Reigns::watch(cluster)?;
            play(cluster, &mut ramds)?;
            let reigns = reigns.judge()?;
            expect(reigns.len() >= reigns_min, || format!("{reigns:?}"))
        }),
        Err(failure) => panic!("{failure}"),
    }
}

fn await_yes(cluster: &Cluster, id: u32, path: &str) -> Result<()> {
    wait_for(&format!("node {id} says yes to {path}"), BACK_AT_MOST, || {
        let answer = Api::of(cluster.node(id)).get(path)?;
        if answer.status == 200 { Ok(Some(())) } else { Err(Failure::new(answer.text)) }
    })
}

fn others(id: u32) -> [u32; 2] {
    match id {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

/// Waits for a primary other than `old`, of which its ramd says so; then undoes the fault, and
/// waits until all are back, by their ramds alone. Who it is.
fn replaced(
    cluster: &mut Cluster,
    old: u32,
    undo: impl FnOnce(&mut Cluster) -> Result<()>,
) -> Result<u32> {
    let new = cluster.next_primary(Some(old), SOON)?;
    await_yes(cluster, new, "/primary")?;
    let no = Api::of(cluster.node(old)).get("/primary")?;
    equal(no.status, 503, &no.text)?;
    undo(cluster)?;
    cluster.await_streaming(new, BACK_AT_MOST)?;
    await_yes(cluster, old, "/readiness")?;
    Ok(new)
}

#[test]
fn networks_that_are_cut_never_leave_two_that_take_writes() {
    never_two("faults-network", 4, |cluster, _ramds| {
        // Nothing passes.
        cluster.isolate(1)?;
        let second = replaced(cluster, 1, Cluster::heal)?;
        // What it sends is lost, and then what is sent to it.
        for other in others(second) {
            cluster.cut(second, other)?;
        }
        let third = replaced(cluster, second, Cluster::heal)?;
        for other in others(third) {
            cluster.cut(other, third)?;
        }
        replaced(cluster, third, Cluster::heal).map(drop)
    });
}

#[test]
fn workers_and_clocks_never_leave_two_that_take_writes() {
    never_two("faults-worker", 3, |cluster, ramds| {
        // A worker that stands still, beside a server that answers.
        let worker = cluster.node(1).worker().ok_or_else(|| Failure::new("no worker"))?;
        worker.pause();
        let second = replaced(cluster, 1, |_| {
            worker.resume();
            Ok(())
        })?;
        // One that is killed has its whole server begin again.
        let worker = cluster.node(second).worker().ok_or_else(|| Failure::new("no worker"))?;
        worker.kill();
        wait_for("another worker", SOON, || {
            Ok(cluster.node(second).worker().filter(|found| *found != worker))
        })?;
        let third = cluster.settled_primary(BACK_AT_MOST)?;
        await_yes(cluster, third, "/primary")?;
        // Wall clocks mean nothing, of the primary and of a standby, forward and back.
        const HOUR: i64 = 3600;
        let standby = others(third)[0];
        for (id, step) in [(third, HOUR), (third, -2 * HOUR), (standby, 24 * HOUR)] {
            cluster.node(id).set_clock(step)?;
            // So that ramd's own is, too: its answers have it.
            let told =
                Api::of(cluster.node(id)).get("/cluster")?.body["told_by"]["unix_ms"].clone();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let differs = told.as_i64().unwrap_or(0) / 1000 - now as i64;
            expect((differs - step).abs() < 60, || format!("ramd's clock differs by {differs} s"))?;
            await_yes(cluster, third, "/primary")?;
            await_yes(cluster, standby, "/readiness")?;
        }
        // And with clocks a day apart the primary's machine is gone.
        cluster.kill_node(&mut ramds[third as usize - 1]);
        let fourth = cluster.next_primary(Some(third), SOON)?;
        await_yes(cluster, fourth, "/primary")?;
        ramds[third as usize - 1] = cluster.node(third).start_ramd()?;
        cluster.await_streaming(fourth, BACK_AT_MOST)?;
        await_yes(cluster, third, "/readiness")
    });
}
