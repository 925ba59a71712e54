//! Metrics as Prometheus sees them: what a node and its ramd serve, when they serve it, and that
//! the dashboard and the alerts that come with pgraft name only what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use pgraft_cluster::check::{SOON, await_status, await_trouble, equal, expect};
use pgraft_cluster::http::{self, Answer};
use pgraft_cluster::prometheus::{Prometheus, promtool};
use pgraft_cluster::{Cluster, Failure, Node, Options, Ramd, Result, Status, Stop, wait_for, with};
use rustix::process::Signal;

/// What issue 5 and the documentation promise, in so many words.
const PROMISED: [&str; 24] = [
    "pgraft_up",
    "pgraft_term",
    "pgraft_leader_id",
    "pgraft_is_leader",
    "pgraft_has_quorum",
    "pgraft_commit_index",
    "pgraft_applied_index",
    "pgraft_log_size",
    "pgraft_elections_total",
    "pgraft_leader_changes_total",
    "pgraft_fenced",
    "pgraft_lease_seconds",
    "pgraft_peer_messages_total",
    "pgraft_peer_bytes_total",
    "pgraft_peer_errors_total",
    "pgraft_peer_reachable",
    "pgraft_peer_round_trip_seconds",
    "pgraft_fsync_duration_seconds_bucket",
    "pgraft_fsync_duration_seconds_sum",
    "pgraft_fsync_duration_seconds_count",
    "pgraft_commit_duration_seconds_bucket",
    "pgraft_commit_duration_seconds_sum",
    "pgraft_commit_duration_seconds_count",
    "pgraft_health_checks_total",
];

fn options(nodes: u32) -> Options {
    Options { nodes, metrics: true, ..Options::calm() }
}

fn address(node: &Node) -> String {
    let port = node.place.metrics_port.expect("a cluster that serves metrics");
    format!("{}:{port}", node.place.host)
}

fn scrape(node: &Node) -> Result<Answer> {
    http::get(&address(node), "/metrics")
}

/// The values of a scrape, by name and labels as they are written.
fn values(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().expect("a number"))).collect()
}

fn value(node: &Node, series: &str) -> Result<f64> {
    let text = scrape(node)?.body;
    let none = || Failure::new(format!("node {} serves no {series}", node.id()));
    values(&text).get(series).copied().ok_or_else(none)
}

/// The names of metrics in a scrape, without labels.
fn names(text: &str) -> BTreeSet<String> {
    let series = values(text).into_keys();
    series.map(|series| series.split('{').next().unwrap_or_default().to_owned()).collect()
}

fn await_value(node: &Node, series: &str, wanted: f64) -> Result<()> {
    wait_for(&format!("node {}: {series} is {wanted}", node.id()), SOON, || {
        Ok((value(node, series)? == wanted).then_some(()))
    })
}

fn top(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file)
}

fn monitoring(file: &str) -> PathBuf {
    top("conf/monitoring").join(file)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Failure::while_doing(format!("read {}", path.display())))
}

/// The metrics with this beginning that a dashboard, a rule file or a page names. A name before "("
/// is a function's.
fn metrics_named_in(text: &str, begin: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.match_indices(begin).filter_map(|(at, _)| {
        let end = text[at..].find(|c| !is_name(c)).map_or(text.len(), |length| at + length);
        let is_word = !text[..at].ends_with(is_name) && !text[end..].starts_with('(');
        is_word.then(|| text[at..end].to_owned())
    });
    words.collect()
}

/// Whatever a file names is served.
fn names_only(file: &str, named: BTreeSet<String>, served: &BTreeSet<String>) -> Result<()> {
    expect(named.len() > 5, || format!("{file} names {named:?}"))?;
    let unknown: Vec<_> = named.difference(served).collect();
    expect(unknown.is_empty(), || format!("{file} names {unknown:?}"))
}

