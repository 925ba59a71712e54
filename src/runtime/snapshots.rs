//! Snapshots of the cluster state: when this node takes one, how it sends one to a follower, how it
//! becomes what one from the leader says. Pure as the rest of the loop: the writing is `Effects`'.
//!
//! Every node takes its own. Where one is due depends on the log alone, as long as nothing goes
//! wrong, so that all nodes have the same ones and any leader can go on with another's transfer.

use crate::bugs::{self, Bug};
use crate::cluster::{ClusterState, Member};
use crate::raft::{
    Body, Durable, EntryId, Membership, Outgoing, Ready, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES,
    SnapshotMeta,
};
use crate::shmem::Counter;
use crate::storage::StorageError;
use crate::wire::{self, Packet};

use super::consensus::Consensus;
use super::effects::Effects;
use super::ticker::TICK_MS;

/// A log that grew by so much since the last snapshot gets one, however few its entries are.
const LOG_GROWTH_MAX: u64 = 64 << 20;
/// How long a snapshot that could not be written is not tried again.
const PAUSE_TICKS: u32 = 10_000 / TICK_MS;

/// Where this node is with its own snapshots.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// One is being written.
    under_way: bool,
    /// The log's bytes after it was last compacted.
    log_bytes: u64,
    /// The stored one could not be read: another is due.
    unreadable: bool,
    /// While not zero, none is taken.
    pause_ticks: u32,
    /// Why the latest one could not be written.
    failure: Option<String>,
}

impl Snapshots {
    /// What keeps this node from taking snapshots, in words.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn tick(&mut self) {
        self.pause_ticks = self.pause_ticks.saturating_sub(1);
    }
}

/// The members of `state` and whatever else is small.
pub(super) fn without_store(state: &ClusterState) -> ClusterState {
    ClusterState {
        uuid: state.uuid,
        members: state.members.clone(),
        removed: state.removed.clone(),
        applied: state.applied,
        ..ClusterState::default()
    }
}

/// The state that a snapshot holds; `Err`: why it does not hold what it says.
pub(super) fn state_of(meta: &SnapshotMeta, data: &[u8]) -> Result<ClusterState, String> {
    let why = match wire::decode_state(data) {
        Ok(state) if state.applied == meta.last.index => return Ok(state),
        Ok(state) => format!("it ends at entry {}", state.applied.0),
        Err(error) => error.to_string(),
    };
    Err(format!("the snapshot up to entry {} cannot be read: {why}", meta.last.index.0))
}

// Taking one.
impl<E: Effects> Consensus<E> {
    /// One that is needed, and cannot be read, is replaced though nothing is written any more.
    pub(super) fn tick_snapshots(&mut self) {
        self.snapshots.tick();
        if self.snapshots.unreadable {
            self.take_snapshot_if_due();
        }
    }

    /// After each entry: takes a snapshot if one is due.
    pub(super) fn take_snapshot_if_due(&mut self) {
        if !self.snapshots.under_way && self.snapshots.pause_ticks == 0 && self.snapshot_is_due() {
            self.take_snapshot();
        }
    }

    fn snapshot_is_due(&self) -> bool {
        let entries = self.config.snapshot_entries;
        let applied = self.cluster.applied.0;
        let behind = applied.saturating_sub(self.snapshot_index());
        // Twice as many: the place that all nodes have in common was missed.
        let by_entries = behind > 0 && (applied.is_multiple_of(entries) || behind >= 2 * entries);
        let growth = self.fx.log_bytes().saturating_sub(self.snapshots.log_bytes);
        let by_bytes = growth >= LOG_GROWTH_MAX;
        // Whoever is being sent the present one would have to begin again.
        let in_use = self.node.sends_snapshot() && growth < 2 * LOG_GROWTH_MAX;
        (by_entries || by_bytes || self.snapshots.unreadable) && !in_use
    }

    fn snapshot_index(&self) -> u64 {
        self.node.snapshot().map_or(0, |meta| meta.last.index.0)
    }

    fn take_snapshot(&mut self) {
        let Some((last, membership)) = self.node.snapshot_point(self.cluster.applied) else {
            return;
        };
        let data = wire::encode_state(&self.cluster);
        let bytes = data.len() as u64;
        let forgotten = bugs::on(Bug::SnapshotWithoutMembership);
        let membership = if forgotten { Membership::default() } else { membership };
        if bytes > SNAPSHOT_BYTES_MAX {
            let why = format!("it would have {bytes} bytes, and may have {SNAPSHOT_BYTES_MAX}");
            return self.no_snapshot(last, why);
        }
        let meta = SnapshotMeta { last, membership, bytes, checksum: crc32c::crc32c(&data) };
        match self.fx.store_snapshot(meta, data) {
            Ok(()) => self.snapshots.under_way = true,
            Err(why) => self.no_snapshot(last, why),
        }
    }

