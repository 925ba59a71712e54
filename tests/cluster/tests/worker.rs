//! The worker's life: it ends with its server and never ends it, and what it says in shared memory
//! goes stale by itself when it stands still.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, await_voters, equal, expect, next_leader_among};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, Session, Status, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

/// A second on an idle machine; the bound is for a busy one.
const GONE_AT_MOST: Duration = SOON;

fn worker(node: &Node) -> Result<Process> {
    wait_for(&format!("node {} has a worker", node.id()), SOON, || Ok(node.worker()))
}

fn is_gone(process: Process, node: &Node) -> bool {
    Process::in_folder(process.pid, &node.data()).is_none()
}

fn await_gone(process: Process, node: &Node) -> Result<()> {
    let began = Instant::now();
    let what = format!("the worker of node {} is gone", node.id());
    // Its threads end a moment after the process itself has no folder any more: then its port is
    // free, too.
    wait_for(&what, GONE_AT_MOST, || {
        let port = TcpListener::bind(("127.0.0.1", node.place.raft_port));
        let free = port.map_err(Failure::while_doing("take the port that the worker had"));
        Ok((is_gone(process, node) && free.map(|_| true)?).then_some(()))
    })?;
    println!("{what} after {:?}", began.elapsed());
    Ok(())
}

fn others(id: u32) -> Vec<u32> {
    (1..=3).filter(|other| *other != id).collect()
}