#[test]
fn every_node_serves_what_its_metrics_function_says() {
    with(Cluster::form("metrics", options(3)), |cluster| {
        let (leader, term) = cluster.leader()?;
        let mut all = BTreeSet::new();
        for node in cluster.nodes() {
            let mut session = node.session()?;
            session.run("SELECT pgraft_is_healthy()")?;
            let answer = scrape(node)?;
            equal(answer.status, 200, "status")?;
            let content = answer.header("content-type");
            equal(content, Some("text/plain; version=0.0.4; charset=utf-8"), "content type")?;
            promtool(&["check", "metrics"], &answer.body)?;

            let sql = "SELECT DISTINCT metric FROM pgraft_get_metrics()";
            let rows = session.rows(sql)?.into_iter();
            let by_sql: BTreeSet<String> = rows.filter_map(|mut row| row.swap_remove(0)).collect();
            // What only a leader, or a primary, knows may come and go between the two.
            let known = |names: &BTreeSet<String>| -> BTreeSet<String> {
                names.iter().filter(|name| !name.starts_with("pgraft_peer_")).cloned().collect()
            };
            let served = names(&answer.body);
            equal(known(&served), known(&by_sql), "names served and in SQL")?;
            all.extend(served);

            let is_leader = f64::from(u8::from(node.id() == leader));
            await_value(node, "pgraft_is_leader", is_leader)?;
            equal(value(node, "pgraft_up")?, 1.0, "pgraft_up")?;
            equal(value(node, "pgraft_term")?, term as f64, "term")?;
            equal(value(node, "pgraft_leader_id")?, f64::from(leader), "leader")?;
            equal(value(node, "pgraft_state{state=\"member\"}")?, 1.0, "state")?;
            equal(value(node, "pgraft_health_checks_total{result=\"passed\"}")?, 1.0, "checks")?;
            let fsyncs = value(node, "pgraft_fsync_duration_seconds_count")?;
            expect(fsyncs >= 1.0, || "no fsync was timed".to_owned())?;
        }
        let node = cluster.node(leader);
        wait_for("the leader knows its peers' round trips", SOON, || {
            all.extend(names(&scrape(node)?.body));
            Ok(all.contains("pgraft_peer_round_trip_seconds").then_some(()))
        })?;
        let missing: Vec<_> = PROMISED.iter().filter(|name| !all.contains(**name)).collect();
        expect(missing.is_empty(), || format!("not served: {missing:?}"))?;

        // What is shipped names nothing else.
        wait_for("a primary knows what its standbys lack", SOON, || {
            all.extend(names(&scrape(cluster.node(1))?.body));
            Ok(all.contains("pgraft_peer_wal_lag_bytes").then_some(()))
        })?;
        for file in ["pgraft.rules.yml", "pgraft-dashboard.json"] {
            names_only(file, metrics_named_in(&read(&monitoring(file))?, "pgraft_"), &all)?;
        }

        // Each entry is timed once, by the leader.
        let before = value(node, "pgraft_commit_duration_seconds_count")?;
        for number in 0..10 {
            let sql = format!("SELECT pgraft_kv_put('metrics', '{number}')");
            node.session()?.run(&sql)?;
        }
        let after = value(node, "pgraft_commit_duration_seconds_count")?;
        expect(after >= before + 10.0, || format!("{before}, then {after} entries timed"))?;
        let slowest = value(node, "pgraft_commit_duration_seconds_bucket{le=\"+Inf\"}")?;
        equal(slowest >= after, true, "all are in the last bucket")
    });
}

#[test]
fn the_shipped_rules_are_sound_and_fire_when_they_should() {
    for file in ["pgraft.rules.yml", "ramd.rules.yml"] {
        let path = monitoring(file).display().to_string();
        promtool(&["check", "rules", &path], "").unwrap();
    }
    for file in ["pgraft.rules.test.yml", "ramd.rules.test.yml"] {
        let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
        promtool(&["test", "rules", &cases.display().to_string()], "").unwrap();
    }
    // None of ramd's is without a case in which it fires.
    let rules = read(&monitoring("ramd.rules.yml")).unwrap();
    let cases = include_str!("ramd.rules.test.yml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let fires = cases.split(&format!("alertname: {alert}\n")).skip(1).any(|case| {
            case.trim_start()
                .strip_prefix("exp_alerts:")
                .is_some_and(|rest| !rest.starts_with(" []"))
        });
        assert!(fires, "{alert} never fires in ramd.rules.test.yml");
    }
}