    /// The log stays as it is, and grows: tried again after a while.
    fn no_snapshot(&mut self, last: EntryId, why: String) {
        log::warn!("could not take a snapshot up to entry {}: {why}", last.index.0);
        self.snapshots.pause_ticks = PAUSE_TICKS;
        self.snapshots.failure = Some(why);
        self.changed = true;
    }

    /// A snapshot that was taken is stored: the log that it stands for can go.
    pub(super) fn on_snapshot_stored(&mut self, meta: SnapshotMeta, outcome: Result<(), String>) {
        self.snapshots.under_way = false;
        let (last, bytes) = (meta.last, meta.bytes);
        if let Err(why) = outcome {
            return self.no_snapshot(last, why);
        }
        self.changed |= self.snapshots.failure.take().is_some();
        let Some(base) = self.node.compact(meta, self.config.log_keep_entries) else { return };
        self.snapshots.unreadable = false;
        self.fx.count(Counter::SnapshotsTaken, 1);
        log::debug!("took a snapshot up to entry {} ({bytes} bytes)", last.index.0);
        match self.fx.compact(base) {
            Ok(()) => self.snapshots.log_bytes = self.fx.log_bytes(),
            Err(error) => self.fail(&error),
        }
    }
}

// Sending one.
impl<E: Effects> Consensus<E> {
    /// Sends a message of raft's, with the piece of the snapshot that it is to carry.
    pub(super) fn send_raft(&mut self, outgoing: Outgoing) {
        let Outgoing { to, mut message } = outgoing;
        if let Body::InstallSnapshot { snapshot, offset, data, .. } = &mut message.body {
            match self.fx.read_snapshot(snapshot, *offset, SNAPSHOT_CHUNK_BYTES) {
                Ok(Some(piece)) => *data = piece,
                // A newer one is there, of which raft is about to hear: it begins again with that.
                Ok(None) if self.snapshots.under_way => return,
                // One that could not be made durable took its place, and raft will never hear.
                Ok(None) => return self.cannot_read_snapshot("another is in its place"),
                Err(error) => return self.cannot_read_snapshot(&error.to_string()),
            }
        }
        self.send(to, Packet::Raft(message));
    }

    /// Without it nobody who is far behind can be helped. The next tick brings another.
    fn cannot_read_snapshot(&mut self, error: &str) {
        if !self.snapshots.unreadable {
            self.snapshots.unreadable = true;
            log::error!("could not read the snapshot that a node is to get: {error}");
        }
    }
}

// Becoming what one says.
impl<E: Effects> Consensus<E> {
    /// Makes what a `Ready` wants durable. With a snapshot comes the state that it holds; one that
    /// holds none is not installed, and this node stops: its leader's pgraft is not its own.
    pub(super) fn store(
        &mut self,
        ready: &Ready,
    ) -> Result<(Durable, Option<ClusterState>), StorageError> {
        let Some((meta, data)) = &ready.snapshot else {
            let hard_state = ready.hard_state.as_ref();
            return Ok((self.fx.save(hard_state, &ready.entries, ready.must_sync)?, None));
        };
        let state = state_of(meta, data).map_err(StorageError::Unfit)?;
        let stored = self.fx.install_snapshot(meta, data, ready.hard_state.as_ref())?;
        if ready.entries.is_empty() {
            return Ok((stored, Some(state)));
        }
        Ok((self.fx.save(None, &ready.entries, true)?, Some(state)))
    }

    /// The state is what a snapshot from the leader says; nobody tells what led to it.
    pub(super) fn become_state(
        &mut self,
        meta: &SnapshotMeta,
        state: ClusterState,
    ) -> Result<(), StorageError> {
        let last = meta.last;
        self.fx.count(Counter::SnapshotsInstalled, 1);
        log::info!("installed a snapshot up to entry {} from the leader", last.index.0);
        let gone = state.removed.difference(&self.cluster.removed).copied().collect::<Vec<_>>();
        self.cluster = state;
        // Entries that are missing above may have removed and added them; the leader, which this
        // node is not, notices by itself who forgets.
        self.distrusted.clear();
        for node in gone {
            self.fx.disconnect(node);
        }
        self.failover.members_changed(last.index);
        self.failover.due = true;
        self.requests.applied(last);
        self.snapshots.log_bytes = self.fx.log_bytes();
        self.snapshots.unreadable = false;
        self.changed = true;
        let own = self.cluster.members.get(&self.identity.node);
        self.confirm_if(own.is_some_and(|member| self.is_own(member)));
        // What came of this node's changes, before it learns that it may ask for no more.
        self.restored(last);
        self.follow_state()
    }

    /// Whether `member` is this node with this directory.
    fn is_own(&self, member: &Member) -> bool {
        member.directory == Some(self.identity.directory)
    }
}
