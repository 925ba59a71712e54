//! The SQL surface itself: shapes, rights, bad arguments, every place where it may be called.

use std::collections::BTreeSet;

use pgraft_cluster::check::{SOON, await_voters, equal, expect, is_error, members};
use pgraft_cluster::{Cluster, Failure, Options, Result, Session, Status, wait_for, with};

/// What its answer needs, and so who may call it and where it fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// From shared memory; for everyone.
    Reader,
    /// From shared memory, or from the store; for pg_monitor.
    Monitor,
    /// Changes something; for superusers and whom they grant it.
    Mutator,
}
use Kind::{Monitor, Mutator, Reader};

const STATUS: &str = "node_id int4, node_name text, cluster_id text, state text, role text, \
    current_term int8, leader_id int8, leader_address text, has_quorum bool, voters int4, \
    reachable int4, last_log_index int8, commit_index int8, applied_index int8, pg_role text, \
    primary_id int8, fenced bool, worker_pid int4, worker_age_ms int8, last_error text, debug bool";
const NODES: &str = "node_id int4, address text, port int4, is_leader bool, name text, voter bool, \
    is_self bool, reachable bool, last_contact timestamptz, match_index int8, lag int8, \
    pg_address text, pg_role text, wal_lsn pg_lsn";
const METRICS: &str = "metric text, labels jsonb, value float8, kind text, help text";
const LOGS: &str = "logged_at timestamptz, level text, node_id int4, term int8, message text";
const STORE: &str = "key text, value text, version int8, mod_index int8, term int8";
const CLUSTER: &str = "node_id int4, current_term int8, leader_id int8, state text, \
    num_nodes int4, messages_processed int8, heartbeats_sent int8, elections_triggered int8";

/// Every function of the SQL surface: its signature, a call that does no harm to a cluster of
/// three, and its columns; `""` for one boolean that bears the function's name.
const FUNCTIONS: [(&str, &str, &str, Kind); 40] = [
    ("pgraft_init()", "pgraft_init()", "", Mutator),
    ("pgraft_start()", "pgraft_start()", "", Mutator),
    ("pgraft_set_debug(boolean)", "pgraft_set_debug(false)", "", Mutator),
    ("pgraft_add_node(text, integer)", "pgraft_add_node('{raft3}', 3)", "", Mutator),
    (
        "pgraft_add_node(integer, text, integer)",
        "pgraft_add_node(3, '127.0.0.1', {port3})",
        "",
        Mutator,
    ),
    ("pgraft_remove_node(integer, boolean)", "pgraft_remove_node(7, false)", "", Mutator),
    ("pgraft_transfer_leadership(integer)", "pgraft_transfer_leadership({leader})", "", Mutator),
    ("pgraft_pause()", "pgraft_pause()", "", Mutator),
    ("pgraft_resume()", "pgraft_resume()", "", Mutator),
    ("pgraft_force_election()", "pgraft_force_election()", "", Mutator),
    ("pgraft_stop()", "pgraft_stop()", "", Mutator),
    ("pgraft_kv_put(text, text)", "pgraft_kv_put('sql/shape', 'ä')", "", Mutator),
    ("pgraft_kv_cas(text, text, text)", "pgraft_kv_cas('sql/shape', 'ä', 'ä')", "", Mutator),
    ("pgraft_kv_delete(text)", "pgraft_kv_delete('sql/none')", "", Mutator),
    ("pgraft_kv_get(text, boolean)", "pgraft_kv_get('sql/shape')", "pgraft_kv_get text", Monitor),
    ("pgraft_kv_exists(text, boolean)", "pgraft_kv_exists('sql/shape')", "", Monitor),
    (
        "pgraft_kv_list_keys(text, boolean)",
        "pgraft_kv_list_keys('sql/')",
        "pgraft_kv_list_keys text",
        Monitor,
    ),
    ("pgraft_kv(boolean)", "pgraft_kv()", STORE, Monitor),
    ("pgraft.kv_put(text, text)", "pgraft.kv_put('sql/shape', 'ä')", "", Mutator),
    ("pgraft.kv_cas(text, text, text)", "pgraft.kv_cas('sql/shape', 'ä', 'ä')", "", Mutator),
    ("pgraft.kv_delete(text)", "pgraft.kv_delete('sql/none')", "", Mutator),
    ("pgraft.kv_get(text, boolean)", "pgraft.kv_get('sql/shape')", "kv_get text", Monitor),
    ("pgraft.kv_exists(text, boolean)", "pgraft.kv_exists('sql/shape')", "", Monitor),
    ("pgraft.kv_list_keys(text, boolean)", "pgraft.kv_list_keys()", "kv_list_keys text", Monitor),
    ("pgraft_is_leader()", "pgraft_is_leader()", "", Reader),
    ("pgraft_get_leader()", "pgraft_get_leader()", "pgraft_get_leader int8", Reader),
    ("pgraft_get_term()", "pgraft_get_term()", "pgraft_get_term int8", Reader),
    ("pgraft_is_healthy()", "pgraft_is_healthy()", "", Reader),
    ("pgraft_version()", "pgraft_version()", "pgraft_version text", Reader),
    ("pgraft_status()", "pgraft_status()", STATUS, Monitor),
    ("pgraft_get_nodes()", "pgraft_get_nodes()", NODES, Monitor),
    ("pgraft_get_metrics()", "pgraft_get_metrics()", METRICS, Monitor),
    ("pgraft_get_logs(integer, text)", "pgraft_get_logs()", LOGS, Monitor),
    ("pgraft.is_leader()", "pgraft.is_leader()", "", Reader),
    ("pgraft.get_leader()", "pgraft.get_leader()", "get_leader int8", Reader),
    ("pgraft.get_term()", "pgraft.get_term()", "get_term int8", Reader),
    ("pgraft.has_quorum()", "pgraft.has_quorum()", "", Reader),
    ("pgraft.get_nodes()", "pgraft.get_nodes()", NODES, Monitor),
    (
        "pgraft.get_nodes_from_raft()",
        "pgraft.get_nodes_from_raft()",
        "get_nodes_from_raft text",
        Monitor,
    ),
    ("pgraft.get_cluster_status()", "pgraft.get_cluster_status()", CLUSTER, Monitor),
];

