//! pgraft.conf as people write it, wrong in every way and right: the server always starts, the
//! function that needed the file says why it cannot go on, and so does the status.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{
    SOON, await_state, await_status, await_trouble, await_voters, equal, expect, is_error,
};
use pgraft_cluster::{Cluster, Failure, Node, Options, Result, Session, Status, Stop};
use pgraft_cluster::{wait_for, with};
use rustix::process::Signal;

fn reload(node: &Node) -> Result<()> {
    let postmaster = node.postmaster().ok_or_else(|| Failure::new("the server is down"))?;
    postmaster.signal(Signal::HUP);
    Ok(())
}

fn one() -> Options {
    Options { nodes: 1, ..Options::default() }
}

/// The conf of a node with some lines replaced: `key = value` for a key that is there.
fn conf_with(node: &Node, changes: &[(&str, &str)]) -> Result<String> {
    let file = node.conf_file();
    let text = fs::read_to_string(&file).map_err(Failure::while_doing("read pgraft.conf"))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in changes {
        let start = format!("{key} =");
        lines.retain(|line| !line.starts_with(&start));
        lines.push(format!("{key} = {value}"));
    }
    Ok(lines.join("\n") + "\n")
}

/// The number of the line that holds this.
fn line_of(text: &str, part: &str) -> usize {
    1 + text.lines().position(|line| line.contains(part)).unwrap_or(usize::MAX - 1)
}

