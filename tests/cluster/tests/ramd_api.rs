//! The API and the command line of ramd, on three real servers.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use pgraft_cluster::api::{Answer, Api};
use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Failure, Options, Process, Ramd, Reigns, Result, wait_for, with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A rewind or a copy, starts and pauses between them, on a machine that has other things to do.
const BACK_AT_MOST: Duration = Duration::from_secs(90);

/// Three servers, each with its ramd, node 1 the primary, and the others its standbys.
fn formed(name: &str, ramd: &str) -> Result<(Cluster, Vec<Ramd>)> {
    let mut cluster = Cluster::form(name, Options { failover: true, ..Options::default() })?;
    let ramds = cluster.noting_while(|cluster| {
        cluster.next_primary(None, SOON)?;
        let mut session = cluster.node(1).session()?;
        wait_for("a table", SOON, || Ok(session.run("CREATE TABLE t (a int)").ok()))?;
        cluster.await_streaming(1, SOON)?;
        let ramds = cluster.start_ramds(ramd)?;
        for (id, path) in [(1, "/primary"), (2, "/readiness"), (3, "/readiness")] {
            await_status(cluster, id, path, 200)?;
        }
        Ok(ramds)
    })?;
    Ok((cluster, ramds))
}

/// Runs a test on it. The ramds go with it, before the cluster: they would start the servers again.
fn with_ramds(
    name: &str,
    ramd: &str,
    test: impl FnOnce(&mut Cluster, &mut Vec<Ramd>) -> Result<()>,
) {
    match formed(name, ramd) {
        Ok((cluster, mut ramds)) => with(Ok(cluster), move |cluster| test(cluster, &mut ramds)),
        Err(failure) => panic!("{failure}"),
    }
}

fn api(cluster: &Cluster, id: u32) -> Api {
    Api::of(cluster.node(id))
}

fn await_status(cluster: &Cluster, id: u32, path: &str, status: u16) -> Result<Answer> {
    let what = format!("node {id} answers {status} at {path}");
    wait_for(&what, BACK_AT_MOST, || {
        let answer = api(cluster, id).get(path)?;
        match answer.status == status {
            true => Ok(Some(answer)),
            false => Err(Failure::new(format!("{} {}", answer.status, answer.text))),
        }
    })
}

/// Waits until this node, and the cluster as it knows it, are well.
fn await_well(cluster: &Cluster, id: u32) -> Result<()> {
    wait_for(&format!("node {id} is well, and sees a cluster that is"), BACK_AT_MOST, || {
        for path in ["/api/v1/health", "/api/v1/cluster/health"] {
            let answer = api(cluster, id).get(path)?;
            expect(answer.status == 200, || answer.text)?;
        }
        Ok(Some(()))
    })
}

/// Each of these answers with this status.
fn statuses(cluster: &Cluster, id: u32, wanted: &[(&str, u16)]) -> Result<()> {
    for (path, status) in wanted {
        let answer = api(cluster, id).get(path)?;
        let what = format!("node {id} at {path}: {}", answer.text);
        equal(answer.status, *status, &what)?;
    }
    Ok(())
}

fn says(answer: &Answer, part: &str) -> Result<()> {
    expect(answer.text.contains(part), || format!("\"{part}\" is not in {}", answer.text))
}

// ---- health checks

#[test]
fn health_checks_tell_load_balancers_what_each_server_is() {
    with_ramds("api-checks", "auto_start_enabled = false", |cluster, _ramds| {
        let writes = [("/", 200), ("/primary", 200), ("/read-write", 200), ("/leader", 200)];
        statuses(cluster, 1, &writes)?;
        statuses(cluster, 1, &[("/replica", 503), ("/read-only", 200), ("/health", 200)])?;
        let standby = [
            ("/", 503),
            ("/primary", 503),
            ("/leader", 503),
            ("/replica", 200),
            ("/read-only", 200),
            ("/replica?lag=100MB", 200),
            ("/replica?lag=much", 400),
            ("/sync", 503),
            ("/async", 200),
            ("/health", 200),
            ("/readiness", 200),
            ("/liveness", 200),
            ("/nothing", 404),
        ];
        statuses(cluster, 2, &standby)?;
        for method in ["HEAD", "OPTIONS"] {
            for (id, status) in [(1, 200), (2, 503)] {
                let answer = api(cluster, id).status(method, "/primary")?;
                equal((answer.status, answer.text.as_str()), (status, ""), method)?;
            }
        }
        equal(api(cluster, 1).post("/primary", "")?.status, 405, "POST")?;
        let body = api(cluster, 1).get("/primary")?.body;
        equal(&body["role"], &Value::from("primary"), "role")?;
        expect(body["xlog"]["location"].as_u64().is_some_and(|lsn| lsn > 0), || body.to_string())?;
        synchronous_mode_follows_a_reload(cluster)?;
        lag_is_told(cluster)?;
        what_is_gone_is_told(cluster)
    });
}

