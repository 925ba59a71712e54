//! The fence in the backends of servers on which nobody may open it: consensus does not run there.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{SOON, await_state, equal, expect, is_error};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Session, SqlError, Status, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

const FENCED: &str = "25006";
const CANCELED: &str = "57014";

fn one() -> Options {
    Options {
        nodes: 1,
        failover: true,
        postgresql: "max_prepared_transactions = 10\nwal_level = logical\n\
                     autovacuum_naptime = 1s\n"
            .to_owned(),
        ..Options::default()
    }
}

fn marker(node: &Node) -> PathBuf {
    node.data().join("pgraft.member")
}

/// Restarts a server as a member's: with the marker and without consensus.
fn restart_as_member(node: &mut Node) -> Result<()> {
    node.stop(Stop::Fast)?;
    fs::write(marker(node), "").map_err(Failure::while_doing("write the marker"))?;
    node.start()
}

/// Tables to write to, and what a member may have lying around.
const SETUP: &str = "
    CREATE EXTENSION pgraft;
    CREATE TABLE t (a int PRIMARY KEY);
    INSERT INTO t SELECT generate_series(1, 100);
    CREATE TABLE p (a int);
    CREATE SEQUENCE s;
    CREATE ROLE someone LOGIN;
    GRANT ALL ON t TO someone;
    CREATE PROCEDURE twice(x int) LANGUAGE plpgsql AS
        'BEGIN INSERT INTO t VALUES (x); COMMIT; INSERT INTO t VALUES (x + 1); COMMIT; END';
";

fn set_up(node: &Node) -> Result<Session> {
    let mut session = node.session()?;
    session.run(SETUP)?;
    // Not in the transaction of what writes.
    session.run("SELECT pg_create_logical_replication_slot('decoded', 'pgoutput')")?;
    Ok(session)
}

fn prepare_two(session: &mut Session) -> Result<()> {
    for (name, value) in [("one", 1001), ("two", 1002)] {
        session.run(&format!("BEGIN; INSERT INTO p VALUES ({value})"))?;
        session.run(&format!("PREPARE TRANSACTION '{name}'"))?;
    }
    Ok(())
}

fn rows(session: &mut Session) -> Result<String> {
    Ok(session.value("SELECT count(*) FROM t")?.unwrap_or_default())
}

fn count(node: &Node, sql: &str) -> Result<u32> {
    let value = node.session()?.value(sql)?;
    value.and_then(|n| n.parse().ok()).ok_or_else(|| Failure::new(format!("no number: {sql}")))
}

/// Clients' backends that wait at the fence; autovacuum's wait there, too.
const WAITING: &str = "FROM pg_stat_activity \
     WHERE wait_event = 'PgraftFence' AND backend_type = 'client backend'";

fn waiting(node: &Node) -> Result<u32> {
    count(node, &format!("SELECT count(*) {WAITING}"))
}

/// Nobody is left counted in: a planned move would wait for it in vain.
fn nothing_is_under_way(node: &Node) -> Result<()> {
    let sql = "SELECT value FROM pgraft_get_metrics() WHERE metric = 'pgraft_commits_under_way'";
    equal(count(node, sql)?, 0, "commits under way")
}

/// Starts a statement that will wait at the fence, and waits until it does.
fn begin_waiting(node: &Node, sql: &'static str) -> Result<JoinHandle<Result<SqlError>>> {
    let before = waiting(node)?;
    let port = node.place.pg_port;
    let running = std::thread::spawn(move || {
        let mut session = Session::connect(port)?;
        session.run("SET pgraft.fence_wait = '1h'")?;
        session.error(sql)
    });
    wait_for(&format!("it waits: {sql}"), SOON, || Ok((waiting(node)? > before).then_some(())))?;
    Ok(running)
}

fn outcome(running: JoinHandle<Result<SqlError>>) -> Result<SqlError> {
    running.join().map_err(|_| Failure::new("the waiting thread panicked"))?
}

/// The server's last words may be lost with the connection.
fn has_lost_connection(error: &SqlError) -> Result<()> {
    expect(matches!(error.sqlstate.as_deref(), None | Some("57P01")), || error.to_string())
}

