//! Proof that the simulator can fail: plays seeds with each deliberate bug in turn until one of
//! them is caught, and prints the table of docs/testing.md. `make simulate-bugs`;
//! `BUGS="a b"` for some of them, `SEEDS=n` for how many seeds a bug has, `THREADS=t` (one a core).

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use pgraft::bugs::{self, Bug};
use pgraft_simulation::run_caught;

/// First members of each cluster.
const NODES: u32 = 5;

fn main() -> ExitCode {
    let text = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
    let seeds: u64 = text("SEEDS").map_or(2000, |seeds| seeds.parse().expect("SEEDS is a number"));
    let wanted = text("BUGS");
    let chosen: Vec<Bug> = Bug::ALL
        .iter()
        .copied()
        .filter(|bug| {
            let name = format!("{bug:?}");
            wanted.as_ref().is_none_or(|names| names.split([',', ' ']).any(|wanted| wanted == name))
        })
        .collect();
    println!("| bug | seeds it took | caught by |");
    println!("|---|---:|---|");
    let (next, missed) = (AtomicUsize::new(0), AtomicU64::new(0));
    let print = Mutex::new(());
    let work = || {
        while let Some(&bug) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
            bugs::choose(Some(bug));
            let caught = (0..seeds).find_map(|seed| run_caught(seed, NODES, false).err());
            let _held = print.lock();
            match caught {
                Some(failure) => {
                    let took = failure.seed + 1;
                    println!("| {} (`{bug:?}`) | {took} | {} |", bug.what(), failure.check());
                }
                None => {
                    missed.fetch_add(1, Ordering::Relaxed);
                    println!("| {} (`{bug:?}`) | more than {seeds} | **missed** |", bug.what());
                }
            }
        }
    };
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads =
        text("THREADS").map_or_else(cores, |threads| threads.parse().expect("THREADS is a number"));
    std::thread::scope(|scope| {
        for number in 0..threads.max(1) {
            let thread = std::thread::Builder::new().name(format!("seeds {number}"));
            thread.spawn_scoped(scope, work).expect("a thread");
        }
    });
    if missed.into_inner() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
