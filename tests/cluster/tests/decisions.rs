//! Who is promoted, who is not, and what is said about it.

use std::thread::sleep;
use std::time::Duration;

use pgraft_cluster::check::{SOON, await_status, equal, expect};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, Status, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

/// Longer than a failover takes.
const LONG: Duration = Duration::from_secs(4);

/// A cluster with a table, from whose primary all stream: who that is.
fn settled(cluster: &mut Cluster) -> Result<u32> {
    cluster.start_all()?;
    cluster.init_and_start()?;
    let primary = cluster.settled_primary(SOON)?;
    cluster.node(primary).session()?.run("CREATE TABLE t (a int)")?;
    cluster.await_streaming(primary, SOON)?;
    Ok(primary)
}

fn prepare(name: &str, network: bool, pgraft: &str) -> Result<Cluster> {
    let pgraft = pgraft.to_owned();
    Cluster::prepare(name, Options { failover: true, network, pgraft, ..Options::default() })
}

fn others(primary: u32) -> [u32; 2] {
    match primary {
        1 => [2, 3],
        2 => [1, 3],
        _ => [1, 2],
    }
}

/// Waits until the one of these nodes that leads says all of this.
fn await_said(cluster: &Cluster, ids: &[u32], parts: &[&str]) -> Result<()> {
    wait_for(&format!("the leader of {ids:?} says {parts:?}"), SOON, || {
        let statuses: Result<Vec<Status>> =
            ids.iter().map(|id| Status::of(cluster.node(*id))).collect();
        let leader = statuses?.into_iter().find(Status::is_leader);
        let Some(leader) = leader else { return Err(Failure::new("nobody leads")) };
        let said = leader.get("last_error").to_owned();
        match parts.iter().all(|part| said.contains(part)) {
            true => Ok(Some(())),
            false => Err(Failure::new(said)),
        }
    })
}

fn rows(node: &Node) -> Result<Option<String>> {
    Ok(node.session()?.value("SELECT count(*) FROM t")?)
}

#[test]
fn nobody_is_promoted_who_cannot_be_and_each_reason_is_told() {
    with(prepare("decide-why", false, ""), |cluster| {
        let old = settled(cluster)?;
        let standbys = others(old);
        for id in standbys {
            cluster.node(id).session()?.run("SELECT pg_wal_replay_pause()")?;
        }
        cluster.node_mut(old).kill_all();
        let [one, other] = standbys;
        let reasons = [
            format!("node {old}: not reached"),
            format!("node {one}: its recovery is paused"),
            format!("node {other}: its recovery is paused"),
        ];
        let parts = ["no server can be promoted", &reasons[0], &reasons[1], &reasons[2]];
        await_said(cluster, &standbys, &parts)?;
        sleep(LONG);
        await_said(cluster, &standbys, &parts)?;
        for id in standbys {
            expect(!cluster.node(id).is_primary(), || format!("node {id} was promoted"))?;
        }
        cluster.node(other).session()?.run("SELECT pg_wal_replay_resume()")?;
        equal(cluster.next_primary(Some(old), SOON)?, other, "who can be promoted")?;
        let status = Status::of(cluster.node(other))?;
        expect(!status.get("last_error").contains("no server can"), || format!("{status:?}"))
    });
}

#[test]
fn nobody_is_promoted_unasked_if_that_is_off_and_planned_moves_work() {
    with(prepare("decide-manual", false, "auto_failover_enabled = false\n"), |cluster| {
        let old = settled(cluster)?;
        let standbys = others(old);
        cluster.node_mut(old).kill();
        let lost = format!("the primary, node {old}, is lost and auto_failover_enabled is off");
        await_said(cluster, &standbys, &[&lost])?;
        sleep(LONG);
        await_said(cluster, &standbys, &[&lost])?;
        for id in standbys {
            expect(!cluster.node(id).is_primary(), || format!("node {id} was promoted"))?;
        }
        // It comes back as what it was.
        cluster.node_mut(old).start()?;
        equal(cluster.settled_primary(SOON)?, old, "the primary")?;

        // Leadership given up is the role given up, and nothing of it lost.
        let mut session = cluster.node(old).session()?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (1)")?;
        }
        expect(session.is_true("SELECT pgraft_force_election()")?, || "not forced".to_owned())?;
        let new = cluster.next_primary(Some(old), SOON)?;
        equal(rows(cluster.node(new))?.as_deref(), Some("100"), "rows")
    });
}

