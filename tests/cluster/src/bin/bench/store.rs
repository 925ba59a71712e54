//! What a write to the key/value store costs: pgbench's clients put small values through one
//! server, a few of them at a time and many, with an fdatasync of 256 bytes on the same disk
//! between the runs to compare with.
//!
//! pgbench and not clients of our own: it takes the least of the two cores that everything here
//! shares, three servers and the clients.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use pgraft_cluster::{Account, Cluster, Failure, Node, Result, Session};

use crate::idle::threads_ns;
use crate::pgbench::Pgbench;
use crate::report::{Met, Row};
use crate::samples::Samples;
use crate::setup;

/// Rounds of all the runs, so that each meets the machine in several moods.
const ROUNDS: usize = 5;
const SECONDS: u32 = 3;
/// The first run finds everything cold.
const WARM_UP_SECONDS: u32 = 2;
const BYTES: [u8; 256] = [0x5A; 256];
const SYNCS: usize = 100;
const LEADER: u32 = 1;
const FOLLOWER: u32 = 2;
const FEW: u32 = 1;
const MANY: u32 = 64;
/// Clients, and the server they connect to.
const RUNS: [(u32, u32); 4] = [(FEW, LEADER), (16, LEADER), (MANY, LEADER), (16, FOLLOWER)];
/// 64 bytes of value, a thousand keys.
const SCRIPT: &str = "\\set key random(1, 1000)\n\
     SELECT pgraft_kv_put('bench/' || :key, \
     '0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef');\n";
const P50_AIM: f64 = 4.0;
const RATE_AIM: f64 = 8_000.0;
const GROUP_AIM: f64 = 10.0;

/// What one setting gave in all rounds.
#[derive(Default)]
struct Run {
    rates: Vec<f64>,
    /// Of each round's, in milliseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
    used: Used,
}

pub fn measure() -> Result<Vec<Row>> {
    setup::form("store", "")?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    setup::make_leader(cluster, LEADER)?;
    let account = Account::choose()?;
    let script = cluster.folder().join("put.sql");
    account.write_file(&script, SCRIPT)?;
    let times = cluster.folder().join("times");
    account.make_folder(&times)?;
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(cluster.folder().join("fdatasync"))
        .map_err(Failure::while_doing("make the file to sync"))?;
    let mut syncs = Vec::new();
    let mut runs: [Run; RUNS.len()] = Default::default();
    let prefix = times.join("t");
    Pgbench::on(cluster, cluster.node(LEADER))?.latencies(
        &script,
        MANY,
        WARM_UP_SECONDS,
        &prefix,
    )?;
    take_times(&times)?;
    for round in 1..=ROUNDS {
        for (run, (clients, server)) in runs.iter_mut().zip(RUNS) {
            time_syncs(&mut file, &mut syncs)?;
            let node = cluster.node(server);
            let before = Used::so_far(cluster)?;
            let pgbench = Pgbench::on(cluster, node)?;
            let rate = pgbench.latencies(&script, clients, SECONDS, &prefix)?;
            let times = Samples::new(take_times(&times)?);
            let used = Used::so_far(cluster)?.since(&before);
            let (p50, p99) = (times.quantile(0.5), times.quantile(0.99));
            eprintln!(
                "  round {round}, {clients} clients on node {server}: {rate:.0}/s, \
                 p50 {p50:.2} ms, p99 {p99:.2} ms; {}",
                used.describe(),
            );
            run.rates.push(rate);
            run.p50.push(p50);
            run.p99.push(p99);
            run.used.add(&used);
        }
        if cluster.leader()?.0 != LEADER {
            return Err(Failure::new("the leader changed while the store was measured"));
        }
    }
    Ok(rows(runs, Samples::new(syncs)))
}

fn rows(runs: [Run; RUNS.len()], syncs: Samples) -> Vec<Row> {
    let sync = syncs.quantile(0.5);
    let mut rows = vec![Row::plain(
        "An fdatasync after 256 bytes were appended, between the runs below: p50, p99",
        format!("{sync:.3} ms, {:.3} ms", syncs.quantile(0.99)),
    )];
    let (mut few, mut many) = (0.0, 0.0);
    for (run, (clients, server)) in runs.into_iter().zip(RUNS) {
        let Run { rates, p50, p99, used } = run;
        let (rates, p50, p99) = (Samples::new(rates), Samples::new(p50), Samples::new(p99));
        let rate = rates.median();
        let plural = if clients == 1 { "" } else { "s" };
        let at = if server == LEADER { "the leader" } else { "a follower" };
        let who = format!("{clients} client{plural} on {at}");
        let measured = format!("{rate:.0}/s ({:.0} to {:.0})", rates.least(), rates.most());
        let figure = format!("Store writes a second, {who}: median of {ROUNDS} runs");
        rows.push(match (clients, server) {
            (MANY, LEADER) => Row::aimed(figure, measured, ">= 8000/s", rate >= RATE_AIM),
            _ => Row::plain(figure, measured),
        });
        let times = |what: &Samples| {
            format!("{:.2} ms = {:.1} fdatasyncs", what.median(), what.median() / sync)
        };
        let measured = format!("{}, {}", times(&p50), times(&p99));
        let figure = "the same: p50, p99".to_owned();
        rows.push(match (clients, server) {
            (FEW, LEADER) => {
                let met = p50.median() <= P50_AIM * sync;
                Row::aimed(figure, measured, "p50 <= 4 fdatasyncs", met)
            }
            _ => Row::plain(figure, measured),
        });
        rows.push(Row::plain("the same: for each write", used.describe()));
        match (clients, server) {
            (FEW, LEADER) => few = rate,
            (MANY, LEADER) => many = rate,
            _ => {}
        }
    }
    let times = many / few;
    rows.push(Row {
        figure: format!("{MANY} clients' rate against one client's, on the leader"),
        measured: format!("{times:.1} times"),
        aim: ">= 10 times",
        met: Met::Is(times >= GROUP_AIM),
    });
    rows
}

