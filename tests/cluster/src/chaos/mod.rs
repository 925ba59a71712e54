//! Faults, one round after the other, on a cluster to which clients write all the time; after each
//! round the cluster is healed, and what the clients were told is compared with what is there.

mod fault;
mod strike;

use std::collections::BTreeMap;
use std::fmt;
use std::thread::sleep;
use std::time::Duration;

pub use fault::{Fault, Round, Strike, Target};

use crate::clock::{ms_between, now_ns};
use crate::random::Random;
use crate::writer::{Kind, Pace, Writers};
use crate::{Cluster, Failure, Node, Options, Rejoined, Result, Verdict};

/// From the end of the faults until there is a primary. An idle machine needs two seconds.
const PRIMARY_AT_MOST: Duration = Duration::from_secs(60);
/// Before the first strike of a round: a node that was started again keeps an old promise for an
/// election timeout, and writers shall be in their stride.
const SETTLE: Duration = Duration::from_millis(1500);

/// How WAL is replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// A crash may lose what was under way.
    Async,
    /// `synchronous_mode = quorum`: nothing is lost.
    Quorum,
}

/// A cluster under fire.
pub struct Chaos {
    cluster: Cluster,
    writers: Writers,
    mode: Mode,
    random: Random,
    primary: u32,
}

/// What came of a round.
#[derive(Debug)]
pub struct Outcome {
    /// The primary before it.
    pub before: u32,
    /// The primary after it.
    pub after: u32,
    /// The longest time without an acknowledged commit.
    pub gap_ms: f64,
    /// Who was made a standby again, and how.
    pub rejoined: Vec<(u32, Rejoined)>,
    /// What the ledger says.
    pub verdict: Verdict,
}

impl Chaos {
    /// A cluster with writers on all nodes and its failover on.
    pub fn begin(name: &str, nodes: u32, mode: Mode, seed: u64) -> Result<Chaos> {
        let pgraft = match mode {
            Mode::Async => String::new(),
            Mode::Quorum => "synchronous_mode = quorum\n".to_owned(),
        };
        let options = Options {
            nodes,
            failover: true,
            network: true,
            postgresql: "max_prepared_transactions = 50\nwal_keep_size = 512MB\n".to_owned(),
            pgraft,
            ..Options::default()
        };
        let mut cluster = Cluster::prepare(name, options)?;
        let primary = cluster.noting_while(|cluster| {
            cluster.prepare_disk_faults()?;
            cluster.start_all()?;
            cluster.init_and_start()?;
            cluster.settled_primary(PRIMARY_AT_MOST)
        })?;
        let kinds = [Kind::Insert, Kind::Block, Kind::Prepared];
        let writers = Writers::start(&cluster, cluster.node(primary), &kinds, Pace::default())?;
        Ok(Chaos { cluster, writers, mode, random: Random::new(seed), primary })
    }

    /// Draws the next round's faults.
    pub fn draw(&mut self) -> Round {
        Round::draw(&mut self.random, self.cluster.nodes().len())
    }

    /// Plays a round. `Err`: two histories, a commit lost that must not be, or a cluster that does
    /// not heal; the servers are as they were then.
    pub fn play(&mut self, round: &Round) -> Result<Outcome> {
        let played = self.play_round(round);
        if played.is_err() {
            eprintln!("---- {}", self.writers.ledger().failures_in_words());
        }
        self.cluster.noting_while(|_| played)
    }

    fn play_round(&mut self, round: &Round) -> Result<Outcome> {
        sleep(SETTLE);
        let before = self.primary;
        // Details of their own, so that what is drawn next does not depend on this round.
        let mut details = self.random.clone();
        let began_ns = now_ns();
        for strike in &round.strikes {
            sleep(strike.after);
            let id = self.resolve(strike.target, before);
            strike::strike(&mut self.cluster, strike.fault, id, before, &mut details)?;
        }
        sleep(round.hold);
        strike::undo(&mut self.cluster)?;
        self.cluster.await_stopping()?;
        let majority = self.cluster.nodes().len() / 2 + 1;
        if round.restart_at_once || self.cluster.running().count() < majority {
            self.cluster.start_all()?;
        }
        let (primary, rejoined) = self.cluster.recover()?;
        self.primary = primary;
        self.writers.ledger().await_commit(primary, PRIMARY_AT_MOST)?;
        let gap_ms = self.longest_gap_ms(began_ns);
        let verdict = self.writers.ledger().compare(self.cluster.node(self.primary))?;
        self.judge(round, &verdict)?;
        self.read_logs()?;
        Ok(Outcome { before, after: self.primary, gap_ms, rejoined, verdict })
    }