#[test]
fn a_member_without_consensus_commits_nothing_and_reads_everything() {
    with(Cluster::prepare("fence-closed", one()), |cluster| {
        let node = cluster.node_mut(1);
        node.start()?;
        let mut session = set_up(node)?;
        session.run("CREATE DATABASE other")?;
        prepare_two(&mut session)?;
        equal(rows(&mut session)?.as_str(), "100", "rows")?;
        restart_as_member(node)?;
        let mut session = node.session()?;
        equal(Status::of(node)?.get("fenced"), "t", "fenced")?;

        // At first for as long as the default has it, then not so long.
        let began = Instant::now();
        let error = session.error("INSERT INTO t VALUES (101)")?;
        is_error(&error, FENCED, &["holds no lease as primary", "Consensus is not running"])?;
        is_error(&error, FENCED, &["pgraft_start()", "SET pgraft.fence = off"])?;
        let waited = began.elapsed();
        expect(waited >= Duration::from_secs(2), || format!("waited only {waited:?}"))?;
        session.run("SET pgraft.fence_wait = 0")?;
        for sql in [
            "UPDATE t SET a = a + 1000",
            "DELETE FROM t",
            "TRUNCATE t",
            "BEGIN READ WRITE; INSERT INTO t VALUES (101); COMMIT",
            "BEGIN; SAVEPOINT x; INSERT INTO t VALUES (101); RELEASE x; COMMIT",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; INSERT INTO t VALUES (101)",
            "COPY t FROM PROGRAM 'echo 101'",
            "CREATE TABLE u AS SELECT * FROM t",
            "CREATE INDEX CONCURRENTLY i ON t (a)",
            "ALTER TABLE t ADD b text",
            "DROP TABLE t",
            "REINDEX TABLE t",
            "VACUUM FULL t",
            "CREATE ROLE another",
            "CREATE DATABASE another",
            "DROP DATABASE other",
            "CALL twice(101)",
            "DO 'BEGIN INSERT INTO t VALUES (101); END'",
            "SELECT nextval('s')",
            "SELECT pg_current_xact_id()",
            "SELECT pg_logical_emit_message(true, 'a', 'b')",
            "BEGIN; INSERT INTO t VALUES (101); PREPARE TRANSACTION 'three'",
            "COMMIT PREPARED 'one'",
        ] {
            is_error(&session.error(sql)?, FENCED, &["cannot commit"])?;
            session.run("ROLLBACK")?;
        }
        nothing_is_under_way(node)?;
        equal(rows(&mut session)?.as_str(), "100", "rows")?;
        let left = "SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts";
        equal(session.value(left)?.as_deref(), Some("one,two"), "prepared transactions")?;
        // Its files are still there.
        Session::connect_to(node.place.pg_port, "postgres", "other")?.run("SELECT 1")?;

        // What commits nothing that anybody else could miss.
        for sql in [
            "BEGIN READ ONLY; SELECT * FROM t; COMMIT",
            "BEGIN; INSERT INTO t VALUES (101); ROLLBACK",
            "COPY t TO PROGRAM 'cat >/dev/null'",
            "VACUUM t",
            "CHECKPOINT",
            "LISTEN x",
            "NOTIFY x",
            "SELECT pg_create_physical_replication_slot('physical', true)",
            "SELECT count(*) FROM pg_logical_slot_peek_binary_changes('decoded', NULL, NULL, \
             'proto_version', '1', 'publication_names', 'none')",
            "SELECT pg_drop_replication_slot('decoded')",
            "ROLLBACK PREPARED 'two'",
        ] {
            session.run(sql)?;
        }
        // Errors of Postgres arrive whole through the hook on utility statements.
        let copied = session.client().simple_query("COPY t FROM PROGRAM 'echo 1'");
        let error = copied.err().and_then(|error| error.as_db_error().cloned());
        let error = error.ok_or_else(|| Failure::new("a row was copied twice"))?;
        equal(error.constraint(), Some("t_pkey"), "the name of a constraint")?;
        equal(error.where_(), Some("COPY t, line 1"), "the context")?;
        let alive = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = \
                     'autovacuum launcher'";
        equal(count(node, alive)?, 1, "autovacuum launchers")?;
        expect(!node.log().contains("terminating any other active"), || "crash".to_owned())?;
        nothing_is_under_way(node)
    });
}

