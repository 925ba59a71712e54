//! A disk of the primary is full, or answers no more, while clients write: its WAL's, or that of
//! its Raft directory. Whoever is primary then, nothing is lost and all is well once the disk is.

use std::time::Duration;

use pgraft_cluster::chaos::{Chaos, Fault, Mode, Outcome, Round, Target};
use pgraft_cluster::{Failure, Result};

/// Longer than the lease and an election.
const LONG: Duration = Duration::from_secs(4);
/// Longer than `failover_grace_ms`, too.
const LONGER: Duration = Duration::from_secs(8);

/// Plays a round. What it is about has struck if `struck` says so.
fn play(
    chaos: &mut Chaos,
    fault: Fault,
    hold: Duration,
    struck: impl Fn(&Chaos, &Outcome) -> bool,
) -> Result<()> {
    let round = Round::of(fault, Target::Primary, hold);
    let played = chaos.play(&round);
    let outcome = played.map_err(|failure| Failure::new(format!("{round}: {failure}")))?;
    println!("{round}\n      {outcome}");
    let holds = struck(chaos, &outcome);
    chaos.expect(holds, &format!("{round}: {outcome}"))
}

#[test]
fn a_primary_whose_disks_are_full_or_hang_loses_nothing() {
    let all = || -> Result<()> {
        let mut chaos = Chaos::begin("wal-disk", 3, Mode::Quorum, 1)?;
        play(&mut chaos, Fault::WalFull, LONG, |chaos, outcome| {
            let log = chaos.cluster().node(outcome.before).log();
            log.contains("PANIC") && log.contains("No space left on device")
        })?;
        // Its worker is well, and holds the lease: commits wait for the disk.
        play(&mut chaos, Fault::WalHangs, LONG, |_, outcome| {
            let waited = outcome.gap_ms >= LONG.as_secs_f64() * 900.0;
            waited && outcome.before == outcome.after
        })?;
        // Its worker is not, and its Postgres answers: it is given some time to come back.
        play(&mut chaos, Fault::DiskHangs, LONGER, |_, outcome| outcome.before != outcome.after)?;
        chaos.end().map(drop)
    };
    if let Err(failure) = all() {
        panic!("{failure}");
    }
}