#[test]
fn who_has_what_was_acknowledged_is_promoted_though_it_was_restarted() {
    with(prepare("decide-restarted", true, "synchronous_mode = quorum\n"), |cluster| {
        let old = settled(cluster)?;
        let [has, lacks] = others(old);
        cluster.cut_both(old, lacks)?;
        let mut session = cluster.node(old).session()?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (1)")?;
        }
        cluster.node_mut(old).kill_all();
        cluster.node_mut(has).kill_all();
        // The cut stays: the kernel of a killed server goes on sending what is under way.
        sleep(LONG);
        let lacking = cluster.node(lacks);
        expect(!lacking.is_primary(), || "promoted without a majority".to_owned())?;
        equal(rows(lacking)?.as_deref(), Some("0"), "rows of the other")?;
        cluster.node_mut(has).start()?;
        equal(cluster.next_primary(Some(old), SOON)?, has, "who has them")?;
        equal(rows(cluster.node(has))?.as_deref(), Some("100"), "rows")
    });
}

/// Kills a primary one of whose standbys has all WAL and has replayed the least of it, because it
/// is told to wait before each commit; the other has replayed all that it has, and was cut off.
fn who_has_wal_is_promoted_however_little_it_has_replayed(name: &str, pgraft: &str) {
    with(prepare(name, true, pgraft), |cluster| {
        let old = settled(cluster)?;
        let [has, lacks] = others(old);
        let mut session = cluster.node(has).session()?;
        session.run("ALTER SYSTEM SET recovery_min_apply_delay = '1min'")?;
        session.run("SELECT pg_reload_conf()")?;
        wait_for("the delay", SOON, || {
            let set = "SELECT current_setting('recovery_min_apply_delay') = '1min'";
            Ok(session.is_true(set)?.then_some(()))
        })?;
        let mut session = cluster.node(old).session()?;
        for _ in 0..10 {
            session.run("INSERT INTO t VALUES (1)")?;
        }
        wait_for("one standby replays ten rows", SOON, || {
            Ok((rows(cluster.node(lacks))?.as_deref() == Some("10")).then_some(()))
        })?;
        cluster.cut_both(old, lacks)?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (2)")?;
        }
        let end = session.value("SELECT pg_current_wal_flush_lsn()")?.unwrap_or_default();
        let received = format!("SELECT pg_last_wal_receive_lsn() >= '{end}'");
        wait_for("the other receives them all", SOON, || {
            Ok(cluster.node(has).session()?.is_true(&received)?.then_some(()))
        })?;
        equal(rows(cluster.node(has))?.as_deref(), Some("0"), "rows of who waits")?;
        let replayed = |id| {
            let lsn = cluster.node(id).session()?.value("SELECT pg_last_wal_replay_lsn()")?;
            Ok::<_, Failure>(lsn.unwrap_or_default())
        };
        let less = format!("SELECT '{}'::pg_lsn < '{}'", replayed(has)?, replayed(lacks)?);
        expect(session.is_true(&less)?, || format!("not so: {less}"))?;
        cluster.node_mut(old).kill_all();
        // The cut stays: the kernel of a killed server goes on sending what is under way.
        equal(cluster.next_primary(Some(old), SOON)?, has, "who has them")?;
        equal(rows(cluster.node(has))?.as_deref(), Some("110"), "rows")
    });
}

#[test]
fn who_received_the_most_is_promoted_and_not_who_replayed_the_most() {
    who_has_wal_is_promoted_however_little_it_has_replayed("decide-received", "");
}

#[test]
fn with_synchronous_mode_who_received_the_most_is_promoted_too() {
    let quorum = "synchronous_mode = quorum\n";
    who_has_wal_is_promoted_however_little_it_has_replayed("decide-received-sync", quorum);
}

const SLEEP: &str = "SELECT pg_sleep(600)";

/// Takes every place of a server for background workers, by parallel queries that last.
fn take_worker_places(node: &Node, places: usize) -> Result<()> {
    for _ in 0..places {
        let mut session = node.session()?;
        session.run("SET debug_parallel_query = on")?;
        std::thread::spawn(move || session.run(SLEEP));
    }
    let taken = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'parallel worker'";
    // All but those of pgraft and of the launcher of logical replication.
    let all = (places - 2).to_string();
    let mut session = node.session()?;
    wait_for("all places are taken", SOON, || {
        let taken = session.value(taken)?.unwrap_or_default();
        if taken == all { Ok(Some(())) } else { Err(Failure::new(format!("{taken} are"))) }
    })
}