/// Adds to `syncs` how long an appended fdatasync takes, in milliseconds.
fn time_syncs(file: &mut File, syncs: &mut Vec<f64>) -> Result<()> {
    for _ in 0..SYNCS {
        let began = Instant::now();
        file.write_all(&BYTES)
            .and_then(|()| file.sync_data())
            .map_err(Failure::while_doing("sync the file to compare with"))?;
        syncs.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// The milliseconds of every transaction in pgbench's logs, which are removed.
fn take_times(folder: &PathBuf) -> Result<Vec<f64>> {
    let doing = || Failure::while_doing(format!("read what pgbench wrote to {}", folder.display()));
    let mut times = Vec::new();
    for file in fs::read_dir(folder).map_err(doing())?.flatten() {
        let text = fs::read_to_string(file.path()).map_err(doing())?;
        // client, transaction, microseconds, ...
        let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
        times.extend(micros.map(|micros| micros / 1e3));
        fs::remove_file(file.path()).map_err(doing())?;
    }
    if times.is_empty() {
        return Err(Failure::new("pgbench wrote no times"));
    }
    Ok(times)
}

/// What the cluster has used so far, or between two moments.
#[derive(Default)]
struct Used {
    /// The leader's applied index: what was really written.
    entries: f64,
    /// Syncs of the leader's log.
    fsyncs: f64,
    /// Milliseconds on a core, each.
    main: f64,
    consensus: f64,
    net: f64,
    /// Of both followers' workers.
    followers: f64,
    /// Of the servers' other processes, as far as they have ended: the clients' backends.
    backends: f64,
}

impl Used {
    fn so_far(cluster: &Cluster) -> Result<Used> {
        let mut session = cluster.node(LEADER).session()?;
        let mut used = Used {
            entries: metric(&mut session, "pgraft_applied_index")?,
            fsyncs: metric(&mut session, "pgraft_fsync_duration_seconds_count")?,
            ..Used::default()
        };
        for node in cluster.nodes() {
            let worker = node.worker().ok_or_else(|| Failure::new("a node has no worker"))?;
            for ((_, name), ns) in threads_ns(worker.pid)? {
                let ms = ns as f64 / 1e6;
                match name.as_str() {
                    _ if node.id() != LEADER => used.followers += ms,
                    "pgraft raft" => used.consensus += ms,
                    name if name.starts_with("pgraft ") => used.net += ms,
                    _ => used.main += ms,
                }
            }
            used.backends += children_ms(node)?;
        }
        Ok(used)
    }

    fn since(&self, before: &Used) -> Used {
        Used {
            entries: self.entries - before.entries,
            fsyncs: self.fsyncs - before.fsyncs,
            main: self.main - before.main,
            consensus: self.consensus - before.consensus,
            net: self.net - before.net,
            followers: self.followers - before.followers,
            backends: self.backends - before.backends,
        }
    }

    fn add(&mut self, more: &Used) {
        self.entries += more.entries;
        self.fsyncs += more.fsyncs;
        self.main += more.main;
        self.consensus += more.consensus;
        self.net += more.net;
        self.followers += more.followers;
        self.backends += more.backends;
    }

    /// For each entry written.
    fn describe(&self) -> String {
        let micros = |ms: f64| ms * 1e3 / self.entries;
        format!(
            "{:.3} fsyncs on the leader; µs of a core: {:.0} backend, {:.0} worker's main, \
             {:.0} consensus, {:.0} network threads, {:.0} both followers' workers",
            self.fsyncs / self.entries,
            micros(self.backends),
            micros(self.main),
            micros(self.consensus),
            micros(self.net),
            micros(self.followers),
        )
    }
}

fn metric(session: &mut Session, name: &str) -> Result<f64> {
    let sql = format!("SELECT value FROM pgraft_get_metrics() WHERE metric = '{name}'");
    let value = session.value(&sql)?.and_then(|text| text.parse().ok());
    value.ok_or_else(|| Failure::new(format!("no metric {name}")))
}

/// Milliseconds on a core of the postmaster's children that have ended: fields 16 and 17 of its
/// stat, in hundredths of a second.
fn children_ms(node: &Node) -> Result<f64> {
    let postmaster = node.postmaster().ok_or_else(|| Failure::new("a server is down"))?;
    let file = format!("/proc/{}/stat", postmaster.pid);
    let text = fs::read_to_string(&file).map_err(Failure::while_doing(format!("read {file}")))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(13).take(2);
    Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() * 10.0)
}