/// The functions that stop or move something, which the tests call where it fits.
const DISTURBING: [&str; 2] = ["pgraft_stop()", "pgraft_force_election()"];

fn name_of(call: &str) -> &str {
    call.split('(').next().unwrap_or(call)
}

fn columns_of(call: &str, columns: &str) -> String {
    match columns {
        "" => format!("{} bool", name_of(call).trim_start_matches("pgraft.")),
        columns => columns.to_owned(),
    }
}

/// A call as it stands in the table, made for this cluster.
fn fill_in(call: &str, cluster: &Cluster) -> Result<String> {
    let leader = cluster.leader()?.0;
    let third = cluster.node(3);
    Ok(call
        .replace("{raft3}", &third.raft_address())
        .replace("{port3}", &third.place.raft_port.to_string())
        .replace("{leader}", &leader.to_string()))
}

/// What the server says of the columns of a query.
fn described(session: &mut Session, sql: &str) -> Result<String> {
    let statement = session.client().prepare(sql).map_err(|error| {
        pgraft_cluster::Failure::new(format!("could not prepare {sql}: {error:?}"))
    })?;
    let columns = statement.columns().iter();
    Ok(columns.map(|c| format!("{} {}", c.name(), c.type_().name())).collect::<Vec<_>>().join(", "))
}

