//! How far a Postgres server has come, and how two of them compare: by their timelines' history
//! first, then by LSN (Postgres documentation, "Timelines"; src/backend/access/transam/timeline.c).

use std::cmp::Ordering;

/// The end of one timeline in the history of another, as a line of a `.history` file has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switch {
    /// The timeline that ended.
    pub timeline: u32,
    /// Where: WAL before this LSN is common history.
    pub ends: u64,
}

/// The most switches in a position; as many failovers in one database cluster's life are not seen.
pub const SWITCHES_MAX: usize = 1024;

/// How far a server has come.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Position {
    /// The timeline of its last WAL; 0 unknown.
    pub timeline: u32,
    /// Its last WAL: on a primary flushed, on a standby the farther of received and replayed.
    pub lsn: u64,
    /// What its timeline descends from, oldest first.
    pub history: Vec<Switch>,
}

impl Position {
    /// Where its timeline left the one before; `None`: it is the first.
    pub fn fork(&self) -> Option<Switch> {
        self.history.last().copied()
    }

    /// Each timeline that it has been on but the first, with where that left the one before.
    pub(super) fn forks(&self) -> impl Iterator<Item = (u32, &Switch)> {
        let later = self.history.iter().skip(1).map(|switch| switch.timeline);
        later.chain([self.timeline]).zip(&self.history)
    }

    /// Compares two servers' WAL. `None`: each holds something that the other's history lacks, or
    /// one of them is unknown, so neither can follow the other.
    pub fn compare(&self, other: &Position) -> Option<Ordering> {
        if self.timeline == 0 || other.timeline == 0 {
            return None;
        }
        if self.timeline == other.timeline {
            return Some(self.lsn.cmp(&other.lsn));
        }
        if other.descends_from(self) {
            return Some(Ordering::Less);
        }
        self.descends_from(other).then_some(Ordering::Greater)
    }

    /// Whether everything that `ancestor`, on another timeline, has is part of this history.
    fn descends_from(&self, ancestor: &Position) -> bool {
        let end = self.history.iter().find(|switch| switch.timeline == ancestor.timeline);
        end.is_some_and(|switch| ancestor.lsn <= switch.ends)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(timeline: u32, lsn: u64, history: &[(u32, u64)]) -> Position {
        let history = history.iter().map(|&(timeline, ends)| Switch { timeline, ends }).collect();
        Position { timeline, lsn, history }
    }

    #[test]
    fn on_one_timeline_the_lsn_decides() {
        assert_eq!(at(1, 5, &[]).compare(&at(1, 7, &[])), Some(Ordering::Less));
        assert_eq!(at(1, 7, &[]).compare(&at(1, 7, &[])), Some(Ordering::Equal));
    }

    #[test]
    fn a_later_timeline_is_ahead_of_what_it_descends_from() {
        let new = at(2, 6, &[(1, 5)]);
        assert_eq!(at(1, 5, &[]).compare(&new), Some(Ordering::Less));
        assert_eq!(new.compare(&at(1, 3, &[])), Some(Ordering::Greater));
        // Even if the LSN says otherwise: nothing was written since the promotion.
        assert_eq!(at(2, 4, &[(1, 5)]).compare(&at(1, 5, &[])), Some(Ordering::Greater));
    }

    #[test]
    fn what_was_written_beyond_the_fork_has_diverged() {
        let new = at(2, 100, &[(1, 5)]);
        assert_eq!(at(1, 6, &[]).compare(&new), None);
        assert_eq!(new.compare(&at(1, 1_000_000, &[])), None);
    }

    #[test]
    fn siblings_and_unknown_positions_do_not_compare() {
        let (two, three) = (at(2, 9, &[(1, 5)]), at(3, 9, &[(1, 7)]));
        assert_eq!(two.compare(&three), None);
        assert_eq!(Position::default().compare(&two), None);
        assert_eq!(Position::default().compare(&Position::default()), None);
    }
}
