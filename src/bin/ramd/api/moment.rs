//! What is known at the moment of a request: the board, pgraft's page as it is now, and the clock.

use std::sync::Arc;
use std::time::Duration;

use pgraft::sys::now_boottime_ns;

use crate::daemon::Daemon;
use crate::overview::{BOARD_AGE_MAX, FenceState, Overview, Page, PgFacts, PgState};

/// Members report where they are once a second.
const REPORT_AGE_MAX: Duration = Duration::from_secs(5);

/// See the file's head.
#[derive(Clone, Debug)]
pub struct Moment {
    /// What ramd knows; some tenths of a second old.
    pub overview: Arc<Overview>,
    /// pgraft's page, or why it is unknown.
    pub page: Result<Page, String>,
    /// CLOCK_BOOTTIME.
    pub now_ns: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
}

impl Moment {
    /// Now. The clock is read last, so that a window that has ended meanwhile counts as closed.
    pub fn take(daemon: &Daemon) -> Moment {
        let overview = daemon.board.latest();
        let page = daemon.page_now();
        let unix_ms = crate::clock::unix_ms();
        Moment { overview, page, now_ns: now_boottime_ns(), unix_ms }
    }

    /// `Err`: what ramd knows is too old to be told, in words.
    pub fn fresh(&self) -> Result<(), String> {
        if self.overview.taken_ns == 0 {
            return Err("ramd has not looked at its server yet".to_owned());
        }
        let age = self.overview.age(self.now_ns);
        if age <= BOARD_AGE_MAX {
            return Ok(());
        }
        Err(format!("ramd's view of its server is {} ms old", age.as_millis()))
    }

    /// What the server said of itself lately. `Err`: why it said nothing.
    pub fn facts(&self) -> Result<&PgFacts, String> {
        self.fresh()?;
        let postgres = &self.overview.postgres;
        let with_reason = |what: &str| match postgres.reason.as_str() {
            "" => what.to_owned(),
            reason => format!("{what}: {reason}"),
        };
        match (&postgres.state, &postgres.facts) {
            (PgState::Answering, Some(facts)) => Ok(facts),
            (PgState::Answering | PgState::Unknown, _) => {
                Err(with_reason("it is not known how PostgreSQL is"))
            }
            (PgState::Down, _) => Err(with_reason("PostgreSQL is down")),
            (PgState::Rejecting, _) => Err(with_reason("PostgreSQL takes no connections")),
            (PgState::Hung, _) => Err(with_reason("PostgreSQL hangs")),
        }
    }

    /// The page. `Err`: why it is unknown.
    pub fn page(&self) -> Result<&Page, String> {
        self.page.as_ref().map_err(|why| format!("pgraft is unknown: {why}"))
    }

    /// Whether this server takes writes now: it is up, no standby, and its fence is open at this
    /// moment. `Err`: what is not so.
    ///
    /// A cluster of one node has no fence; there the leader's lease, which only one node can hold,
    /// says the same.
    pub fn takes_writes(&self) -> Result<(), String> {
        let facts = self.facts()?;
        if facts.in_recovery {
            return Err("this is a standby".to_owned());
        }
        let page = self.page()?;
        let (own, primary) = (self.overview.node_id, page.primary_id);
        if page.may_write(self.now_ns) {
            return Ok(());
        }
        match page.fence {
            FenceState::Off if page.state == "member" && (primary == own || primary == 0) => {
                match page.is_leader(self.now_ns) {
                    true => Ok(()),
                    false => Err("this node does not hold the lease".to_owned()),
                }
            }
            _ if primary != own && primary != 0 => Err(format!("node {primary} is the primary")),
            FenceState::Open => Err("the window for commits has ended".to_owned()),
            FenceState::Paused => Err("commits wait at this moment".to_owned()),
            FenceState::Closed | FenceState::Off => Err("commits do not pass here".to_owned()),
        }
    }

    /// How far this standby is behind the primary, in bytes. `Err`: why it is not known. What a
    /// node that hears of nobody knows of the primary stays as it was, so it does not count.
    pub fn lag_bytes(&self) -> Result<u64, String> {
        let facts = self.facts()?;
        let page = self.page()?;
        if !page.has_quorum {
            return Err("the lag is not known: no leader is heard".to_owned());
        }
        let unknown = || "the lag is not known: the primary has not said where it is".to_owned();
        let primary = page.member(page.primary_id).ok_or_else(unknown)?;
        let heard_us = primary.last_contact_unix_us.ok_or_else(unknown)?.unsigned_abs();
        let age_ms = self.unix_ms.saturating_sub(heard_us / 1000);
        if u128::from(age_ms) > REPORT_AGE_MAX.as_millis() {
            return Err(unknown());
        }
        facts.lag_bytes.ok_or_else(unknown)
    }

    /// What this server is: `primary`, `replica`, `deposed` (it is no standby, and another is the
    /// primary), `unknown`.
    pub fn role(&self) -> &'static str {
        let Ok(facts) = self.facts() else { return "unknown" };
        if facts.in_recovery {
            return "replica";
        }
        match &self.page {
            Ok(page) if page.primary_id == self.overview.node_id => "primary",
            Ok(page) if page.primary_id == 0 => "primary",
            Ok(_) => "deposed",
            Err(_) => "unknown",
        }
    }

    /// How much is left of the window in which commits pass here, in milliseconds.
    pub fn window_left_ms(&self) -> u64 {
        let open = |page: &&Page| page.may_write(self.now_ns);
        let page = self.page.as_ref().ok().filter(open);
        page.map_or(0, |page| (page.writes_until_ns - self.now_ns) / 1_000_000)
    }

    /// How much is left of this node's lease as leader, in milliseconds.
    pub fn lease_left_ms(&self) -> u64 {
        let until_ns = self.page.as_ref().map_or(0, |page| page.lease_until_ns);
        until_ns.saturating_sub(self.now_ns) / 1_000_000
    }
}