#[test]
fn each_mistake_in_the_file_is_named_with_file_and_line() {
    with(Cluster::start("conf-mistakes", one()), |cluster| {
        cluster.create_extension()?;
        let node = cluster.node(1);
        let path = node.conf_file().display().to_string();
        let good = fs::read_to_string(node.conf_file()).unwrap_or_default();
        let mut session = node.session()?;
        let without_id = good.replace("raft_node_id = 1\n", "");
        let cases: [(String, &[&str]); 17] = [
            (format!("{good}raft_prot = 7400\n"), &["unknown key \"raft_prot\"", "raft_port"]),
            (format!("{good}colour = blue\n"), &["unknown key \"colour\""]),
            (conf_with(node, &[("raft_port", "99999")])?, &["raft_port", "65535", "99999"]),
            (conf_with(node, &[("raft_port", "seven")])?, &["raft_port", "number", "seven"]),
            (conf_with(node, &[("raft_port", "7400.5")])?, &["raft_port", "number"]),
            (conf_with(node, &[("raft_node_id", "0")])?, &["raft_node_id", "from 1"]),
            (conf_with(node, &[("raft_node_id", "2147483648")])?, &["raft_node_id", "2147483647"]),
            (conf_with(node, &[("raft_log_level", "loud")])?, &["raft_log_level", "loud"]),
            (conf_with(node, &[("raft_data_dir", "relative")])?, &["raft_data_dir", "absolute"]),
            (conf_with(node, &[("raft_peer_addresses", "a:1,b")])?, &["raft_peer_addresses"]),
            (conf_with(node, &[("raft_cluster_id", "zwei Wörter")])?, &["raft_cluster_id"]),
            (
                conf_with(node, &[("raft_election_timeout_ms", "200")])?,
                &["raft_election_timeout_ms", "three times"],
            ),
            (format!("{good}raft_port = 7401\n"), &["raft_port", "already set"]),
            (format!("{good}[section]\n"), &["section"]),
            (format!("{good}just words\n"), &["key = value"]),
            (format!("{good}node_name = \"open\n"), &["node_name"]),
            (without_id, &["raft_node_id", "not set"]),
        ];
        for (text, says) in &cases {
            node.write_pgraft_conf(text)?;
            let error = session.error("SELECT pgraft_init()")?;
            is_error(&error, "F0000", says)?;
            // Where the mistake stands; a key that is missing stands nowhere.
            let place = match says.contains(&"not set") {
                true => format!("in file \"{path}\""),
                false => format!("in file \"{path}\" line {}", text.lines().count()),
            };
            expect(error.message.contains(&place), || format!("no \"{place}\": {error}"))?;
            let status = Status::of(node)?;
            equal(status.get("state"), "error", "state")?;
            equal(status.get("last_error"), error.message.as_str(), "last_error")?;
            is_error(&session.error("SELECT pgraft_start()")?, "F0000", says)?;
            let error = session.error("SELECT pgraft_add_node('127.0.0.1:1', 2)")?;
            is_error(&error, "55000", &["Correct pgraft.conf"])?;
        }
        // Every mistake is in the server's log, and none ended the worker.
        expect(node.log().contains("unknown key \"colour\""), || "not in the log".to_owned())?;
        node.write_pgraft_conf(&good)?;
        expect(session.is_true("SELECT pgraft_init()")?, || "init".to_owned())?;
        let status = Status::of(node)?;
        equal((status.get("state"), status.get("last_error")), ("stopped", ""), "corrected")?;
        expect(session.is_true("SELECT pgraft_start()")?, || "start".to_owned())?;
        cluster.leader().map(|_| ())
    });
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    with(Cluster::start("conf-unreadable", one()), |cluster| {
        cluster.create_extension()?;
        let node = cluster.node(1);
        let file = node.conf_file();
        let path = format!("\"{}\"", file.display());
        let good = fs::read_to_string(&file).unwrap_or_default();
        let mut session = node.session()?;
        let mut refused = |says: &[&str]| -> Result<()> {
            let error = session.error("SELECT pgraft_init()")?;
            is_error(&error, "F0000", &[says, &[&path]].concat())?;
            expect(error.hint.is_some(), || format!("no hint: {error}"))?;
            let status = Status::of(node)?;
            equal(status.get("last_error"), error.message.as_str(), "last_error")
        };
        let doing = || Failure::while_doing::<std::io::Error>("change pgraft.conf");

        fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).map_err(doing())?;
        refused(&["Permission denied"])?;
        fs::remove_file(&file).map_err(doing())?;
        refused(&["does not exist"])?;
        fs::create_dir(&file).map_err(doing())?;
        refused(&["not a regular file"])?;
        fs::remove_dir(&file).map_err(doing())?;
        std::os::unix::fs::symlink("/dev/zero", &file).map_err(doing())?;
        refused(&["not a regular file"])?;
        fs::remove_file(&file).map_err(doing())?;
        node.write_pgraft_conf(&format!("{good}#{}\n", "x".repeat(1 << 20)))?;
        refused(&["longer than"])?;
        fs::write(&file, [good.as_bytes(), b"node_name = \xff\xfe\n"].concat()).map_err(doing())?;
        let line = good.lines().count() + 1;
        refused(&["not UTF-8", &format!("line {line}")])?;
        node.write_pgraft_conf("")?;
        refused(&["not set"])
    });
}

#[test]
fn the_server_starts_whatever_the_file_says() {
    with(Cluster::form("conf-start", one()), |cluster| {
        let good = fs::read_to_string(cluster.node(1).conf_file()).unwrap_or_default();
        let wrong = format!("{good}raft_node_idd = 1\n");
        for (text, says) in [(None, "does not exist"), (Some(&wrong), "unknown key")] {
            cluster.node_mut(1).stop(Stop::Fast)?;
            match text {
                Some(text) => cluster.node(1).write_pgraft_conf(text)?,
                None => fs::remove_file(cluster.node(1).conf_file())
                    .map_err(Failure::while_doing("remove pgraft.conf"))?,
            }
            cluster.node_mut(1).start()?;
            let node = cluster.node(1);
            let status = await_trouble(node, says)?;
            equal(status.get("state"), "error", "state")?;
            let mut session = node.session()?;
            expect(!session.is_true("SELECT pgraft_is_leader()")?, || "it leads".to_owned())?;
            is_error(&session.error("SELECT pgraft_start()")?, "F0000", &[says])?;
            session
                .run("CREATE TABLE IF NOT EXISTS works (a int); INSERT INTO works VALUES (1)")?;
            expect(node.log().contains(says), || "not in the log".to_owned())?;
        }
        // A reload with the corrected file is enough: the node was to run.
        let node = cluster.node(1);
        node.write_pgraft_conf(&good)?;
        reload(node)?;
        cluster.leader()?;
        equal(Status::of(node)?.get("last_error"), "", "last_error")
    });
}

