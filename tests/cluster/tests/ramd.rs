//! ramd on three real servers: it brings back what was killed, whatever it was killed in the middle
//! of, and never in a way that loses a data directory.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pgraft_cluster::check::{self, SOON, await_did, equal, expect, ready};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Ramd, Result, Stop};
use pgraft_cluster::{wait_for, with};

/// A rewind or a copy, starts and pauses between them, on a machine that has other things to do.
const BACK_AT_MOST: Duration = Duration::from_secs(90);

/// A cluster whose node 1 is the primary, and the others its standbys.
fn formed(name: &str) -> Result<Cluster> {
    let cluster = Cluster::form(name, options())?;
    ready(&cluster)?;
    Ok(cluster)
}

/// With a timeout that a busy machine does not run into.
fn options() -> Options {
    Options { failover: true, ..Options::calm() }
}

/// Writes rows that some node has to have later.
fn write(node: &Node, rows: u32) -> Result<()> {
    let sql = format!("INSERT INTO t SELECT generate_series(1, {rows})");
    wait_for("rows are written", SOON, || Ok(node.session()?.run(&sql).ok()))
}

/// Waits until there is a primary that all others stream from, and they have the same rows. Which
/// one that is, a machine that stands still for seconds may change.
fn await_whole(cluster: &Cluster) -> Result<u32> {
    let others = cluster.nodes().len() - 1;
    let sql = format!(
        "SELECT count(*) = {others} FROM pg_stat_replication \
         WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_flush_lsn()"
    );
    let count =
        |node: &Node| node.session()?.value("SELECT count(*) FROM t").map_err(Failure::from);
    wait_for("all others stream from one primary and have its rows", BACK_AT_MOST, || {
        let primary = cluster.running().find(|node| node.is_open_primary());
        let primary = primary.ok_or_else(|| Failure::new("there is no primary"))?;
        if !primary.session()?.is_true(&sql)? {
            return Ok(None);
        }
        let rows = count(primary)?;
        for node in cluster.nodes() {
            if count(node)? != rows {
                return Ok(None);
            }
        }
        Ok(Some(primary.id()))
    })
    .map_err(|failure| Failure::new(format!("{failure}\n{}", cluster.table())))
}

/// Sees to it that the primary has no WAL from before now. What holds it for the node that is away
/// is its slot, which pgraft makes anew, for later WAL.
fn forget_wal(primary: &Node, away: u32) -> Result<()> {
    forget_old_wal(primary, Some(away))
}

/// The same for nodes that are not away, or one that is.
fn forget_old_wal(primary: &Node, away: Option<u32>) -> Result<()> {
    let mut session = primary.session()?;
    session.run("ALTER SYSTEM SET wal_keep_size = 0")?;
    session.run("ALTER SYSTEM SET max_wal_size = '32MB'")?;
    session.run("SELECT pg_reload_conf()")?;
    let oldest = "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'";
    let now = session.value("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 9)")?;
    let drop_slot = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = 'pgraft_{}'",
        away.unwrap_or(0)
    );
    wait_for("the primary has forgotten its old WAL", SOON, || {
        session.run(&drop_slot)?;
        session.run("INSERT INTO t VALUES (0)")?;
        session.run("SELECT pg_switch_wal()")?;
        session.run("CHECKPOINT")?;
        Ok((session.value(oldest)? > now).then_some(()))
    })
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[test]
fn a_primary_killed_with_its_ramd_comes_back_as_a_standby_by_rewind() {
    with(formed("ramd-rewind"), |cluster| {
        let mut ramds = cluster.start_ramds("")?;
        write(cluster.node(1), 1000)?;
        let began = Instant::now();
        cluster.kill_node(&mut ramds[0]);
        let new = cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(new), 500)?;
        let restarted = Instant::now();
        ramds[0] = cluster.node(1).start_ramd()?;
        let now = await_whole(cluster)?;
        println!(
            "three healthy nodes again {} ms after the kill, {} ms after ramd's restart",
            began.elapsed().as_millis(),
            restarted.elapsed().as_millis(),
        );
        let node = cluster.node(1);
        await_did(node, "rewind", "\"ok")?;
        equal(node.ramd_did("clone", ""), 0, "copies")?;
        // Its own settings came through, and it can be primary again.
        let name = node.session()?.value("SHOW cluster_name")?;
        equal(name.as_deref(), Some("node1"), "cluster_name")?;
        let sql = "SELECT pgraft_transfer_leadership(1)";
        expect(cluster.node(now).session()?.is_true(sql)?, || "not moved back".to_owned())?;
        cluster.next_primary(Some(now), SOON)?;
        // The other one is deposed now: its ramd does the same without any kill.
        write(cluster.node(1), 10)?;
        await_whole(cluster)?;
        await_did(cluster.node(now), "rewind", "\"ok")
    });
}

