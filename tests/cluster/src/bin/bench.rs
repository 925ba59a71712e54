//! `make bench`: the figures of docs/performance.md, measured on real servers, as one table.
//!
//! Each compares two things in alternation, or counts what the kernel counts, so that a machine
//! that is slow today makes both sides slow. An argument picks the figures whose name begins so.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pgraft_cluster::{
    Account, Cluster, Failure, Install, Node, Options, Process, Result, Session, wait_for,
};

const KILLS: usize = 20;
const IDLE: Duration = Duration::from_secs(30);
const ROUNDS: usize = 5;
const READ_SECONDS: u32 = 4;
const TPC_B_SECONDS: u32 = 10;
const PROPOSALS: usize = 200;
/// Clock ticks in a second, as /proc counts CPU time: 100 on every Linux that Postgres runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A line of the table.
struct Figure {
    what: &'static str,
    measured: String,
    aim: &'static str,
    met: Option<bool>,
}

type Benchmark = fn() -> Result<Vec<Figure>>;

fn main() -> ExitCode {
    let only = std::env::args().nth(1).unwrap_or_default();
    let all: [(&str, Benchmark); 5] = [
        ("failover", failover),
        ("reads", reads),
        ("tpcb", tpc_b),
        ("idle", idle),
        ("proposals", proposals),
    ];
    let mut figures = Vec::new();
    for (name, benchmark) in all.iter().filter(|(name, _)| name.starts_with(&only)) {
        eprintln!("measuring: {name} ...");
        match benchmark() {
            Ok(more) => figures.extend(more),
            Err(failure) => {
                eprintln!("bench: {name}: {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    print_table(&figures);
    ExitCode::SUCCESS
}

fn print_table(figures: &[Figure]) {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let version = Account::choose().and_then(|account| Install::find(&account));
    let version = version.map_or_else(|_| "Postgres".to_owned(), |install| install.version);
    println!("Measured on {cores} cores, {version}, all three servers on this machine.\n");
    println!("| figure | measured | aim | met |\n|---|---|---|---|");
    for figure in figures {
        let met = figure.met.map_or("-", |met| if met { "yes" } else { "no" });
        println!("| {} | {} | {} | {met} |", figure.what, figure.measured, figure.aim);
    }
}

/// The value below which that part of the sorted values lies.
fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

fn median(values: &mut [f64]) -> f64 {
    percentile(values, 0.5)
}

/// From SIGKILL of the leader's postmaster until another node says who leads now, and until that
/// one holds the lease: it waits for what can be left of the old leader's.
fn failover() -> Result<Vec<Figure>> {
    let mut cluster = Cluster::form("bench-failover", Options::default())?;
    let (mut elected_ms, mut leased_ms) = (Vec::new(), Vec::new());
    for kill in 1..=KILLS {
        let (leader, _) = cluster.leader()?;
        let mut others = Vec::new();
        for node in cluster.nodes().iter().filter(|node| node.id() != leader) {
            others.push(node.session()?);
        }
        let began = Instant::now();
        cluster.node_mut(leader).kill();
        elected_ms.push(milliseconds_until(began, || new_leader(&mut others, leader))?);
        leased_ms.push(milliseconds_until(began, || any_leads(&mut others))?);
        eprintln!(
            "  kill {kill} of {KILLS}: elected {:.0} ms, leased {:.0} ms",
            elected_ms[kill - 1],
            leased_ms[kill - 1],
        );
        drop(others);
        cluster.node_mut(leader).start()?;
    }
    let (p50, p99) = (percentile(&mut elected_ms, 0.5), percentile(&mut elected_ms, 0.99));
    let leased = (percentile(&mut leased_ms, 0.5), percentile(&mut leased_ms, 0.99));
    Ok(vec![
        Figure {
            what: "a new leader is elected after SIGKILL of the leader's postmaster, 20 kills",
            measured: format!("p50 {p50:.0} ms, p99 {p99:.0} ms"),
            aim: "p50 < 150 ms, p99 < 2 s",
            met: Some(p50 < 150.0 && p99 < 2000.0),
        },
        Figure {
            what: "until pgraft_is_leader() is true there: the old lease has ended",
            measured: format!("p50 {:.0} ms, p99 {:.0} ms", leased.0, leased.1),
            aim: "reported",
            met: None,
        },
    ])
}

/// Asks each millisecond; how long after `began` the answer was yes.
fn milliseconds_until(began: Instant, mut ask: impl FnMut() -> Result<bool>) -> Result<f64> {
    while !ask()? {
        if began.elapsed() > Duration::from_secs(30) {
            return Err(Failure::new("no new leader in 30 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Whether one of them has heard of a leader that is not the old one.
fn new_leader(sessions: &mut [Session], old: u32) -> Result<bool> {
    for session in sessions {
        let leader = session.value("SELECT pgraft_get_leader()")?.unwrap_or_default();
        if leader != "0" && leader != old.to_string() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn any_leads(sessions: &mut [Session]) -> Result<bool> {
    for session in sessions {
        if session.is_true("SELECT pgraft_is_leader()")? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Transactions a second that pgbench reaches with these arguments.
fn pgbench(node: &Node, install: &Install, arguments: &[&str]) -> Result<f64> {
    let port = node.place.pg_port.to_string();
    let server = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    let arguments = [&server, arguments, &["postgres"]].concat();
    let said = Account::choose()?.run(install.program("pgbench"), &arguments)?;
    let tps = said.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    tps.and_then(|tps| tps.parse().ok())
        .ok_or_else(|| Failure::new(format!("pgbench printed no tps: {said}")))
}

/// `pgraft_is_leader()` against `pg_is_in_recovery()`.
fn reads() -> Result<Vec<Figure>> {
    let cluster = Cluster::form("bench-reads", Options::default())?;
    let account = Account::choose()?;
    let script = |name: &str, sql: &str| {
        let file = cluster.folder().join(name);
        account.write_file(&file, sql)?;
        Ok::<_, Failure>(file.display().to_string())
    };
    let ours = script("ours.sql", "SELECT pgraft_is_leader();\n")?;
    let theirs = script("theirs.sql", "SELECT pg_is_in_recovery();\n")?;
    let seconds = READ_SECONDS.to_string();
    let node = cluster.leader_node()?;
    let run = |file: &str| {
        let arguments = ["-n", "-M", "prepared", "-c", "1", "-T", &seconds, "-f", file];
        pgbench(node, cluster.install(), &arguments)
    };
    let (mut our_tps, mut their_tps) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_tps.push(run(&ours)?);
        their_tps.push(run(&theirs)?);
    }
    let (ours, theirs) = (median(&mut our_tps), median(&mut their_tps));
    Ok(vec![Figure {
        what: "SELECT pgraft_is_leader() against SELECT pg_is_in_recovery(), pgbench prepared",
        measured: format!("{:.3} ({ours:.0} against {theirs:.0} tps)", ours / theirs),
        aim: "at least 0.95",
        met: Some(ours / theirs >= 0.95),
    }])
}

/// TPC-B with pgraft running against a server without it, both with two servers beside them.
fn tpc_b() -> Result<Vec<Figure>> {
    // As in life; the harness turns it off for tests.
    let postgresql = "fsync = on\n".to_owned();
    let options = Options { standbys: false, postgresql, ..Options::default() };
    let with = Cluster::form("bench-with", options.clone())?;
    let plain = Options { preload: false, ..options };
    let without = Cluster::start("bench-without", plain)?;
    let seconds = TPC_B_SECONDS.to_string();
    let mut leader = with.node(with.leader()?.0).session()?;
    for cluster in [&with, &without] {
        pgbench_init(cluster)?;
    }
    let run = |cluster: &Cluster, id: u32| {
        pgbench(cluster.node(id), cluster.install(), &["-n", "-c", "2", "-T", &seconds])
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(run(&with, 1)?);
        theirs.push(run(&without, 1)?);
    }
    if !leader.is_true("SELECT pgraft_is_leader()")? {
        eprintln!("  note: the leader changed during the measurement");
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    Ok(vec![Figure {
        what: "pgbench TPC-B with pgraft running against not loaded",
        measured: format!("{:.3} ({ours:.0} against {theirs:.0} tps)", ours / theirs),
        aim: "at least 0.98",
        met: Some(ours / theirs >= 0.98),
    }])
}

fn pgbench_init(cluster: &Cluster) -> Result<()> {
    let port = cluster.node(1).place.pg_port.to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-i", "-q", "-s", "5"];
    let program = cluster.install().program("pgbench");
    Account::choose()?.run(program, &[&arguments[..], &["postgres"]].concat()).map(|_| ())
}

/// What the worker of an idle cluster's leader takes: the busiest of the three.
fn idle() -> Result<Vec<Figure>> {
    let cluster = Cluster::form("bench-idle", Options::default())?;
    let node = cluster.leader_node()?;
    let worker = node.worker().ok_or_else(|| Failure::new("no worker process found"))?;
    // What forming cost is not counted.
    std::thread::sleep(Duration::from_secs(2));
    let mut session = node.session()?;
    let (cpu, bytes) = (cpu_seconds(worker)?, bytes_on_the_wire(&mut session)?);
    let began = Instant::now();
    std::thread::sleep(IDLE);
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (cpu_seconds(worker)? - cpu) / seconds * 100.0;
    let kbit = (bytes_on_the_wire(&mut session)? - bytes) * 8.0 / 1000.0 / seconds;
    let megabytes = private_kilobytes(worker)? / 1024.0;
    let figure = |what, measured, aim, met| Figure { what, measured, aim, met: Some(met) };
    Ok(vec![
        figure(
            "worker of the leader, idle for 30 s: CPU",
            format!("{cpu:.2} % of a core"),
            "under 0.4 %",
            cpu < 0.4,
        ),
        figure(
            "worker of the leader, idle: private memory",
            format!("{megabytes:.1} MB"),
            "under 4 MB",
            megabytes < 4.0,
        ),
        figure(
            "network of the leader, idle, both directions",
            format!("{kbit:.1} kbit/s"),
            "under 100 kbit/s",
            kbit < 100.0,
        ),
    ])
}

/// CPU time of a process with all its threads so far.
fn cpu_seconds(process: Process) -> Result<f64> {
    let stat = read(&format!("/proc/{}/stat", process.pid))?;
    let after_name = stat.rfind(')').map_or("", |at| &stat[at + 1..]);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS_PER_SECOND)
}

/// Memory that is the process' own and that it would free by ending.
fn private_kilobytes(process: Process) -> Result<f64> {
    let rollup = read(&format!("/proc/{}/smaps_rollup", process.pid))?;
    let lines = rollup.lines().filter(|line| line.starts_with("Private_"));
    Ok(lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).sum())
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(file).map_err(Failure::while_doing(format!("read \"{file}\"")))
}

fn bytes_on_the_wire(session: &mut Session) -> Result<f64> {
    let sum = "SELECT sum(value) FROM pgraft_get_metrics() \
               WHERE metric = 'pgraft_peer_bytes_total'";
    let value = session.value(sum)?.unwrap_or_default();
    value.parse().map_err(Failure::while_doing("read pgraft_peer_bytes_total"))
}

/// A membership change at a time, against one fdatasync of 256 bytes on the same disk.
fn proposals() -> Result<Vec<Figure>> {
    // With fsync as it is in life: the Raft log always has it, the setting is for Postgres' own.
    let cluster = Cluster::form("bench-proposals", Options::default())?;
    wait_for("the members are voters", Duration::from_secs(20), || {
        let sql = "SELECT count(*) FROM pgraft_get_nodes() WHERE voter";
        Ok((cluster.leader_node()?.session()?.value(sql)?.as_deref() == Some("3")).then_some(()))
    })?;
    let mut session = cluster.leader_node()?.session()?;
    let (mut committed_ms, mut synced_ms) = (Vec::new(), Vec::new());
    let disk = SyncedFile::open(cluster.folder())?;
    for i in 0..PROPOSALS / 2 {
        // A learner that nobody ever reaches: it takes part in no majority.
        for sql in ["SELECT pgraft_add_node('127.0.0.1:1', 99)", "SELECT pgraft_remove_node(99)"] {
            let began = Instant::now();
            session.run(sql)?;
            committed_ms.push(began.elapsed().as_secs_f64() * 1000.0);
            synced_ms.push(disk.append(i)?);
        }
    }
    let (committed, synced) = (median(&mut committed_ms), median(&mut synced_ms));
    Ok(vec![Figure {
        what: "a committed membership change, one at a time, in fdatasyncs of 256 bytes",
        measured: format!("{:.1} ({committed:.2} ms against {synced:.2} ms)", committed / synced),
        aim: "reported",
        met: None,
    }])
}

/// A file that is appended to and made durable, as a log is.
struct SyncedFile(fs::File);

impl SyncedFile {
    fn open(folder: &Path) -> Result<SyncedFile> {
        let file = folder.join("fdatasync");
        let mut file = fs::File::create(&file)
            .map_err(Failure::while_doing(format!("make \"{}\"", file.display())))?;
        file.write_all(&[0]).map_err(Failure::while_doing("write to the measured file"))?;
        Ok(SyncedFile(file))
    }

    /// Milliseconds for a write of 256 bytes and its fdatasync.
    fn append(&self, at: usize) -> Result<f64> {
        let began = Instant::now();
        self.0
            .write_all_at(&[7; 256], at as u64 * 256)
            .and_then(|()| self.0.sync_data())
            .map_err(Failure::while_doing("write to the measured file"))?;
        Ok(began.elapsed().as_secs_f64() * 1000.0)
    }
}