#[test]
fn a_data_directory_that_cannot_be_used_is_refused_in_words() {
    with(Cluster::start("conf-data-dir", one()), |cluster| {
        cluster.create_extension()?;
        let node = cluster.node(1);
        let good = fs::read_to_string(node.conf_file()).unwrap_or_default();
        let mut session = node.session()?;
        let mut refused = |dir: &str, says: &[&str]| -> Result<()> {
            node.write_pgraft_conf(&conf_with(node, &[("raft_data_dir", dir)])?)?;
            for call in ["pgraft_init()", "pgraft_start()"] {
                let error = session.error(&format!("SELECT {call}"))?;
                is_error(&error, "58030", says)?;
                expect(error.hint.is_some(), || format!("no hint: {error}"))?;
                let status = Status::of(node)?;
                equal(status.get("state"), "error", "state")?;
                equal(status.get("last_error"), error.message.as_str(), "last_error")?;
            }
            Ok(())
        };
        let doing = || Failure::while_doing::<std::io::Error>("make a folder");
        let inside = "inside the Postgres data directory";
        let data = node.data();
        for dir in [data.join("raft"), data.join("a/b/c"), data.join("base/../raft"), data.clone()]
        {
            let dir = dir.display().to_string();
            refused(&dir, &[inside, &dir])?;
        }
        // By another name.
        let link = cluster.folder().join("link");
        std::os::unix::fs::symlink(&data, &link).map_err(doing())?;
        refused(&link.join("raft").display().to_string(), &[inside])?;
        expect(!data.join("raft").exists() && !data.join("a").exists(), || "made".to_owned())?;

        let closed = cluster.folder().join("closed");
        fs::create_dir(&closed).map_err(doing())?;
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).map_err(doing())?;
        refused(&closed.display().to_string(), &["Permission denied", "closed"])?;
        refused(&closed.join("below").display().to_string(), &["Permission denied", "closed"])?;
        let file = node.log_file().display().to_string();
        refused(&file, &[&file])?;
        refused("/proc/pgraft", &["/proc/pgraft"])?;

        node.write_pgraft_conf(&good)?;
        expect(session.is_true("SELECT pgraft_init()")?, || "init".to_owned())?;
        // Another identity in that directory is an error, and stays what it was.
        node.write_pgraft_conf(&conf_with(node, &[("raft_node_id", "2")])?)?;
        let error = session.error("SELECT pgraft_init()")?;
        is_error(&error, "55000", &["belongs to node 1 of cluster \"ram_cluster\"", "node 2"])?;
        is_error(&session.error("SELECT pgraft_start()")?, "55000", &["belongs to node 1"])?;
        node.write_pgraft_conf(&good)?;
        expect(session.is_true("SELECT pgraft_start()")?, || "start".to_owned())?;
        cluster.leader().map(|_| ())
    });
}

#[test]
fn a_port_in_use_is_the_starts_error_and_the_statuss() {
    with(Cluster::start("conf-port", one()), |cluster| {
        cluster.create_extension()?;
        let port = cluster.node(1).place.raft_port;
        let listen = || {
            TcpListener::bind(("127.0.0.1", port)).map_err(Failure::while_doing("take the port"))
        };
        let taken = listen()?;
        let mut session = cluster.node(1).session()?;
        session.run("SELECT pgraft_init()")?;
        let error = session.error("SELECT pgraft_start()")?;
        is_error(&error, "55000", &[&format!("port {port}"), "in use", "raft_port"])?;
        let status = Status::of(cluster.node(1))?;
        equal(status.get("state"), "error", "state")?;
        equal(status.get("last_error"), error.message.as_str(), "last_error")?;
        // It was not started: nor is it after a restart.
        drop(taken);
        cluster.node_mut(1).stop(Stop::Fast)?;
        cluster.node_mut(1).start()?;
        await_state(cluster.node(1), "stopped")?;
        cluster.node(1).session()?.run("SELECT pgraft_start()")?;
        cluster.leader()?;

        // It was running: Postgres starts all the same, and it is tried again by itself.
        cluster.node_mut(1).stop(Stop::Fast)?;
        let taken = listen()?;
        cluster.node_mut(1).start()?;
        await_trouble(cluster.node(1), &format!("port {port}"))?;
        let mut session = cluster.node(1).session()?;
        is_error(&session.error("SELECT pgraft_start()")?, "55000", &["in use"])?;
        await_trouble(cluster.node(1), "; trying again in ")?;
        drop(taken);
        cluster.leader()?;
        equal(Status::of(cluster.node(1))?.get("last_error"), "", "last_error")
    });
}

