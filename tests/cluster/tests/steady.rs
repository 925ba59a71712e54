//! No needless failover: what passes by itself, and what does not concern the primary, leaves the
//! role where it is. Clients wait at most, and lose nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{available_parallelism, sleep, spawn};
use std::time::Duration;

use pgraft_cluster::check::{SOON, await_process, equal, expect};
use pgraft_cluster::writer::{Kind, Pace, Writers};
use pgraft_cluster::{Cluster, DiskFault, Failure, Named, Node, Options, Result};
use pgraft_cluster::{WalFault, wait_for, with};

/// Longer than the lease and the longest election timeout: what must not matter has time to.
const LONG: Duration = Duration::from_secs(4);
/// Of a link that comes and goes: each way of it, and how often.
const FLAP: Duration = Duration::from_millis(150);
const FLAPS: u32 = 8;
/// Of all links of a node: how often. TCP sends what was lost again after 0.24, 0.7, 1.7 and 3.6 s,
/// and after that many cuts finds a link that stays.
const FLAPS_OF_ALL: u32 = 3;
/// Longer than that, however slow the machine is to cut and mend.
const CALM: &str = "raft_election_timeout_ms = 4000\n";

/// A cluster to which clients write, and who its primary is.
struct Scene<'a> {
    cluster: &'a mut Cluster,
    writers: Writers,
    named: Named,
}

/// Plays some troubles on one cluster, whose primary stays and which loses nothing.
fn play(name: &str, pgraft: &str, trouble: impl FnOnce(&mut Scene<'_>) -> Result<()>) {
    let options = Options {
        failover: true,
        network: true,
        postgresql: "max_prepared_transactions = 20\n".to_owned(),
        pgraft: pgraft.to_owned(),
        ..Options::default()
    };
    with(Cluster::prepare(name, options), |cluster| {
        cluster.prepare_disk_faults()?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        let primary = cluster.settled_primary(SOON)?;
        let kinds = [Kind::Insert, Kind::Prepared];
        let writers = Writers::start(cluster, cluster.node(primary), &kinds, Pace::default())?;
        let named = cluster.last_named()?;
        equal(named.node, primary, "who is named")?;
        let mut scene = Scene { cluster, writers, named };
        scene.stays("the begin")?;
        trouble(&mut scene)?;
        let Scene { cluster, writers, .. } = scene;
        let verdict = writers.stop()?.compare(cluster.node(primary))?;
        println!("{verdict}");
        expect(verdict.is_one_history() && verdict.lost.is_empty(), || verdict.to_string())
    });
}

impl Scene<'_> {
    fn primary(&self) -> &Node {
        self.cluster.node(self.named.node)
    }

    /// The first standby.
    fn standby(&self) -> u32 {
        if self.named.node == 1 { 2 } else { 1 }
    }

    fn standbys(&self) -> [u32; 2] {
        [self.standby(), 6 - self.named.node - self.standby()]
    }

    /// Clients get through while it lasts.
    fn goes_on(&self, what: &str) -> Result<()> {
        let done = self.writers.ledger().await_commit(self.named.node, SOON);
        done.map_err(|failure| Failure::new(format!("{what}: {failure}")))
    }

    /// It is over: clients get through, all follow, and nobody was named meanwhile.
    fn stays(&mut self, what: &str) -> Result<()> {
        println!("over: {what}");
        self.goes_on(what)?;
        self.cluster
            .await_streaming(self.named.node, SOON)
            .map_err(|failure| Failure::new(format!("{what}: {failure}")))?;
        equal(self.cluster.last_named()?, self.named, what)
    }
}