    fn resolve(&self, target: Target, primary: u32) -> u32 {
        match target {
            Target::Primary => primary,
            Target::Standby(number) => {
                let mut others = self.cluster.nodes().iter().map(Node::id);
                others.by_ref().filter(|id| *id != primary).nth(number).unwrap_or(primary)
            }
        }
    }

    fn longest_gap_ms(&self, since_ns: u64) -> f64 {
        let acks = self.writers.ledger().acks();
        let times: Vec<u64> =
            acks.iter().map(|ack| ack.acked_ns).skip_while(|at| *at < since_ns).collect();
        let mut gaps =
            times.windows(2).map(|pair| ms_between(pair[0], pair[1])).collect::<Vec<_>>();
        gaps.extend(times.first().map(|first| ms_between(since_ns, *first)));
        gaps.into_iter().fold(0.0, f64::max)
    }

    fn judge(&self, round: &Round, verdict: &Verdict) -> Result<()> {
        if !verdict.is_one_history() {
            return Err(Failure::new(format!("two primaries committed: {verdict}")));
        }
        let allowed = match self.mode {
            Mode::Quorum => verdict.lost.is_empty(),
            Mode::Async => verdict.lost.is_empty() || verdict.window_ms() < round.may_lose_ms(),
        };
        if allowed {
            return Ok(());
        }
        let first = verdict.lost.first();
        Err(Failure::new(format!("acknowledged commits are lost: {verdict}; {first:?}")))
    }

    /// Nothing may stand there that is a bug whatever was done to the servers.
    fn read_logs(&self) -> Result<()> {
        const BUGS: [&str; 5] =
            ["panicked", "PANIC", "was terminated by signal 11", "signal 6", "lost log entries"];
        for node in self.cluster.nodes() {
            let log = node.log();
            // So a primary ends whose WAL has no room; its postmaster tells of the abort.
            let is_full = |l: &&str| l.contains("PANIC") && l.contains("No space left on device");
            let mut expected = log.lines().filter(is_full).count();
            for line in log.lines().filter(|l| BUGS.iter().any(|bug| l.contains(bug))) {
                if line.contains("signal 6") && expected > 0 {
                    expected -= 1;
                } else if !is_full(&line) {
                    return Err(Failure::new(format!("node {}: {line}", node.id())));
                }
            }
        }
        Ok(())
    }

    /// The servers, to look at.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// A check of the test's own; if it fails, the servers' logs are kept.
    pub fn expect(&mut self, holds: bool, what: &str) -> Result<()> {
        self.cluster.noting_while(|_| crate::check::expect(holds, || what.to_owned()))
    }

    /// Stops the writers and compares for the last time.
    pub fn end(self) -> Result<Verdict> {
        let Chaos { cluster, writers, primary, .. } = self;
        let ledger = writers.stop()?;
        cluster.run(|cluster| ledger.compare(cluster.node(primary)))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.before == self.after {
            true => write!(f, "node {} stayed primary", self.after)?,
            false => write!(f, "primary {} -> {}", self.before, self.after)?,
        }
        write!(f, ", no commit for {:.0} ms; {}", self.gap_ms, self.verdict)?;
        let mut counts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (id, how) in &self.rejoined {
            counts.entry(format!("{how:?}").to_lowercase()).or_default().push(*id);
        }
        for (how, ids) in counts {
            write!(f, "; {how}: {ids:?}")?;
        }
        Ok(())
    }
}
