//! Plays seeds: `make simulate`. What it takes comes from the environment:
//!
//! - `SEEDS=a..b` or `SEEDS=n` for `0..n`; `PGRAFT_SEEDS` is the same;
//! - `MINUTES=m`: as many seeds as fit that time, from `a` on;
//! - `NODES=n`: first members of each cluster (5);
//! - `THREADS=t` (one a core);
//! - `SEED=s TRACE=1`: one seed, and everything that happens in it, a line each.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgraft_simulation::{Failure, Stats, print_logs, run, run_caught};

/// What is asked for.
struct Order {
    from: u64,
    to: u64,
    until: Option<Instant>,
    nodes: u32,
    threads: usize,
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not \"{text}\"")))
}

fn order() -> Order {
    let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
    let seeds = text("SEEDS").or_else(|| text("PGRAFT_SEEDS"));
    let parse = |text: &str| {
        text.parse().unwrap_or_else(|_| panic!("SEEDS must be n or a..b, not \"{text}\""))
    };
    let (from, to) = match seeds.as_deref().map(|seeds| seeds.split_once("..")) {
        Some(Some((from, to))) => (parse(from), Some(parse(to))),
        Some(None) => (0, seeds.as_deref().map(parse)),
        None => (0, None),
    };
    let minutes = number("MINUTES");
    let to = to.unwrap_or(if minutes.is_some() { u64::MAX } else { 2000 });
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    Order {
        from,
        to,
        until: minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes)),
        nodes: number("NODES").unwrap_or(5) as u32,
        threads: number("THREADS").map_or(cores, |threads| threads as usize),
    }
}

fn main() -> ExitCode {
    let order = order();
    if let Some(seed) = number("SEED") {
        let aloud = std::env::var("TRACE").is_ok_and(|trace| trace == "1");
        if aloud {
            print_logs();
        }
        let outcome = run(seed, order.nodes, aloud);
        println!("seed {seed} is sound, trace {:016x}", outcome.hash);
        println!("{:#?}", outcome.stats);
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let (stats, failures) = play(&order);
    summary(&order, &stats, began.elapsed());
    for Failure { seed, what } in &failures {
        println!("\nseed {seed} fails: {what}");
        println!("to see it: make simulate SEED={seed} NODES={} TRACE=1", order.nodes);
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All seeds, until ten have failed.
fn play(order: &Order) -> (Stats, Vec<Failure>) {
    let next = AtomicU64::new(order.from);
    let enough = AtomicBool::new(false);
    let results = Mutex::new((Stats::default(), Vec::new()));
    let work = || {
        while !enough.load(Ordering::Relaxed)
            && order.until.is_none_or(|until| Instant::now() < until)
        {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= order.to {
                return;
            }
            let result = run_caught(seed, order.nodes, false);
            let mut results = results.lock().expect("no panic gets here");
            match result {
                Ok(outcome) => results.0.add(&outcome.stats),
                Err(failure) => results.1.push(failure),
            }
            if results.1.len() >= 10 {
                enough.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for number in 0..order.threads.max(1) {
            let thread = std::thread::Builder::new().name(format!("seeds {number}"));
            thread.spawn_scoped(scope, work).expect("a thread");
        }
    });
    results.into_inner().expect("no panic gets here")
}

fn summary(order: &Order, stats: &Stats, took: Duration) {
    let seconds = took.as_secs_f64();
    let a_second = |count: u64| (count as f64 / seconds) as u64;
    let packet_faults = stats.packets_delayed
        + stats.packets_lost
        + stats.packets_doubled
        + stats.packets_reordered
        + stats.packets_dropped;
    println!(
        "{} seeds of {} nodes in {seconds:.1} s on {} threads: {} steps ({} a second), \
         {} faults ({} a second) and {packet_faults} of packets, {} checks, \
         {:.1} hours of the clusters' time",
        stats.seeds,
        order.nodes,
        order.threads,
        stats.steps,
        a_second(stats.steps),
        stats.faults,
        a_second(stats.faults),
        stats.checks,
        stats.world_ns as f64 / 3.6e12,
    );
    println!("{stats:#?}");
}