#[test]
fn metrics_are_served_whether_or_not_consensus_runs() {
    with(Cluster::form("metrics-stopped", options(1)), |cluster| {
        let node = cluster.node(1);
        await_value(node, "pgraft_is_leader", 1.0)?;
        let term = value(node, "pgraft_term")?;
        node.session()?.run("SELECT pgraft_stop()")?;
        await_value(node, "pgraft_up", 0.0)?;
        equal(value(node, "pgraft_is_leader")?, 0.0, "leads")?;
        equal(value(node, "pgraft_state{state=\"stopped\"}")?, 1.0, "stopped")?;
        equal(value(node, "pgraft_term")?, term, "the last term")?;

        // An error in pgraft.conf is no reason to be silent about it.
        let conf = read(&node.conf_file())?;
        node.write_pgraft_conf(&format!("{conf}nonsense = 1\n"))?;
        reload(node)?;
        await_value(node, "pgraft_state{state=\"error\"}", 1.0)?;
        node.write_pgraft_conf(&conf)?;
        node.session()?.run("SELECT pgraft_start()")?;
        await_value(node, "pgraft_up", 1.0)?;

        // A new worker has the port of the one before.
        let worker = Status::of(node)?.get("worker_pid").to_owned();
        let find = |process: &pgraft_cluster::Process| process.pid.to_string() == worker;
        let processes = node.processes();
        let process = processes.iter().find(|process| find(process));
        process.ok_or_else(|| Failure::new("no worker"))?.signal(Signal::TERM);
        await_status(node, "a new worker", |status| {
            !["", worker.as_str()].contains(&status.get("worker_pid"))
        })?;
        wait_for("the new worker serves metrics", SOON, || {
            Ok((value(node, "pgraft_up")? == 1.0).then_some(()))
        })
    });
}

fn reload(node: &Node) -> Result<()> {
    let postmaster = node.postmaster().ok_or_else(|| Failure::new("the server is down"))?;
    postmaster.signal(Signal::HUP);
    Ok(())
}

#[test]
fn a_taken_port_is_said_and_tried_again_and_a_reload_moves_it() {
    with(Cluster::prepare("metrics-port", options(1)), |cluster| {
        let taken = TcpListener::bind(address(cluster.node(1)))
            .map_err(Failure::while_doing("take the port"))?;
        cluster.start_all()?;
        cluster.init_and_start()?;
        cluster.leader()?;
        let node = cluster.node(1);
        let port = node.place.metrics_port.unwrap_or_default();
        let trouble = format!("could not serve metrics on 127.0.0.1 port {port}: ");
        let status = await_trouble(node, &trouble)?;
        equal(status.get("state"), "member", "state")?;
        let log = node.log();
        for part in [&trouble, "Is another server using metrics_port? Choose another one."] {
            expect(log.contains(part), || format!("the log does not say \"{part}\""))?;
        }
        drop(taken);
        let sound = |status: &Status| status.get("last_error").is_empty();
        await_status(node, "no trouble", sound)?;
        equal(value(node, "pgraft_up")?, 1.0, "pgraft_up")?;

        // Closed, elsewhere, and on another address, each by a reload.
        let conf = read(&node.conf_file())?;
        let with = |from: &str, to: &str| {
            expect(conf.contains(from), || format!("no {from} in the conf"))?;
            node.write_pgraft_conf(&conf.replace(from, to))?;
            reload(node)
        };
        with("metrics_enabled = true", "metrics_enabled = false")?;
        wait_for("the port is closed", SOON, || Ok(scrape(node).is_err().then_some(())))?;
        let other = port + 1;
        with(&format!("metrics_port = {port}"), &format!("metrics_port = {other}"))?;
        wait_for("it is served elsewhere", SOON, || {
            let answer = http::get(&format!("127.0.0.1:{other}"), "/metrics")?;
            Ok((answer.status == 200).then_some(()))
        })?;
        with("metrics_enabled = true", "metrics_enabled = true\nmetrics_bind_address = 127.0.0.9")?;
        wait_for("it is served on another address", SOON, || {
            let answer = http::get(&format!("127.0.0.9:{port}"), "/metrics")?;
            Ok((answer.status == 200).then_some(()))
        })?;
        expect(scrape(node).is_err(), || "it is still served on the first one".to_owned())
    });
}