#[test]
fn a_primary_whose_successor_has_forgotten_the_wal_comes_back_as_a_copy() {
    with(formed("ramd-clone"), |cluster| {
        let mut ramds = cluster.start_ramds("")?;
        write(cluster.node(1), 1000)?;
        cluster.kill_node(&mut ramds[0]);
        let new = cluster.next_primary(Some(1), SOON)?;
        forget_wal(cluster.node(new), 1)?;
        let restarted = Instant::now();
        ramds[0] = cluster.node(1).start_ramd()?;
        await_whole(cluster)?;
        println!("whole again {} ms after ramd's restart", restarted.elapsed().as_millis());
        let node = cluster.node(1);
        equal(node.ramd_did("clone", "\"ok"), 1, "copies")?;
        equal(node.old_data().len(), 1, "the old data directory is kept")?;
        expect(node.old_data()[0].join("PG_VERSION").exists(), || "it is not whole".into())
    });
}

#[test]
fn a_standby_that_misses_wal_is_copied_while_it_still_answers() {
    with(formed("ramd-standby"), |cluster| {
        // Nobody looks after node 3 while it is away.
        cluster.node_mut(3).stop(Stop::Fast)?;
        forget_wal(cluster.node(1), 3)?;
        let ramds = cluster.start_ramds("")?;
        await_did(cluster.node(3), "clone", "\"ok")?;
        await_whole(cluster)?;
        equal(cluster.node(3).ramd_did("clone", "\"ok"), 1, "copies")?;
        for id in [1, 2] {
            equal(cluster.node(id).ramd_did("clone", ""), 0, "copies elsewhere")?;
        }
        drop(ramds);
        Ok(())
    });
}

