//! The fence on the page: how the consensus thread opens and closes it, how a backend asks it
//! before it commits. Anyone may read; one thread at a time publishes; backends count themselves in
//! and out.
//!
//! A commit past its look at the fence is *under way* until it has ended. Whoever closes the
//! fence for a planned move then waits until none is. For that, counting in comes before the look
//! and closing before the count is read, both sequentially consistent: one of the two sees the
//! other (Dekker).

use std::sync::atomic::{Ordering, fence};

use crate::bugs::{self, Bug};

use super::page::StatusPage;
use super::view::{Fence, FenceMode};

/// What the fence says to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may go on. The second look, after the commit, must come before `until_ns`, or find that
    /// commits pass in the same leadership: that is, with the same `from_ns`.
    Pass {
        /// When that leadership's window begins: no other has the same. 0 without a fence.
        from_ns: u64,
        /// CLOCK_BOOTTIME; `u64::MAX` without a fence.
        until_ns: u64,
    },
    /// Not yet: from `from_ns` on perhaps, or, if that is 0, at an unknown time.
    Wait {
        /// CLOCK_BOOTTIME.
        from_ns: u64,
    },
    /// Another node is the primary, or will be.
    Refuse,
}

impl Fence {
    /// Whether a commit that this let pass may be acknowledged at `now_ns`: the second look. One
    /// that began in another leadership may not: between the two another node may have been
    /// primary, and whom commits wait for may have been changed for those that nobody acknowledges.
    /// Nor one whose node has let go of its lease before its end, which closes the fence.
    #[inline]
    pub fn still_passes(&self, now_ns: u64, passed: Verdict) -> bool {
        let Verdict::Pass { from_ns, until_ns } = passed else { return false };
        let same = |now| now == from_ns || bugs::on(Bug::SecondLookOfOtherLease);
        let again = self.verdict(now_ns);
        (now_ns < until_ns && again != Verdict::Refuse)
            || matches!(again, Verdict::Pass { from_ns, .. } if same(from_ns))
            || bugs::on(Bug::NoSecondLook)
    }

    /// What it says to a commit at `now_ns`, CLOCK_BOOTTIME.
    #[inline]
    pub fn verdict(&self, now_ns: u64) -> Verdict {
        let Fence { mode, from_ns, until_ns } = *self;
        match mode {
            FenceMode::Off => Verdict::Pass { from_ns: 0, until_ns: u64::MAX },
            FenceMode::Closed => Verdict::Refuse,
            FenceMode::Open if now_ns < from_ns => Verdict::Wait { from_ns },
            FenceMode::Open if now_ns < until_ns => Verdict::Pass { from_ns, until_ns },
            FenceMode::Open | FenceMode::Paused => Verdict::Wait { from_ns: 0 },
        }
    }
}

impl StatusPage {
    /// Publishes the fence and who is primary (0: nobody is named). For one thread at a time.
    pub fn publish_fence(&self, new: &Fence, primary_id: u32) {
        self.primary_id.store(primary_id, Ordering::Relaxed);
        if new.mode != FenceMode::Open {
            // Closed first, so that no commit passes by what is stored next.
            self.fence.store(new.mode as u32, Ordering::SeqCst);
            self.writes_until_ns.store(0, Ordering::SeqCst);
            self.writes_from_ns.store(0, Ordering::Release);
            fence(Ordering::SeqCst);
            return;
        }
        // Who sees the new end sees the new beginning, too.
        self.writes_from_ns.store(new.from_ns, Ordering::Relaxed);
        self.writes_until_ns.store(new.until_ns, Ordering::Release);
        self.fence.store(new.mode as u32, Ordering::Release);
    }

    /// The fence, for people and for programs outside: a moment's mixture at worst. Commits ask
    /// `may_commit`.
    pub fn fence(&self) -> Fence {
        // After the count, in the one order of all that is sequentially consistent.
        let mode = FenceMode::from_code(self.fence.load(Ordering::SeqCst));
        let until_ns = self.writes_until_ns.load(Ordering::Acquire);
        Fence { mode, from_ns: self.writes_from_ns.load(Ordering::Relaxed), until_ns }
    }

    /// Whether a commit may go on at `now_ns`, which was read before.
    #[inline]
    pub fn may_commit(&self, now_ns: u64) -> Verdict {
        self.fence().verdict(now_ns)
    }

    /// Whether commits that write would not pass at `now_ns`.
    pub fn is_fenced(&self, now_ns: u64) -> bool {
        !matches!(self.may_commit(now_ns), Verdict::Pass { .. })
    }