#[test]
fn every_function_answers_in_its_shape_on_primary_and_standby() {
    with(Cluster::form("sql-shapes", Options::default()), |cluster| {
        // The table above is complete, and each function is commented.
        let mut session = cluster.node(1).session()?;
        let there = session.rows(
            "SELECT p.oid::regprocedure, obj_description(p.oid, 'pg_proc') FROM pg_proc p \
             JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid \
             JOIN pg_extension e ON e.oid = d.refobjid AND d.deptype = 'e' \
             WHERE e.extname = 'pgraft' AND d.refclassid = 'pg_extension'::regclass",
        )?;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let signatures: BTreeSet<String> =
            there.iter().map(|row| text(&row[0]).replace(',', ", ")).collect();
        let known: BTreeSet<String> =
            FUNCTIONS.iter().map(|function| function.0.to_owned()).collect();
        equal(signatures, known, "the extension's functions")?;
        for row in &there {
            let says = text(&row[1]).contains("roll");
            expect(says, || format!("the comment of {:?} says nothing of rollback", row[0]))?;
        }

        for node in cluster.nodes() {
            let mut session = node.session()?;
            for (_, call, columns, kind) in FUNCTIONS {
                if DISTURBING.contains(&call) {
                    continue;
                }
                let call = fill_in(call, cluster)?;
                let wanted = columns_of(&call, columns);
                let from = format!("SELECT * FROM {call}");
                equal(described(&mut session, &from)?, wanted, &from)?;
                // In a transaction that may write nothing, in both forms.
                for sql in [&from, &format!("SELECT {call}")] {
                    session.run("BEGIN READ ONLY")?;
                    let rows = session.rows(sql)?;
                    session.run("COMMIT")?;
                    expect(!rows.is_empty(), || format!("no row from {sql}"))?;
                    let first = rows[0][0].as_deref();
                    let good = match (kind, name_of(&call)) {
                        // Unknown there: false and a NOTICE, or false.
                        (Mutator, "pgraft_remove_node") => first == Some("f"),
                        (Mutator, "pgraft_kv_delete" | "pgraft.kv_delete") => first == Some("f"),
                        (Mutator, _) => first == Some("t"),
                        _ => first.is_some(),
                    };
                    expect(good, || format!("{rows:?} from {sql}"))?;
                }
            }
            let status = Status::of(node)?;
            let standby = if node.id() == 1 { "primary" } else { "standby" };
            equal(status.get("pg_role"), standby, "pg_role")?;
        }
        Ok(())
    });
}

#[test]
fn what_stops_and_moves_works_on_a_standby_in_a_read_only_transaction() {
    with(Cluster::form("sql-moves", Options::default()), |cluster| {
        let mut session = cluster.node(2).session()?;
        let call = |session: &mut Session, sql: &str| -> Result<()> {
            let wanted = format!("{} bool", name_of(sql));
            equal(described(session, &format!("SELECT * FROM {sql}"))?, wanted, sql)?;
            session.run("BEGIN READ ONLY")?;
            let answer = session.is_true(&format!("SELECT {sql}"))?;
            session.run("ROLLBACK")?;
            expect(answer, || format!("{sql} is false: {:?}", session.notices()))
        };
        for target in [3, 1, 2] {
            call(&mut session, &format!("pgraft_transfer_leadership({target})"))?;
            equal(cluster.leader()?.0, target, "the leader after a transfer")?;
        }
        let (_, term) = cluster.leader()?;
        call(&mut session, "pgraft_force_election()")?;
        let (leader, later) = cluster.leader()?;
        expect(leader != 2 && later > term, || format!("2/{term}, then {leader}/{later}"))?;
        // Twice within an election timeout is once too often.
        let mut errors = Vec::new();
        for _ in 0..2 {
            errors.extend(session.rows("SELECT pgraft_force_election()").err());
        }
        expect(!errors.is_empty(), || "forced twice at once".to_owned())?;
        for error in &errors {
            is_error(error, "55000", &["a moment ago"])?;
        }
        cluster.leader()?;

        // What is stopped stays so when its transaction rolls back.
        call(&mut session, "pgraft_stop()")?;
        let status = Status::of(cluster.node(2))?;
        equal(status.get("state"), "stopped", "after pgraft_stop()")?;
        session.notices();
        expect(session.is_true("SELECT pgraft_stop()")?, || "stop again".to_owned())?;
        let notices = session.notices();
        expect(notices.iter().any(|n| n.severity == "NOTICE"), || format!("{notices:?}"))?;
        call(&mut session, "pgraft_start()")?;
        cluster.leader()?;
        Ok(())
    });
}