/// The file of the guide, as it stands there.
const GUIDE: &str = "\
# Raft Configuration
raft_node_id = 1
raft_cluster_id = ram_cluster
raft_data_dir = /tmp/pgraft_data
raft_log_level = info

# Network Configuration
raft_port = 7400
raft_bind_address = 0.0.0.0
raft_peer_addresses = localhost:7401,localhost:7402

# PostgreSQL Integration
postgresql_integration_enabled = true
postgresql_shmem_key = 12345
postgresql_shmem_size = 1048576
";

#[test]
fn the_guides_file_works_as_it_stands() {
    with(Cluster::prepare("conf-guide", Options::default()), |cluster| {
        for node in cluster.nodes() {
            let others = cluster.nodes().iter().filter(|other| other.id() != node.id());
            let peers: Vec<String> =
                others.map(|other| format!("localhost:{}", other.place.raft_port)).collect();
            node.write_pgraft_conf(
                &GUIDE
                    .replace("raft_node_id = 1", &format!("raft_node_id = {}", node.id()))
                    .replace("7400", &node.place.raft_port.to_string())
                    .replace("localhost:7401,localhost:7402", &peers.join(","))
                    .replace("12345", &node.place.shmem_key.to_string())
                    // Last: a folder's name may have any number in it.
                    .replace("/tmp/pgraft_data", &node.raft().display().to_string()),
            )?;
        }
        cluster.start_all()?;
        cluster.init_and_start()?;
        cluster.leader()?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])
    });
}

#[test]
fn a_reload_applies_peers_timeouts_and_log_level_and_says_what_waits() {
    // Slow at first, and never so fast that a busy machine loses its leader over it.
    let slow = "raft_heartbeat_interval_ms = 400\nraft_election_timeout_ms = 4000\n";
    let options = Options { nodes: 2, pgraft: slow.to_owned(), ..Options::default() };
    with(Cluster::prepare("conf-reload", options), |cluster| {
        // Peers: node 1 dials where nobody is, until the file is corrected.
        let good = fs::read_to_string(cluster.node(1).conf_file()).unwrap_or_default();
        let wrong = conf_with(cluster.node(1), &[("raft_peer_addresses", "127.0.0.1:1")])?;
        cluster.node(1).write_pgraft_conf(&wrong)?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        await_trouble(cluster.node(1), "127.0.0.1:1")?;
        equal(Status::of(cluster.node(1))?.get("state"), "forming", "state")?;
        cluster.node(1).write_pgraft_conf(&good)?;
        reload(cluster.node(1))?;
        let (leader, _) = cluster.leader()?;

        // Timeouts: at a quarter of the interval there are four times as many heartbeats.
        let node = cluster.node(leader);
        let mut session = node.session()?;
        let before = heartbeats_in(&mut session, Duration::from_secs(2))?;
        let good = fs::read_to_string(node.conf_file()).unwrap_or_default();
        let fast = "raft_heartbeat_interval_ms = 100\nraft_election_timeout_ms = 3000\n";
        let fast = good.replace(slow, fast);
        node.write_pgraft_conf(&fast)?;
        reload(node)?;
        wait_for("heartbeats are more frequent after the reload", SOON, || {
            let after = heartbeats_in(&mut session, Duration::from_secs(1))?;
            Ok((after > 2.0 * before).then_some(()))
        })?;

        // The level: debug lines come, and end again.
        node.write_pgraft_conf(&fast.replace("raft_log_level = info", "raft_log_level = trace"))?;
        reload(node)?;
        wait_for("debug lines", SOON, || {
            // A pre-vote or a new connection is worth a debug line.
            let other = cluster.node(3 - leader);
            other.session()?.run("SELECT pgraft_stop(); SELECT pgraft_start()")?;
            Ok((debug_lines(&mut session)? > 0).then_some(()))
        })?;
        cluster.leader()?;

        // A mistake: the former settings stay, and the node runs on.
        node.write_pgraft_conf(&format!("{fast}nonsense = 1\n"))?;
        reload(node)?;
        await_log(node, "the former settings stay in force")?;
        expect(node.log().contains("unknown key \"nonsense\""), || "no reason given".to_owned())?;
        cluster.leader()?;

        // What waits for a restart is said, and does not change.
        let port = format!("raft_port = {}", node.place.raft_port);
        node.write_pgraft_conf(&fast.replace(&port, "raft_port = 9"))?;
        reload(node)?;
        await_log(node, "raft_port will change only after a restart")?;
        cluster.leader().map(|_| ())
    });
}

