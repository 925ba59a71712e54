//! The API and the command line of ramd, on three real servers.

use std::collections::BTreeMap;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use pgraft_cluster::api::{Answer, Api};
use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::{Cluster, Failure, Options, Ramd, Result, wait_for, with};
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

/// Runs a test on it. The ramds go first.
fn with_ramds(
    name: &str,
    ramd: &str,
    test: impl FnOnce(&mut Cluster, &mut Vec<Ramd>) -> Result<()>,
) {
    match formed(name, ramd) {
        Ok((cluster, mut ramds)) => with(Ok(cluster), |cluster| test(cluster, &mut ramds)),
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
        lag_is_told(cluster)?;
        what_is_gone_is_told(cluster)
    });
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

/// A 200 of /primary, by the node's own clock, which all nodes of a machine share.
#[derive(Clone, Copy, Debug)]
struct Yes {
    node: u32,
    timeline: u64,
    at_ns: u64,
}

/// What a poller is told, and tells, while it runs.
#[derive(Debug, Default)]
struct Polling {
    end: AtomicBool,
    yes: AtomicU64,
}

/// Asks a node without a pause.
fn poll(cluster: &Cluster, node: u32, polling: &Arc<Polling>) -> JoinHandle<(u64, Vec<Yes>)> {
    let (api, polling) = (Api::at(&cluster.node(node).api_url(), SOON), polling.clone());
    spawn(move || {
        let (mut asked, mut yes) = (0, Vec::new());
        while !polling.end.load(Ordering::Relaxed) {
            match api.get("/primary") {
                Ok(answer) => {
                    asked += 1;
                    if answer.status == 200 {
                        polling.yes.fetch_add(1, Ordering::Relaxed);
                        let timeline = answer.body["timeline"].as_u64().unwrap_or(0);
                        let at_ns = answer.body["pgraft"]["boottime_ns"].as_u64().unwrap_or(0);
                        yes.push(Yes { node, timeline, at_ns });
                    }
                }
                // Its ramd is gone, for now.
                Err(_) => sleep(Duration::from_millis(5)),
            }
        }
        (asked, yes)
    })
}

/// The first and the last yes of each server in each of its times as primary, in their order.
fn reigns(all: &[Yes]) -> Vec<(u64, u64, (u32, u64))> {
    let mut found: BTreeMap<(u32, u64), (u64, u64)> = BTreeMap::new();
    for yes in all {
        let reign = found.entry((yes.node, yes.timeline)).or_insert((yes.at_ns, yes.at_ns));
        *reign = (reign.0.min(yes.at_ns), reign.1.max(yes.at_ns));
    }
    let mut reigns: Vec<_> =
        found.into_iter().map(|(who, (first, last))| (first, last, who)).collect();
    reigns.sort_unstable();
    reigns
}

#[test]
fn never_two_nodes_take_writes_through_failovers_and_a_switchover() {
    with_ramds("api-never-two", "", |cluster, ramds| {
        let polling = Arc::new(Polling::default());
        let pollers: Vec<_> = (1..=3).map(|id| poll(cluster, id, &polling)).collect();
        wait_for("node 1 is heard to say yes", SOON, || {
            Ok((polling.yes.load(Ordering::Relaxed) > 0).then_some(()))
        })?;
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
        polling.end.store(true, Ordering::Relaxed);
        let (mut asked, mut all) = (0, Vec::new());
        for poller in pollers {
            let (count, yes) = poller.join().map_err(|_| Failure::new("a poller panicked"))?;
            asked += count;
            all.extend(yes);
        }
        let reigns = reigns(&all);
        println!("{asked} questions, {} times yes: {reigns:?}", all.len());
        expect(all.iter().all(|yes| yes.timeline > 0 && yes.at_ns > 0), || format!("{all:?}"))?;
        for pair in reigns.windows(2) {
            let ((_, last, who), (first, _, next)) = (pair[0], pair[1]);
            expect(last < first, || format!("{who:?} and {next:?} were both primary: {reigns:?}"))?;
        }
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

// ---- the command line

fn ctl(cluster: &Cluster, ids: &[u32], arguments: &[&str]) -> Result<(i32, Output, String)> {
    let mut command = std::process::Command::new(cluster.install().program("pgraftctl"));
    command.args(arguments);
    for id in ids {
        command.args(["--url", &cluster.node(*id).api_url()]);
    }
    command.env("PGRAFT_TOKEN_FILE", cluster.node(1).token_file()).env_remove("PGRAFT_URL");
    let output = command.output().map_err(Failure::while_doing("run pgraftctl"))?;
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
