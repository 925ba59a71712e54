//! What the worker, the backends and programs outside PostgreSQL share: one area of plain atomics
//! with a fixed layout. Who may write what stands in each file.
//!
//! Nothing here knows PostgreSQL: the area is whatever memory `init` is given, and the SysV segment
//! (`sysv`) holds a page of its own.

mod call;
mod desk;
mod fence;
mod log_ring;
mod page;
mod publisher;
mod seqlock;
mod slots;
mod sysv;
mod view;

#[cfg(test)]
mod tests;

pub use call::{Call, Poll, REQUEST_BYTES_MAX, SubmitError};
pub use desk::{Desk, Taken, Turns};
pub use fence::Verdict;
pub use log_ring::{ENTRY_BYTES, LogLine, LogRing, TEXT_BYTES_MAX};
pub use page::{
    COUNTERS_MAX, Counter, Histogram, LAYOUT, LAYOUT_VERSION, MAGIC, MEMBERS_MAX, StatusPage,
};
pub use publisher::Pages;
pub use seqlock::cut;
pub use slots::{PART_BYTES_MAX, SLOTS, SlotHandle, SlotId, Slots};
pub use sysv::{SysvError, SysvPage, SysvReader, attach_readonly};
pub use view::{Core, Fence, FenceMode, MemberView, NodeState, PeerCounters, RoleCode, View};

use log_ring::{LogEntry, RingHead};
use std::mem::{align_of, offset_of, size_of};
use std::ptr::NonNull;

/// The least `postgresql_shmem_size`: the fixed parts, most of them command slots, and some seventy
/// log lines.
pub const SHMEM_BYTES_MIN: usize = 640 << 10;
/// The most: a hundred thousand log lines are no longer read by anyone.
pub const SHMEM_BYTES_MAX: usize = 64 << 20;
/// `postgresql_shmem_size` if not set; the guide promises 1 MB.
pub const SHMEM_BYTES_DEFAULT: usize = 1 << 20;

/// What has a fixed size; the log ring's entries fill the rest of the area.
#[repr(C, align(64))]
struct Fixed {
    page: StatusPage,
    slots: Slots,
    ring: RingHead,
}

const _: () = assert!(size_of::<Fixed>() + 32 * ENTRY_BYTES <= SHMEM_BYTES_MIN);
// Postgres aligns an area in shared memory to 128 bytes (PG_CACHE_LINE_SIZE).
const _: () = assert!(align_of::<Fixed>() <= 128);
const _: () = assert!(offset_of!(Fixed, page) == 0);

/// A view over one shared area; each process that inherits it by fork sees the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    page: &'static StatusPage,
    slots: &'static Slots,
    log: LogRing,
}

impl Shared {
    /// How many bytes to ask for, given `postgresql_shmem_size`: that, within its limits.
    pub fn bytes_needed(shmem_size: usize) -> usize {
        shmem_size.clamp(SHMEM_BYTES_MIN, SHMEM_BYTES_MAX)
    }

    /// Clears the area and lays it out. Once for each area, before any other process sees it: in
    /// the postmaster's `shmem_startup_hook`. The view itself is kept forever, a few words that a
    /// postmaster spends once for each crash restart.
    ///
    /// # Panics
    /// If the area is too small or not aligned to a cache line: the caller asked for another size.
    ///
    /// # Safety
    /// `ptr` must point to `len` writable bytes that stay mapped, at this address, until the
    /// process and those forked from it end, and that nothing else uses.
    pub unsafe fn init(ptr: *mut u8, len: usize) -> &'static Shared {
        // SAFETY: the caller vouches that the bytes are ours and writable. Zero is a valid value of
        // all that lies there: atomics.
        unsafe { ptr.write_bytes(0, len) };
        // SAFETY: as the caller's promise.
        let shared = unsafe { Shared::over(ptr, len) };
        let pid = crate::sys::own_pid();
        shared.page.init(pid, crate::sys::process_start_time(pid).unwrap_or(0));
        Box::leak(Box::new(shared))
    }

    /// A view over an area that `init` laid out before; for a process that did not inherit the
    /// view. `None` if there is no page of this layout.
    ///
    /// # Panics
    /// As `init`.
    ///
    /// # Safety
    /// As `init`, but that other processes may use the area through this type; and `len` must be
    /// what `init` was given.
    pub unsafe fn attach(ptr: *mut u8, len: usize) -> Option<&'static Shared> {
        // SAFETY: as the caller's promise.
        let shared = unsafe { Shared::over(ptr, len) };
        if !shared.page.is_valid() {
            return None;
        }
        Some(Box::leak(Box::new(shared)))
    }

    /// # Safety
    /// `ptr` must point to `len` writable bytes, mapped until the process ends, which are only used
    /// through atomics.
    unsafe fn over(ptr: *mut u8, len: usize) -> Shared {
        assert!(len >= SHMEM_BYTES_MIN, "pgraft's shared memory has only {len} bytes");
        assert!(ptr.cast::<Fixed>().is_aligned(), "pgraft's shared memory is not aligned");
        let start = NonNull::new(ptr).expect("pgraft's shared memory is at no address");
        let lines = (len - size_of::<Fixed>()) / size_of::<LogEntry>();
        // SAFETY: `start` is aligned for Fixed, and there is room for it, both checked above, and
        // behind it for `lines` entries, whose alignment is no stricter. All of it is atomics, for
        // which any bytes are valid and shared references are sound while others write. The caller
        // vouches for the lifetime.
        let (fixed, entries) = unsafe {
            let entries = start.add(size_of::<Fixed>()).cast::<LogEntry>();
            (
                start.cast::<Fixed>().as_ref(),
                std::slice::from_raw_parts(entries.as_ptr().cast_const(), lines),
            )
        };
        let log = LogRing { head: &fixed.ring, entries };
        Shared { page: &fixed.page, slots: &fixed.slots, log }
    }

    /// How this node is doing.
    pub fn page(&self) -> &'static StatusPage {
        self.page
    }

    /// Requests to the worker.
    pub fn slots(&self) -> &'static Slots {
        self.slots
    }

    /// The latest log lines.
    pub fn log(&self) -> LogRing {
        self.log
    }
}
