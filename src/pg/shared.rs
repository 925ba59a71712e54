//! pgraft's area in Postgres' shared memory: asked for and laid out by the postmaster, inherited by
//! every process it forks. Also how the worker and the backends wake each other.

use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use pgrx::pg_sys;

use crate::config::Config;
use crate::shmem::{Fence, SHMEM_BYTES_DEFAULT, Shared};

use super::errand::ErrandArea;
use super::{fence, guc, report, timelines};

/// Of a note: a sentence or two.
const NOTE_BYTES_MAX: usize = 512;

/// Something that is wrong and not consensus' concern, to be shown with the last error. Set by the
/// worker's main thread; a reader at that very moment may see it cut.
#[repr(C)]
pub(super) struct Note {
    len: AtomicUsize,
    text: [AtomicU8; NOTE_BYTES_MAX],
}

impl Note {
    /// Empty: nothing is wrong.
    pub(super) fn set(&self, note: &str) {
        let note = crate::shmem::cut(note, NOTE_BYTES_MAX);
        self.len.store(0, Ordering::Release);
        for (to, byte) in self.text.iter().zip(note.bytes()) {
            to.store(byte, Ordering::Relaxed);
        }
        self.len.store(note.len(), Ordering::Release);
    }

    /// What `set` set.
    pub(super) fn get(&self) -> String {
        let len = self.len.load(Ordering::Acquire).min(NOTE_BYTES_MAX);
        let bytes: Vec<u8> =
            self.text[..len].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// What the worker tells its server's backends only; programs outside have no use for it, so it is
/// no part of the page.
#[repr(C)]
pub(super) struct WorkerArea {
    /// The running worker's number in the PGPROC array; -1: there is none.
    procno: AtomicI32,
    /// About the SysV segment, as long as consensus runs.
    pub(super) segment_note: Note,
    /// About the port of the metrics.
    pub(super) metrics_note: Note,
    /// What a process with a database connection is to do for the worker.
    pub(super) errand: ErrandArea,
}

/// Set by the postmaster each time it makes shared memory, inherited by fork. Null where the
/// library was not preloaded.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(ptr::null_mut());
static WORKER_AREA: AtomicPtr<WorkerArea> = AtomicPtr::new(ptr::null_mut());
/// How much was asked for; the same at each crash restart, as the postmaster keeps its own sum.
static AREA_BYTES: AtomicUsize = AtomicUsize::new(0);

static mut PREVIOUS_REQUEST_HOOK: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP_HOOK: pg_sys::shmem_startup_hook_type = None;

/// The shared area; `None` where pgraft was not preloaded.
#[inline]
pub(super) fn get() -> Option<&'static Shared> {
    // SAFETY: null, or what `Shared::init` returned, which lives until the process ends.
    unsafe { SHARED.load(Ordering::Relaxed).as_ref() }
}

/// The shared area, or the ERROR that says why there is none.
pub(super) fn get_or_raise() -> &'static Shared {
    get().unwrap_or_else(|| report::raise_not_preloaded())
}

/// The worker's own area; there is one wherever `get` returns something.
pub(super) fn worker_area() -> &'static WorkerArea {
    // SAFETY: null, or memory that `create_areas` laid out and that stays mapped until the process
    // ends; atomics only.
    unsafe { WORKER_AREA.load(Ordering::Relaxed).as_ref() }
        .unwrap_or_else(|| report::raise_not_preloaded())
}

/// Asks Postgres to call us when it sizes and when it makes shared memory.
pub(super) fn install_hooks() {
    // SAFETY: while libraries are preloaded there is one thread and nobody calls the hooks yet.
    unsafe {
        PREVIOUS_REQUEST_HOOK = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_memory);
        PREVIOUS_STARTUP_HOOK = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(make_areas);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request_memory() {
    // SAFETY: written once, before any hook is called; an extension's hook may raise, which this
    // boundary turns into a panic and pg_guard back into an ERROR.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST_HOOK {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous());
        }
    }
    // An error in the file is the worker's to report; Postgres starts all the same.
    let wanted = Config::load(&guc::config_file()).map_or(SHMEM_BYTES_DEFAULT, |c| c.shmem_size);
    let bytes = Shared::bytes_needed(wanted);
    AREA_BYTES.store(bytes, Ordering::Relaxed);
    // SAFETY: this is the hook in which Postgres lets extensions ask.
    unsafe { pg_sys::RequestAddinShmemSpace(bytes + size_of::<WorkerArea>()) };
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn make_areas() {
    // SAFETY: as in `request_memory`.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP_HOOK {
            pg_sys::submodules::ffi::pg_guard_ffi_boundary(|| previous());
        }
    }
    let bytes = AREA_BYTES.load(Ordering::Relaxed);
    let (area, made) = named_memory(c"pgraft", bytes);
    assert!(made, "pgraft's shared memory exists already");
    // SAFETY: Postgres gave us `bytes` bytes that nobody else uses and that stay mapped until the
    // process ends, in this one and, at the same address, in those it forks. No other process has
    // been forked yet.
    let shared = unsafe { Shared::init(area, bytes) };
    // Before any backend is there: a member that restarts commits nothing until it has the lease.
    shared.page().publish_fence(&Fence { mode: fence::mode_at_start(), ..Fence::default() }, 0);
    SHARED.store(ptr::from_ref(shared).cast_mut(), Ordering::Relaxed);

    let (area, _) = named_memory(c"pgraft worker", size_of::<WorkerArea>());
    // SAFETY: as above; zero bytes are valid atomics.
    unsafe { area.write_bytes(0, size_of::<WorkerArea>()) };
    WORKER_AREA.store(area.cast(), Ordering::Relaxed);
    worker_area().procno.store(-1, Ordering::Relaxed);
    // Shared memory is made right before each recovery, after a crash, too.
    if let Err(text) = timelines::remove_stray() {
        pgrx::log!("pgraft: {text}");
    }
}

/// Memory of this name, and whether it was made just now.
fn named_memory(name: &std::ffi::CStr, bytes: usize) -> (*mut u8, bool) {
    let mut found = false;
    // SAFETY: called from the startup hook only, where the postmaster is alone: the lock that
    // others take around this call guards against EXEC_BACKEND platforms' children.
    let area = unsafe { pg_sys::ShmemInitStruct(name.as_ptr(), bytes, &mut found) };
    (area.cast(), !found)
}

impl WorkerArea {
    /// The worker begins or (-1) ends.
    pub(super) fn set_worker(&self, procno: i32) {
        self.procno.store(procno, Ordering::Release);
    }

    /// Wakes the worker, if there is one.
    pub(super) fn wake_worker(&self) {
        set_latch(self.procno.load(Ordering::Acquire));
    }
}

/// Wakes the process that has this number in the PGPROC array; numbers that no process has are
/// ignored. The process may meanwhile be another one than meant: it sees a spurious wake-up, which
/// every waiter on a latch expects.
pub(super) fn set_latch(procno: i32) {
    // SAFETY: ProcGlobal and its array of fixed length are in shared memory from before the first
    // fork; a latch in it is always initialised. Main threads only come here.
    unsafe {
        let all = &*pg_sys::ProcGlobal;
        if procno >= 0 && (procno as u32) < all.allProcCount {
            pg_sys::SetLatch(&raw mut (*all.allProcs.add(procno as usize)).procLatch);
        }
    }
}