/// Keeps every processor of the machine busy until it is dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn begin() -> Load {
        let over = Arc::new(AtomicBool::new(false));
        for _ in 0..4 * available_parallelism().map_or(1, usize::from) {
            let over = over.clone();
            spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Load(over)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn what_happens_to_processes_and_disks_moves_nothing() {
    play("steady", "", |scene| {
        scene.primary().pause();
        sleep(Duration::from_millis(500));
        scene.primary().resume();
        scene.stays("half a second without the primary's processes")?;

        // Postgres starts all its processes anew when one is killed.
        let worker = wait_for("a worker", SOON, || Ok(scene.primary().worker()))?;
        worker.kill();
        wait_for("another worker", SOON, || {
            Ok(scene.primary().worker().filter(|another| *another != worker))
        })?;
        scene.stays("the worker's end")?;

        let session = scene.primary().session();
        let checkpointer = await_process(scene.primary(), "checkpointer")?;
        checkpointer.pause();
        let checkpoint = spawn(move || session?.run("CHECKPOINT").map_err(Failure::from));
        sleep(LONG);
        expect(!checkpoint.is_finished(), || "it was no long checkpoint".to_owned())?;
        scene.goes_on("a long checkpoint")?;
        checkpointer.resume();
        checkpoint.join().map_err(|_| Failure::new("the checkpoint's thread panicked"))??;
        scene.stays("a long checkpoint")?;

        let load = Load::begin();
        sleep(LONG);
        drop(load);
        scene.stays("all processors busy")?;

        let standby = scene.standby();
        scene.cluster.node(standby).set_disk_fault(Some(DiskFault::Full))?;
        scene.primary().session()?.run("SELECT pgraft_kv_put('written', 'by the others')")?;
        wait_for("consensus ends on the standby", SOON, || {
            let log = scene.cluster.node(standby).log();
            Ok(log.contains("consensus stops on this node").then_some(()))
        })?;
        sleep(LONG);
        scene.goes_on("a standby whose Raft directory is full")?;
        scene.cluster.node(standby).set_disk_fault(None)?;
        scene.stays("a standby whose Raft directory is full")?;

        scene.cluster.node(standby).set_wal_fault(Some(WalFault::Full))?;
        // It has no room for the next segment.
        let mut session = scene.primary().session()?;
        wait_for("the standby says that its disk is full", SOON, || {
            session.run("SELECT pg_switch_wal()")?;
            sleep(Duration::from_millis(200));
            let log = scene.cluster.node(standby).log();
            Ok(log.contains(": No space left on device\n").then_some(()))
        })?;
        sleep(LONG);
        scene.goes_on("a standby whose WAL has no room")?;
        scene.cluster.node(standby).set_wal_fault(None)?;
        scene.stays("a standby whose WAL has no room")?;

        scene.cluster.node_mut(standby).kill_all();
        sleep(LONG);
        scene.goes_on("a standby's loss")?;
        scene.cluster.node_mut(standby).start()?;
        scene.stays("a standby's loss")
    });
}

#[test]
fn what_happens_to_single_links_moves_nothing() {
    play("steady-links", "", |scene| {
        let (primary, [first, second]) = (scene.named.node, scene.standbys());
        for _ in 0..FLAPS {
            scene.cluster.cut_both(primary, first)?;
            sleep(FLAP);
            scene.cluster.heal()?;
            sleep(FLAP);
        }
        scene.stays("a link that comes and goes")?;
        for (from, to) in [(primary, first), (second, primary), (first, second)] {
            let what = format!("what node {from} sends to node {to} is lost");
            scene.cluster.cut(from, to)?;
            sleep(LONG);
            scene.goes_on(&what)?;
            scene.cluster.heal()?;
            scene.stays(&what)?;
        }

        scene.cluster.isolate(first)?;
        sleep(LONG);
        scene.goes_on("a standby that is cut off")?;
        scene.cluster.heal()?;
        scene.stays("a standby that is cut off")
    });
}

#[test]
fn what_is_over_within_the_lease_moves_nothing() {
    play("steady-moments", CALM, |scene| {
        let (primary, [first, second]) = (scene.named.node, scene.standbys());
        for _ in 0..FLAPS_OF_ALL {
            scene.cluster.isolate(primary)?;
            sleep(FLAP);
            scene.cluster.heal()?;
            sleep(FLAP);
        }
        scene.stays("all links that come and go")?;

        for (to_others, what) in [(true, "out of"), (false, "into")] {
            for other in [first, second] {
                let (from, to) = if to_others { (primary, other) } else { (other, primary) };
                scene.cluster.cut(from, to)?;
            }
            sleep(Duration::from_millis(500));
            scene.cluster.heal()?;
            scene.stays(&format!("half a second's loss {what} the primary"))?;
        }
        Ok(())
    });
}