#[test]
fn what_comes_in_and_goes_out_beside_statements_is_fenced_as_well() {
    let mut options = one();
    options.postgresql.push_str("autovacuum = off\n");
    with(Cluster::prepare("fence-beside", options), |cluster| {
        let node = cluster.node_mut(1);
        node.start()?;
        let mut session = set_up(node)?;
        session.run("CREATE PUBLICATION everything FOR ALL TABLES")?;
        session.run("CREATE TABLE v (a int) WITH (autovacuum_analyze_threshold = 10)")?;
        session.run("INSERT INTO v SELECT generate_series(1, 1000)")?;
        restart_as_member(node)?;
        let mut session = node.session()?;
        session.run("SET pgraft.fence_wait = 0")?;

        // Logical decoding goes on, of what is committed and of nothing else.
        let decoded = |how: &str| {
            format!(
                "SELECT count(*) FROM pg_logical_slot_{how}_binary_changes('decoded', NULL, NULL, \
                 'proto_version', '1', 'publication_names', 'everything')"
            )
        };
        let before = session.value(&decoded("peek"))?.and_then(|n| n.parse::<u32>().ok());
        expect(before.is_some_and(|n| n > 1000), || format!("{before:?} changes"))?;
        is_error(&session.error("INSERT INTO v VALUES (1)")?, FENCED, &[])?;
        let after = session.value(&decoded("get"))?.and_then(|n| n.parse::<u32>().ok());
        equal(after, before, "changes after one was refused")?;
        equal(session.value(&decoded("get"))?.as_deref(), Some("0"), "what is left of them")?;

        // Rows that a client sends. By libpq: a client that takes the end of the statement for its
        // commit's would not notice.
        let (host, port) = (&node.place.host, node.place.pg_port);
        let to = format!("host={host} port={port} user=postgres options='-c pgraft.fence_wait=0'");
        let copy = ["-X", "-d", &to, "-c", "\\copy v FROM PROGRAM 'echo 1'"];
        let said = node.run_program("psql", &copy).err().map(|failure| failure.to_string());
        let refused = said.as_ref().is_some_and(|said| said.contains("cannot commit"));
        expect(refused, || format!("COPY FROM STDIN: {said:?}"))?;

        // Autovacuum works, and what it finds out is not kept. It looks at much before this table.
        session.run("ALTER SYSTEM SET pgraft.fence_wait = 0")?;
        session.run("ALTER SYSTEM SET autovacuum = on")?;
        session.run("SELECT pg_reload_conf()")?;
        wait_for("autovacuum is fenced", SOON, || {
            let log = node.log();
            let context = "CONTEXT:  automatic vacuum of table \"postgres.public.v\"";
            Ok((log.contains("ERROR:  cannot commit") && log.contains(context)).then_some(()))
        })?;
        let known = "SELECT count(*) FROM pg_stats WHERE tablename = 'v'";
        equal(count(node, known)?, 0, "statistics")?;
        equal(count(node, "SELECT count(*) FROM v")?, 1000, "rows")
    });
}

#[test]
fn a_commit_that_waits_can_be_interrupted() {
    with(Cluster::prepare("fence-wait", one()), |cluster| {
        let node = cluster.node_mut(1);
        node.start()?;
        let mut session = set_up(node)?;
        prepare_two(&mut session)?;
        restart_as_member(node)?;
        let mut session = node.session()?;
        let who = WAITING;

        let running = begin_waiting(node, "INSERT INTO t VALUES (101)")?;
        session.run(&format!("SELECT pg_cancel_backend(pid) {who}"))?;
        is_error(&outcome(running)?, CANCELED, &[])?;

        let running = begin_waiting(node, "COMMIT PREPARED 'one'")?;
        session.run(&format!("SELECT pg_cancel_backend(pid) {who}"))?;
        is_error(&outcome(running)?, CANCELED, &[])?;

        let running = begin_waiting(node, "INSERT INTO t VALUES (102)")?;
        session.run(&format!("SELECT pg_terminate_backend(pid) {who}"))?;
        has_lost_connection(&outcome(running)?)?;

        // To Postgres a commit is no part of a statement, unless the statement commits itself.
        let timeout = "SET pgraft.fence_wait = '1h'; SET statement_timeout = '200ms'";
        session.run(timeout)?;
        is_error(&session.error("CALL twice(103)")?, CANCELED, &["statement timeout"])?;
        is_error(&session.error("COMMIT PREPARED 'one'")?, CANCELED, &["statement timeout"])?;
        session.run("SET statement_timeout = 0; SET pgraft.fence_wait = '300ms'")?;
        let began = Instant::now();
        is_error(&session.error("INSERT INTO t VALUES (103)")?, FENCED, &[])?;
        let waited = began.elapsed();
        expect(waited >= Duration::from_millis(300), || format!("waited only {waited:?}"))?;
        nothing_is_under_way(node)?;
        equal(rows(&mut session)?.as_str(), "100", "rows")?;

        // Waiting commits do not keep the server from stopping.
        let running = begin_waiting(node, "INSERT INTO t VALUES (104)")?;
        node.stop(Stop::Fast)?;
        has_lost_connection(&outcome(running)?)
    });
}

