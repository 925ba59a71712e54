//! A disk in memory that loses power and fails when told to: for tests and the simulator.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Disk;

/// A disk in memory. Clones are handles on the same disk: one goes into the storage, one stays.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    /// The files by number, which stays theirs whatever their names are.
    files: BTreeMap<u64, File>,
    made: u64,
    /// The names that a reader sees.
    names: BTreeMap<String, u64>,
    /// The names on the platter.
    durable: BTreeMap<String, u64>,
    /// What a sync of the folder would bring there.
    changes: Vec<Change>,
    fault: Option<(u64, Fault)>,
    /// Nothing works until the power is cut.
    halted: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What a reader sees.
    now: Vec<u8>,
    /// What the platter holds.
    durable: Vec<u8>,
    /// What a sync would bring there.
    pending: Vec<Write>,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

/// A change of names.
#[derive(Clone, Debug)]
enum Change {
    Put { name: String, file: u64, instead_of: Option<String> },
    Remove { name: String },
}

/// What an operation that changes the disk is to do.
enum Outcome {
    Done,
    /// The fault hits this one.
    Faulty(Fault),
    /// The process is dead already.
    Halted,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The disk is full after this many bytes of a write. Other operations fail outright.
    NoSpace(usize),
    /// An input/output error. A sync that fails so forgets what it should have written, and the
    /// next one succeeds, as Linux has it.
    Io,
    /// The operation takes place in memory, nothing of it needs to have reached the platter, and
    /// everything after it fails until the power is cut: as if that had happened here.
    Halt,
}

/// What a power failure leaves of the unsynced bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The first so many, in the order in which they were written, and all names.
    Keep(usize),
    /// Each sector of 512 bytes comes through or reads as before, files keep their length and
    /// names come through or not, as the bits of a generator with this seed have it.
    Sectors(u64),
    /// All of them, and the changes of names behind the first so many.
    Names(usize),
}

const SECTOR_BYTES: usize = 512;

