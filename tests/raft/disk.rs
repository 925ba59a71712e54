//! What a server keeps, and a state machine that remembers which entries it applied: enough for
//! snapshots to have contents that can be checked.

use pgraft::raft::*;

/// A server's disk, as `storage` keeps it.
#[derive(Clone, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    /// What stands before the first of `entries`.
    pub base: EntryId,
    pub entries: Vec<Entry>,
}

impl Disk {
    /// What a node is made of. After a crash in the middle of an installation the log may end
    /// before the snapshot, or have another entry where it ends: then it begins anew behind it.
    pub fn recover(&mut self) -> Restored {
        self.begin_behind_snapshot();
        let Disk { hard_state, snapshot, base, entries } = self.clone();
        Restored { hard_state, snapshot: snapshot.map(|(meta, _)| meta), base, entries }
    }

    /// The state that the snapshot holds.
    pub fn state(&self) -> Vec<EntryId> {
        self.snapshot.as_ref().map_or(Vec::new(), |(_, data)| decode(data))
    }

    /// The last entry, or what the log begins behind.
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.base, |entry| entry.id)
    }

    /// The entry at `index`.
    pub fn entry(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index.checked_sub(self.base.index.0 + 1)? as usize)
    }

    /// The first half of an installation, which a crash may separate from the second.
    pub fn store_snapshot(&mut self, meta: &SnapshotMeta, data: &[u8]) {
        let newest = self.snapshot.as_ref().map_or(LogIndex(0), |(meta, _)| meta.last.index);
        if newest < meta.last.index {
            self.snapshot = Some((meta.clone(), data.to_vec()));
        }
    }

    /// The second half: a log that does not hold where the snapshot ends begins anew behind it.
    pub fn begin_behind_snapshot(&mut self) {
        let Some((meta, _)) = &self.snapshot else { return };
        let last = meta.last;
        let holds =
            last == self.base || self.entry(last.index.0).is_some_and(|entry| entry.id == last);
        if !holds {
            self.entries.clear();
            self.base = last;
        }
    }

    /// Appends, replacing from the first on.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let at = first.id.index.0.checked_sub(self.base.index.0 + 1);
        let at = at.expect("an entry is stored before the log's base") as usize;
        assert!(at <= self.entries.len(), "a gap on the disk");
        self.entries.truncate(at);
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops entries up to `base`.
    pub fn compact(&mut self, base: EntryId) {
        let dropped = base.index.0.saturating_sub(self.base.index.0) as usize;
        if dropped > 0 {
            assert_eq!(self.entries[dropped - 1].id, base);
            self.entries.drain(..dropped);
            self.base = base;
        }
    }

    /// A piece of the snapshot, if it is still `meta`'s.
    pub fn piece(&self, meta: &SnapshotMeta, offset: u64, bytes_max: usize) -> Option<Vec<u8>> {
        let (_, data) = self.snapshot.as_ref().filter(|(own, _)| own == meta)?;
        let rest = &data[offset as usize..];
        Some(rest[..rest.len().min(bytes_max)].to_vec())
    }
}

/// The state in bytes.
pub fn encode(state: &[EntryId]) -> Vec<u8> {
    state.iter().flat_map(|id| [id.term.0, id.index.0]).flat_map(u64::to_be_bytes).collect()
}

/// What `encode` wrote.
pub fn decode(data: &[u8]) -> Vec<EntryId> {
    assert_eq!(data.len() % 16, 0, "half an entry");
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
    let id = |bytes: &[u8]| EntryId {
        term: Term(number(&bytes[..8])),
        index: LogIndex(number(&bytes[8..])),
    };
    data.chunks(16).map(id).collect()
}

/// A snapshot of `state`, with what it says of itself.
pub fn describe_state(state: &[EntryId], membership: Membership) -> (SnapshotMeta, Vec<u8>) {
    let data = encode(state);
    let meta = SnapshotMeta {
        last: *state.last().expect("something was applied"),
        membership,
        bytes: data.len() as u64,
        checksum: crc32c::crc32c(&data),
    };
    (meta, data)
}

/// Puts the pieces into the messages that want one; drops those that come too late for it.
pub fn fill(outgoing: &mut Vec<Outgoing>, disk: &Disk, bytes_max: usize) {
    outgoing.retain_mut(|out| {
        let Body::InstallSnapshot { snapshot, offset, data, .. } = &mut out.message.body else {
            return true;
        };
        let piece = disk.piece(snapshot, *offset, bytes_max);
        piece.map(|piece| *data = piece).is_some()
    });
}
