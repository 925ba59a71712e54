//! Errands: what needs a database connection is done by a dynamic background worker that lives for
//! it alone, connected to no particular database. The pgraft worker's main thread sends one at a
//! time and goes on; its latch is set when the outcome is there.
//!
//! - here — sending one, and asking what came of it
//! - `area` — what is passed on, in shared memory
//! - `run` — the errand's own process

mod area;
mod run;

pub(super) use area::ErrandArea;

use std::ptr;

use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::{IntoDatum, pg_sys};

use crate::hand::errand::{Op, encode};

use super::shared;

/// One that was sent. Dropped, it goes on, and nobody hears of it.
pub(super) struct Errand {
    serial: u64,
    handle: *mut pg_sys::BackgroundWorkerHandle,
}

impl Errand {
    /// Sends somebody to do `ops`, one by one; those that fail do not keep the others from being
    /// done. `Err`: nobody could be sent, and why. The worker's main thread only.
    pub(super) fn send(ops: &[Op]) -> Result<Errand, String> {
        let bytes = encode(ops).ok_or("what is to be done does not fit into shared memory")?;
        let serial = shared::worker_area().errand.put(&bytes);
        // SAFETY: a plain number, the same for the life of this process.
        let own_pid = unsafe { pg_sys::MyProcPid };
        let builder = BackgroundWorkerBuilder::new("pgraft errand")
            .set_library("pgraft")
            .set_function("pgraft_errand_main")
            .set_argument((serial as i64).into_datum())
            .set_notify_pid(own_pid)
            .enable_spi_access()
            // Last: the line above asks for the end of recovery.
            .set_start_time(BgWorkerStartTime::ConsistentState)
            .set_restart_time(None);
        let mut worker: pg_sys::BackgroundWorker = (&builder).into();
        let mut handle = ptr::null_mut();
        // SAFETY: the main thread of a process that the postmaster started, as the call wants; both
        // point to locals, and what it copies from `worker` is in shared memory when it returns.
        if unsafe { pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) } {
            Ok(Errand { serial, handle })
        } else {
            Err("there is no background worker free: raise max_worker_processes".to_owned())
        }
    }

    /// What came of it; `None`: it is still under way.
    pub(super) fn outcome(&self) -> Option<Result<(), String>> {
        // Before the outcome is looked for: who has stopped has left one, or never will.
        let stopped = self.has_stopped();
        let outcome = shared::worker_area().errand.outcome(self.serial);
        match outcome {
            Some(wrong) if wrong.is_empty() => Some(Ok(())),
            Some(wrong) => Some(Err(wrong)),
            None => stopped.then(|| {
                Err("pgraft's helper process ended early, see the server's log".to_owned())
            }),
        }
    }

    fn has_stopped(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is this errand's own and valid until it is dropped.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.handle, &mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        // SAFETY: allocated by `RegisterDynamicBackgroundWorker` in this thread's memory context,
        // which is the process's top one, and freed here only.
        unsafe { pg_sys::pfree(self.handle.cast()) };
    }
}
