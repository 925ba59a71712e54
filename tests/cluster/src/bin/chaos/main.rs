//! `make chaos`: faults from a seed, for some minutes, on a cluster to which clients write.
//!
//! Prints a line for each round. Ends at the first thing that must not happen, with the servers'
//! logs kept; a seed repeats the faults.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use pgraft_cluster::chaos::{Chaos, Mode};
use pgraft_cluster::random::seed;
use pgraft_cluster::{Failure, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("chaos: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// What the environment, and so `make`, says; empty is as if it were not there.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number<T: std::str::FromStr>(name: &str, default: T) -> Result<T> {
    let Some(text) = variable(name) else { return Ok(default) };
    text.parse().map_err(|_| Failure::new(format!("{name} must be a number, not \"{text}\"")))
}

fn run() -> Result<()> {
    let minutes: f64 = number("MINUTES", 5.0)?;
    let nodes: u32 = number("NODES", 3)?;
    if !(2..=8).contains(&nodes) {
        return Err(Failure::new("NODES must be 2 to 8"));
    }
    let rounds: u32 = number("ROUNDS", u32::MAX)?;
    let mode = match variable("MODE").as_deref() {
        None | Some("async") => Mode::Async,
        Some("quorum") => Mode::Quorum,
        Some(other) => {
            return Err(Failure::new(format!("MODE is async or quorum, not \"{other}\"")));
        }
    };
    let seed = match variable("SEED") {
        Some(_) => number("SEED", 0)?,
        None => seed(),
    };
    println!("chaos: {nodes} nodes, {mode:?}, {minutes} minutes, SEED={seed}");
    let until = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    let mut chaos = Chaos::begin("chaos", nodes, mode, seed)?;
    let (mut played, mut moves, mut lost, mut longest_ms) = (0, 0, 0, 0.0_f64);
    while Instant::now() < until && played < rounds {
        played += 1;
        let round = chaos.draw();
        println!("{played:4}  {round}");
        let outcome = chaos.play(&round).map_err(|failure| {
            let nodes = format!("MODE={mode:?} NODES={nodes}").to_lowercase();
            Failure::new(format!("round {played}: {failure}\n(SEED={seed}, {nodes})"))
        })?;
        println!("      {outcome}");
        moves += u32::from(outcome.before != outcome.after);
        lost += outcome.verdict.lost.len();
        longest_ms = longest_ms.max(outcome.gap_ms);
    }
    let verdict = chaos.end()?;
    lost += verdict.lost.len();
    println!(
        "chaos: {played} rounds, the primary moved {moves} times; {} commits acknowledged, {lost} \
         lost, {} double; longest time without a commit {longest_ms:.0} ms; SEED={seed}",
        verdict.acked,
        verdict.double.len(),
    );
    Ok(())
}