#[test]
fn bad_arguments_are_refused_and_change_nothing() {
    with(Cluster::form("sql-arguments", Options::default()), |cluster| {
        let before = cluster.leader()?;
        let workers: Vec<_> = cluster.nodes().iter().map(|node| node.worker()).collect();
        let follower = if before.0 == 1 { 2 } else { 1 };
        for id in [before.0, follower] {
            let mut session = cluster.node(id).session()?;
            let session = &mut session;
            for (call, name) in NULLS {
                let error = session.error(&format!("SELECT {call}"))?;
                is_error(&error, "22004", &[&format!("argument \"{name}\" must not be null")])?;
            }
            for id in ["0", "-1", "-2147483648"] {
                for call in [
                    "pgraft_add_node('127.0.0.1:7400', {id})",
                    "pgraft_add_node({id}, '127.0.0.1', 7400)",
                    "pgraft_remove_node({id})",
                    "pgraft_remove_node({id}, true)",
                    "pgraft_transfer_leadership({id})",
                ] {
                    let error = session.error(&format!("SELECT {}", call.replace("{id}", id)))?;
                    is_error(&error, "22023", &[&format!("invalid node id: {id}")])?;
                    expect(error.hint.is_some(), || format!("no hint: {error}"))?;
                }
            }
            bad_addresses(session)?;
            bad_others(session)?;
        }
        equal(members(cluster.node(1), false)?, [1, 2, 3].into(), "the members")?;
        equal(cluster.leader()?, before, "leader and term")?;
        let still: Vec<_> = cluster.nodes().iter().map(|node| node.worker()).collect();
        equal(still, workers, "the workers' processes")
    });
}

const NULLS: [(&str, &str); 25] = [
    ("pgraft_add_node(NULL, 4)", "address"),
    ("pgraft_add_node('127.0.0.1:7400', NULL)", "node_id"),
    ("pgraft_add_node(NULL, NULL)", "address"),
    ("pgraft_add_node(NULL, '127.0.0.1', 7400)", "node_id"),
    ("pgraft_add_node(4, NULL, 7400)", "address"),
    ("pgraft_add_node(4, '127.0.0.1', NULL)", "port"),
    ("pgraft_remove_node(NULL)", "node_id"),
    ("pgraft_remove_node(3, NULL)", "force"),
    ("pgraft_remove_node(NULL, true)", "node_id"),
    ("pgraft_transfer_leadership(NULL)", "node_id"),
    ("pgraft_set_debug(NULL)", "enabled"),
    ("pgraft_get_logs(NULL)", "max_lines"),
    ("pgraft_kv_put(NULL, 'a')", "key"),
    ("pgraft_kv_put('a', NULL)", "value"),
    ("pgraft_kv_delete(NULL)", "key"),
    ("pgraft_kv_cas(NULL, 'a', 'a')", "key"),
    ("pgraft_kv_cas('a', NULL, NULL)", "value"),
    ("pgraft_kv_get(NULL)", "key"),
    ("pgraft_kv_get('a', NULL)", "consistent"),
    ("pgraft_kv_exists(NULL, false)", "key"),
    ("pgraft_kv_exists('a', NULL)", "consistent"),
    ("pgraft_kv_list_keys(NULL)", "prefix"),
    ("pgraft_kv_list_keys('a', NULL)", "consistent"),
    ("pgraft_kv(NULL)", "consistent"),
    ("pgraft.kv_cas('a', NULL, NULL)", "value"),
];

