//! The leader's lease: until when no other node can have been elected (dissertation §6.4.1).
//!
//! A voter that answers a heartbeat promises to vote for nobody else for a while. A round that a
//! quorum answered therefore gives the leader that while, counted from when the round was *sent*:
//! the voters heard it later, so their promises end later. The lease is three quarters of the
//! promise, which leaves a quarter for clocks that run at different rates.

use crate::bugs::{self, Bug};
use std::collections::VecDeque;

/// Rounds whose answers may still come. Beyond a leader's time without a quorum none matters, and a
/// round that is forgotten only makes the lease shorter.
const ROUNDS_MAX: usize = 1024;

/// The lease of this node; all times are CLOCK_BOOTTIME nanoseconds.
#[derive(Debug, Default)]
pub struct Lease {
    /// Round and when it was sent, ascending in both.
    sent: VecDeque<(u64, u64)>,
    /// The newest round that was ever sent. Outlives leaderships: a round that is confirmed, or was
    /// sent before the lease ended, must not count again from a later moment.
    newest: u64,
    /// Before this the former leader may still hold its own.
    starts_ns: u64,
    /// Zero: none.
    expires_ns: u64,
}

impl Lease {
    /// This node became leader; the old lease may last for another `old_lease_left_ms`.
    pub fn lead(&mut self, now_ns: u64, old_lease_left_ms: u32) {
        self.end();
        self.starts_ns = now_ns + ms(old_lease_left_ms);
    }

    /// This node no longer leads, or begins to hand over.
    pub fn end(&mut self) {
        let Lease { newest, starts_ns, .. } = *self;
        // A handover that is given up does not end the former leader's lease.
        *self = Lease { newest, starts_ns, ..Lease::default() };
    }

    /// The messages of `round` are about to be sent.
    pub fn sending(&mut self, round: u64, now_ns: u64) {
        let again = bugs::on(Bug::LeaseOfOldRound) && self.sent.is_empty();
        if round > self.newest || again {
            self.newest = round;
            if self.sent.len() == ROUNDS_MAX {
                self.sent.pop_front();
            }
            self.sent.push_back((round, now_ns));
        }
    }

    /// A quorum answered `round`, and with it gave a lease of `lease_ms`.
    pub fn confirmed(&mut self, round: u64, lease_ms: u32) {
        let newest = self.sent.back().map(|&(_, at)| at);
        while let Some(&(sent, at)) = self.sent.front() {
            if sent > round {
                break;
            }
            let at = newest.filter(|_| bugs::on(Bug::LeaseFromAck)).unwrap_or(at);
            self.expires_ns = self.expires_ns.max(at + ms(lease_ms));
            self.sent.pop_front();
        }
    }

    /// When `round` was sent, while it awaits its quorum.
    pub fn sent_at(&self, round: u64) -> Option<u64> {
        self.sent.iter().find(|&&(sent, _)| sent == round).map(|&(_, at)| at)
    }

    /// Before this the former leader may still hold its own.
    pub fn starts_ns(&self) -> u64 {
        self.starts_ns
    }

    /// From when and until when the lease holds; `(0, 0)` for none.
    pub fn window(&self) -> (u64, u64) {
        if self.expires_ns == 0 { (0, 0) } else { (self.starts_ns, self.expires_ns) }
    }
}

fn ms(ms: u32) -> u64 {
    u64::from(ms) * 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_counts_from_the_send_not_from_the_answer() {
        let mut lease = Lease::default();
        lease.lead(1_000, 0);
        assert_eq!(lease.window(), (0, 0), "a new leader has none");
        lease.sending(1, 5_000);
        lease.sending(1, 9_000); // more messages of the round: the first counts
        lease.confirmed(1, 750);
        assert_eq!(lease.window(), (1_000, 5_000 + 750_000_000));
    }

    #[test]
    fn what_is_said_later_in_a_confirmed_round_does_not_prolong_it() {
        let mut lease = Lease::default();
        lease.lead(0, 0);
        lease.sending(1, 10);
        lease.confirmed(1, 1);
        lease.sending(1, 500_000);
        lease.confirmed(1, 1);
        assert_eq!(lease.window(), (0, 1_000_010));
        lease.end();
        lease.sending(1, 900_000);
        lease.confirmed(1, 1);
        assert_eq!(lease.window(), (0, 0), "a handover that was begun and given up");
    }

    #[test]
    fn it_waits_for_the_old_lease_and_ends_at_once() {
        let mut lease = Lease::default();
        lease.lead(0, 3);
        lease.sending(7, 10);
        lease.confirmed(6, 1);
        assert_eq!(lease.window(), (0, 0), "round 7 is not confirmed by round 6");
        lease.confirmed(8, 1);
        assert_eq!(lease.window(), (3_000_000, 1_000_010));
        lease.end();
        assert_eq!(lease.window(), (0, 0));
        // The handover is given up: the old lease may run on.
        lease.sending(9, 20);
        lease.confirmed(9, 5);
        assert_eq!(lease.window(), (3_000_000, 5_000_020));
        lease.lead(7, 0);
        lease.sending(10, 30);
        lease.confirmed(10, 1);
        assert_eq!(lease.window(), (7, 1_000_030), "a leadership of its own");
    }

    #[test]
    fn unanswered_rounds_are_forgotten_not_kept_for_ever() {
        let mut lease = Lease::default();
        for round in 0..100_000 {
            lease.sending(round, round);
        }
        assert_eq!(lease.sent.len(), ROUNDS_MAX);
    }
}