#[test]
fn a_standby_without_a_place_for_what_freezes_it_is_waited_for_and_the_reason_is_told() {
    let options = Options {
        failover: true,
        postgresql: "max_worker_processes = 8\nmax_parallel_workers = 8\n".to_owned(),
        pgraft: "synchronous_mode = quorum\n".to_owned(),
        ..Options::default()
    };
    with(Cluster::prepare("decide-places", options), |cluster| {
        let old = settled(cluster)?;
        let advice = "pgraft: max_worker_processes is 8 and max_parallel_workers 8: ";
        wait_for("advice at start", SOON, || {
            Ok(cluster.node(old).log().contains(advice).then_some(()))
        })?;
        let standbys = others(old);
        let full = standbys[0];
        take_worker_places(cluster.node(full), 8)?;
        let mut session = cluster.node(old).session()?;
        for _ in 0..100 {
            session.run("INSERT INTO t VALUES (1)")?;
        }
        cluster.node_mut(old).kill_all();
        let reason = format!(
            "node {full}: its server cannot be kept from receiving WAL: there is no background \
             worker free"
        );
        let parts = ["fewer than a majority", &reason, "could be it"];
        await_said(cluster, &standbys, &parts)?;
        sleep(LONG);
        await_said(cluster, &standbys, &parts)?;
        for id in standbys {
            expect(!cluster.node(id).is_primary(), || format!("node {id} was promoted"))?;
        }
        let end_one = "SELECT pg_terminate_backend(leader_pid) FROM pg_stat_activity \
                       WHERE backend_type = 'parallel worker' LIMIT 1";
        cluster.node(full).session()?.run(end_one)?;
        let new = cluster.next_primary(Some(old), SOON)?;
        equal(rows(cluster.node(new))?.as_deref(), Some("100"), "rows")
    });
}

#[test]
fn a_standby_that_cannot_follow_says_so() {
    with(prepare("decide-starved", false, ""), |cluster| {
        let primary = settled(cluster)?;
        let standby = others(primary)[0];
        let conf = cluster.node(standby).conf_file();
        let good = std::fs::read_to_string(&conf).map_err(Failure::while_doing("read it"))?;
        let node = cluster.node(standby);
        let reload = || node.postmaster().into_iter().for_each(|p: Process| p.signal(Signal::HUP));
        node.write_pgraft_conf(&format!("{good}replication_conninfo = user=nobody_here\n"))?;
        reload();
        let says = format!("does not receive WAL from node {primary}");
        await_status(node, &says, |status| status.get("last_error").contains(&says))?;
        node.write_pgraft_conf(&format!("{good}replication_conninfo = user=postgres\n"))?;
        reload();
        cluster.await_streaming(primary, SOON)?;
        await_status(node, "all is well", |status| status.get("last_error").is_empty()).map(drop)
    });
}

#[test]
fn a_server_by_itself_is_never_kept_from_anything() {
    let options = Options { nodes: 1, failover: true, ..Options::default() };
    with(Cluster::form("decide-alone", options), |cluster| {
        let node = cluster.node_mut(1);
        let mut session = node.session()?;
        session.run("CREATE TABLE t (a int)")?;
        session.run("SET pgraft.fence_wait = 0")?;
        // Whatever its worker does.
        let worker = wait_for("a worker", SOON, || Ok(node.worker()))?;
        worker.pause();
        sleep(Duration::from_secs(2));
        session.run("INSERT INTO t VALUES (1)")?;
        worker.resume();
        session.run("SELECT pgraft_stop()")?;
        session.run("INSERT INTO t VALUES (2)")?;
        session.run("SELECT pgraft_start()")?;
        node.stop(Stop::Fast)?;
        node.start()?;
        let mut session = node.session()?;
        session.run("INSERT INTO t VALUES (3)")?;
        expect(!session.is_true("SELECT pg_is_in_recovery()")?, || "a standby".to_owned())?;
        equal(session.value("SELECT count(*) FROM t")?.as_deref(), Some("3"), "rows")
    });
}