fn bad_addresses(session: &mut Session) -> Result<()> {
    const ADDRESSES: [&str; 21] = [
        "''",
        "' '",
        "':'",
        "':7400'",
        "'localhost'",
        "'localhost:'",
        "'localhost:0'",
        "'localhost:65536'",
        "'localhost:-1'",
        "'localhost:99999999999999999999'",
        "'localhost:7400x'",
        "'local host:7400'",
        "'::1:7400'",
        "'bücher.example:7400'",
        "'数据库:7400'",
        "'localhost:٧٤٠٠'",
        "E'local\\nhost:7400'",
        "repeat('a', 10240) || ':7400'",
        "repeat('a', 254) || ':7400'",
        "'x''); DROP TABLE pg_class; --:7400'",
        "'$(reboot):7400'",
    ];
    for address in ADDRESSES {
        let error = session.error(&format!("SELECT pgraft_add_node({address}, 4)"))?;
        is_error(&error, "22023", &["invalid address"])?;
        expect(error.hint.is_some() && error.detail.is_some(), || format!("no hint: {error}"))?;
        expect(error.message.len() < 400, || "a long value is repeated in full".to_owned())?;
    }
    const HOSTS: [&str; 9] = [
        "''",
        "' '",
        "'localhost:7400'",
        "'bücher.example'",
        "repeat('a', 10240)",
        "repeat('ü', 5120)",
        "E'a\\tb'",
        "'x''; --'",
        "'[::1]'",
    ];
    for host in HOSTS {
        let error = session.error(&format!("SELECT pgraft_add_node(4, {host}, 7400)"))?;
        is_error(&error, "22023", &["invalid host"])?;
        expect(error.message.len() < 400, || "a long value is repeated in full".to_owned())?;
    }
    for port in ["0", "-1", "65536", "2147483647", "-2147483648"] {
        let error = session.error(&format!("SELECT pgraft_add_node(4, 'localhost', {port})"))?;
        is_error(&error, "22023", &[&format!("invalid port: {port}")])?;
    }
    // Of a member: the same address is fine, another one is not, nor the address under another id.
    let error = session.error("SELECT pgraft_add_node('127.0.0.1:1', 3)")?;
    is_error(&error, "42710", &["node 3"])?;
    let own = "(SELECT address || ':' || port FROM pgraft_get_nodes() WHERE node_id = 3)";
    let error = session.error(&format!("SELECT pgraft_add_node({own}, 2147483647)"))?;
    is_error(&error, "42710", &["node 3"])
}

fn bad_others(session: &mut Session) -> Result<()> {
    let largest = i32::MAX;
    session.notices();
    for call in [format!("pgraft_remove_node({largest})"), "pgraft_remove_node(4, true)".to_owned()]
    {
        equal(session.value(&format!("SELECT {call}"))?.as_deref(), Some("f"), &call)?;
        let notices = session.notices();
        let said =
            notices.iter().any(|n| n.severity == "NOTICE" && n.message.contains("not a mem"));
        expect(said, || format!("{call}: {notices:?}"))?;
    }
    let error = session.error(&format!("SELECT pgraft_transfer_leadership({largest})"))?;
    is_error(&error, "22023", &["is not a member"])?;
    // Beyond int4 there is no such function.
    let error = session.error("SELECT pgraft_remove_node(2147483648)")?;
    is_error(&error, "42883", &[])?;

    for level in ["''", "'loud'", "'информация'", "repeat('x', 10240)", "'info''; --'"] {
        let error = session.error(&format!("SELECT pgraft_get_logs(10, {level})"))?;
        is_error(&error, "22023", &["invalid log level", "error, warn, info, debug, trace"])?;
        expect(error.message.len() < 200, || "a long value is repeated in full".to_owned())?;
    }
    for lines in ["-1", "-2147483648"] {
        let error = session.error(&format!("SELECT pgraft_get_logs({lines})"))?;
        is_error(&error, "22023", &["invalid number of lines"])?;
    }
    let count = |session: &mut Session, arguments: &str| -> Result<u32> {
        let sql = format!("SELECT count(*) FROM pgraft_get_logs({arguments})");
        Ok(session.value(&sql)?.and_then(|n| n.parse().ok()).unwrap_or(0))
    };
    equal(count(session, "0")?, 0, "no line wanted")?;
    equal(count(session, "1")?, 1, "one line wanted")?;
    let all = count(session, &largest.to_string())?;
    expect(all > 1, || format!("{all} lines in all"))?;
    equal(count(session, &format!("{largest}, NULL"))?, all, "without a level")?;
    equal(count(session, &format!("{largest}, 'TRACE'"))?, all, "in capitals")?;
    let fewer = count(session, &format!("{largest}, 'warn'"))?;
    expect(fewer < all, || format!("{fewer} warnings among {all} lines"))?;
    let sql = "SELECT count(*) FROM pgraft_get_logs(10000, 'info') WHERE level = 'debug'";
    equal(session.value(sql)?.as_deref(), Some("0"), "debug lines among info")
}