/// Writes pgraft.conf of all nodes with more lines at its end, and reloads their servers.
fn reload_with(cluster: &Cluster, more: &str) -> Result<()> {
    for node in cluster.nodes() {
        let text = fs::read_to_string(node.conf_file()).map_err(Failure::while_doing("read"))?;
        let text = text.split(MORE).next().unwrap_or_default();
        node.write_pgraft_conf(&format!("{text}{MORE}{more}"))?;
        let reloaded = Api::of(node).post("/api/v1/config/reload", "")?;
        equal(reloaded.status, 200, &reloaded.text)?;
    }
    Ok(())
}

/// Begins what [`reload_with`] adds.
const MORE: &str = "\n# Added\n";

/// Whether commits wait for a standby is told by pgraft.conf as it is now; a bad one changes
/// nothing.
fn synchronous_mode_follows_a_reload(cluster: &Cluster) -> Result<()> {
    reload_with(cluster, "synchronous_mode = quorum\n")?;
    await_status(cluster, 2, "/sync", 200)?;
    statuses(cluster, 2, &[("/async", 503)])?;
    statuses(cluster, 1, &[("/sync", 503), ("/async", 503), ("/primary", 200)])?;
    let told = api(cluster, 2).get("/api/v1/config")?.body["data"]["pgraft"].clone();
    equal(&told["synchronous_mode"], &Value::from("quorum"), "synchronous_mode")?;
    let names = "SHOW synchronous_standby_names";
    wait_for("pgraft has it, too", SOON, || {
        let found = cluster.node(1).session()?.value(names)?;
        Ok(found.filter(|found| found == "ANY 1 (pgraft_2, pgraft_3)"))
    })?;
    reload_with(cluster, "synchronous_mode = off\nnonsense = 1\n")?;
    wait_for("ramd says what is wrong with it", SOON, || {
        let log = fs::read_to_string(cluster.node(2).place.folder.join("ramd.log"));
        let said = log.unwrap_or_default().contains("ramd goes on with what it had");
        Ok(said.then_some(()))
    })?;
    statuses(cluster, 2, &[("/sync", 200), ("/async", 503)])?;
    reload_with(cluster, "")?;
    await_status(cluster, 2, "/async", 200)?;
    statuses(cluster, 2, &[("/sync", 503)])
}

/// What a standby has not replayed counts.
fn lag_is_told(cluster: &Cluster) -> Result<()> {
    cluster.node(2).session()?.run("SELECT pg_wal_replay_pause()")?;
    let fill = "INSERT INTO t SELECT generate_series(1, 50000)";
    cluster.node(1).session()?.run(fill)?;
    let behind = await_status(cluster, 2, "/replica?lag=100kB", 503)?;
    says(&behind, "bytes behind")?;
    statuses(cluster, 2, &[("/replica", 200), ("/replica?lag=1GB", 200), ("/read-only", 200)])?;
    statuses(cluster, 2, &[("/read-only?lag=100kB", 503)])?;
    cluster.node(2).session()?.run("SELECT pg_wal_replay_resume()")?;
    await_status(cluster, 2, "/replica?lag=100kB", 200).map(drop)
}

/// Servers that stand still or are down, and one whose worker is.
fn what_is_gone_is_told(cluster: &mut Cluster) -> Result<()> {
    cluster.node(2).pause();
    let hung = await_status(cluster, 2, "/health", 503)?;
    says(&hung, "PostgreSQL hangs")?;
    statuses(cluster, 2, &[("/replica", 503), ("/read-only", 503), ("/liveness", 200)])?;
    cluster.node(2).resume();
    await_status(cluster, 2, "/replica", 200)?;
    cluster.node_mut(3).kill_all();
    says(&await_status(cluster, 3, "/health", 503)?, "PostgreSQL is down")?;
    statuses(cluster, 3, &[("/replica", 503), ("/leader", 503), ("/liveness", 200)])?;
    let members = api(cluster, 1).get("/cluster")?.body["members"].clone();
    equal(members.as_array().map_or(0, Vec::len), 3, "members")?;
    await_status(cluster, 1, "/api/v1/cluster/health", 503)?;
    statuses(cluster, 1, &[("/primary", 200)])
}