    /// A backend is about to look at the fence and then to commit. Each must `count_out` after.
    #[inline]
    pub fn count_in(&self) {
        self.commits_under_way.fetch_add(1, Ordering::SeqCst);
    }

    /// Its commit has ended, one way or the other.
    #[inline]
    pub fn count_out(&self) {
        self.commits_under_way.fetch_sub(1, Ordering::SeqCst);
    }

    /// How many commits are under way.
    pub fn commits_under_way(&self) -> u32 {
        fence(Ordering::SeqCst);
        self.commits_under_way.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(from_ns: u64, until_ns: u64) -> Fence {
        Fence { mode: FenceMode::Open, from_ns, until_ns }
    }

    fn closed(mode: FenceMode) -> Fence {
        Fence { mode, ..Fence::default() }
    }

    #[test]
    fn a_page_without_a_fence_lets_everything_pass() {
        let page = StatusPage::for_tests();
        assert_eq!(page.may_commit(7), Verdict::Pass { from_ns: 0, until_ns: u64::MAX });
        assert_eq!(page.primary_id(), 0);
    }

    #[test]
    fn an_open_fence_lets_pass_in_its_window_only() {
        let page = StatusPage::for_tests();
        page.publish_fence(&open(10, 20), 3);
        assert_eq!(page.primary_id(), 3);
        assert_eq!(page.may_commit(9), Verdict::Wait { from_ns: 10 });
        assert_eq!(page.may_commit(10), Verdict::Pass { from_ns: 10, until_ns: 20 });
        assert_eq!(page.may_commit(19), Verdict::Pass { from_ns: 10, until_ns: 20 });
        assert_eq!(page.may_commit(20), Verdict::Wait { from_ns: 0 });
    }

    #[test]
    fn the_second_look_wants_the_same_leadership() {
        let page = StatusPage::for_tests();
        page.publish_fence(&open(10, 20), 3);
        let passed = page.may_commit(15);
        assert!(page.fence().still_passes(19, passed));
        assert!(!page.fence().still_passes(20, passed), "the lease is over");
        page.publish_fence(&open(10, 40), 3);
        assert!(page.fence().still_passes(20, passed), "it was prolonged");
        page.publish_fence(&open(22, 40), 3);
        assert!(!page.fence().still_passes(30, passed), "it was lost, and taken again");
        page.publish_fence(&closed(FenceMode::Closed), 2);
        assert!(!page.fence().still_passes(19, passed), "another may commit by now");
        page.publish_fence(&closed(FenceMode::Paused), 3);
        assert!(page.fence().still_passes(19, passed), "until then nobody else commits");
    }

    #[test]
    fn what_passed_without_a_fence_is_looked_at_again_too() {
        let page = StatusPage::for_tests();
        let passed = page.may_commit(15);
        assert!(page.fence().still_passes(16, passed));
        page.publish_fence(&open(20, 40), 1);
        assert!(page.fence().still_passes(16, passed), "this node is the primary of a cluster now");
        page.publish_fence(&closed(FenceMode::Closed), 2);
        assert!(!page.fence().still_passes(16, passed), "another may commit by now");
    }

    #[test]
    fn a_closed_fence_refuses_and_a_paused_one_makes_wait() {
        let page = StatusPage::for_tests();
        page.publish_fence(&open(10, 20), 1);
        page.publish_fence(&closed(FenceMode::Paused), 1);
        assert_eq!(page.may_commit(15), Verdict::Wait { from_ns: 0 });
        page.publish_fence(&closed(FenceMode::Closed), 2);
        assert_eq!(page.may_commit(15), Verdict::Refuse);
        assert_eq!(page.fence(), closed(FenceMode::Closed), "nothing is left of the window");
    }

    #[test]
    fn who_closes_sees_every_commit_that_passed() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let page = StatusPage::for_tests();
        let late = AtomicU64::new(0);
        for round in 0..2_000 {
            page.publish_fence(&open(0, u64::MAX), 1);
            std::thread::scope(|scope| {
                let commit = scope.spawn(|| {
                    page.count_in();
                    let passed = matches!(page.may_commit(1), Verdict::Pass { .. });
                    // Ends only once the other thread has looked.
                    passed
                });
                page.publish_fence(&closed(FenceMode::Paused), 1);
                let under_way = page.commits_under_way();
                if commit.join().unwrap() && under_way == 0 {
                    late.fetch_add(1, Ordering::Relaxed);
                }
            });
            page.count_out();
            assert_eq!(page.commits_under_way(), 0, "round {round}");
        }
        assert_eq!(late.into_inner(), 0, "commits passed unseen");
    }
}