#[test]
fn the_largest_node_id_is_a_node_like_any_other() {
    with(Cluster::form("sql-largest", Options { nodes: 1, ..Options::default() }), |cluster| {
        let mut session = cluster.node(1).session()?;
        // A learner that never comes costs no quorum.
        let add = "SELECT pgraft_add_node('no-such-host.invalid:7400', 2147483647)";
        expect(session.is_true(add)?, || "not added".to_owned())?;
        equal(members(cluster.node(1), false)?, [1, 2_147_483_647].into(), "members")?;
        equal(members(cluster.node(1), true)?, [1].into(), "voters")?;
        let error = session.error("SELECT pgraft_transfer_leadership(2147483647)")?;
        is_error(&error, "55000", &["learner"])?;
        let json = session.value("SELECT pgraft.get_nodes_from_raft()::jsonb -> 1 ->> 'id'")?;
        equal(json.as_deref(), Some("2147483647"), "in JSON")?;
        expect(session.is_true("SELECT pgraft_remove_node(2147483647)")?, || "stays".to_owned())?;
        await_voters(cluster, &[1], &[1])?;
        expect(session.is_true("SELECT pgraft_is_leader()")?, || "leads no more".to_owned())?;
        // Alone there is nobody else to elect.
        session.notices();
        let forced = session.value("SELECT pgraft_force_election()")?;
        let notices = session.notices();
        equal(forced.as_deref(), Some("f"), "forced election alone")?;
        expect(notices.iter().any(|n| n.severity == "WARNING"), || format!("{notices:?}"))?;
        expect(session.is_true("SELECT pgraft_is_leader()")?, || "leads no more".to_owned())
    });
}

#[test]
fn rights_are_what_the_page_says() {
    with(Cluster::form("sql-rights", Options { nodes: 1, ..Options::default() }), |cluster| {
        let node = cluster.node(1);
        node.session()?.run(
            "CREATE ROLE anyone LOGIN; CREATE ROLE watcher LOGIN IN ROLE pg_monitor; \
             CREATE ROLE operator LOGIN; \
             GRANT EXECUTE ON FUNCTION pgraft_set_debug(boolean) TO operator; \
             SELECT pgraft_kv_put('sql/shape', 'a')",
        )?;
        for (user, monitor) in [("anyone", false), ("watcher", true), ("operator", false)] {
            let mut session = Session::connect_as(node.place.pg_port, user)?;
            for (_, call, _, kind) in FUNCTIONS {
                let call = call
                    .replace("{raft3}", "127.0.0.1:1")
                    .replace("{port3}", "1")
                    .replace("{leader}", "1");
                let granted = user == "operator" && call.starts_with("pgraft_set_debug");
                let allowed = kind == Reader || (kind == Monitor && monitor) || granted;
                let sql = format!("SELECT {call}");
                if allowed {
                    expect(!session.rows(&sql)?.is_empty(), || format!("no row from {sql}"))?;
                } else {
                    is_error(&session.error(&sql)?, "42501", &["permission denied"])?;
                }
            }
            let error = session.error("SET pgraft.config_file = '/etc/passwd'")?;
            is_error(&error, "55P02", &["restart"])?;
            // pg_monitor may read all settings.
            match session.value("SHOW pgraft.config_file") {
                Ok(file) => expect(monitor, || format!("{user} reads {file:?}"))?,
                Err(error) => is_error(&error, "42501", &[])?,
            }
            session.run("SET pgraft.command_timeout = '3s'")?;
        }
        Ok(())
    });
}