// ---- never two

#[test]
fn never_two_nodes_take_writes_through_failovers_and_a_switchover() {
    with_ramds("api-never-two", "", |cluster, ramds| {
        let reigns = Reigns::watch(cluster)?;
        cluster.kill_node(&mut ramds[0]);
        let second = cluster.next_primary(Some(1), SOON)?;
        await_status(cluster, second, "/primary", 200)?;
        ramds[0] = cluster.node(1).start_ramd()?;
        cluster.await_streaming(second, BACK_AT_MOST)?;
        await_well(cluster, 1)?;
        let moved = api(cluster, 1).post("/api/v1/cluster/switchover", r#"{"candidate": 1}"#)?;
        equal(moved.status, 200, &moved.text)?;
        await_status(cluster, 1, "/primary", 200)?;
        cluster.await_streaming(1, BACK_AT_MOST)?;
        // One that stands still, page and all, and wakes up when another is the primary.
        cluster.node(1).pause();
        let third = cluster.next_primary(Some(1), SOON)?;
        await_status(cluster, third, "/primary", 200)?;
        cluster.node(1).resume();
        await_status(cluster, 1, "/readiness", 200)?;
        let reigns = reigns.judge()?;
        // Nodes 1, the second, 1 again, and the third, on a timeline of its own each.
        expect(reigns.len() >= 4, || format!("{reigns:?}"))
    });
}

// ---- changes

#[test]
fn changes_need_the_token_and_say_what_they_would_do_or_why_not() {
    with_ramds("api-changes", "", |cluster, _ramds| {
        let node = api(cluster, 2);
        let switchover = "/api/v1/cluster/switchover";
        for (token, status) in [(None, 401), (Some("another-token-than-it-is"), 401)] {
            let answer = node.post_with(switchover, "{}", token)?;
            equal(answer.status, status, &answer.text)?;
            equal(&answer.body["status"], &Value::from("error"), &answer.text)?;
        }
        equal(node.get("/api/v1/logs")?.status, 401, "logs without the token")?;
        let logs = node.get_with("/api/v1/logs", Some(pgraft_cluster::API_TOKEN))?;
        equal(logs.status, 200, &logs.text)?;
        for (path, body, status, part) in [
            (switchover, r#"{"candidate": 9}"#, 412, "no such member"),
            (switchover, r#"{"leader": "node3"}"#, 412, "the primary is node 1"),
            (switchover, r#"{"candidate": "node1"}"#, 412, "is the primary already"),
            (switchover, r#"{"whom": 1}"#, 400, "unknown field"),
            ("/api/v1/nodes/3/restart", "", 409, "rules no other server"),
            ("/api/v1/nodes/2/start", "", 409, "runs already"),
        ] {
            let answer = node.post(path, body)?;
            equal(answer.status, status, &answer.text)?;
            says(&answer, part)?;
        }
        let dry = node.post(&format!("{switchover}?dry_run=true"), r#"{"candidate": "node3"}"#)?;
        equal((dry.status, &dry.body["data"]["candidate"]), (200, &Value::from(3)), &dry.text)?;
        statuses(cluster, 1, &[("/primary", 200)])?;
        let paused = node.post("/api/v1/cluster/pause", "")?;
        equal(paused.status, 200, &paused.text)?;
        for id in 1..=3 {
            wait_for("the pause is told", SOON, || {
                let told = api(cluster, id).get("/cluster")?.body["pause"] == true;
                Ok(told.then_some(()))
            })?;
        }
        equal(node.post("/api/v1/cluster/resume", "{}")?.status, 200, "resume")?;
        equal(node.post("/api/v1/config/reload", "")?.status, 200, "reload")?;
        let before = cluster.node(2).postmaster().map(|process| process.pid);
        let restarted = node.post("/api/v1/nodes/2/restart", "")?;
        equal(restarted.status, 200, &restarted.text)?;
        let after = cluster.node(2).postmaster().map(|process| process.pid);
        expect(after.is_some() && after != before, || format!("{before:?} {after:?}"))?;
        // Its worker has to find its leader again.
        await_well(cluster, 2)?;
        moved_without_waiting(cluster, &node)
    });
}

/// A change that is not waited for says how far it has come.
fn moved_without_waiting(cluster: &Cluster, node: &Api) -> Result<()> {
    let body = r#"{"leader": 1, "candidate": 3}"#;
    let begun = node.post("/api/v1/cluster/switchover?wait=false", body)?;
    equal(begun.status, 202, &begun.text)?;
    let id = begun.body["data"]["operation"]["id"].as_u64().unwrap_or(0);
    let ended = wait_for("the operation ends", BACK_AT_MOST, || {
        let operation = node.get(&format!("/api/v1/operations/{id}"))?;
        let running = operation.body["data"]["operation"]["state"] == "running";
        Ok((!running).then_some(operation))
    })?;
    equal(&ended.body["data"]["operation"]["state"], &Value::from("done"), &ended.text)?;
    says(&ended, "node 3 is named the primary")?;
    await_status(cluster, 3, "/primary", 200)?;
    statuses(cluster, 1, &[("/primary", 503)])?;
    let history = node.get("/history")?;
    says(&history, "\"switchover\"")?;
    let metrics = node.get("/metrics")?;
    for name in [
        "ramd_cluster_nodes_total 3",
        "ramd_cluster_healthy_nodes ",
        "ramd_cluster_primary_node 3",
        "ramd_failover_count_total 1",
        "ramd_http_requests_total{path=\"/api/v1/cluster/switchover\",code=\"412\"} 3",
        "ramd_http_request_duration_seconds_count{path=\"/history\"} 1",
    ] {
        says(&metrics, name)?;
    }
    Ok(())
}

/// The backend that asks pgraft for a move is ended while the move is under way: whether it takes
/// place is not known, and nobody is told that nothing was changed.
#[test]
fn a_move_whose_backend_is_ended_has_an_unknown_outcome() {
    with_ramds("api-broken", "", |cluster, _ramds| {
        // A candidate that receives nothing any more holds the move up.
        let is_receiver = |process: &Process| process.title().contains("walreceiver");
        let receiver = cluster.node(3).processes().into_iter().find(is_receiver);
        let receiver = receiver.ok_or_else(|| Failure::new("node 3 has no WAL receiver"))?;
        receiver.pause();
        cluster.node(1).session()?.run("INSERT INTO t SELECT generate_series(1, 1000)")?;
        let node = api(cluster, 1);
        let answer = std::thread::scope(|scope| {
            let body = r#"{"candidate": 3}"#;
            let asked = scope.spawn(|| node.post("/api/v1/cluster/switchover", body));
            let mut session = cluster.node(1).session()?;
            let ended = wait_for("the backend is ended", SOON, || {
                let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE application_name = 'ramd' \
                             AND query LIKE '%pgraft_transfer_leadership%'";
                Ok(session.value(sql)?.filter(|ended| ended == "t"))
            });
            let answer = asked.join().map_err(|_| Failure::new("who asked panicked"))?;
            ended.and(answer)
        });
        receiver.resume();
        let answer = answer?;
        equal(answer.status, 504, &answer.text)?;
        equal(&answer.body["data"]["reason"], &Value::from("outcome_unknown"), &answer.text)?;
        let operations = node.get("/api/v1/operations")?;
        let operation = &operations.body["data"]["operations"][0];
        let (state, code) = (&operation["state"], &operation["code"]);
        equal((state, code), (&"unknown".into(), &504.into()), &operations.text)
    });
}

// ---- the command line

fn ctl_command(cluster: &Cluster, ids: &[u32], arguments: &[&str]) -> Command {
    let mut command = Command::new(cluster.install().program("pgraftctl"));
    command.args(arguments);
    for id in ids {
        command.args(["--url", &cluster.node(*id).api_url()]);
    }
    command.env("PGRAFT_TOKEN_FILE", cluster.node(1).token_file()).env_remove("PGRAFT_URL");
    command
}

/// One that goes on until it is dropped, and what it has said so far.
struct Shown {
    child: Child,
    file: PathBuf,
}

impl Shown {
    fn begin(cluster: &Cluster, arguments: &[&str]) -> Result<Shown> {
        let file = cluster.folder().join(format!("{}.out", arguments[0]));
        let out = File::create(&file).map_err(Failure::while_doing("make a file"))?;
        let child = ctl_command(cluster, &[2], arguments).stdout(out).spawn();
        Ok(Shown { child: child.map_err(Failure::while_doing("run pgraftctl"))?, file })
    }

    /// Waits until what it has said is as it should be.
    fn says(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<()> {
        wait_for(what, SOON, || {
            let said = fs::read_to_string(&self.file).unwrap_or_default();
            if is(&said) { Ok(Some(())) } else { Err(Failure::new(said)) }
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended by itself: the test has failed by then
        let _ = self.child.wait(); // its status says no more
    }
}

/// `status --watch` and `logs --follow` go on, and tell what happens meanwhile.
fn what_happens_is_shown_until_nobody_looks(cluster: &Cluster) -> Result<()> {
    let screens = |said: &str| said.matches("\x1b[H").count();
    let watch = Shown::begin(cluster, &["status", "--watch"])?;
    let logs = Shown::begin(cluster, &["logs", "--follow", "-n", "100"])?;
    watch.says("a first screen", |said| said.contains("automatic failover on"))?;
    // Both ramd and pgraft tell of it, with words that are in earlier lines already.
    let times = |said: &str, words: &str| said.matches(words).count();
    logs.says("what was there before", |said| said.contains("consensus starts on this node"))?;
    let before = fs::read_to_string(&logs.file).unwrap_or_default();
    let more = |said: &str, words: &str| times(said, words) > times(&before, words);
    ctl_says(cluster, &[2], &["pause"], (0, "done"))?;
    watch.says("a screen with the pause", |said| {
        screens(said) > 1 && said.contains("automatic failover paused")
    })?;
    logs.says("a line of the pause", |said| more(said, "automatic failover is paused"))?;
    ctl_says(cluster, &[2], &["resume"], (0, "done"))?;
    logs.says("a line of its end", |said| more(said, " goes on"))?;
    // With nobody to read it, it ends: `| head` may not be there any more.
    let mut command = ctl_command(cluster, &[2], &["status", "--watch"]);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(Failure::while_doing("run"))?;
    drop(child.stdout.take());
    let status = child.wait().map_err(Failure::while_doing("wait for pgraftctl"))?;
    equal(status.code(), Some(0), "its exit code")
}

fn ctl(cluster: &Cluster, ids: &[u32], arguments: &[&str]) -> Result<(i32, Output, String)> {
    let output = ctl_command(cluster, ids, arguments).output();
    let output = output.map_err(Failure::while_doing("run pgraftctl"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.code().unwrap_or(-1), output, text))
}

/// It ends with this status, and says this in either of its outputs.
fn ctl_says(
    cluster: &Cluster,
    ids: &[u32],
    arguments: &[&str],
    wanted: (i32, &str),
) -> Result<String> {
    let (code, output, text) = ctl(cluster, ids, arguments)?;
    let all = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    equal(code, wanted.0, &format!("{arguments:?}: {all}"))?;
    expect(all.contains(wanted.1), || format!("{arguments:?}: no \"{}\" in {all}", wanted.1))?;
    Ok(text)
}

#[test]
fn the_command_line_shows_and_steers_the_cluster_through_any_node() {
    with_ramds("api-ctl", "auto_start_enabled = false", |cluster, ramds| {
        wait_for("a healthy cluster", SOON, || {
            let (code, _, text) = ctl(cluster, &[2], &["status"])?;
            if code == 0 { Ok(Some(())) } else { Err(Failure::new(text)) }
        })?;
        let table = ctl_says(cluster, &[2], &["status"], (0, "primary node1"))?;
        let is_member = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
        let lines: Vec<&str> = table.lines().filter(is_member).collect();
        let standbys = lines.iter().filter(|line| line.contains("standby")).count();
        equal((lines.len(), standbys), (3, 2), &table)?;
        let json = ctl_says(cluster, &[3], &["status", "--json"], (0, ""))?;
        let json: Value = serde_json::from_str(&json).map_err(Failure::while_doing("read JSON"))?;
        equal(&json["cluster"]["primary_id"], &Value::from(1), "the primary")?;
        ctl_says(cluster, &[1], &["members"], (0, "node3"))?;
        ctl_says(cluster, &[1], &["switchover", "--candidate", "9"], (1, "no such member"))?;
        ctl_says(cluster, &[1], &["switchover", "--dry-run"], (0, "would move the primary"))?;
        ctl_says(cluster, &[1], &["frobnicate"], (2, "unrecognized"))?;
        ctl_says(cluster, &[1], &["pause"], (0, "done"))?;
        ctl_says(cluster, &[3], &["resume"], (0, "done"))?;
        let moved = ["switchover", "--leader", "node1", "--candidate", "node2"];
        let said = ctl_says(cluster, &[3], &moved, (0, "node 2 is named the primary"))?;
        expect(said.contains("node 2 is the primary"), || said.clone())?;
        await_status(cluster, 2, "/primary", 200)?;
        ctl_says(cluster, &[3], &["logs", "-n", "200"], (0, "switchover"))?;
        what_happens_is_shown_until_nobody_looks(cluster)?;
        // Whoever does not answer is left out; nobody is a status of its own.
        ramds[0].kill();
        ctl_says(cluster, &[1, 3], &["members"], (0, "node3"))?;
        ctl_says(cluster, &[1, 3], &["pause"], (0, "done"))?;
        ctl_says(cluster, &[1, 3], &["resume"], (0, "done"))?;
        ctl_says(cluster, &[1], &["status"], (3, "no ramd answers"))?;
        cluster.node_mut(3).kill_all();
        wait_for("a cluster that is not well", SOON, || {
            let (code, _, text) = ctl(cluster, &[2], &["status"])?;
            if code == 4 { Ok(Some(())) } else { Err(Failure::new(text)) }
        })
    });
}

// ---- ramd's own log

/// `--log-level` is above ramd.conf, and SIGHUP opens a log file that was moved away anew.
#[test]
fn the_log_is_as_loud_as_asked_and_is_opened_anew_by_a_hangup() {
    with_ramds("api-log", "auto_start_enabled = false", |cluster, ramds| {
        let level = |id: u32| {
            let config = api(cluster, id).get("/api/v1/config")?.body;
            Ok::<_, Failure>(config["data"]["ramd"]["ramd_log_level"].clone())
        };
        equal(level(2)?, "debug".into(), "the level in ramd.conf")?;
        let file = cluster.node(2).place.folder.join("own.log");
        let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
        cluster.node(2).configure_ramd(&format!("ramd_log_file = {}", file.display()))?;
        ramds[1].terminate()?;
        ramds[1] = cluster.node(2).start_ramd_with(&["--log-level", "info"])?;
        await_status(cluster, 2, "/readiness", 200)?;
        equal(level(2)?, "info".into(), "the level of the command line")?;
        expect(read(&file).contains(" INFO  ramd "), || read(&file))?;
        // Moved away, it is written on until ramd is told.
        let moved = file.with_extension("log.1");
        fs::rename(&file, &moved).map_err(Failure::while_doing("move the log away"))?;
        let paused = |path: &PathBuf| read(path).matches("automatic failover is paused").count();
        equal(api(cluster, 2).post("/api/v1/cluster/pause", "")?.status, 200, "pause")?;
        wait_for("a line in the old file", SOON, || Ok((paused(&moved) == 1).then_some(())))?;
        expect(!file.exists(), || "there is another file before the hangup".to_owned())?;
        let pid = i32::try_from(ramds[1].pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.ok_or_else(|| Failure::new("no pid"))?, Signal::HUP)
            .map_err(Failure::while_doing("send SIGHUP"))?;
        wait_for("another file", SOON, || Ok(file.exists().then_some(())))?;
        equal(api(cluster, 2).post("/api/v1/cluster/resume", "")?.status, 200, "resume")?;
        let resumed = |path: &PathBuf| read(path).contains("paused: it goes on");
        wait_for("a line in the new file", SOON, || Ok(resumed(&file).then_some(())))?;
        expect(!resumed(&moved), || read(&moved))?;
        // Nothing that is said of all this is an error.
        ramds[1].terminate()?;
        fs::remove_file(&file).map_err(Failure::while_doing("remove the log"))?;
        ramds[1] = cluster.node(2).start_ramd_with(&["--log-level=error"])?;
        await_status(cluster, 2, "/readiness", 200)?;
        equal(level(2)?, "error".into(), "the level of the command line")?;
        expect(read(&file).is_empty(), || read(&file))
    });
}