#[test]
fn it_is_gone_at_a_fast_stop_and_when_the_postmaster_is_killed() {
    with(Cluster::form("worker-gone", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        // A leader, whose threads have most to do, and a follower.
        for id in [leader, others(leader)[0]] {
            let process = worker(cluster.node(id))?;
            cluster.node(id).begin_stop(Stop::Fast);
            await_gone(process, cluster.node(id))?;
            cluster.node_mut(id).await_stop()?;
            cluster.node_mut(id).start()?;
            cluster.leader()?;

            let process = worker(cluster.node(id))?;
            cluster.node_mut(id).kill();
            await_gone(process, cluster.node(id))?;
            cluster.node_mut(id).start()?;
            cluster.leader()?;
        }
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn terminated_it_comes_back_and_the_server_stays_as_it_was() {
    with(Cluster::form("worker-term", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        for id in [leader, others(leader)[0]] {
            let node = cluster.node(id);
            let mut session = node.session()?;
            let started = session.value("SELECT pg_postmaster_start_time()")?;
            let postmaster = node.postmaster();
            let own = session.value("SELECT pg_backend_pid()")?;
            session.run("SELECT pgraft_set_debug(true)")?;
            session.run("BEGIN READ ONLY; DECLARE c CURSOR FOR SELECT 1")?;

            let old = worker(node)?;
            old.signal(Signal::TERM);
            wait_for("the worker is gone", GONE_AT_MOST, || Ok(is_gone(old, node).then_some(())))?;
            wait_for("another worker", SOON, || {
                Ok(node.worker().filter(|new| *new != old).map(|_| ()))
            })?;
            cluster.leader()?;

            equal(session.value("FETCH c")?.as_deref(), Some("1"), "the open transaction")?;
            session.run("COMMIT")?;
            equal(session.value("SELECT pg_postmaster_start_time()")?, started, "start time")?;
            equal(session.value("SELECT pg_backend_pid()")?, own, "the connection")?;
            equal(node.postmaster(), postmaster, "the postmaster")?;
            equal(Status::of(node)?.get("debug"), "t", "debug over a restart of the worker")?;
            expect(!node.log().contains("terminating any other active"), || "crash".to_owned())?;
            // The lines before are still there.
            let before = "SELECT count(*) FROM pgraft_get_logs(10000) \
                          WHERE message LIKE 'initialized node%'";
            equal(session.value(before)?.as_deref(), Some("1"), "the ring's lines of before")?;
        }
        Ok(())
    });
}

/// Threads that ask what time it is, and what makes each do so if the cluster is at rest. (The one
/// that writes to a peer has no need to, as long as the socket takes all at once.)
const THREADS: [(&str, &str); 4] = [
    ("pgraft ticker", "SELECT 1"),
    ("pgraft raft", "SELECT pgraft_kv_put('key', 'value')"),
    ("pgraft in", "SELECT 1"),
    ("pgraft dial", "SELECT 1"),
];

#[test]
fn after_a_panic_in_any_thread_it_comes_back_and_the_server_stays_as_it_was() {
    let prepared = || {
        let mut cluster = Cluster::prepare("worker-panic", Options::calm())?;
        cluster.prepare_panics()?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        Ok(cluster)
    };
    with(prepared(), |cluster| {
        for (thread, poke) in THREADS {
            let began = Instant::now();
            let (leader, _) = cluster.leader()?;
            let node = cluster.node(leader);
            let mut session = node.session()?;
            session.run("BEGIN READ ONLY; DECLARE c CURSOR FOR SELECT 1")?;
            let (old, postmaster) = (worker(node)?, node.postmaster());
            node.set_panic(thread)?;
            // Whoever is asked while the worker goes down may say that it does not know.
            let _ = node.session()?.rows(poke);
            if matches!(thread, "pgraft in" | "pgraft dial") {
                // Another worker there: it dials this one, and this one dials it.
                worker(cluster.node(others(leader)[0]))?.signal(Signal::TERM);
            }
            wait_for(&format!("thread \"{thread}\" panics"), SOON, || {
                Ok(node.has_panicked().then_some(()))
            })?;
            wait_for("the worker is gone", GONE_AT_MOST, || Ok(is_gone(old, node).then_some(())))?;
            wait_for("another worker", SOON, || {
                Ok(node.worker().filter(|new| *new != old).map(|_| ()))
            })?;
            cluster.leader()?;

            equal(session.value("FETCH c")?.as_deref(), Some("1"), "the open transaction")?;
            session.run("COMMIT")?;
            equal(node.postmaster(), postmaster, "the postmaster")?;
            let log = node.log();
            let said = format!("thread \"{thread}");
            let line = log.lines().find(|line| line.contains(&said) && line.contains("panicked"));
            expect(line.is_some(), || format!("the log does not say that {thread} panicked"))?;
            println!("thread \"{thread}\": {:?}", began.elapsed());
            expect(!log.contains("terminating any other active"), || "crash".to_owned())?;
        }
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn a_request_under_way_when_it_ends_is_answered() {
    with(Cluster::form("worker-request", Options::default()), |cluster| {
        let (leader, _) = cluster.leader()?;
        let rest = others(leader);
        // Nobody answers the leader, so that the request waits.
        rest.iter().for_each(|id| cluster.node(*id).pause());
        let node = cluster.node(leader);
        let process = worker(node)?;
        let port = node.place.pg_port;
        let asking = std::thread::spawn(move || {
            let mut session = Session::connect(port)?;
            session.error("SELECT pgraft_add_node('127.0.0.1:1', 5)")
        });
        wait_for("the request is under way", SOON, || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgraftCommand'";
            Ok((node.session()?.value(sql)?.as_deref() == Some("1")).then_some(()))
        })?;
        process.signal(Signal::TERM);
        let error = asking.join().map_err(|_| Failure::new("the asking thread panicked"))??;
        equal(error.sqlstate.as_deref(), Some("40003"), &error.to_string())?;
        cluster.nodes().iter().for_each(Node::resume);
        cluster.leader()?;

        // A backend that is terminated while it waits leaves no slot behind, nor does a cancelled
        // statement: far more of them than there are slots.
        rest.iter().for_each(|id| cluster.node(*id).pause());
        let mut session = node.session()?;
        session.run("SET statement_timeout = '20ms'")?;
        for _ in 0..100 {
            // Not node 5: what became of that request is unknown, it may be a member by now.
            let error = session.error("SELECT pgraft_add_node('127.0.0.1:2', 6)")?;
            equal(error.sqlstate.as_deref(), Some("57014"), &error.to_string())?;
        }
        cluster.nodes().iter().for_each(Node::resume);
        cluster.leader().map(|_| ())
    });
}

#[test]
fn storms_of_reloads_change_nothing() {
    with(Cluster::form("worker-hup", Options::calm()), |cluster| {
        let before = cluster.leader()?;
        let workers: Vec<Process> = cluster.nodes().iter().map(worker).collect::<Result<_>>()?;
        let until = Instant::now() + Duration::from_secs(2);
        let mut sent = 0;
        while Instant::now() < until {
            for (node, worker) in cluster.nodes().iter().zip(&workers) {
                worker.signal(Signal::HUP);
                if sent % 10 == 0 {
                    node.postmaster().into_iter().for_each(|p| p.signal(Signal::HUP));
                }
            }
            sent += 1;
            std::thread::sleep(Duration::from_millis(2));
        }
        println!("{sent} SIGHUPs to each worker");
        equal(cluster.leader()?, before, "leader and term")?;
        let still: Vec<Process> = cluster.nodes().iter().map(worker).collect::<Result<_>>()?;
        equal(still, workers, "the workers")
    });
}

/// How long ago `node` heard `other` last, in milliseconds.
fn silence_ms(session: &mut Session, other: u32) -> Result<f64> {
    let sql = format!(
        "SELECT extract(epoch FROM clock_timestamp() - last_contact) * 1000 \
         FROM pgraft_get_nodes() WHERE node_id = {other}"
    );
    let value = session.value(&sql)?;
    value
        .and_then(|ms| ms.parse().ok())
        .ok_or_else(|| Failure::new(format!("no last_contact of node {other}")))
}

#[test]
fn a_follower_that_stands_still_delays_nobody() {
    with(Cluster::form("worker-still-follower", Options::calm()), |cluster| {
        let (leader, term) = cluster.leader()?;
        let rest = others(leader);
        let (still, other) = (rest[0], rest[1]);
        cluster.node(still).pause();
        let mut on_leader = cluster.node(leader).session()?;
        let mut on_other = cluster.node(other).session()?;
        let (mut longest, until) = (0.0_f64, Instant::now() + Duration::from_secs(6));
        let mut changed = false;
        while Instant::now() < until {
            longest = longest.max(silence_ms(&mut on_leader, other)?);
            longest = longest.max(silence_ms(&mut on_other, leader)?);
            for session in [&mut on_leader, &mut on_other] {
                let sql = "SELECT pgraft_get_leader() || '/' || pgraft_get_term()";
                let seen = session.value(sql)?;
                equal(seen, Some(format!("{leader}/{term}")), "leader and term")?;
            }
            expect(on_leader.is_true("SELECT pgraft_is_leader()")?, || "lease lost".to_owned())?;
            if !changed {
                // A change needs only the two.
                on_other.run("SELECT pgraft_add_node('127.0.0.1:1', 9)")?;
                on_other.run("SELECT pgraft_remove_node(9)")?;
                changed = true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The lease that held at every look needs an answer every three seconds; what is shown of
        // the last contact is refreshed once a second.
        println!("the longest silence between the other two was {longest:.0} ms");
        expect(longest < 5000.0, || format!("{longest} ms of silence between the other two"))?;
        wait_for("the leader misses the node that stands still", SOON, || {
            let sql = format!("SELECT reachable FROM pgraft_get_nodes() WHERE node_id = {still}");
            Ok((on_leader.value(&sql)?.as_deref() == Some("f")).then_some(()))
        })?;
        cluster.node(still).resume();
        // It comes back without disturbing: the term is the same.
        equal(cluster.leader()?, (leader, term), "leader and term after SIGCONT")?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn a_leader_that_stands_still_leads_no_more() {
    with(Cluster::form("worker-still-leader", Options::default()), |cluster| {
        // The worker alone: SQL on its server still answers, from shared memory.
        let (leader, term) = cluster.leader()?;
        let node = cluster.node(leader);
        let process = worker(node)?;
        let mut session = node.session()?;
        expect(session.is_true("SELECT pgraft_is_leader()")?, || "it does not lead".to_owned())?;
        let began = Instant::now();
        process.pause();
        wait_for("it says that it leads no more", SOON, || {
            Ok((!session.is_true("SELECT pgraft_is_leader()")?).then_some(()))
        })?;
        println!("pgraft_is_leader() is false {:?} after SIGSTOP", began.elapsed());
        let (_, later) = next_leader_among(cluster, &others(leader), (leader, term))?;
        // The others may have elected before the page counts as stale.
        let status = wait_for("its page counts as stale", SOON, || {
            let status = Status::of(node)?;
            Ok(status.get("last_error").contains("no sign of life").then_some(status))
        })?;
        expect(status.get("has_quorum") == "f", || format!("{status:?}"))?;
        equal(session.value("SELECT pgraft_get_leader()")?.as_deref(), Some("0"), "leader")?;
        expect(!session.is_true("SELECT pgraft_is_healthy()")?, || "healthy".to_owned())?;
        process.resume();
        follows(cluster, leader, &mut session, later)?;

        // The whole server: nobody can ask it meanwhile, and right after it must not say yes.
        let (leader, term) = cluster.leader()?;
        let mut session = cluster.node(leader).session()?;
        cluster.node(leader).pause();
        let (_, later) = next_leader_among(cluster, &others(leader), (leader, term))?;
        cluster.node(leader).resume();
        follows(cluster, leader, &mut session, later)
    });
}

/// From SIGCONT on it never says that it leads, and follows the new leader.
fn follows(cluster: &Cluster, id: u32, session: &mut Session, term: u64) -> Result<()> {
    let began = Instant::now();
    let mut followed = false;
    while began.elapsed() < Duration::from_secs(2) || !followed && began.elapsed() < SOON {
        let row = session.rows("SELECT pgraft_is_leader(), pgraft_get_term()")?.remove(0);
        let now: u64 = row[1].as_deref().and_then(|t| t.parse().ok()).unwrap_or(0);
        // Only an election of its own could make it lead again.
        let leads = row[0].as_deref() == Some("t") && now <= term;
        expect(!leads, || format!("node {id} says that it leads in term {now}"))?;
        followed |= Status::of(cluster.node(id))?.get("role") == "follower";
        std::thread::sleep(Duration::from_millis(5));
    }
    expect(followed, || format!("node {id} does not follow:\n{}", cluster.table()))?;
    cluster.leader().map(|_| ())
}

/// The C reader, compiled.
fn compile_reader(cluster: &Cluster) -> Result<PathBuf> {
    let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = cluster.folder().join("read_page");
    let output = Command::new("cc")
        .args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-o"])
        .arg(&program)
        .arg("-I")
        .arg(checkout.join("include"))
        .arg(checkout.join("tests/c/read_page.c"))
        .output()
        .map_err(Failure::while_doing("run cc"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    expect(output.status.success(), || format!("cc failed:\n{said}"))?;
    Ok(program)
}

/// What it prints of a node, by name.
fn read_page(program: &PathBuf, node: &Node) -> Result<Vec<(String, String)>> {
    let output = Command::new(program)
        .arg(node.place.shmem_key.to_string())
        .output()
        .map_err(Failure::while_doing("run the C reader"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    expect(output.status.success(), || format!("node {}: {said}", node.id()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[test]
fn a_c_program_reads_what_sql_shows() {
    with(Cluster::form("worker-c-reader", Options::default()), |cluster| {
        let program = compile_reader(cluster)?;
        let compare = |cluster: &Cluster| -> Result<()> {
            let (leader, term) = cluster.leader()?;
            for node in cluster.nodes() {
                let page = read_page(&program, node)?;
                let value = |name: &str| {
                    page.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
                };
                let leads = if node.id() == leader { "1" } else { "0" };
                equal(value("node_id"), node.id().to_string().as_str(), "node_id")?;
                equal(value("fresh"), "1", "fresh")?;
                equal(value("leader"), leader.to_string().as_str(), "leader")?;
                equal(value("term"), term.to_string().as_str(), "term")?;
                equal(value("is_leader"), leads, "is_leader")?;
                equal(value("members"), "3", "members")?;
            }
            Ok(())
        };
        // A new leader's lease begins after its first round of heartbeats.
        let same = |cluster: &Cluster| {
            wait_for("the pages show what SQL shows", SOON, || compare(cluster).map(Some))
        };
        same(cluster)?;
        let (leader, _) = cluster.leader()?;
        let next = others(leader)[0];
        cluster
            .node(leader)
            .session()?
            .run(&format!("SELECT pgraft_transfer_leadership({next})"))?;
        same(cluster)?;

        // A worker that stands still: the page goes stale by the reader's own clock.
        let process = worker(cluster.node(next))?;
        process.pause();
        wait_for("the page is stale and leads no more", SOON, || {
            let page = read_page(&program, cluster.node(next))?;
            let is = |name: &str| page.contains(&(name.to_owned(), "0".to_owned()));
            Ok((is("fresh") && is("is_leader")).then_some(()))
        })?;
        process.resume();
        cluster.leader()?;

        // Gone with a proper end: there is no segment, or one that claims nothing.
        cluster.node_mut(next).stop(Stop::Fast)?;
        match read_page(&program, cluster.node(next)) {
            Err(failure) => expect(failure.to_string().contains("find"), || failure.to_string())?,
            Ok(page) => expect(page.contains(&("is_leader".to_owned(), "0".to_owned())), || {
                format!("{page:?}")
            })?,
        }
        cluster.node_mut(next).start()?;
        same(cluster)
    });
}