impl MemDisk {
    /// An empty disk.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// After `operations` more operations that change the disk the next one fails.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        self.state().fault = Some((operations, fault));
    }

    /// No fault is to come, and if the process was halted, another one finds what the kernel had:
    /// what is not synced is neither lost nor durable.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.fault, state.halted) = (None, false);
    }

    /// Whether `Fault::Halt` came, and the power was not cut since.
    pub fn is_halted(&self) -> bool {
        self.state().halted
    }

    /// How many bytes a power failure could take.
    pub fn unsynced_bytes(&self) -> usize {
        let state = self.state();
        let pending = state.files.values().flat_map(|file| &file.pending);
        pending.map(|write| write.bytes.len()).sum()
    }

    /// How many changes of names a power failure could take.
    pub fn unsynced_names(&self) -> usize {
        self.state().changes.len()
    }

    /// The power fails: what is left is on the disk, and nothing else.
    pub fn power_cut(&self, loss: Loss) {
        let mut state = self.state();
        (state.fault, state.halted) = (None, false);
        match loss {
            Loss::Keep(bytes) => state.keep(bytes),
            Loss::Sectors(seed) => state.lose_sectors(seed),
            Loss::Names(changes) => {
                state.changes.truncate(changes);
                state.sync_names("");
            }
        }
        state.changes.clear();
        let State { files, names, durable, .. } = &mut *state;
        names.clone_from(durable);
        files.retain(|number, _| durable.values().any(|file| file == number));
        for file in files.values_mut() {
            file.pending.clear();
            file.now.clone_from(&file.durable);
        }
    }

    /// A file's bytes, to look at or to damage.
    pub fn with_file<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.state();
        let number = match state.names.get(name) {
            Some(number) => *number,
            None => {
                let number = state.make(name);
                state.durable.insert(name.to_owned(), number);
                number
            }
        };
        let file = state.files.entry(number).or_default();
        let result = change(&mut file.now);
        file.durable.clone_from(&file.now);
        result
    }

    /// Removes a file for good.
    pub fn remove_file(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable.remove(name);
    }

    /// Another disk in the same state, what is not synced included.
    pub fn fork(&self) -> MemDisk {
        MemDisk(Arc::new(Mutex::new(self.state().clone())))
    }

    /// The files' names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    fn write(&self, name: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.outcome();
        let written = match outcome {
            Outcome::Done | Outcome::Faulty(Fault::Halt) => bytes,
            Outcome::Faulty(Fault::NoSpace(room)) => &bytes[..room.min(bytes.len())],
            Outcome::Faulty(Fault::Io) | Outcome::Halted => &[],
        };
        let file = state.file(name)?;
        put(&mut file.now, offset, written);
        file.pending.push(Write { offset, bytes: written.to_vec() });
        outcome.result()
    }

    /// A change of names, which takes place as a whole or not at all.
    fn change(&self, change: impl FnOnce(&State) -> io::Result<Change>) -> io::Result<()> {
        let mut state = self.state();
        let change = change(&state)?;
        let outcome = state.outcome();
        if matches!(outcome, Outcome::Done | Outcome::Faulty(Fault::Halt)) {
            change.apply(&mut state.names);
            state.changes.push(change);
        }
        outcome.result()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere leaves whole values: every change here is one.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl State {
    fn keep(&mut self, mut bytes: usize) {
        for file in self.files.values_mut() {
            for write in std::mem::take(&mut file.pending) {
                let kept = write.bytes.len().min(bytes);
                bytes -= kept;
                put(&mut file.durable, write.offset, &write.bytes[..kept]);
            }
        }
    }

    fn lose_sectors(&mut self, seed: u64) {
        let mut random = Random::new(seed);
        self.changes.retain(|_| random.bit());
        self.sync_names("");
        for file in self.files.values_mut() {
            let before = file.durable.clone();
            let mut whole = before.clone();
            file.pending.iter().for_each(|write| put(&mut whole, write.offset, &write.bytes));
            for (sector, bytes) in whole.chunks_mut(SECTOR_BYTES).enumerate() {
                if random.bit() {
                    let start = (sector * SECTOR_BYTES).min(before.len());
                    let old = &before[start..(start + bytes.len()).min(before.len())];
                    bytes.fill(0);
                    bytes[..old.len()].copy_from_slice(old);
                }
            }
            file.durable = whole;
        }
    }

    /// Makes the changes of names in `folder` durable.
    fn sync_names(&mut self, folder: &str) {
        for change in std::mem::take(&mut self.changes) {
            if change.name().starts_with(folder) {
                change.apply(&mut self.durable);
            } else {
                self.changes.push(change);
            }
        }
    }

    /// What the next operation that changes the disk is to do.
    fn outcome(&mut self) -> Outcome {
        if self.halted {
            return Outcome::Halted;
        }
        match &mut self.fault {
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                self.halted = fault == Fault::Halt;
                Outcome::Faulty(fault)
            }
            Some((operations, _)) => {
                *operations -= 1;
                Outcome::Done
            }
            None => Outcome::Done,
        }
    }

    /// A new file that readers see.
    fn make(&mut self, name: &str) -> u64 {
        self.made += 1;
        self.files.insert(self.made, File::default());
        self.names.insert(name.to_owned(), self.made);
        self.made
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        let number = self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.files.get_mut(number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Change {
    fn name(&self) -> &str {
        match self {
            Change::Put { name, .. } | Change::Remove { name } => name,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Put { name, file, instead_of } => {
                instead_of.as_ref().map(|from| names.remove(from));
                names.insert(name.clone(), *file);
            }
            Change::Remove { name } => _ = names.remove(name),
        }
    }
}

impl Outcome {
    fn result(self) -> io::Result<()> {
        match self {
            Outcome::Done => Ok(()),
            Outcome::Faulty(fault) => Err(fault.error()),
            Outcome::Halted => Err(Fault::Halt.error()),
        }
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::NoSpace(_) => io::Error::from(io::ErrorKind::StorageFull),
            Fault::Io | Fault::Halt => io::Error::from_raw_os_error(5),
        }
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    file.resize(file.len().max(offset + bytes.len()), 0);
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// SplitMix64: the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    fn bit(&mut self) -> bool {
        self.below(2) == 1
    }
}

impl Disk for MemDisk {
    fn list(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let names = self.names();
        let inside = names.iter().filter_map(|name| name.strip_prefix(folder)?.strip_prefix('/'));
        Ok(inside.map(str::to_owned).collect())
    }

    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let file = state.file(name)?;
        if file.now.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(file.now.clone())
    }

    fn read_at(&mut self, name: &str, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let file = &state.file(name)?.now;
        let start = file.len().min(offset as usize);
        Ok(file[start..file.len().min(start + bytes)].to_vec())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // The name is there even if making it durable fails.
        let outcome = state.outcome();
        if !matches!(outcome, Outcome::Halted) {
            let file = state.make(name);
            state.changes.push(Change::Put { name: name.to_owned(), file, instead_of: None });
        }
        if matches!(outcome, Outcome::Done) {
            let folder = name.split_once('/').map_or("", |(folder, _)| folder);
            state.sync_names(folder);
        }
        outcome.result()
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let end = self.state().file(name)?.now.len();
        self.write(name, end, bytes)
    }

    fn overwrite(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(name, offset as usize, bytes)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.outcome();
        let file = state.file(name)?;
        match outcome {
            Outcome::Done => {
                for write in std::mem::take(&mut file.pending) {
                    put(&mut file.durable, write.offset, &write.bytes);
                }
            }
            Outcome::Faulty(Fault::Halt) | Outcome::Halted => {}
            Outcome::Faulty(_) => file.pending.clear(),
        }
        outcome.result()
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.outcome();
        let file = state.file(name)?;
        if matches!(outcome, Outcome::Done) {
            file.now.truncate(len as usize);
            file.durable.clone_from(&file.now);
            file.pending.clear();
        }
        outcome.result()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.change(|state| {
            let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            Ok(Change::Put { name: to.to_owned(), file, instead_of: Some(from.to_owned()) })
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.change(|state| match state.names.contains_key(name) {
            true => Ok(Change::Remove { name: name.to_owned() }),
            false => Err(io::ErrorKind::NotFound.into()),
        })
    }

    fn sync_names(&mut self, folder: &str) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.outcome();
        if matches!(outcome, Outcome::Done) {
            state.sync_names(folder);
        }
        outcome.result()
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}
