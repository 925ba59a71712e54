//! What ramd knows at one moment, as plain values: made by the health loop, served by the API.
//! Nothing here is changed after it was published; a reader holds the moment that it took.

use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// It is put up anew five times a second; what is older than this says nothing.
pub const BOARD_AGE_MAX: Duration = Duration::from_secs(2);

/// Everything that ramd knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Overview {
    /// When it was taken, in milliseconds since 1970, for people.
    pub taken_unix_ms: u64,
    /// The same on CLOCK_BOOTTIME, to compare with; 0: nothing was looked at yet.
    pub taken_ns: u64,
    /// Since when it was put up without a pause longer than [`BOARD_AGE_MAX`], CLOCK_BOOTTIME: what
    /// was seen before such a pause has not been seen to last through it.
    pub watched_since_ns: u64,
    /// This node, from its pgraft.conf.
    pub node_id: u32,
    /// Its name.
    pub node_name: String,
    /// Its cluster.
    pub cluster_id: String,
    /// What pgraft's page says; `None`: unknown, because it is missing or stale. Never an old one.
    pub page: Option<Page>,
    /// Why `page` is unknown; empty if it is known.
    pub page_unknown: String,
    /// The local server.
    pub postgres: Postgres,
    /// Whether automatic failover is paused, and with it what ramd does by itself. From the page;
    /// while that is unknown, as it was last seen: whoever paused the cluster may have stopped the
    /// server.
    pub paused: bool,
    /// `synchronous_mode` of this node's pgraft.conf.
    pub synchronous: bool,
    /// Room on the file system of the data directory.
    pub disk: Option<Disk>,
    /// What ramd is doing.
    pub doing: Doing,
    /// The last thing that went wrong, in words; empty if what followed went well.
    pub last_error: String,
    /// The members of the cluster as last seen, also while the page is unknown: whom to ask.
    pub known_members: Vec<KnownMember>,
}

/// What a fresh page says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Page {
    /// `stopped`, `forming`, `joining`, `member`, `removed`, `error`.
    pub state: &'static str,
    /// `follower`, `candidate`, `leader`, `learner`; `None`: takes no part.
    pub role: Option<&'static str>,
    /// The Raft term.
    pub term: u64,
    /// The leader's node id; 0: none.
    pub leader_id: u32,
    /// Leader: a quorum answers. Follower: a leader is heard.
    pub has_quorum: bool,
    /// How many members vote.
    pub voters: u32,
    /// How many of them this node reaches.
    pub reachable: u32,
    /// The end of its log.
    pub last_index: u64,
    /// What is committed.
    pub commit_index: u64,
    /// What it has applied.
    pub applied_index: u64,
    /// The fence of this server's backends.
    pub fence: FenceState,
    /// Until when commits pass, CLOCK_BOOTTIME; 0: no window.
    pub writes_until_ns: u64,
    /// From when on; 0: no window.
    pub writes_from_ns: u64,
    /// When this node's lease as leader ends, CLOCK_BOOTTIME; 0: none.
    pub lease_until_ns: u64,
    /// The primary by the log's word; 0: none is named.
    pub primary_id: u32,
    /// Whether automatic failover is paused, cluster-wide.
    pub paused: bool,
    /// What hinders pgraft here, in words.
    pub last_error: String,
    /// How old its last heartbeat was.
    pub heartbeat_age_ms: u64,
    /// The worker.
    pub worker_pid: i32,
    /// Who takes part, by id.
    pub members: Vec<Member>,
}

/// How the fence stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceState {
    /// No fence: this is no member of a cluster, or the integration is off.
    #[default]
    Off,
    /// Another is the primary.
    Closed,
    /// Not now.
    Paused,
    /// Within the window.
    Open,
}

/// One member, as the page has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Member {
    /// Its node id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// `host:port` of its Raft port.
    pub raft_address: String,
    /// `host:port` of its Postgres; empty: unknown.
    pub pg_address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Whether it answers; `None`: this node cannot know.
    pub reachable: Option<bool>,
    /// `primary`, `standby`; `None`: unknown.
    pub pg_role: Option<&'static str>,
    /// Its Postgres' position; 0: unknown.
    pub wal_lsn: u64,
    /// When it was last heard, in microseconds since 1970.
    pub last_contact_unix_us: Option<i64>,
    /// The latest round trip to it in microseconds; 0: unknown.
    pub round_trip_us: u64,
}

/// A member as it was last seen: enough to ask it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Its node id.
    pub id: u32,
    /// `host:port` of its Postgres.
    pub pg_address: String,
}

