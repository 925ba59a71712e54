//! How faults are brought about on a cluster, and undone.

use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::random::Random;
use crate::{Cluster, DiskFault, Node, Result, WalFault};

use super::fault::Fault;

/// Of a link that comes and goes: each way of it.
const FLAP: Duration = Duration::from_millis(150);
const FLAPS: u32 = 5;
const STORM: u32 = 4;
/// Something for the log: else there may be nothing to write.
const AN_ENTRY: &str = "SELECT pgraft_kv_put('chaos', 'a disk is not well')";

/// Makes it happen to node `id`. `random` decides details.
pub(super) fn strike(
    cluster: &mut Cluster,
    fault: Fault,
    id: u32,
    primary: u32,
    random: &mut Random,
) -> Result<()> {
    let others: Vec<u32> = cluster.nodes().iter().map(Node::id).filter(|o| *o != id).collect();
    let other = others[random.below(others.len())];
    match fault {
        Fault::KillPostmaster => cluster.node_mut(id).kill(),
        Fault::KillWorker => {
            if let Some(worker) = cluster.node(id).worker() {
                worker.kill();
            }
        }
        Fault::KillAll => cluster.node_mut(id).kill_all(),
        Fault::StopPostmaster => {
            if let Some(postmaster) = cluster.node(id).postmaster() {
                postmaster.pause();
            }
        }
        Fault::StopWorker => {
            if let Some(worker) = cluster.node(id).worker() {
                worker.pause();
            }
        }
        Fault::StopBackends => {
            let mut backends = cluster.node(id).backends_of(&cluster.observer());
            random.shuffle(&mut backends);
            backends.into_iter().take(3).for_each(crate::Process::pause);
        }
        Fault::StopAll => cluster.node(id).pause(),
        Fault::Isolate => cluster.isolate(id)?,
        Fault::CutOut => others.iter().try_for_each(|other| cluster.cut(id, *other))?,
        Fault::CutIn => others.iter().try_for_each(|other| cluster.cut(*other, id))?,
        Fault::CutFromOne => cluster.cut_both(id, other)?,
        Fault::Flap => {
            for _ in 0..FLAPS {
                cluster.isolate(id)?;
                sleep(FLAP);
                cluster.heal()?;
                sleep(FLAP);
            }
        }
        Fault::RestartStorm => {
            for _ in 0..STORM {
                let node = cluster.node_mut(id);
                node.kill();
                node.resume(); // what another strike froze would not end
                node.start()?;
                sleep(Duration::from_millis(random.below(400) as u64));
            }
        }
        Fault::DiskFull => {
            cluster.node(id).set_disk_fault(Some(DiskFault::Full))?;
            begin(cluster.node(other), AN_ENTRY);
        }
        Fault::DiskHangs => {
            cluster.node(id).set_disk_fault(Some(DiskFault::Hangs))?;
            begin(cluster.node(other), AN_ENTRY);
        }
        Fault::WalFull => {
            cluster.node(id).set_wal_fault(Some(WalFault::Full))?;
            begin(cluster.node(primary), "SELECT pg_switch_wal()");
        }
        Fault::WalHangs => cluster.node(id).set_wal_fault(Some(WalFault::Hangs))?,
        Fault::StopFast => cluster.node(id).begin_stop(crate::Stop::Fast),
        Fault::Transfer => {
            let to = if id == primary { other } else { id };
            // Both are a planned move; only one of them says to whom.
            let forced = random.below(2) == 0 && id == primary;
            let sql = match forced {
                true => "SELECT pgraft_force_election()".to_owned(),
                false => format!("SELECT pgraft_transfer_leadership({to})"),
            };
            begin(cluster.node(primary), &sql);
        }
    }
    Ok(())
}

/// Asks a server for something and does not wait: a fault may keep it from answering. Whether it
/// came about is judged by what is committed.
fn begin(node: &Node, sql: &str) {
    let (asked, sql) = (node.session(), sql.to_owned());
    spawn(move || asked.map(|mut session| drop(session.run(&sql))));
}

/// Undoes what can be undone; servers that are down stay down.
pub(super) fn undo(cluster: &mut Cluster) -> Result<()> {
    cluster.heal()?;
    for node in cluster.nodes() {
        node.resume();
        node.clear_disk_fault()?;
    }
    Ok(())
}