#[test]
fn a_real_prometheus_scrapes_servers_and_ramds_and_knows_when_some_are_gone() {
    let options = Options { failover: true, ..options(3) };
    with(Cluster::form("prometheus", options), |cluster| {
        cluster.next_primary(None, SOON)?;
        let mut session = cluster.node(1).session()?;
        wait_for("a table", SOON, || Ok(session.run("CREATE TABLE t (a int)").ok()))?;
        cluster.await_streaming(1, SOON)?;
        let mut ramds = cluster.start_ramds("auto_start_enabled = false")?;
        ramds_serve_what_is_documented(cluster)?;
        // As the guide has it, but for the targets, and in seconds.
        let list = |address: fn(&Node) -> String| {
            let each = cluster.nodes().iter().map(|node| format!("'{}'", address(node)));
            each.collect::<Vec<_>>().join(", ")
        };
        let job = |name: &str, targets: String| {
            format!("  - job_name: '{name}'\n    static_configs:\n      - targets: [{targets}]\n")
        };
        let configuration = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
             rule_files: ['{}', '{}']\n\
             scrape_configs:\n{}{}",
            monitoring("pgraft.rules.yml").display(),
            monitoring("ramd.rules.yml").display(),
            job("pgraft", list(address)),
            job("ramd", list(Node::api_address)),
        );
        // A port that no node of three has.
        let port = cluster.node(3).place.metrics_port.unwrap_or_default() + 1;
        let folder = cluster.folder().join("prometheus");
        let prometheus = Prometheus::start(&folder, port, &configuration)?;
        let becomes = |expression: &str, wanted: f64| {
            wait_for(&format!("{expression} is {wanted}"), SOON, || {
                let number = prometheus.number(expression)?;
                let found = || Err(Failure::new(format!("it is {number:?}")));
                if number == Some(wanted) { Ok(Some(())) } else { found() }
            })
        };
        becomes("sum(up{job=\"pgraft\"})", 3.0)?;
        becomes("sum(up{job=\"ramd\"})", 3.0)?;
        becomes("sum(pgraft_up)", 3.0)?;
        becomes("sum(ramd_up)", 3.0)?;
        becomes("sum(pgraft_is_leader)", 1.0)?;
        becomes("sum(pgraft_is_primary)", 1.0)?;
        becomes("sum(ramd_postgres_takes_writes)", 1.0)?;
        becomes("sum(ramd_replication_streaming)", 2.0)?;
        becomes("count(pgraft_peer_reachable == 1)", 6.0)?;
        becomes("count(histogram_quantile(0.99, pgraft_fsync_duration_seconds_bucket) >= 0)", 3.0)?;
        becomes("count(ALERTS) or vector(0)", 0.0)?;

        // Each question of the dashboard is one that Prometheus understands.
        let json = read(&monitoring("pgraft-dashboard.json"))?;
        let sql = format!(
            "SELECT jsonb_path_query($dashboard${json}$dashboard$, \
             '$.panels[*].targets[*].expr') #>> '{{}}'"
        );
        let rows = cluster.node(1).session()?.rows(&sql)?;
        expect(rows.len() > 30, || format!("only {} questions", rows.len()))?;
        for expression in rows.into_iter().filter_map(|mut row| row.swap_remove(0)) {
            let expression = expression
                .replace("$job", "pgraft")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m");
            expect(!expression.contains('$'), || format!("a variable in {expression}"))?;
            prometheus.check(&expression)?;
        }

        // A standby is gone: the rules see it, and fire after their time.
        let leader = cluster.leader()?.0;
        let victim = if leader == 3 { 2 } else { 3 };
        cluster.node_mut(victim).stop(Stop::Immediate)?;
        becomes("sum(up{job=\"pgraft\"})", 2.0)?;
        becomes("sum(ramd_postgres_up)", 2.0)?;
        becomes("count(ALERTS{alertname=\"PgraftNodeDown\"})", 1.0)?;
        becomes("count(ALERTS{alertname=\"RamdNodesUnhealthy\"})", 1.0)?;
        wait_for("the others report it, too", SOON, || {
            let alerts = "count(ALERTS{alertname=\"PgraftPeerUnreachable\"})";
            Ok(prometheus.number(alerts)?.filter(|number| *number >= 1.0).map(|_| ()))
        })?;
        becomes("sum(pgraft_is_leader)", 1.0)?;
        cluster.start_all()?;
        cluster.leader()?;
        becomes("sum(pgraft_up)", 3.0)?;
        becomes("count(ALERTS{alertname=\"PgraftNodeDown\"}) or vector(0)", 0.0)?;
        becomes("sum(ramd_replication_streaming)", 2.0)?;
        a_primary_without_a_successor_is_missed(cluster, &mut ramds, &becomes)
    });
}

