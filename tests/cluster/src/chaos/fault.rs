//! What can go wrong, and a plan of it drawn from a seed.
//!
//! A plan names roles and not nodes, so that a seed is the same plan whatever happened before; who
//! has the role is looked up when its turn comes.

use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// What a primary that is cut off commits for nobody but itself: the default lease.
const LEASE_MS: f64 = 750.0;
/// WAL is on its way for a while, and a client is late to read its clock, on a machine on which
/// three servers and their clients share two processors.
const SLACK_MS: f64 = 250.0;
/// By how much standbys may be behind when a second fault comes: a connection that the first one
/// held up waits before it sends again (TCP doubles 200 ms each time), or is made anew half a
/// second later. Raft's connections may be quicker, so that the lease goes on meanwhile.
const BEHIND_MS: f64 = 2000.0;

/// Whom a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The primary.
    Primary,
    /// The first, second ... of the others, by their ids.
    Standby(usize),
}

/// One thing that goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL of the postmaster.
    KillPostmaster,
    /// SIGKILL of pgraft's worker, which makes the postmaster start all processes anew.
    KillWorker,
    /// SIGKILL of every process.
    KillAll,
    /// SIGSTOP of the postmaster alone.
    StopPostmaster,
    /// SIGSTOP of pgraft's worker alone.
    StopWorker,
    /// SIGSTOP of some backends of writers, wherever in their commits they are.
    StopBackends,
    /// SIGSTOP of every process.
    StopAll,
    /// Nothing gets to the others or comes from them.
    Isolate,
    /// What it sends to the others is lost.
    CutOut,
    /// What the others send to it is lost.
    CutIn,
    /// Nothing passes between it and one other.
    CutFromOne,
    /// It is cut off for moments, again and again.
    Flap,
    /// SIGKILL of the postmaster and a start, several times.
    RestartStorm,
    /// The disk with its Raft directory is full.
    DiskFull,
    /// The disk with its Raft directory answers no more.
    DiskHangs,
    /// The disk with its WAL is full: a primary panics once it needs another segment.
    WalFull,
    /// The disk with its WAL answers no more.
    WalHangs,
    /// `pg_ctl stop -m fast`.
    StopFast,
    /// `pgraft_transfer_leadership()` away from it, or to it if it is a standby; or
    /// `pgraft_force_election()` on it, if it is the primary.
    Transfer,
}

/// All of them; those that are there twice are drawn twice as often.
const FAULTS: [Fault; 24] = [
    Fault::KillPostmaster,
    Fault::KillPostmaster,
    Fault::KillWorker,
    Fault::KillAll,
    Fault::KillAll,
    Fault::StopPostmaster,
    Fault::StopWorker,
    Fault::StopBackends,
    Fault::StopBackends,
    Fault::StopAll,
    Fault::StopAll,
    Fault::Isolate,
    Fault::Isolate,
    Fault::CutOut,
    Fault::CutIn,
    Fault::CutFromOne,
    Fault::Flap,
    Fault::RestartStorm,
    Fault::DiskFull,
    Fault::DiskHangs,
    Fault::WalFull,
    Fault::WalHangs,
    Fault::StopFast,
    Fault::Transfer,
];

impl Fault {
    /// Whether it is somebody's wish, which loses nothing in any mode.
    fn is_wish(self) -> bool {
        matches!(self, Fault::StopFast | Fault::Transfer)
    }

    /// Whether it is several in a row.
    fn comes_again(self) -> bool {
        matches!(self, Fault::Flap | Fault::RestartStorm)
    }
}

/// A fault in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strike {
    /// What.
    pub fault: Fault,
    /// Whom.
    pub target: Target,
    /// Time from the strike before, or the round's begin.
    pub after: Duration,
}

/// What happens between two times that all is well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// One or two.
    pub strikes: Vec<Strike>,
    /// From the last strike until everything that can be undone is.
    pub hold: Duration,
    /// Whether what is down is started before another primary is there.
    pub restart_at_once: bool,
}

impl Round {
    /// A round for a cluster of so many nodes. Draws the same however the numbers are used.
    pub fn draw(random: &mut Random, nodes: usize) -> Round {
        let count = if random.below(4) == 0 { 2 } else { 1 };
        let strikes = (0..count).map(|_| Strike::draw(random, nodes)).collect();
        // Short ones are over within the lease; long ones outlast every timeout.
        let hold_ms = match random.below(3) {
            0 => 50 + random.below(700),
            1 => 700 + random.below(1800),
            _ => 2500 + random.below(4500),
        };
        let hold = Duration::from_millis(hold_ms as u64);
        Round { strikes, hold, restart_at_once: random.below(3) == 0 }
    }

    /// How much of a timeline's end may be lost with asynchronous replication, in milliseconds, as
    /// clients' clocks measure it.
    pub fn may_lose_ms(&self) -> f64 {
        if self.strikes.iter().all(|strike| strike.fault.is_wish()) {
            return 0.0;
        }
        let again = self.strikes.len() > 1 || self.strikes.iter().any(|s| s.fault.comes_again());
        LEASE_MS + SLACK_MS + if again { BEHIND_MS } else { 0.0 }
    }

    /// One strike, held for so long: for tests that say what they want.
    pub fn of(fault: Fault, target: Target, hold: Duration) -> Round {
        let strike = Strike { fault, target, after: Duration::ZERO };
        Round { strikes: vec![strike], hold, restart_at_once: false }
    }
}

impl Strike {
    fn draw(random: &mut Random, nodes: usize) -> Strike {
        let fault = FAULTS[random.below(FAULTS.len())];
        let standby = random.below(nodes - 1);
        // Most of what matters happens to the primary.
        let target = if random.below(4) == 0 { Target::Standby(standby) } else { Target::Primary };
        let after = Duration::from_millis(random.below(800) as u64);
        Strike { fault, target, after }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Primary => f.write_str("primary"),
            Target::Standby(number) => write!(f, "standby {}", number + 1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::KillPostmaster => "kill postmaster",
            Fault::KillWorker => "kill worker",
            Fault::KillAll => "kill all",
            Fault::StopPostmaster => "freeze postmaster",
            Fault::StopWorker => "freeze worker",
            Fault::StopBackends => "freeze backends",
            Fault::StopAll => "freeze all",
            Fault::Isolate => "isolate",
            Fault::CutOut => "cut out of",
            Fault::CutIn => "cut into",
            Fault::CutFromOne => "cut from one",
            Fault::Flap => "flap",
            Fault::RestartStorm => "restart storm",
            Fault::DiskFull => "disk full",
            Fault::DiskHangs => "disk hangs",
            Fault::WalFull => "WAL full",
            Fault::WalHangs => "WAL hangs",
            Fault::StopFast => "stop fast",
            Fault::Transfer => "transfer",
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, strike) in self.strikes.iter().enumerate() {
            if number > 0 {
                write!(f, " + {} ms: ", strike.after.as_millis())?;
            }
            write!(f, "{} {}", strike.fault, strike.target)?;
        }
        write!(f, ", {} ms", self.hold.as_millis())?;
        if self.restart_at_once { f.write_str(", restart at once") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_plan() {
        let plan = |seed| {
            let mut random = Random::new(seed);
            (0..50).map(|_| Round::draw(&mut random, 3)).collect::<Vec<_>>()
        };
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }
}
