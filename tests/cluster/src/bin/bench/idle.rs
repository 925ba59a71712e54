//! What a quiet cluster costs: the worker's time on a core, its private memory, the network.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgraft_cluster::{Cluster, Failure, Node, Result};

use crate::report::Row;
use crate::setup;

/// Forming, replication's start and the sessions that saw to it are over by then.
const SETTLE: Duration = Duration::from_secs(8);
/// As `TICK` of the extension.
const TICK: Duration = Duration::from_millis(20);
const IDLE: Duration = Duration::from_secs(30);
/// Of /proc/PID/stat, on every Linux that Postgres runs on.
const TICKS_PER_SECOND: f64 = 100.0;
const CPU_AIM_PERCENT: f64 = 0.4;
const MEMORY_AIM_KB: u64 = 4 << 10;
const NETWORK_AIM_KBITS: f64 = 100.0;
/// The headers of TCP with timestamps, and IPv4, of a segment; the acks of the other direction
/// mostly travel with its data.
const HEADER_BYTES: f64 = 52.0;

/// What a worker has used so far.
struct Used {
    pid: u32,
    /// Nanoseconds on a core, by thread: its id and name.
    threads_ns: BTreeMap<(u32, String), u64>,
    /// Of the process, in ticks.
    ticks: u64,
    /// Bytes and messages exchanged, both directions of all peers.
    bytes: f64,
    messages: f64,
}

impl Used {
    fn by(node: &Node) -> Result<Used> {
        let worker = node.worker().ok_or_else(|| Failure::new("a node has no worker process"))?.pid;
        let mut session = node.session()?;
        let mut total = |metric: &str| -> Result<f64> {
            let sql =
                format!("SELECT sum(value) FROM pgraft_get_metrics() WHERE metric = '{metric}'");
            let value = session.value(&sql)?.and_then(|text| text.parse().ok());
            value.ok_or_else(|| Failure::new(format!("no metric {metric}")))
        };
        let bytes = total("pgraft_peer_bytes_total")?;
        let messages = total("pgraft_peer_messages_total")?;
        let ticks = process_ticks(worker)?;
        Ok(Used { pid: worker, threads_ns: threads_ns(worker)?, ticks, bytes, messages })
    }
}

/// What a worker used in the time between, per second.
struct Idle {
    id: u32,
    leads: bool,
    cpu_percent: f64,
    ticks_percent: f64,
    kbits: f64,
    messages: f64,
    memory: Memory,
}

pub fn measure() -> Result<Vec<Row>> {
    setup::form("idle", "")?.run(measure_on)
}

fn measure_on(cluster: &mut Cluster) -> Result<Vec<Row>> {
    setup::make_leader(cluster, 1)?;
    sleep(SETTLE);
    let before = cluster.nodes().iter().map(Used::by).collect::<Result<Vec<Used>>>()?;
    let began = Instant::now();
    let floor_percent = sleeper_percent(IDLE);
    let seconds = began.elapsed().as_secs_f64();
    let idle = cluster
        .nodes()
        .iter()
        .zip(&before)
        .map(|(node, before)| one_node(node, before, seconds))
        .collect::<Result<Vec<Idle>>>()?;
    if cluster.leader()?.0 != 1 {
        return Err(Failure::new("the leader changed in a cluster that should be idle"));
    }
    compare(cluster);
    let mut rows = rows(&idle);
    let floor = Row::plain(
        "for scale: a thread that only sleeps 20 ms at a time, in the same 30 s",
        format!("{floor_percent:.3} %"),
    );
    rows.insert(2, floor);
    Ok(rows)
}

/// Sleeps for that long, a tick of the worker's at a time, and does nothing else: the percent of a
/// core that the machine, not the program, takes for that.
fn sleeper_percent(time: Duration) -> f64 {
    let used_ns = || -> u64 {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
    };
    let (began, before) = (Instant::now(), used_ns());
    while began.elapsed() < time {
        sleep(TICK);
    }
    (used_ns() - before) as f64 / began.elapsed().as_secs_f64() / 1e7
}

fn one_node(node: &Node, before: &Used, seconds: f64) -> Result<Idle> {
    let after = Used::by(node)?;
    if after.pid != before.pid {
        return Err(Failure::new("a worker started again in a cluster that should be idle"));
    }
    let mut cpu_ns = 0;
    for (thread, ns) in &after.threads_ns {
        let ns = ns - before.threads_ns.get(thread).copied().unwrap_or(0);
        eprintln!(
            "  node {}, {}: {:.3} % of a core",
            node.id(),
            thread.1,
            ns as f64 / seconds / 1e7
        );
        cpu_ns += ns;
    }
    let memory = Memory::of(after.pid)?;
    for (part, kilobytes) in &memory.parts_kb {
        eprintln!("  node {}, private memory of {part}: {kilobytes} kB", node.id());
    }
    let ticks = (after.ticks - before.ticks) as f64;
    Ok(Idle {
        id: node.id(),
        leads: node.id() == 1,
        cpu_percent: cpu_ns as f64 / seconds / 1e7,
        ticks_percent: ticks / TICKS_PER_SECOND / seconds * 100.0,
        kbits: (after.bytes - before.bytes) * 8.0 / seconds / 1e3,
        messages: (after.messages - before.messages) / seconds,
        memory,
    })
}

