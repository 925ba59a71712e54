//! A disk in memory that loses power and fails when told to: for tests and the simulator.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Disk;

/// A disk in memory. Clones are handles on the same disk: one goes into the storage, one stays.
#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, File>,
    fault: Option<(u64, Fault)>,
}

#[derive(Clone, Debug, Default)]
struct File {
    /// What a reader sees.
    now: Vec<u8>,
    /// What the platter holds.
    durable: Vec<u8>,
    /// What a sync would bring there.
    pending: Vec<Write>,
    /// Whether a synced directory knows the file.
    linked: bool,
}

#[derive(Clone, Debug)]
struct Write {
    offset: usize,
    bytes: Vec<u8>,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The disk is full after this many bytes of a write. Other operations fail outright.
    NoSpace(usize),
    /// An input/output error. A sync that fails so forgets what it should have written, and the
    /// next one succeeds, as Linux has it.
    Io,
    /// The power is gone: this operation and all after it do nothing and fail, until
    /// [`MemDisk::power_cut`] says what is left.
    Power,
}

/// What a power failure leaves of the unsynced bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The first so many, in the order in which they were written, and all names.
    Keep(usize),
    /// Each sector of 512 bytes comes through or reads as before, files keep their length and
    /// names come through or not, as the bits of a generator with this seed have it.
    Sectors(u64),
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

    /// How many bytes a power failure could take.
    pub fn unsynced_bytes(&self) -> usize {
        let state = self.state();
        let pending = state.files.values().flat_map(|file| &file.pending);
        pending.map(|write| write.bytes.len()).sum()
    }

    /// The power fails: what is left is on the disk, and nothing else.
    pub fn power_cut(&self, loss: Loss) {
        let mut state = self.state();
        state.fault = None;
        match loss {
            Loss::Keep(bytes) => state.keep(bytes),
            Loss::Sectors(seed) => state.lose_sectors(seed),
        }
        for file in state.files.values_mut() {
            file.linked = true;
            file.pending.clear();
            file.now = file.durable.clone();
        }
    }

    /// A file's bytes, to look at or to damage.
    pub fn with_file<T>(&self, name: &str, change: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.state();
        let file = state.files.entry(name.to_owned()).or_default();
        let result = change(&mut file.now);
        file.durable = file.now.clone();
        result
    }

    /// Removes a file for good.
    pub fn remove_file(&self, name: &str) {
        self.state().files.remove(name);
    }

    /// The files' names, sorted.
    pub fn names(&self) -> Vec<String> {
        self.state().files.keys().cloned().collect()
    }

    fn write(&self, name: &str, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.fault();
        let written = match fault {
            None => bytes,
            Some(Fault::NoSpace(room)) => &bytes[..room.min(bytes.len())],
            Some(Fault::Io | Fault::Power) => &[],
        };
        let file = state.file(name)?;
        put(&mut file.now, offset, written);
        file.pending.push(Write { offset, bytes: written.to_vec() });
        fault.map_or(Ok(()), |fault| Err(fault.error()))
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
        for (name, file) in std::mem::take(&mut self.files) {
            if file.linked || random.bit() {
                self.files.insert(name, file);
            }
        }
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

    /// The fault to have, if this operation is to fail.
    fn fault(&mut self) -> Option<Fault> {
        match &mut self.fault {
            Some((0, Fault::Power)) => Some(Fault::Power),
            Some((0, fault)) => {
                let fault = *fault;
                self.fault = None;
                Some(fault)
            }
            Some((operations, _)) => {
                *operations -= 1;
                None
            }
            None => None,
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::NoSpace(_) => io::Error::from(io::ErrorKind::StorageFull),
            Fault::Io | Fault::Power => io::Error::from_raw_os_error(5),
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
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn read(&mut self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let file = state.file(name)?;
        if file.now.len() as u64 > bytes_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(file.now.clone())
    }

    fn create(&mut self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        // The name is there even if making it durable fails.
        let fault = state.fault();
        if fault == Some(Fault::Power) {
            return Err(Fault::Power.error());
        }
        let linked = fault.is_none();
        state.files.insert(name.to_owned(), File { linked, ..File::default() });
        fault.map_or(Ok(()), |fault| Err(fault.error()))
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
        let fault = state.fault();
        if fault == Some(Fault::Power) {
            return Err(Fault::Power.error());
        }
        let file = state.file(name)?;
        let pending = std::mem::take(&mut file.pending);
        match fault {
            Some(fault) => Err(fault.error()),
            None => {
                pending.iter().for_each(|write| put(&mut file.durable, write.offset, &write.bytes));
                Ok(())
            }
        }
    }

    fn truncate(&mut self, name: &str, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.fault() {
            return Err(fault.error());
        }
        let file = state.file(name)?;
        file.now.truncate(len as usize);
        file.durable = file.now.clone();
        file.pending.clear();
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.fault() {
            return Err(fault.error());
        }
        state.files.values_mut().for_each(|file| file.linked = true);
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}
