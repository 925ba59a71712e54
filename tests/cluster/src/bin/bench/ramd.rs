//! What ramd takes, how fast it answers, and how long a cluster is without all of its servers.

use std::fs;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use pgraft_cluster::http;
use pgraft_cluster::{Cluster, Failure, Node, Options, Ramd, Result};

use crate::idle::threads_ns;
use crate::report::Row;
use crate::samples::Samples;

const READY_AT_MOST: Duration = Duration::from_secs(90);
/// Requests a second, by so many clients, each with a new connection for each.
const RATE: u32 = 1000;
const CLIENTS: u32 = 8;
const ASKED_FOR: Duration = Duration::from_secs(10);
const IDLE_FOR: Duration = Duration::from_secs(20);
const KILLS: usize = 10;

pub fn measure() -> Result<Vec<Row>> {
    let options = Options { failover: true, ..Options::default() };
    Cluster::form("bench-ramd", options)?.run(|cluster| {
        let primary = cluster.next_primary(None, READY_AT_MOST)?;
        cluster.await_streaming(primary, READY_AT_MOST)?;
        let mut ramds = cluster.start_ramds("")?;
        sleep(Duration::from_secs(3));
        let mut rows = idle(&ramds[0])?;
        rows.push(asked(cluster.node(primary))?);
        rows.extend(redundancy(cluster, &mut ramds)?);
        for ramd in &mut ramds {
            ramd.terminate()?;
        }
        Ok(rows)
    })
}

fn idle(ramd: &Ramd) -> Result<Vec<Row>> {
    let on_core_ns = || Ok::<u64, Failure>(threads_ns(ramd.pid())?.values().sum());
    let before_ns = on_core_ns()?;
    sleep(IDLE_FOR);
    let share = (on_core_ns()? - before_ns) as f64 / IDLE_FOR.as_nanos() as f64 * 100.0;
    let file = format!("/proc/{}/status", ramd.pid());
    let status = fs::read_to_string(&file).map_err(Failure::while_doing(format!("read {file}")))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN);
    let memory = format!("{:.1} MB", kilobytes / 1024.0);
    Ok(vec![
        Row::aimed("ramd: resident memory", memory, "< 10 MB", kilobytes < 10240.0),
        Row::plain(
            "ramd, asking its server five times a second (the default is once): of a core",
            format!("{share:.2} %"),
        ),
    ])
}

/// `/primary` of the primary's ramd.
fn asked(node: &Node) -> Result<Row> {
    let address = format!("127.0.0.1:{}", node.api_port());
    let pause = Duration::from_secs(1) * CLIENTS / RATE;
    let client = |number: u32| -> Result<Vec<f64>> {
        let began = Instant::now() + pause * number / CLIENTS;
        let mut times = Vec::new();
        for turn in 0..(ASKED_FOR.as_millis() / pause.as_millis()) as u32 {
            // By the clock and not by the answers: who is slow is asked all the same.
            let due = began + pause * turn;
            sleep(due.saturating_duration_since(Instant::now()));
            let answer = http::get(&address, "/primary")?;
            times.push(due.elapsed().as_secs_f64() * 1000.0);
            if answer.status != 200 {
                return Err(Failure::new(format!("{}: {}", answer.status, answer.body)));
            }
        }
        Ok(times)
    };
    let times = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.join().map_err(|_| Failure::new("a client panicked"))??);
        }
        Ok::<_, Failure>(all)
    })?;
    let times = Samples::new(times);
    let measured = format!(
        "p50 {:.2} ms, p99 {:.2} ms, most {:.1} ms",
        times.quantile(0.5),
        times.quantile(0.99),
        times.most()
    );
    let figure =
        format!("ramd: `/primary`, {RATE} a second, a connection each, from when it is due");
    Ok(Row::plain(figure, measured))
}

/// From SIGKILL of all of the primary's node to three servers of which two stream.
fn redundancy(cluster: &mut Cluster, ramds: &mut [Ramd]) -> Result<Vec<Row>> {
    let mut seconds = Vec::new();
    let mut old = cluster.next_primary(None, READY_AT_MOST)?;
    for number in 0..KILLS {
        let ramd = &mut ramds[old as usize - 1];
        let began = Instant::now();
        cluster.kill_node(ramd);
        let new = cluster.next_primary(Some(old), READY_AT_MOST)?;
        *ramd = cluster.node(old).start_ramd()?;
        cluster.await_streaming(new, READY_AT_MOST)?;
        seconds.push(began.elapsed().as_secs_f64());
        eprintln!("  kill {}: node {old} to {new}, {:.1} s", number + 1, seconds[number]);
        old = new;
        sleep(Duration::from_secs(2));
    }
    let times = Samples::new(seconds);
    let measured = format!("p50 {:.1} s, most {:.1} s", times.quantile(0.5), times.most());
    let figure = format!(
        "SIGKILL of the primary's whole node, {KILLS} times, its ramd started again at the first \
         write elsewhere: to three healthy nodes"
    );
    Ok(vec![Row::plain(figure, measured)])
}
