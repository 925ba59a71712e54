//! What shows only over some time: followed from one board to the next, by when these were taken,
//! CLOCK_BOOTTIME. What nobody saw has not lasted.

use std::time::Duration;

use pgraft::sys::now_boottime_ns;

use crate::overview::{Overview, PgState};

/// A server that has been well for so long has its failures forgotten.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Replay that has been at one place for so long has nothing left to replay, or is held back.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(15);

/// Of the server.
#[derive(Debug, Default)]
pub struct Watched {
    /// Its state, and since when it is that.
    state: Option<(PgState, u64)>,
    starving_since: Option<u64>,
    well_since: Option<u64>,
    /// Where recovery is, and since when it is there.
    stands: Option<(u64, u64)>,
    /// When something was last done to it: what was seen before says nothing any more.
    acted_ns: u64,
}

impl Watched {
    /// Something was done to the server just now.
    pub fn acted(&mut self) {
        self.acted_ns = now_boottime_ns();
    }

    /// Whether the board is of after that.
    pub fn is_news(&self, now: &Overview) -> bool {
        now.taken_ns > self.acted_ns
    }

    /// Takes in the latest board.
    pub fn see(&mut self, now: &Overview) {
        let at = now.taken_ns;
        let since = |since: Option<u64>, is: bool| if is { since.or(Some(at)) } else { None };
        let facts = now.postgres.facts.as_ref();
        let starves = facts.is_some_and(|facts| facts.in_recovery && !facts.streaming);
        self.starving_since = since(self.starving_since, starves);
        let primary = now.page.as_ref().map_or(0, |page| page.primary_id);
        let well = facts.is_some_and(|facts| facts.streaming || primary == now.node_id);
        self.well_since = since(self.well_since, well);
        match (now.postgres.state, facts) {
            // Also of one that streams, as one does for a moment that is refused what it wants.
            (_, Some(facts)) if facts.in_recovery => drop(self.stands_still(now, facts.lsn)),
            (PgState::Rejecting, _) => {}
            _ => self.stands = None,
        }
        let state = now.postgres.state;
        let same = self.state.filter(|(same, _)| *same == state);
        self.state = Some(same.unwrap_or((state, at)));
    }

    /// How long it has been in its state.
    pub fn in_state(&self, now: &Overview) -> Duration {
        self.state.map_or(Duration::ZERO, |(_, since)| now.lasted(since))
    }

    /// How long it, a standby, has received nothing. One that was started meanwhile has not starved
    /// before.
    pub fn starving(&self, now: &Overview) -> Duration {
        let since = self.starving_since.map(|since| since.max(self.acted_ns));
        since.map_or(Duration::ZERO, |since| now.lasted(since))
    }

    /// Whether it streams, or is the primary.
    pub fn is_well(&self) -> bool {
        self.well_since.is_some()
    }

    /// Whether it has been well for long.
    pub fn is_well_for_long(&self, now: &Overview) -> bool {
        self.well_since.is_some_and(|since| now.lasted(since) >= WELL_AFTER)
    }

    /// Whether recovery, which is at this place, has been there for long.
    pub fn stands_still(&mut self, now: &Overview, place: u64) -> bool {
        let same = self.stands.filter(|(same, _)| *same == place);
        let (_, since) = *self.stands.insert(same.unwrap_or((place, now.taken_ns)));
        now.lasted(since.max(self.acted_ns)) >= STANDS_STILL_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overview::{PgFacts, Postgres};

    const SECOND: u64 = 1_000_000_000;

    /// Boards each second, from and to these seconds, and the last of them.
    fn see(watched: &mut Watched, board: &mut Overview, from: u64, to: u64, facts: &PgFacts) {
        for second in from..=to {
            board.take(second * SECOND);
            let facts = Some(facts.clone());
            board.postgres = Postgres { state: PgState::Answering, facts, ..Postgres::default() };
            watched.see(board);
        }
    }

    #[test]
    fn a_standby_starves_and_stands_still_only_as_long_as_that_is_seen() {
        let (mut watched, mut board) = (Watched::default(), Overview::default());
        let at = |lsn| PgFacts { in_recovery: true, lsn, ..PgFacts::default() };
        see(&mut watched, &mut board, 100, 114, &at(7));
        assert_eq!(watched.starving(&board).as_secs(), 14);
        assert!(!watched.stands_still(&board, 7));
        see(&mut watched, &mut board, 115, 115, &at(7));
        assert!(watched.stands_still(&board, 7));
        // It replays a little.
        see(&mut watched, &mut board, 116, 130, &at(8));
        assert_eq!(watched.starving(&board).as_secs(), 30);
        assert!(!watched.stands_still(&board, 8));
        // It streams for a moment, at the same place.
        see(&mut watched, &mut board, 131, 131, &PgFacts { streaming: true, ..at(8) });
        see(&mut watched, &mut board, 132, 140, &at(8));
        assert_eq!(watched.starving(&board).as_secs(), 8);
        assert!(watched.stands_still(&board, 8));
        // Nobody looks for a while.
        see(&mut watched, &mut board, 150, 160, &at(8));
        assert_eq!(watched.starving(&board).as_secs(), 10);
        assert!(!watched.stands_still(&board, 8));
        // Something was done to it.
        watched.acted_ns = 165 * SECOND;
        see(&mut watched, &mut board, 161, 178, &at(8));
        assert_eq!(watched.starving(&board).as_secs(), 13);
        assert!(!watched.stands_still(&board, 8));
    }
}