#[test]
fn before_it_is_started_readers_answer_and_mutators_say_what_to_do() {
    let options = Options { nodes: 1, ..Options::default() };
    with(Cluster::start("sql-not-started", options), |cluster| {
        cluster.create_extension()?;
        let mut session = cluster.node(1).session()?;
        for (call, hint) in [
            ("pgraft_start()", "pgraft_init()"),
            ("pgraft_add_node('127.0.0.1:1', 4)", "pgraft_init()"),
            ("pgraft_add_node(4, '127.0.0.1', 1)", "pgraft_init()"),
            ("pgraft_remove_node(4)", "pgraft_init()"),
            ("pgraft_transfer_leadership(4)", "pgraft_init()"),
            ("pgraft_force_election()", "pgraft_init()"),
            ("pgraft_kv_put('a', 'b')", "pgraft_init()"),
            ("pgraft_kv_get('a', false)", "pgraft_init()"),
            ("pgraft_kv_list_keys()", "pgraft_init()"),
        ] {
            let error = session.error(&format!("SELECT {call}"))?;
            is_error(&error, "55000", &[])?;
            let hinted = error.hint.as_deref().is_some_and(|text| text.contains(hint));
            expect(hinted, || format!("no such hint: {error}"))?;
        }
        fail_safe(&mut session)?;
        equal(Status::of(cluster.node(1))?.get("state"), "stopped", "state")?;

        // The same identity again is no error; without a start there is nothing to ask.
        session.run("SELECT pgraft_init()")?;
        session.notices();
        expect(session.is_true("SELECT pgraft_init()")?, || "init again".to_owned())?;
        let notices = session.notices();
        expect(notices.iter().any(|n| n.severity == "NOTICE"), || format!("{notices:?}"))?;
        let error = session.error("SELECT pgraft_remove_node(4)")?;
        is_error(&error, "55000", &["pgraft_start()"])?;
        fail_safe(&mut session)?;

        // The worker away, for a second: readers still answer.
        session.run("SELECT pgraft_start()")?;
        wait_for("it leads", SOON, || {
            Ok(cluster.node(1).session()?.is_true("SELECT pgraft_is_leader()")?.then_some(()))
        })?;
        let worker = cluster.node(1).worker();
        let worker = worker.ok_or_else(|| Failure::new("there is no worker"))?;
        worker.signal(rustix::process::Signal::TERM);
        wait_for("the worker is away", SOON, || {
            let status = Status::of(cluster.node(1))?;
            Ok(status.get("worker_pid").is_empty().then_some(()))
        })?;
        fail_safe(&mut session)?;
        let status = Status::of(cluster.node(1))?;
        let says = status.get("last_error").contains("worker is not running");
        expect(says || !status.get("worker_pid").is_empty(), || format!("{status:?}"))
    });
}

/// The answers of a node on which consensus does not run.
fn fail_safe(session: &mut Session) -> Result<()> {
    for (call, value) in [
        ("pgraft_is_leader()", "f"),
        ("pgraft_is_healthy()", "f"),
        ("pgraft_get_leader()", "0"),
        ("pgraft.is_leader()", "f"),
        ("pgraft.has_quorum()", "f"),
        ("pgraft.get_leader()", "0"),
    ] {
        equal(session.value(&format!("SELECT {call}"))?.as_deref(), Some(value), call)?;
    }
    let row = session.rows("SELECT has_quorum, leader_id, role, fenced FROM pgraft_status()")?;
    let values: Vec<&str> = row[0].iter().map(|v| v.as_deref().unwrap_or("NULL")).collect();
    equal(&values[..3], &["f", "NULL", "NULL"], "has_quorum, leader_id, role")?;
    let reachable = "SELECT count(reachable) FROM pgraft_get_nodes()";
    equal(session.value(reachable)?.as_deref(), Some("0"), "what is known of reachability")?;
    session.run("SELECT * FROM pgraft_get_metrics(); SELECT * FROM pgraft.get_cluster_status()")?;
    Ok(())
}

#[test]
fn not_preloaded_every_function_says_so() {
    let options = Options { nodes: 1, preload: false, ..Options::default() };
    with(Cluster::start("sql-not-preloaded", options), |cluster| {
        cluster.install().require_extension()?;
        cluster.create_extension()?;
        let mut session = cluster.node(1).session()?;
        for (_, call, _, _) in FUNCTIONS {
            let call = call
                .replace("{raft3}", "127.0.0.1:1")
                .replace("{port3}", "1")
                .replace("{leader}", "1");
            let error = session.error(&format!("SELECT {call}"))?;
            is_error(&error, "55000", &[])?;
            let text = "pgraft must be loaded via \"shared_preload_libraries\"";
            equal(error.message.as_str(), text, &call)?;
            expect(error.hint.is_some(), || format!("no hint: {error}"))?;
        }
        // NULL or nonsense: the same, since nothing can work before.
        let nonsense = NULLS.iter().map(|null| null.0).chain(["pgraft_add_node('', -1)"]);
        for call in nonsense {
            is_error(&session.error(&format!("SELECT {call}"))?, "55000", &["preload"])?;
        }
        session.run("DROP EXTENSION pgraft; CREATE EXTENSION pgraft; LOAD 'pgraft'")?;
        Ok(())
    });
}