#[test]
fn a_standby_that_misses_wal_is_copied_if_it_never_answers() {
    with(formed("ramd-rejecting"), |cluster| {
        cluster.node_mut(3).kill_all();
        let wal = cluster.node(3).data().join("pg_wal");
        let entries = fs::read_dir(&wal).map_err(Failure::while_doing("read pg_wal"))?.flatten();
        for entry in entries.filter(|entry| entry.path().is_file()) {
            fs::remove_file(entry.path()).map_err(Failure::while_doing("remove WAL"))?;
        }
        forget_wal(cluster.node(1), 3)?;
        cluster.node(3).configure_ramd("postgresql_start_timeout_seconds = 1")?;
        let ramd = cluster.node(3).start_ramd()?;
        await_did(cluster.node(3), "clone", "\"ok")?;
        await_whole(cluster)?;
        let node = cluster.node(3);
        equal(node.ramd_did("clone", "it takes no connections"), 1, "copies")?;
        equal(node.ramd_did("clone", "\"ok"), 1, "copies that succeeded")?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn a_standby_that_only_replays_late_is_left_alone() {
    with(formed("ramd-delayed"), |cluster| {
        let delay = |node: &Node, value: &str| {
            let mut session = node.session()?;
            session.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = '{value}'"))?;
            session.run("SELECT pg_reload_conf()").map_err(Failure::from)
        };
        delay(cluster.node(3), "1h")?;
        wait_for("it replays late", SOON, || {
            write(cluster.node(1), 1)?;
            let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity \
                       WHERE wait_event = 'RecoveryApplyDelay')";
            Ok(cluster.node(3).session()?.is_true(sql)?.then_some(()))
        })?;
        // What it has not replayed only it has: its slot holds what it has not received.
        forget_old_wal(cluster.node(1), None)?;
        cluster.node_mut(3).stop(Stop::Fast)?;
        cluster.node_mut(3).start()?;
        let before = cluster.node(3).postmaster();
        cluster.node(3).configure_ramd("")?;
        let ramd = cluster.node(3).start_ramd()?;
        await_did(cluster.node(3), "primary", "-> node 1")?;
        // Longer than it takes to see that one starves.
        std::thread::sleep(Duration::from_secs(30));
        let node = cluster.node(3);
        equal(node.ramd_did("clone", ""), 0, "copies")?;
        equal(node.ramd_did("rewind", ""), 0, "rewinds")?;
        expect(node.postmaster() == before, || "it is another server".to_owned())?;
        let receives = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)";
        expect(!node.session()?.is_true(receives)?, || "it receives: nothing is shown".into())?;
        delay(node, "0")?;
        await_whole(cluster)?;
        equal(cluster.node(3).ramd_did("clone", ""), 0, "copies in the end")?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn a_standby_that_is_not_served_has_not_written_what_nobody_has() {
    with(formed("ramd-not-served"), |cluster| {
        let sql = "SELECT pgraft_transfer_leadership(2)";
        expect(cluster.node(1).session()?.is_true(sql)?, || "not moved".to_owned())?;
        cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(2), 10)?;
        wait_for("node 3 has the rows", SOON, || {
            Ok(cluster.node(3).session()?.is_true("SELECT count(*) = 10 FROM t")?.then_some(()))
        })?;
        // It is on the second timeline, and its control file will say so after a restartpoint.
        let stale = "SELECT timeline_id = 1 FROM pg_control_checkpoint()";
        expect(cluster.node(3).session()?.is_true(stale)?, || "nothing is shown".to_owned())?;
        let hba = cluster.node(2).data().join("pg_hba.conf");
        let doing = "change pg_hba.conf";
        let text = fs::read_to_string(&hba).map_err(Failure::while_doing(doing))?;
        let serve = |line: &str| {
            fs::write(&hba, format!("{line}{text}")).map_err(Failure::while_doing(doing))?;
            let sql = "SELECT pg_reload_conf(), pg_terminate_backend(pid, 10000) \
                       FROM pg_stat_replication";
            cluster.node(2).session()?.run(sql).map_err(Failure::from)
        };
        serve("host replication all 127.0.0.1/32 reject\n")?;
        let node = cluster.node(3);
        let receives = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)";
        wait_for("node 3 receives nothing", SOON, || {
            Ok((!node.session()?.is_true(receives)?).then_some(()))
        })?;
        let before = node.postmaster();
        node.configure_ramd("")?;
        let ramd = node.start_ramd()?;
        await_did(node, "primary", "-> node 2")?;
        // Longer than it takes to see that one starves.
        std::thread::sleep(Duration::from_secs(30));
        equal(node.ramd_did("rewind", ""), 0, "rewinds")?;
        equal(node.ramd_did("clone", ""), 0, "copies")?;
        expect(node.postmaster() == before, || "it is another server".to_owned())?;
        expect(!node.session()?.is_true(receives)?, || "it receives: nothing is shown".into())?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn a_copy_that_never_ran_is_replaced_and_what_was_before_it_stays() {
    with(formed("ramd-unstartable"), |cluster| {
        let holds = Holds::make(cluster.node(1))?;
        cluster.node(1).configure_ramd(&holds.setting())?;
        let mut ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "postgres", "-> Answering")?;
        write(cluster.node(1), 1000)?;
        cluster.kill_node(&mut ramd);
        let original = cluster.node(1).data().join("original");
        fs::write(&original, "").map_err(Failure::while_doing("mark a data directory"))?;
        let new = cluster.next_primary(Some(1), SOON)?;
        forget_wal(cluster.node(new), 1)?;
        holds.hold("spoil")?;
        ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "clone", "\"ok")?;
        // Another ramd has to know it, too.
        ramd.kill();
        ramd = cluster.node(1).start_ramd()?;
        await_whole(cluster)?;
        await_did(cluster.node(1), "start", "is not a child of this server's history")?;
        let node = cluster.node(1);
        equal(node.ramd_did("clone", "\"ok"), 2, "copies")?;
        let old = node.old_data();
        equal(old.len(), 1, "former data directories")?;
        expect(old[0].join("original").exists(), || "the original is gone".to_owned())?;
        let failed = node.place.folder.join("data.ramd-failed");
        expect(!failed.exists(), || "the copy that never ran is left behind".to_owned())?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn a_standby_with_wal_that_nobody_else_has_is_made_one_again() {
    with(formed("ramd-diverged"), |cluster| {
        // Behind everybody's back: it writes by itself, and is a standby again.
        let signal = cluster.node(3).data().join("standby.signal");
        let peers = cluster.raft_addresses();
        cluster.node_mut(3).stop(Stop::Fast)?;
        cluster.node(3).configure_pgraft(&peers, false, "")?;
        fs::remove_file(&signal).map_err(Failure::while_doing("remove standby.signal"))?;
        cluster.node_mut(3).start()?;
        write(cluster.node(3), 10_000)?;
        cluster.node_mut(3).stop(Stop::Fast)?;
        cluster.node(3).configure_pgraft(&peers, true, &options().pgraft)?;
        fs::write(&signal, "").map_err(Failure::while_doing("write standby.signal"))?;
        // The cluster has gone on, on another timeline.
        let mut ramds: Vec<Ramd> = Vec::new();
        for id in [1, 2] {
            cluster.node(id).configure_ramd("")?;
            ramds.push(cluster.node(id).start_ramd()?);
        }
        let sql = "SELECT pgraft_transfer_leadership(2)";
        expect(cluster.node(1).session()?.is_true(sql)?, || "not moved".to_owned())?;
        cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(2), 10)?;
        await_did(cluster.node(1), "rewind", "\"ok")?;
        cluster.node(3).configure_ramd("")?;
        ramds.push(cluster.node(3).start_ramd()?);
        await_whole(cluster)?;
        let node = cluster.node(3);
        await_did(node, "rewind", "has written what node")?;
        // Both wrote on one timeline, where pg_rewind hardly finds the place: then it is a copy.
        let back = node.ramd_did("rewind", "\"ok") + node.ramd_did("clone", "\"ok");
        equal(back, 1, "rewinds and copies that succeeded")
    });
}

#[test]
fn after_a_reboot_of_all_three_the_cluster_is_whole_by_itself() {
    with(formed("ramd-reboot"), |cluster| {
        let mut ramds = cluster.start_ramds("")?;
        write(cluster.node(1), 1000)?;
        for ramd in &mut ramds {
            cluster.kill_node(ramd);
        }
        let ids = [1, 2, 3];
        ramds = ids.map(|id| cluster.node(id).start_ramd()).into_iter().collect::<Result<_>>()?;
        let primary = cluster.next_primary(None, BACK_AT_MOST)?;
        write(cluster.node(primary), 10)?;
        await_whole(cluster)?;
        // SIGTERM ends ramd and leaves the servers running.
        for ramd in &mut ramds {
            expect(ramd.terminate()?, || "ramd did not end with status 0".to_owned())?;
        }
        equal(cluster.running().count(), 3, "servers that run")?;
        write(cluster.node(primary), 10)
    });
}

#[test]
fn a_server_that_hangs_is_reported_and_in_the_end_restarted() {
    with(formed("ramd-hung"), |cluster| {
        let more = "probe_timeout_ms = 1000\nhung_timeout_seconds = 20";
        let ramds = cluster.start_ramds(more)?;
        let node = cluster.node(3);
        await_did(node, "postgres", "-> Answering")?;
        let stopped_ms = unix_ms();
        node.pause();
        await_did(node, "postgres", "-> Hung")?;
        let line = node.ramd_history().into_iter().find(|line| line.contains("-> Hung"));
        let at = line.as_deref().and_then(|line| line.split(['{', ',', ':']).nth(2)?.parse().ok());
        let took_ms = at.unwrap_or(0_u64).saturating_sub(stopped_ms);
        println!("a hung server was reported after {took_ms} ms");
        // It comes back by itself, and nothing was done to it.
        node.resume();
        await_did(node, "postgres", "Hung -> Answering")?;
        equal(node.ramd_did("restart", ""), 0, "restarts of a server that came back")?;
        let before = node.postmaster();
        node.pause();
        await_did(node, "restart", "\"ok")?;
        await_whole(cluster)?;
        expect(cluster.node(3).postmaster() != before, || "it is the same server".to_owned())?;
        drop(ramds);
        Ok(())
    });
}

#[test]
fn a_machine_that_stood_still_has_not_hung_all_that_time() {
    with(formed("ramd-frozen"), |cluster| {
        let more = "probe_timeout_ms = 1000\nhung_timeout_seconds = 15";
        cluster.node(3).configure_ramd(more)?;
        let ramd = cluster.node(3).start_ramd()?;
        let process = Process { pid: ramd.pid() };
        let node = cluster.node(3);
        await_did(node, "postgres", "-> Answering")?;
        let before = node.postmaster();
        for round in 1..=2 {
            // The last that ramd has seen is a server that is late.
            node.pause();
            wait_for("a late answer is seen", SOON, || {
                Ok((node.ramd_did("postgres", "-> Hung") == round).then_some(()))
            })?;
            process.pause();
            std::thread::sleep(Duration::from_secs(17));
            node.resume();
            process.resume();
            wait_for("it answers", SOON, || {
                Ok((node.ramd_did("postgres", "Hung -> Answering") == round).then_some(()))
            })?;
        }
        equal(node.ramd_did("restart", ""), 0, "restarts")?;
        expect(node.postmaster() == before, || "it is another server".to_owned())?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn a_hung_primary_is_replaced_and_comes_back_without_its_own_help() {
    with(formed("ramd-hung-primary"), |cluster| {
        let more = "probe_timeout_ms = 1000\nhung_timeout_seconds = 8";
        let ramds = cluster.start_ramds(more)?;
        await_did(cluster.node(1), "postgres", "-> Answering")?;
        write(cluster.node(1), 100)?;
        cluster.node(1).pause();
        let new = cluster.next_primary(Some(1), BACK_AT_MOST)?;
        write(cluster.node(new), 100)?;
        await_whole(cluster)?;
        // In one go, or in two: what was killed may take a moment to be gone.
        await_did(cluster.node(1), "restart", "gave no answer")?;
        drop(ramds);
        Ok(())
    });
}

/// Kills ramd of node 1 again and again, at times from a fixed sequence, until it has done it.
fn kill_again_and_again(cluster: &Cluster, ramd: &mut Ramd) -> Result<()> {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_replication \
               WHERE application_name = 'pgraft_1' AND state = 'streaming')";
    let streams =
        |node: &Node| node.session().is_ok_and(|mut session| session.is_true(sql).unwrap_or(false));
    let mut kills = 0;
    for step in 0..40_u64 {
        if cluster.running().any(streams) {
            break;
        }
        // Longer each time, so that it gets further; and never at the same place.
        let pause = Duration::from_millis(100 + step * 110 + step * step * 37 % 200);
        std::thread::sleep(pause);
        ramd.kill();
        kills += 1;
        *ramd = cluster.node(1).start_ramd()?;
    }
    println!("ramd was killed {kills} times");
    Ok(())
}

#[test]
fn ramd_killed_again_and_again_finds_its_way() {
    with(formed("ramd-killed"), |cluster| {
        let mut ramds = cluster.start_ramds("")?;
        write(cluster.node(1), 1000)?;
        cluster.kill_node(&mut ramds[0]);
        let new = cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(new), 100)?;
        ramds[0] = cluster.node(1).start_ramd()?;
        kill_again_and_again(cluster, &mut ramds[0])?;
        await_whole(cluster).map(drop)
    });
}

#[test]
fn a_second_ramd_and_a_wrong_file_are_refused_in_words() {
    with(Cluster::prepare("ramd-refused", Options::default()), |cluster| {
        let node = cluster.node(1);
        node.configure_ramd("auto_start_enabled = off")?;
        let valid = node.run_ramd(&["--validate"])?;
        let said = String::from_utf8_lossy(&valid.stdout).into_owned();
        expect(valid.status.success() && said.contains("node 1 of cluster"), || said.clone())?;

        let mut first = node.start_ramd()?;
        await_did(node, "postgres", "-> Down")?;
        let second = node.run_ramd(&[])?;
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        equal(second.status.code(), Some(1), "the second ramd's status")?;
        let names = said.contains("another ramd runs") && said.contains(&first.pid().to_string());
        expect(names, || said.clone())?;
        // Nor with another state directory.
        let elsewhere = node.place.folder.join("elsewhere.conf");
        let text = fs::read_to_string(node.ramd_conf()).map_err(Failure::while_doing("read"))?;
        let other = node.place.folder.join("elsewhere");
        let state = node.ramd_state().display().to_string();
        let text = text.replace(&state, &other.display().to_string());
        fs::write(&elsewhere, text).map_err(Failure::while_doing("write a file"))?;
        let third = node.run_ramd_with(&elsewhere, &[])?;
        let said = String::from_utf8_lossy(&third.stderr).into_owned();
        expect(said.contains("another ramd runs"), || said.clone())?;
        expect(first.is_running(), || "the first has ended".to_owned())?;
        expect(!node.is_running(), || "the server was started against the settings".to_owned())?;

        for (line, says) in [
            ("probe_timeout_ms = 5", "from 100 to 60000"),
            ("auto_start_enable = on", "auto_start_enabled"),
            ("join = nowhere", "host:port"),
            ("postgresql_shmem_key = 1", "is 1 in file"),
            ("postgresql_passfile = relative", "an absolute path"),
        ] {
            node.configure_ramd(line)?;
            let refused = node.run_ramd(&["--validate"])?;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            equal(refused.status.code(), Some(1), line)?;
            expect(said.contains(says) && said.contains("ramd.conf"), || said.clone())?;
        }
        let version = node.run_ramd(&["--version"])?;
        expect(String::from_utf8_lossy(&version.stdout).starts_with("ramd 1."), || {
            "no version".to_owned()
        })
    });
}

#[test]
fn in_the_background_it_is_known_by_its_pid_file_until_it_ends() {
    with(Cluster::prepare("ramd-daemon", Options::default()), |cluster| {
        let node = cluster.node(1);
        node.configure_ramd("auto_start_enabled = off")?;
        let pid_file = node.place.folder.join("ramd.pid");
        let pid_option = format!("--pid-file={}", pid_file.display());
        let began = node.run_ramd(&["--daemonize", &pid_option])?;
        expect(began.status.success(), || String::from_utf8_lossy(&began.stderr).into_owned())?;
        await_did(node, "postgres", "-> Down")?;
        let pid = fs::read_to_string(&pid_file).map_err(Failure::while_doing("read a pid"))?;
        let process = Process { pid: pid.trim().parse().map_err(Failure::while_doing("read"))? };
        let second = node.run_ramd(&["--daemonize"])?;
        let said = String::from_utf8_lossy(&second.stderr).into_owned();
        expect(said.contains(&format!("process {}", process.pid)), || said.clone())?;
        expect(process.title().contains("ramd"), || process.title())?;
        process.signal(rustix::process::Signal::TERM);
        wait_for("ramd has ended", SOON, || Ok((!pid_file.exists()).then_some(())))?;
        let log = fs::read_to_string(node.ramd_state().join("ramd.log")).unwrap_or_default();
        expect(log.contains("ramd ends"), || log.clone())
    });
}

/// What docs/ramd.md says that a role needs that is no superuser.
const ROLE: &str = "\
    CREATE ROLE ramd LOGIN REPLICATION PASSWORD 'se:cret';
    GRANT pg_monitor, pg_checkpoint TO ramd;
    GRANT EXECUTE ON FUNCTION pg_read_file(text) TO ramd;
    GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
        pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO ramd";

#[test]
fn a_role_that_is_no_superuser_with_a_password_in_a_passfile_is_enough() {
    with(formed("ramd-role"), |cluster| {
        cluster.node(1).session()?.run(ROLE)?;
        cluster.await_streaming(1, SOON)?;
        let mut ramds = Vec::new();
        for node in cluster.nodes() {
            let hba = node.data().join("pg_hba.conf");
            let doing = "change pg_hba.conf";
            let text = fs::read_to_string(&hba).map_err(Failure::while_doing(doing))?;
            let line = "host all,replication ramd 127.0.0.1/32 scram-sha-256\n";
            fs::write(&hba, format!("{line}{text}")).map_err(Failure::while_doing(doing))?;
            node.session()?.run("SELECT pg_reload_conf()")?;
            let passfile = node.write_passfile("*:*:*:ramd:se\\:cret\n")?;
            let more =
                format!("postgresql_user = ramd\npostgresql_passfile = {}", passfile.display());
            node.configure_ramd(&more)?;
            ramds.push(node.start_ramd()?);
        }
        for node in cluster.nodes() {
            await_did(node, "postgres", "-> Answering")?;
        }
        cluster.kill_node(&mut ramds[0]);
        let new = cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(new), 100)?;
        ramds[0] = cluster.node(1).start_ramd()?;
        await_whole(cluster)?;
        await_did(cluster.node(1), "rewind", "\"ok")?;
        // Without the password nobody is let in, and that is said.
        ramds[0].kill();
        let node = cluster.node(1);
        node.write_passfile("*:*:*:ramd:wrong\n")?;
        ramds[0] = node.start_ramd()?;
        await_did(node, "postgres", "password authentication failed")
    });
}

#[test]
fn ramd_runs_beside_a_server_that_is_down_and_sees_it_come_and_go() {
    with(formed("ramd-down"), |cluster| {
        cluster.node_mut(3).stop(Stop::Fast)?;
        let node = cluster.node(3);
        node.configure_ramd("auto_start_enabled = off")?;
        let mut ramd = node.start_ramd()?;
        await_did(node, "postgres", "-> Down")?;
        cluster.node_mut(3).start()?;
        let node = cluster.node(3);
        await_did(node, "postgres", "-> Answering")?;
        await_did(node, "primary", "-> node 1")?;
        await_did(node, "role", "-> standby")?;
        cluster.node_mut(3).kill_all();
        await_did(cluster.node(3), "postgres", "Answering -> Down")?;
        expect(ramd.is_running(), || "ramd has ended".to_owned())?;
        // Paused, nothing is started either; resumed, it is.
        ramd.kill();
        cluster.node_mut(3).start()?;
        cluster.node(1).session()?.run("SELECT pgraft_pause()")?;
        let node = cluster.node(3);
        node.configure_ramd("")?;
        let ramd = node.start_ramd()?;
        wait_for("the pause is remembered", SOON, || {
            Ok(node.ramd_memory().contains("\"paused\": true").then_some(()))
        })?;
        cluster.node_mut(3).stop(Stop::Fast)?;
        std::thread::sleep(Duration::from_secs(3));
        expect(!cluster.node(3).is_running(), || "started while paused".to_owned())?;
        cluster.node(1).session()?.run("SELECT pgraft_resume()")?;
        cluster.node_mut(3).start()?;
        let node = cluster.node(3);
        wait_for("the pause is over", SOON, || {
            Ok(node.ramd_memory().contains("\"paused\": false").then_some(()))
        })?;
        cluster.node_mut(3).stop(Stop::Fast)?;
        await_did(cluster.node(3), "start", "\"ok")?;
        drop(ramd);
        Ok(())
    });
}

/// PostgreSQL's programs, of which `pg_rewind` and `pg_basebackup` stand still where a file beside
/// them says so: before they begin, or when they are done and have not said so yet. With a file
/// `spoil` one copy is such that no server starts on it.
struct Holds {
    folder: PathBuf,
}

impl Holds {
    fn make(node: &Node) -> Result<Holds> {
        // What sleeps is what ramd started, so that it ends with it.
        let folder = node.wrap_programs(|_, real, here| {
            format!(
                "case \" $* \" in *' --dry-run '*) exec {real} \"$@\";; esac\n\
                 if [ -e {here}/hold-before ]; then : >{here}/held; exec sleep 600; fi\n\
                 if [ -e {here}/hold-after ]; then\n\
                 {real} \"$@\" || exit $?; : >{here}/held; exec sleep 600; fi\n\
                 if [ -e {here}/spoil ]; then {real} \"$@\" || exit $?; rm {here}/spoil\n\
                 while [ \"$1\" != -D ]; do shift; done\n\
                 for n in 2 3 4 5 6 7 8 9; do h=\"$h$((n-1))\\t0/2$n\\tspoilt\\n\"\n\
                 printf \"$h\" >$2/pg_wal/0000000$n.history; done; exit; fi\n\
                 exec {real} \"$@\"\n",
                real = real.display(),
                here = here.display(),
            )
        })?;
        Ok(Holds { folder })
    }

    fn setting(&self) -> String {
        format!("postgresql_bin_directory = {}", self.folder.display())
    }

    /// From now on they stand still there.
    fn hold(&self, when: &str) -> Result<()> {
        self.release();
        fs::write(self.folder.join(when), "").map_err(Failure::while_doing("write a file"))
    }

    fn release(&self) {
        for name in ["hold-before", "hold-after", "held", "spoil"] {
            let _ = fs::remove_file(self.folder.join(name)); // it may not be there
        }
    }

    /// Waits until one stands still.
    fn await_held(&self) -> Result<()> {
        wait_for("a program stands still", BACK_AT_MOST, || {
            Ok(self.folder.join("held").exists().then_some(()))
        })
    }
}

/// Nobody starts a server on a data directory that is being rewound, not even a ramd that was
/// killed and knows nothing but what it wrote down.
fn killed_at(name: &str, when: &str, step: &str, forgotten: bool) {
    with(formed(name), |cluster| {
        let holds = Holds::make(cluster.node(1))?;
        cluster.node(1).configure_ramd(&holds.setting())?;
        let mut ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "postgres", "-> Answering")?;
        write(cluster.node(1), 1000)?;
        cluster.kill_node(&mut ramd);
        let new = cluster.next_primary(Some(1), SOON)?;
        write(cluster.node(new), 100)?;
        if forgotten {
            forget_wal(cluster.node(new), 1)?;
        }
        holds.hold(when)?;
        ramd = cluster.node(1).start_ramd()?;
        for round in 0..2 {
            holds.await_held()?;
            ramd.kill();
            let node = cluster.node(1);
            let remembered = node.ramd_memory();
            let wanted = format!("\"step\": \"{step}\"");
            expect(remembered.contains(&wanted), || format!("{round}: {remembered}"))?;
            // It answers until a copy of the primary is complete; what is being rewound never does.
            equal(node.is_running(), forgotten, "whether the server runs")?;
            expect(node.data().join("PG_VERSION").exists(), || "no data directory".into())?;
            holds.hold(when)?;
            ramd = node.start_ramd()?;
        }
        holds.await_held()?;
        ramd.kill();
        holds.release();
        ramd = cluster.node(1).start_ramd()?;
        await_whole(cluster)?;
        let name = cluster.node(1).session()?.value("SHOW cluster_name")?;
        equal(name.as_deref(), Some("node1"), "cluster_name")?;
        drop(ramd);
        Ok(())
    });
}

#[test]
fn ramd_killed_before_a_rewind_begins_to_change_anything() {
    killed_at("ramd-killed-before", "hold-before", "rewinding", false);
}

#[test]
fn ramd_killed_when_a_rewind_was_done_and_it_did_not_know() {
    killed_at("ramd-killed-after", "hold-after", "rewinding", false);
}

#[test]
fn ramd_killed_while_a_copy_is_made() {
    killed_at("ramd-killed-copy", "hold-after", "none", true);
}

#[test]
fn a_full_disk_during_a_copy_leaves_the_old_data_directory() {
    let cluster = Cluster::prepare("ramd-full", options());
    with(cluster, |cluster| {
        let disk = cluster.small_disk(1, 700)?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        ready(cluster)?;
        cluster.node(1).configure_ramd("")?;
        let mut ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "postgres", "-> Answering")?;
        write(cluster.node(1), 1000)?;
        cluster.kill_node(&mut ramd);
        let new = cluster.next_primary(Some(1), SOON)?;
        forget_wal(cluster.node(new), 1)?;
        // Room to start, not for a copy.
        disk.fill_but(20)?;
        ramd = cluster.node(1).start_ramd()?;
        await_did(cluster.node(1), "clone", "No space left on device")?;
        let node = cluster.node(1);
        expect(node.data().join("global/pg_control").exists(), || "no data directory".into())?;
        equal(node.old_data().len(), 0, "directories put aside")?;
        // It runs as far as it can, and is whole once there is room.
        wait_for("the old server answers", SOON, || Ok(node.session().ok().map(drop)))?;
        disk.empty()?;
        await_whole(cluster)?;
        await_did(cluster.node(1), "clone", "\"ok")?;
        ramd.kill();
        cluster.node_mut(1).end();
        disk.remove()
    });
}

#[test]
fn a_new_member_is_made_from_the_address_of_any_member() {
    with(formed("ramd-join"), |cluster| {
        let id = cluster.add_place()?;
        let node = cluster.node(id);
        // A machine of its own would have the same port; here it needs another.
        let conf = node.place.folder.join("postgresql.conf");
        let text = format!(
            "listen_addresses = '{}'\nport = {}\nunix_socket_directories = ''\n\
             shared_preload_libraries = 'pgraft'\nwal_log_hints = on\nfsync = off\n\
             cluster_name = 'node{id}'\n",
            node.place.host, node.place.pg_port
        );
        fs::write(&conf, text).map_err(Failure::while_doing("write postgresql.conf"))?;
        let more = format!("postgresql_config_file = {}", conf.display());
        node.configure_ramd(&more)?;
        // Node 2 is a standby: it says who is not.
        let join = format!("--join={}", cluster.node(2).pg_address());
        let mut ramd = node.start_ramd_with(&[&join])?;
        wait_for("a copy is under way", SOON, || {
            Ok(node.place.folder.join("data.ramd-clone").exists().then_some(()))
        })?;
        // It may be killed, and told again or not.
        ramd.kill();
        let ramd = node.start_ramd()?;
        check::await_voters(cluster, &[1, 2, 3, id], &[1, 2, 3, id])?;
        await_whole(cluster)?;
        let node = cluster.node(id);
        equal(node.session()?.value("SHOW cluster_name")?, Some(format!("node{id}")), "name")?;
        await_did(node, "join", "\"ok")?;
        drop(ramd);
        // Told once more, it has joined already; where something else is, it touches nothing.
        let mut again = node.start_ramd_with(&[&join])?;
        await_did(node, "primary", "-> node 1")?;
        equal(node.ramd_did("clone", "\"ok"), 1, "copies")?;
        expect(again.is_running(), || "it has ended".to_owned())?;
        Ok(())
    });
}
