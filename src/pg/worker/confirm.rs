//! Whether `synchronous_standby_names` is in force, and all that was committed before it was is
//! confirmed by as many members as it asks for.

use std::time::Duration;

use crate::pg::{facts, synchronous};
use crate::raft::LogIndex;
use crate::runtime::duty::Synchronous;

use super::duty::names;

/// From when the setting is seen here until each WAL sender goes by it, too: they take in a reload
/// between two messages. What they let pass by the former setting meanwhile counts as before.
const TAKEN_IN_NS: u64 = Duration::from_millis(100).as_nanos() as u64;

/// What has been seen so far.
#[derive(Default)]
pub(super) struct Confirm {
    /// What it is about.
    wanted: Option<Synchronous>,
    /// Since when it is in force.
    since_ns: Option<u64>,
    /// All that was committed before is below.
    lsn: Option<u64>,
    reached: bool,
}

impl Confirm {
    /// Looks again, on a primary. Whether it is worth another look soon.
    pub(super) fn look(&mut self, wanted: &Synchronous, now_ns: u64) -> bool {
        if self.wanted.as_ref() != Some(wanted) {
            *self = Confirm { wanted: Some(wanted.clone()), ..Confirm::default() };
        }
        let needed = wanted.needed as usize;
        if synchronous::names() != names(wanted) || !synchronous::in_force(needed > 0) {
            (self.since_ns, self.lsn, self.reached) = (None, None, false);
            return false;
        }
        let since_ns = *self.since_ns.get_or_insert(now_ns);
        if self.reached {
            return false;
        }
        if now_ns < since_ns + TAKEN_IN_NS && needed > 0 {
            return true;
        }
        let lsn = *self.lsn.get_or_insert_with(|| facts::flushed().0);
        self.reached = needed == 0 || synchronous::confirmed(lsn) >= needed;
        true
    }

    /// The log index of the membership for which the setting is in force; 0: of none.
    pub(super) fn names_at(&self) -> LogIndex {
        self.of_members(self.since_ns.is_some())
    }

    /// The log index of the membership by which all that was committed before is confirmed, too.
    pub(super) fn members_at(&self) -> LogIndex {
        self.of_members(self.reached)
    }

    fn of_members(&self, is_so: bool) -> LogIndex {
        self.wanted.as_ref().filter(|_| is_so).map_or(LogIndex(0), |wanted| wanted.members_at)
    }
}