/// How the local server is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Postgres {
    /// What its processes and the probe say.
    pub state: PgState,
    /// Why it is `Hung` or `Rejecting`, or why it cannot be known, in words.
    pub reason: String,
    /// The postmaster; `None`: none runs.
    pub pid: Option<i32>,
    /// What the last probe that was answered in time found; `None` unless `state` is `Answering`.
    pub facts: Option<PgFacts>,
    /// How long the last probe took, in microseconds.
    pub probe_us: u64,
    /// Since when it has been in this state, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// What can be seen of a server from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PgState {
    /// Nothing was looked at yet.
    #[default]
    Unknown,
    /// No postmaster runs.
    Down,
    /// It runs and does not take connections yet, or not any more.
    Rejecting,
    /// It runs, and does not answer within the deadline: stopped, or worse.
    Hung,
    /// It answers.
    Answering,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PgFacts {
    /// Whether it is in recovery: a standby.
    pub in_recovery: bool,
    /// The timeline that it writes, or replays.
    pub timeline: u32,
    /// `server_version_num`.
    pub version: u32,
    /// On a primary: the end of its WAL. On a standby: what it has replayed.
    pub lsn: u64,
    /// On a standby: what it has received; 0: nothing since it started.
    pub received_lsn: u64,
    /// On a standby: whether a WAL receiver streams.
    pub streaming: bool,
    /// On a standby: whether its replay is paused.
    pub replay_paused: bool,
    /// On a standby: how far it is behind the primary, in bytes of WAL; `None`: unknown.
    pub lag_bytes: Option<u64>,
    /// On a standby: how far what it shows is behind, in seconds: 0 while it streams and has
    /// replayed all that it received, else the time since the latest transaction that it has
    /// replayed was committed; `None`: unknown, as it has replayed none since it started.
    pub lag_seconds: Option<f64>,
    /// Whether it is a synchronous standby is the primary's to say: here, on a primary, those that
    /// stream from it, by `application_name`.
    pub standbys: Vec<Streaming>,
    /// When it started, in milliseconds since 1970.
    pub started_unix_ms: u64,
}

/// One standby, as its primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Streaming {
    /// `pgraft_<node id>` for members.
    pub name: String,
    /// `streaming`, `catchup` ...
    pub state: String,
    /// `async`, `quorum`, `sync` ...
    pub sync_state: String,
    /// What it has replayed.
    pub replay_lsn: u64,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// All of it.
    pub total_bytes: u64,
    /// What the server's user may still use.
    pub free_bytes: u64,
}

/// What ramd is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Doing {
    /// What: `watching`, `starting`, `rewinding` ...
    pub what: String,
    /// Why.
    pub why: String,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

impl Overview {
    /// How old it is at `now_ns`, CLOCK_BOOTTIME.
    pub fn age(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.taken_ns))
    }

    /// It is taken anew, at `now_ns`, CLOCK_BOOTTIME.
    pub fn take(&mut self, now_ns: u64) {
        if self.taken_ns == 0 || self.age(now_ns) > BOARD_AGE_MAX {
            self.watched_since_ns = now_ns;
        }
        self.taken_ns = now_ns;
    }

    /// For how long something lasts that was first seen at `since_ns`, CLOCK_BOOTTIME, and has been
    /// seen ever since; pauses in which nobody looked end it.
    pub fn lasted(&self, since_ns: u64) -> Duration {
        let since_ns = since_ns.max(self.watched_since_ns);
        Duration::from_nanos(self.taken_ns.saturating_sub(since_ns))
    }
}

impl Page {
    /// Whether commits pass on this server at `now_ns`, CLOCK_BOOTTIME: it is the primary, and its
    /// window is open. False without a fence: a server that is no member has no say.
    pub fn may_write(&self, now_ns: u64) -> bool {
        let open = self.fence == FenceState::Open;
        open && self.writes_from_ns <= now_ns && now_ns < self.writes_until_ns
    }

    /// Whether this node is the leader and its lease holds at `now_ns`.
    pub fn is_leader(&self, now_ns: u64) -> bool {
        now_ns < self.lease_until_ns
    }

    /// The member with this id.
    pub fn member(&self, id: u32) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }
}

/// The latest [`Overview`], for any thread; taking it costs a reference count.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<RwLock<Arc<Overview>>>);

impl Board {
    /// The latest.
    pub fn latest(&self) -> Arc<Overview> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts up a new one, made of the one before.
    pub fn update(&self, change: impl FnOnce(&mut Overview)) {
        let mut latest = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut latest));
    }

    /// Waits for one that was taken after `ns` on CLOCK_BOOTTIME, for as long as one says
    /// something.
    pub fn await_later(&self, ns: u64) {
        let until = Instant::now() + BOARD_AGE_MAX;
        while self.latest().taken_ns <= ns && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn nothing_lasts_through_a_pause_in_which_nobody_looked() {
        let mut board = Overview::default();
        board.take(100 * SECOND);
        assert_eq!(board.lasted(100 * SECOND), Duration::ZERO);
        for at in [101, 103, 105] {
            board.take(at * SECOND);
        }
        assert_eq!(board.lasted(101 * SECOND), Duration::from_secs(4));
        assert_eq!(board.lasted(7 * SECOND), Duration::from_secs(5));
        board.take(105 * SECOND + 2 * SECOND + 1);
        assert_eq!(board.lasted(101 * SECOND), Duration::ZERO);
        board.take(108 * SECOND);
        assert!(board.lasted(101 * SECOND) < Duration::from_secs(1));
    }
}