fn rows(idle: &[Idle]) -> Vec<Row> {
    let each = |what: &dyn Fn(&Idle) -> String| {
        let one = |idle: &Idle| {
            let role = if idle.leads { ", the leader" } else { "" };
            format!("{} (node {}{role})", what(idle), idle.id)
        };
        idle.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let most = |what: &dyn Fn(&Idle) -> f64| idle.iter().map(what).fold(0.0, f64::max);
    let cpu = most(&|idle| idle.cpu_percent);
    let memory = idle.iter().map(|idle| idle.memory.private_kb).max().unwrap_or(0);
    let network = most(&|idle| idle.kbits);
    let with_headers = most(&|idle| idle.kbits + idle.messages * HEADER_BYTES * 8.0 / 1e3);
    vec![
        Row::aimed(
            "Idle worker, 30 s: CPU of a core by its threads' schedstat",
            each(&|idle| format!("{:.3} %", idle.cpu_percent)),
            "< 0.4 %",
            cpu < CPU_AIM_PERCENT,
        ),
        Row::plain(
            "the same by /proc/PID/stat, in steps of 0.03 %",
            each(&|idle| format!("{:.2} %", idle.ticks_percent)),
        ),
        Row::aimed(
            "Idle worker: private memory (smaps_rollup)",
            each(&|idle| format!("{} kB", idle.memory.private_kb)),
            "< 4 MB",
            memory < MEMORY_AIM_KB,
        ),
        Row::plain(
            "of it pages of the library, pgraft.so",
            each(&|idle| format!("{} kB", idle.memory.library_kb)),
        ),
        Row::plain(
            "the same and the library's pages that are shared with the other servers here",
            each(&|idle| format!("{} kB", idle.memory.alone_kb)),
        ),
        Row::aimed(
            "Idle cluster: network of a node, both directions, as pgraft counts its bytes",
            each(&|idle| format!("{:.1} kbit/s", idle.kbits)),
            "< 100 kbit/s",
            network < NETWORK_AIM_KBITS,
        ),
        Row::aimed(
            "the same with 52 bytes of TCP and IPv4 headers a message: the busiest node",
            format!("{with_headers:.1} kbit/s"),
            "< 100 kbit/s",
            with_headers < NETWORK_AIM_KBITS,
        ),
    ]
}

/// A process of Postgres' own for scale: the same server's checkpointer and launcher.
fn compare(cluster: &Cluster) {
    for process in cluster.node(1).processes() {
        let title = process.title();
        let known = ["checkpointer", "logical replication launcher", "walwriter"];
        if known.iter().any(|name| title.contains(name))
            && let Ok(memory) = Memory::of(process.pid)
        {
            eprintln!("  for scale: {title}: {} kB private", memory.private_kb);
        }
    }
}

/// What of a process' memory is its own.
struct Memory {
    /// Private_Clean and Private_Dirty together.
    private_kb: u64,
    /// Of that, pages of pgraft.so, its data among them.
    library_kb: u64,
    /// The private memory plus those pages of the library's text that are shared with the workers
    /// of the other servers on this machine, or with the backends of this one: on a machine with
    /// one server the worker has at most this for itself.
    alone_kb: u64,
    /// The private memory by what is mapped there.
    parts_kb: BTreeMap<String, u64>,
}

impl Memory {
    fn of(pid: u32) -> Result<Memory> {
        let read = |file: &str| {
            let file = format!("/proc/{pid}/{file}");
            fs::read_to_string(&file).map_err(Failure::while_doing(format!("read {file}")))
        };
        let private_kb = read("smaps_rollup")?.lines().filter_map(private).sum();
        let (mut library_kb, mut shared_library_kb) = (0, 0);
        let mut parts_kb: BTreeMap<String, u64> = BTreeMap::new();
        let mut part = String::new();
        for line in read("smaps")?.lines() {
            if let Some(mapped) = mapping(line) {
                part = mapped;
            } else if let Some(kilobytes) = private(line) {
                *parts_kb.entry(part.clone()).or_default() += kilobytes;
                library_kb += if part.starts_with("pgraft.so") { kilobytes } else { 0 };
            } else if part.starts_with("pgraft.so")
                && let Some(kilobytes) = field(line, "Shared_Clean:")
            {
                shared_library_kb += kilobytes;
            }
        }
        parts_kb.retain(|_, kilobytes| *kilobytes > 0);
        Ok(Memory { private_kb, library_kb, alone_kb: private_kb + shared_library_kb, parts_kb })
    }
}

fn field(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok()
}

fn private(line: &str) -> Option<u64> {
    field(line, "Private_Clean:").or_else(|| field(line, "Private_Dirty:"))
}

/// From the line that begins a mapping, `7f..-7f.. r-xp 0001 fe:00 123   /a/b.so`: `b.so r-xp`.
fn mapping(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let is_mapping = range.contains('-') && !range.ends_with(':');
    let path = words.nth(3).unwrap_or("anonymous");
    let name = path.rsplit('/').next().unwrap_or(path);
    is_mapping.then(|| format!("{name} {rights}"))
}

/// utime and stime of /proc/PID/stat, fields 14 and 15.
fn process_ticks(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&file).map_err(Failure::while_doing(format!("read {file}")))?;
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(11).take(2);
    Ok(fields.filter_map(|field| field.parse::<u64>().ok()).sum())
}

/// The first number of each thread's schedstat: nanoseconds on a core.
pub fn threads_ns(pid: u32) -> Result<BTreeMap<(u32, String), u64>> {
    let folder = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(&folder).map_err(Failure::while_doing(format!("list {folder}")))?;
    let thread = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        Some(((id, name), schedstat.split_whitespace().next()?.parse().ok()?))
    };
    Ok(tasks.flatten().filter_map(thread).collect())
}