#[test]
fn a_superuser_lifts_it_and_is_warned_and_nobody_else_may() {
    with(Cluster::prepare("fence-lifted", one()), |cluster| {
        let node = cluster.node_mut(1);
        node.start()?;
        let mut session = set_up(node)?;
        prepare_two(&mut session)?;
        restart_as_member(node)?;
        let mut session = node.session()?;
        session.run("SET pgraft.fence = off")?;
        session.notices();
        for sql in ["INSERT INTO t VALUES (101)", "COMMIT PREPARED 'one'", "CALL twice(102)"] {
            session.run(sql)?;
            let warned = session.notices().iter().any(|notice| {
                notice.severity == "WARNING" && notice.message.contains("pgraft.fence is off")
            });
            expect(warned, || format!("no warning: {sql}"))?;
        }
        expect(node.log().contains("pgraft.fence is off"), || "not in the log".to_owned())?;
        // Reads are none of its business.
        equal(rows(&mut session)?.as_str(), "103", "rows")?;
        equal(session.notices().len(), 0, "notices of a read")?;
        nothing_is_under_way(node)?;

        let mut other = Session::connect_as(node.place.pg_port, "someone")?;
        is_error(&other.error("SET pgraft.fence = off")?, "42501", &["pgraft.fence"])?;
        other.run("SET pgraft.fence_wait = 0")?;
        is_error(&other.error("INSERT INTO t VALUES (105)")?, FENCED, &[])
    });
}

/// pgraft.conf with the integration switched, and a reload.
fn set_integration(node: &Node, enabled: bool) -> Result<()> {
    let file = node.conf_file();
    let text = fs::read_to_string(&file).map_err(Failure::while_doing("read pgraft.conf"))?;
    let key = "postgresql_integration_enabled";
    let changed = text.replace(&format!("{key} = {}", !enabled), &format!("{key} = {enabled}"));
    expect(changed != text, || format!("{key} was {enabled} already"))?;
    node.write_pgraft_conf(&changed)?;
    let postmaster = node.postmaster().ok_or_else(|| Failure::new("the server is down"))?;
    postmaster.signal(Signal::HUP);
    Ok(())
}

#[test]
fn only_members_have_a_fence() {
    with(Cluster::prepare("fence-none", one()), |cluster| {
        let node = cluster.node_mut(1);
        node.start()?;
        let mut session = set_up(node)?;
        prepare_two(&mut session)?;
        session.run("SET pgraft.fence_wait = 0")?;
        session.run("COMMIT PREPARED 'one'")?;
        equal(Status::of(node)?.get("fenced"), "f", "fenced before there is a cluster")?;
        expect(!marker(node).exists(), || "there is a marker".to_owned())?;

        // A broken pgraft.conf opens nothing, and closes nothing.
        let good = fs::read_to_string(node.conf_file()).unwrap_or_default();
        node.write_pgraft_conf("nonsense\n")?;
        node.stop(Stop::Fast)?;
        node.start()?;
        node.session()?.run("INSERT INTO t VALUES (101)")?;
        restart_as_member(node)?;
        await_state(node, "error")?;
        let mut session = node.session()?;
        session.run("SET pgraft.fence_wait = 0")?;
        is_error(
            &session.error("INSERT INTO t VALUES (102)")?,
            FENCED,
            &["not of the form key = value"],
        )?;

        // Without the integration there is no fence, from the reload on and after a restart.
        node.write_pgraft_conf(&good)?;
        set_integration(node, false)?;
        wait_for("the fence is lifted", SOON, || {
            Ok((Status::of(node)?.get("fenced") == "f").then_some(()))
        })?;
        expect(!marker(node).exists(), || "there is still a marker".to_owned())?;
        session.run("INSERT INTO t VALUES (102)")?;
        node.stop(Stop::Fast)?;
        node.start()?;
        Ok(node.session()?.run("INSERT INTO t VALUES (103)")?)
    });
}