/// A gauge with a counter's name, as it was asked for; promtool would like another.
const MISNAMED: &str = "ramd_cluster_nodes_total";

/// What every ramd serves is sound, and known to docs/ramd-api.md; which, as the rules, names
/// nothing else.
fn ramds_serve_what_is_documented(cluster: &Cluster) -> Result<()> {
    let documented = read(&top("docs/ramd-api.md"))?;
    let documented = documented.split("## /metrics").nth(1).unwrap_or_default();
    let documented = documented.split("\n## ").next().unwrap_or_default();
    let documented = metrics_named_in(documented, "ramd_");
    let mut all = BTreeSet::new();
    // Some are known only to a standby, and a histogram's name is that of three series.
    wait_for("all of ramd's metrics are served", SOON, || {
        for node in cluster.nodes() {
            let text = http::get(&node.api_address(), "/metrics")?.body;
            all.extend(names(&text));
            let heads = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
            all.extend(heads.filter_map(|head| Some(head.split(' ').next()?.to_owned())));
        }
        let missing: Vec<_> = documented.difference(&all).collect();
        match missing.is_empty() {
            true => Ok(Some(())),
            false => Err(Failure::new(format!("missing: {missing:?}"))),
        }
    })?;
    for node in cluster.nodes() {
        let text = http::get(&node.api_address(), "/metrics")?.body;
        equal(values(&text).get(MISNAMED), Some(&3.0), MISNAMED)?;
        let others = text.lines().filter(|line| !line.contains(MISNAMED));
        let others: String = others.map(|line| format!("{line}\n")).collect();
        promtool(&["check", "metrics"], &others)?;
    }
    let of_histogram = |name: &&String| {
        let parts = ["_bucket", "_sum", "_count"].map(|end| name.strip_suffix(end));
        !parts.into_iter().flatten().any(|base| documented.contains(base))
    };
    let served: BTreeSet<_> = all.iter().filter(of_histogram).cloned().collect();
    let unknown: Vec<_> = served.difference(&documented).collect();
    expect(unknown.is_empty(), || format!("docs/ramd-api.md does not know {unknown:?}"))?;
    let rules = read(&monitoring("ramd.rules.yml"))?;
    names_only("ramd.rules.yml", metrics_named_in(&rules, "ramd_"), &all)
}

/// Two of three nodes lose their power, the primary's with its ramd. The log goes on naming it, so
/// that only who takes writes tells; and the one that is left has all that it received.
fn a_primary_without_a_successor_is_missed(
    cluster: &mut Cluster,
    ramds: &mut [Ramd],
    becomes: &impl Fn(&str, f64) -> Result<()>,
) -> Result<()> {
    becomes("count(ALERTS{alertname=\"RamdNoPrimary\"}) or vector(0)", 0.0)?;
    let primary = cluster.settled_primary(SOON)?;
    // A standby first: without it the other one finds no majority.
    cluster.node_mut(if primary == 3 { 2 } else { 3 }).kill_all();
    cluster.kill_node(&mut ramds[primary as usize - 1]);
    becomes("count(ALERTS{alertname=\"RamdNoPrimary\"})", 1.0)?;
    becomes("count(ALERTS{alertname=\"RamdDown\"})", 1.0)?;
    becomes("max(ramd_cluster_primary_node)", f64::from(primary))?;
    becomes("count(ALERTS{alertname=\"RamdStandbyCutOff\"})", 1.0)?;
    becomes("count(ramd_replication_lag_seconds > 0)", 1.0)
}
