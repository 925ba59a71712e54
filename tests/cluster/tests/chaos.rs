//! A few rounds of `make chaos`, always the same: what kills, freezes and cuts off a primary, and
//! what must not move it.

use std::time::Duration;

use pgraft_cluster::chaos::{Chaos, Fault, Mode, Round, Target};
use pgraft_cluster::{Failure, Result};

const SEED: u64 = 1;
/// Outlasts the lease and an election.
const LONG: Duration = Duration::from_millis(4500);
/// Outlasts all that for a primary that is still heard, though it hears nothing.
const LONGER: Duration = Duration::from_secs(8);
/// Over before anybody misses anything.
const SHORT: Duration = Duration::from_millis(300);

/// Faults that replace the primary, and faults that must not.
const ROUNDS: [(Fault, Target, Duration, bool); 10] = [
    (Fault::KillAll, Target::Primary, SHORT, true),
    (Fault::StopAll, Target::Primary, SHORT, false),
    (Fault::StopAll, Target::Primary, LONG, true),
    (Fault::Isolate, Target::Primary, LONG, true),
    (Fault::CutFromOne, Target::Primary, LONG, false),
    (Fault::CutOut, Target::Primary, LONG, true),
    (Fault::CutIn, Target::Primary, LONGER, true),
    (Fault::KillPostmaster, Target::Standby(0), SHORT, false),
    (Fault::StopFast, Target::Primary, LONG, true),
    (Fault::Transfer, Target::Primary, LONG, true),
];

/// Those, and two at once: backends stop wherever they are, and then nobody hears of their node.
fn rounds() -> Vec<(Round, bool)> {
    let single = |(fault, target, hold, moves)| (Round::of(fault, target, hold), moves);
    let mut rounds: Vec<(Round, bool)> = ROUNDS.into_iter().map(single).collect();
    let mut two = Round::of(Fault::StopBackends, Target::Primary, LONG);
    two.strikes.extend(Round::of(Fault::Isolate, Target::Primary, LONG).strikes);
    rounds.push((two, true));
    rounds
}

fn play(name: &str, mode: Mode) {
    let all = || -> Result<()> {
        let mut chaos = Chaos::begin(name, 3, mode, SEED)?;
        for (round, moves) in rounds() {
            let outcome = chaos
                .play(&round)
                .map_err(|failure| Failure::new(format!("{round}: {failure}")))?;
            println!("{round}\n      {outcome}");
            let moved = outcome.before != outcome.after;
            chaos.expect(moved == moves, &format!("{round}: {outcome}"))?;
        }
        chaos.end().map(drop)
    };
    if let Err(failure) = all() {
        panic!("{failure}");
    }
}

#[test]
fn asynchronous_replication_loses_no_more_than_its_window() {
    play("chaos-async", Mode::Async);
}

#[test]
fn a_quorum_loses_nothing() {
    play("chaos-quorum", Mode::Quorum);
}
