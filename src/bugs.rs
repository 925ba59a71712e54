//! Deliberate bugs, each a line in the place that keeps a promise: the simulator has to find every
//! one of them (docs/testing.md, `make simulate-bugs`). They exist only in builds with the feature
//! `deliberate-bugs`, which a build for Postgres refuses; in all others [`on`] is the constant
//! `false`.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident = $what:literal,)*) => {
        /// What can be wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name),*];

            /// In words.
            pub fn what(self) -> &'static str {
                match self {
                    $(Bug::$name => $what,)*
                }
            }
        }
    };
}

bugs! {
    /// Raft figure 2: a vote is persistent state.
    VoteNotStored = "a vote is not stored",
    /// A write returns before its fsync.
    AckBeforeSync = "acknowledged before fsync",
    /// Raft figure 8.
    CommitOldTerm = "an entry of an old term is committed by counting",
    /// Half of the voters are enough.
    QuorumOffByOne = "a quorum is one too small",
    /// A voter forgets that it promised its leader to vote for no other.
    NoLeaseOfVoters = "a (pre-)vote disregards a living leader's lease",
    /// The same, but only after a restart.
    RestartForgetsPromise = "a restart forgets the promise to the leader",
    /// The bug of single-server changes (Ongaro, raft-dev, 2015).
    ChangeBeforeCommit = "a membership change before a commit in the own term",
    /// Majorities that do not meet.
    TwoChanges = "two membership changes at once",
    /// A leader, or a follower, answers from what it has.
    StaleRead = "a consistent read without a read index",
    /// The leader does not make sure that it still leads.
    ReadWithoutRound = "a read index without a confirmed round",
    /// The lease is longer by the round trip.
    LeaseFromAck = "the lease counts from the ack, not from the send",
    /// As found in pgraft itself, by seed 863 of the first mix.
    LeaseOfOldRound = "a confirmed round counts again",
    /// An old append cuts off what came after it.
    TruncateCommitted = "an old append truncates committed entries",
    /// The log is applied again to what holds it already.
    ApplyTwice = "entries are applied twice after a restart",
    /// A change that is asked for again is made again.
    RetryTwice = "a retried change is made twice",
    /// Bytes without their checksum.
    TornTail = "a torn tail is taken as valid",
    /// Who takes part is forgotten with the log.
    SnapshotWithoutMembership = "a snapshot without its membership",
    /// Neither the directory nor the gate keeps it away.
    WipedVotes = "a wiped node votes",
    /// The next leader is told before it has the log.
    TransferWithoutLog = "a handover does not wait for the log",
    /// The next leader is told while the former one may hold its lease.
    TransferIgnoresLease = "a handover does not wait for the former lease",
    /// Raft §5.4.1.
    VoteForShorterLog = "a vote for a log that is behind",
    /// As found in pgraft itself, by seed 9 of the first mix.
    StaleGate = "a member that was away refuses those added again",
    /// The former leader's lease may run on.
    FenceBeforeFormerLease = "a fence opens before the former lease has ended",
    /// Whoever takes itself for leader and primary.
    FenceWithoutLease = "a fence is open without a lease",
    /// It is the present majority that a new primary is chosen by.
    FenceWithoutNames = "a fence opens before commits wait for a majority",
    /// Commits go on while others are waited for.
    FenceWhileMoving = "the fence stays open during a planned move",
    /// Only the first look is made.
    NoSecondLook = "a commit that outlived the lease is acknowledged",
    /// As the first design had it: whom commits wait for may have changed in between.
    SecondLookOfOtherLease = "the second look disregards whose lease it was",
    /// Who still receives may acknowledge more.
    StandingNotFrozen = "standings are taken of servers that go on receiving",
    /// They may all lack what was acknowledged.
    StandingsOfFew = "fewer than a majority of standings are enough",
    /// Longer is not later.
    LongestWal = "the longest WAL wins, whatever its timeline",
    /// It streams from the lost primary again.
    RestartForgetsHold = "a restart forgets that the server must not receive",
    /// What they write is not waited for.
    MoveWithoutDraining = "a planned move does not wait for commits under way",
    /// The next primary lacks it.
    MoveWithoutWal = "a planned move does not wait for the WAL",
    /// Two histories of one name.
    TimelineTwice = "the number of a timeline is given to two promotions",
    /// As found in pgraft itself: the names in force may be those of the other mode.
    NamesOfOtherMode = "the mode changes, and the names in force count for it",
    /// The new majority may lack what the old one has.
    VotersBeforeConfirmed = "voters change before commits are on a majority of them",
    /// It was named long ago.
    PromotedByOldLog = "a server is promoted by what its node only reads again",
}

#[cfg(feature = "deliberate-bugs")]
mod chosen {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Puts a bug into this thread's pgraft, or none.
    pub fn choose(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Whether this thread's pgraft has the bug.
    pub fn on(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug)
    }
}

#[cfg(feature = "deliberate-bugs")]
pub use chosen::{choose, on};

/// Whether this thread's pgraft has the bug: never.
#[cfg(not(feature = "deliberate-bugs"))]
pub const fn on(_: Bug) -> bool {
    false
}