#[test]
fn a_member_is_marked_and_known_by_its_directory_as_well() {
    with(Cluster::start("fence-marked", one()), |cluster| {
        let node = cluster.node_mut(1);
        node.write_pgraft_conf(&alone(node)?)?;
        let mut session = set_up(node)?;
        session.run("SELECT pgraft_init(); SELECT pgraft_start()")?;
        await_state(node, "member")?;
        wait_for("the marker", SOON, || Ok(marker(node).exists().then_some(())))?;
        await_identity(node)?;
        let text = fs::read_to_string(marker(node)).unwrap_or_default();
        expect(text.contains("cluster_id = ram_cluster\nnode = 1\n"), || text.clone())?;

        session.run("SELECT pgraft_stop()")?;
        expect(marker(node).exists(), || "the marker went with consensus".to_owned())?;
        node.stop(Stop::Fast)?;
        fs::remove_file(marker(node)).map_err(Failure::while_doing("remove the marker"))?;
        node.start()?;
        let mut session = node.session()?;
        session.run("SET pgraft.fence_wait = 0")?;
        wait_for("the worker is there", SOON, || {
            Ok((!Status::of(node)?.get("worker_pid").is_empty()).then_some(()))
        })?;
        is_error(&session.error("INSERT INTO t VALUES (101)")?, FENCED, &["pgraft_start()"])
    });
}

/// Waits until the directory knows of its cluster: a moment after the node is a member.
fn await_identity(node: &Node) -> Result<()> {
    wait_for("the cluster is written down", SOON, || {
        let text = fs::read_to_string(node.raft().join("identity")).unwrap_or_default();
        Ok(text.contains("\ncluster = ").then_some(()))
    })
}

/// The node's pgraft.conf without peers: a cluster of its own.
fn alone(node: &Node) -> Result<String> {
    let text = fs::read_to_string(node.conf_file());
    let text = text.map_err(Failure::while_doing("read pgraft.conf"))?;
    let lines = text.lines().filter(|line| !line.starts_with("raft_peer_addresses"));
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

#[test]
fn transactions_opened_before_it_closed_do_not_commit() {
    let options = Options { failover: false, ..one() };
    with(Cluster::start("fence-opened-before", options), |cluster| {
        let node = cluster.node_mut(1);
        node.write_pgraft_conf(&alone(node)?)?;
        let mut session = set_up(node)?;
        session.run("SELECT pgraft_init(); SELECT pgraft_start()")?;
        await_state(node, "member")?;
        await_identity(node)?;
        session.run("SELECT pgraft_stop()")?;
        session.run("BEGIN; INSERT INTO t VALUES (101)")?;
        let mut reader = node.session()?;
        reader.run("BEGIN; DECLARE c CURSOR FOR SELECT a FROM t ORDER BY a")?;

        // From now on it is a member with a fence, and consensus cannot start to open it.
        let taken = TcpListener::bind(("127.0.0.1", node.place.raft_port));
        let _taken = taken.map_err(Failure::while_doing("take the Raft port"))?;
        set_integration(node, true)?;
        let error = node.session()?.error("SELECT pgraft_start()")?;
        expect(error.message.contains("in use"), || error.to_string())?;
        equal(Status::of(node)?.get("fenced"), "t", "fenced")?;
        session.run("SET pgraft.fence_wait = 0")?;
        is_error(&session.error("COMMIT")?, FENCED, &[])?;
        equal(reader.value("FETCH c")?.as_deref(), Some("1"), "an open reader")?;
        reader.run("COMMIT")?;
        equal(rows(&mut session)?.as_str(), "100", "rows")
    });
}
