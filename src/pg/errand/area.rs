//! Where an errand and its outcome are passed on. The pgraft worker's main thread writes the one,
//! the errand's process the other. An errand that nobody waits for any more may still run when the
//! next is sent: the serial numbers tell them apart.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::hand::errand::ERRAND_BYTES_MAX;

/// Of an outcome: an error message or two.
const OUTCOME_BYTES_MAX: usize = 512;

/// A place in shared memory; zeroes are a valid, empty one.
#[repr(C)]
pub(in crate::pg) struct ErrandArea {
    /// The number of the errand that is described here.
    serial: AtomicU64,
    len: AtomicUsize,
    bytes: [AtomicU8; ERRAND_BYTES_MAX],
    /// The number of the errand whose outcome is here.
    done: AtomicU64,
    outcome_len: AtomicUsize,
    outcome: [AtomicU8; OUTCOME_BYTES_MAX],
}

impl ErrandArea {
    /// Describes a new errand: its number.
    pub(super) fn put(&self, bytes: &[u8]) -> u64 {
        // An old one's process that reads now sees that the number has changed.
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        store(&self.bytes, &self.len, bytes);
        serial
    }

    /// What errand `serial` is to do. `None`: another one has taken its place.
    pub(super) fn take(&self, serial: u64) -> Option<Vec<u8>> {
        let bytes = load(&self.bytes, &self.len);
        (self.serial.load(Ordering::SeqCst) == serial).then_some(bytes)
    }

    /// Errand `serial` is over; `wrong` says what went wrong, and is empty if nothing did.
    pub(super) fn finish(&self, serial: u64, wrong: &str) {
        if self.serial.load(Ordering::SeqCst) == serial {
            store(
                &self.outcome,
                &self.outcome_len,
                crate::shmem::cut(wrong, OUTCOME_BYTES_MAX).as_bytes(),
            );
            self.done.store(serial, Ordering::SeqCst);
        }
    }

    /// What `finish` said of errand `serial`, once it has.
    pub(super) fn outcome(&self, serial: u64) -> Option<String> {
        let done = self.done.load(Ordering::SeqCst) == serial;
        done.then(|| String::from_utf8_lossy(&load(&self.outcome, &self.outcome_len)).into_owned())
    }
}

fn store(to: &[AtomicU8], len: &AtomicUsize, bytes: &[u8]) {
    for (to, byte) in to.iter().zip(bytes) {
        to.store(*byte, Ordering::Relaxed);
    }
    len.store(bytes.len().min(to.len()), Ordering::SeqCst);
}

fn load(from: &[AtomicU8], len: &AtomicUsize) -> Vec<u8> {
    let len = len.load(Ordering::SeqCst).min(from.len());
    from[..len].iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
}
