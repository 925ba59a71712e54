//! A storage beside a simple model of it: what was promised, and what a crash may leave instead.

use super::super::testing::Loss;
use super::*;

/// What is stored, as a list that nobody ever compacts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Model {
    pub hard_state: HardState,
    /// One that was saved without need: it comes with the next write, or is lost.
    pub waiting: Option<HardState>,
    pub snapshot: Option<(SnapshotMeta, Vec<u8>)>,
    /// The entry before the first.
    pub start: EntryId,
    pub entries: Vec<Entry>,
}

impl Model {
    pub fn last(&self) -> EntryId {
        self.entries.last().map_or(self.start, |entry| entry.id)
    }

    pub fn covered(&self) -> EntryId {
        self.snapshot.as_ref().map(|(meta, _)| meta.last).unwrap_or_default()
    }

    /// What is known to be committed.
    pub fn committed(&self) -> u64 {
        let commit = self.hard_state.commit.max(self.covered().index);
        commit.min(self.last().index).0
    }

    /// The last hard state that was saved.
    pub fn known(&self) -> HardState {
        self.waiting.unwrap_or(self.hard_state)
    }

    pub fn id_at(&self, index: u64) -> Option<EntryId> {
        if index == self.start.index.0 {
            return Some(self.start);
        }
        let at = index.checked_sub(self.start.index.0 + 1)?;
        Some(self.entries.get(at as usize)?.id)
    }

    fn save(&mut self, hard_state: Option<HardState>, entries: &[Entry]) {
        self.hard_state = hard_state.or(self.waiting.take()).unwrap_or(self.hard_state);
        if let Some(first) = entries.first() {
            self.entries.truncate((first.id.index.0 - self.start.index.0 - 1) as usize);
            self.entries.extend_from_slice(entries);
        }
    }

    /// Whether `recovered` is this, but for what a snapshot stands for.
    pub fn is(&self, recovered: &Recovered) -> bool {
        let base = recovered.base;
        let hard_state = HardState { commit: LogIndex(self.committed()), ..self.hard_state };
        hard_state == recovered.hard_state
            && self.snapshot == recovered.snapshot
            && base.index <= self.covered().index
            && self.id_at(base.index.0) == Some(base)
            && self.entries[(base.index.0 - self.start.index.0) as usize..] == recovered.entries
    }
}

/// What a runtime does with its storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Act {
    Save(Option<HardState>, Vec<Entry>),
    /// A hard state that need not be durable.
    Mention(HardState),
    Take(SnapshotMeta, Vec<u8>),
    Compact(EntryId),
    Install(SnapshotMeta, Vec<u8>, HardState),
}

impl Act {
    fn run(&self, storage: &mut Storage<MemDisk>) -> Result<(), StorageError> {
        match self {
            Act::Save(hard_state, entries) => {
                storage.save(hard_state.as_ref(), entries, true).map(|_| ())
            }
            Act::Mention(hard_state) => storage.save(Some(hard_state), &[], false).map(|_| ()),
            Act::Take(meta, data) => storage.snapshots().store(meta, data),
            Act::Compact(base) => storage.compact(*base),
            Act::Install(meta, data, hard_state) => {
                storage.install(meta, data, Some(hard_state)).map(|_| ())
            }
        }
    }

    /// What the model may be if the act was begun, the last if it was done.
    fn outcomes(&self, model: &Model) -> Vec<Model> {
        let mut next = model.clone();
        match self {
            Act::Compact(_) => vec![next],
            Act::Save(hard_state, entries) => {
                next.save(*hard_state, entries);
                vec![model.clone(), next]
            }
            Act::Mention(hard_state) => {
                next.waiting = Some(*hard_state);
                vec![next]
            }
            Act::Take(meta, data) => {
                if meta.last.index > model.covered().index {
                    next.snapshot = Some((meta.clone(), data.clone()));
                }
                vec![model.clone(), next]
            }
            Act::Install(meta, data, hard_state) => {
                if meta.last.index > model.covered().index {
                    next.snapshot = Some((meta.clone(), data.clone()));
                    if next.id_at(meta.last.index.0) != Some(meta.last) {
                        (next.start, next.entries) = (meta.last, Vec::new());
                    }
                }
                // The snapshot came through, and the hard state did not.
                let mut between = next.clone();
                let known = &mut between.hard_state;
                if known.term < meta.last.term {
                    (known.term, known.vote) = (meta.last.term, None);
                }
                (next.hard_state, next.waiting) = (*hard_state, None);
                vec![model.clone(), between, next]
            }
        }
    }
}

/// A node's storage that is opened, used, and crashed.
pub struct Rig {
    pub disk: MemDisk,
    /// What the disk may hold: one, unless something failed since it was last opened.
    possible: Vec<Model>,
    storage: Option<Storage<MemDisk>>,
    segment_bytes: u64,
}

impl Rig {
    /// On a disk that may fail already.
    pub fn new(disk: MemDisk, segment_bytes: u64) -> Rig {
        Rig { disk, possible: vec![Model::default()], storage: None, segment_bytes }
    }

    /// The same in another world, with the power cut there.
    pub fn cut(&self, loss: Loss) -> Rig {
        let disk = self.disk.fork();
        disk.power_cut(loss);
        let possible = self.possible.clone();
        Rig { disk, possible, storage: None, segment_bytes: self.segment_bytes }
    }

    /// The power fails.
    pub fn power_cut(&mut self, loss: Loss) {
        self.storage = None;
        self.disk.power_cut(loss);
    }

    /// What is stored.
    pub fn model(&self) -> &Model {
        assert!(self.storage.is_some(), "known only while it is open");
        &self.possible[0]
    }

    /// It, open.
    pub fn storage(&mut self) -> &mut Storage<MemDisk> {
        self.storage.as_mut().expect("it is open")
    }

    /// Does `act`; `false` if the disk failed. Then the storage is closed.
    pub fn act(&mut self, act: &Act) -> bool {
        let outcomes = act.outcomes(self.model());
        match act.run(self.storage()) {
            Ok(()) => {
                self.possible = outcomes.into_iter().next_back().into_iter().collect();
                true
            }
            Err(StorageError::Io { .. }) => {
                self.possible = outcomes;
                self.storage = None;
                false
            }
            Err(error) => panic!("{act:?}: {error}"),
        }
    }

    /// Opens it anew: what was promised is there, and at most what was begun besides. `false` if
    /// the disk fails.
    pub fn reopen(&mut self) -> bool {
        self.storage = None;
        match Storage::open_with(self.disk.clone(), self.segment_bytes) {
            Ok((storage, recovered)) => {
                let found = self.possible.iter().position(|model| model.is(&recovered));
                let Some(found) = found else {
                    panic!("{recovered:?}\nis none of\n{:?}", self.possible);
                };
                let model = self.possible.swap_remove(found);
                self.possible = vec![Model { waiting: None, ..model }];
                self.storage = Some(storage);
                true
            }
            Err(StorageError::Io { .. }) => false,
            Err(error) => panic!("{error}\n{:?}", self.possible),
        }
    }
}