fn await_log(node: &Node, part: &str) -> Result<()> {
    wait_for(&format!("node {} logs \"{part}\"", node.id()), SOON, || {
        Ok(node.log().contains(part).then_some(()))
    })
}

fn debug_lines(session: &mut Session) -> Result<u32> {
    let sql = "SELECT count(*) FROM pgraft_get_logs(10000) WHERE level IN ('debug', 'trace')";
    Ok(session.value(sql)?.and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Heartbeats sent a second, as measured over this time.
fn heartbeats_in(session: &mut Session, time: Duration) -> Result<f64> {
    let sql = "SELECT value FROM pgraft_get_metrics() \
               WHERE metric = 'pgraft_heartbeats_sent_total'";
    let mut count =
        || -> Result<f64> { Ok(session.value(sql)?.and_then(|n| n.parse().ok()).unwrap_or(0.0)) };
    let (began, before) = (Instant::now(), count()?);
    std::thread::sleep(time);
    Ok((count()? - before) / began.elapsed().as_secs_f64())
}

#[test]
fn two_servers_with_one_shmem_key_both_run_and_the_second_says_so() {
    let options = Options { nodes: 2, ..Options::default() };
    with(Cluster::prepare("conf-shmem-key", options), |cluster| {
        let key = cluster.node(1).place.shmem_key.to_string();
        let same = conf_with(cluster.node(2), &[("postgresql_shmem_key", &key)])?;
        cluster.node(2).write_pgraft_conf(&same)?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        cluster.leader()?;
        let in_use = format!("shared memory key {key} is in use");
        let status = await_trouble(cluster.node(2), &in_use)?;
        equal(status.get("state"), "member", "state")?;
        expect(cluster.node(2).log().contains(&in_use), || "not in the log".to_owned())?;
        await_status(cluster.node(1), "no trouble", |status| status.get("last_error").is_empty())?;
        // It leads and follows like any other.
        let mut session = cluster.node(1).session()?;
        for id in [2, 1] {
            session.run(&format!("SELECT pgraft_transfer_leadership({id})"))?;
            equal(cluster.leader()?.0, id, "the leader")?;
        }
        // With a key of its own after a restart all is well.
        let own = cluster.node(2).place.shmem_key.to_string();
        let other = conf_with(cluster.node(2), &[("postgresql_shmem_key", &own)])?;
        cluster.node(2).write_pgraft_conf(&other)?;
        cluster.node(2).session()?.run("SELECT pgraft_stop(); SELECT pgraft_start()")?;
        cluster.leader()?;
        let sound = |status: &Status| status.get("last_error").is_empty();
        await_status(cluster.node(2), "no trouble", sound).map(|_| ())
    });
}

#[test]
fn a_quiet_cluster_writes_nothing_and_debug_is_turned_on_and_off() {
    // Postgres' own checkpoints and standbys' attempts would be lines, too: only pgraft's count.
    with(Cluster::form("conf-quiet", Options::calm()), |cluster| {
        cluster.leader()?;
        await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
        // What a start leaves to say is said within moments.
        let lines = |node: &Node| -> Vec<String> {
            let log = node.log();
            log.lines().filter(|l| l.contains("pgraft: ")).map(str::to_owned).collect()
        };
        let all = || cluster.nodes().iter().map(lines).collect::<Vec<_>>();
        wait_for("the logs are at rest", SOON, || {
            let before = all();
            std::thread::sleep(Duration::from_secs(1));
            Ok((all() == before).then_some(()))
        })?;
        let before = all();
        std::thread::sleep(Duration::from_secs(5));
        equal(all(), before, "pgraft's lines in 5 quiet seconds")?;

        // The ring and the server's log hold the same lines of this node.
        let node = cluster.node(1);
        let mut session = node.session()?;
        let ring = session.rows("SELECT message, node_id, level FROM pgraft_get_logs(1000)")?;
        expect(!ring.is_empty(), || "the ring is empty".to_owned())?;
        for row in &ring {
            let message = row[0].clone().unwrap_or_default();
            expect(node.log().contains(&message), || format!("not in the log: {message}"))?;
        }
        let order = "SELECT bool_and(logged_at >= before) FROM (SELECT logged_at, \
                     lag(logged_at) OVER () AS before FROM pgraft_get_logs(1000)) AS l \
                     WHERE before IS NOT NULL";
        expect(session.is_true(order)?, || "newest is not last".to_owned())?;

        equal(debug_lines(&mut session)?, 0, "debug lines before")?;
        expect(session.is_true("SELECT pgraft_set_debug(true)")?, || "not on".to_owned())?;
        equal(Status::of(node)?.get("debug"), "t", "debug in the status")?;
        equal(Status::of(cluster.node(2))?.get("debug"), "f", "debug of another node")?;
        let disturb = || -> Result<()> {
            cluster.node(2).session()?.run("SELECT pgraft_stop(); SELECT pgraft_start()")?;
            cluster.leader().map(|_| ())
        };
        disturb()?;
        let debug = debug_lines(&mut session)?;
        expect(debug > 0, || "no debug line".to_owned())?;
        await_log(node, "pgraft: debug: ")?;
        let among_info = "SELECT count(*) FROM pgraft_get_logs(10000, 'info') \
                          WHERE level NOT IN ('info', 'warn', 'error')";
        equal(session.value(among_info)?.as_deref(), Some("0"), "debug lines among info")?;

        expect(session.is_true("SELECT pgraft_set_debug(false)")?, || "not off".to_owned())?;
        equal(Status::of(node)?.get("debug"), "f", "debug in the status")?;
        let debug = debug_lines(&mut session)?;
        disturb()?;
        equal(debug_lines(&mut session)?, debug, "debug lines after it is off")?;

        // Gone at a restart of the server, kept over one of the worker.
        session.run("SELECT pgraft_set_debug(true)")?;
        drop(session);
        cluster.node_mut(1).stop(Stop::Fast)?;
        cluster.node_mut(1).start()?;
        equal(Status::of(cluster.node(1))?.get("debug"), "f", "debug after a restart")
    });
}

#[test]
fn what_is_not_used_yet_is_said() {
    let pgraft = "authentication_token = geheim\n";
    let options = Options { nodes: 1, pgraft: pgraft.to_owned(), ..Options::default() };
    with(Cluster::form("conf-unused", options), |cluster| {
        let node = cluster.node(1);
        let log = node.log();
        let said = "\"authentication_token\" in file";
        expect(log.contains(said), || "no warning about it".to_owned())?;
        expect(!log.contains("geheim"), || "the secret is in the log".to_owned())?;
        let line = line_of(&log, "is not used yet by this version");
        expect(line < usize::MAX, || "not said in words".to_owned())
    });
}
