//! From standby to primary: the file and the signal by which `pg_ctl promote` does it.

use std::fs::File;

use pgrx::pg_sys;

use crate::pg::{facts, guc, timelines};

/// How long Postgres may take to notice. It does in a millisecond; a signal is lost only while its
/// startup process is being started.
const NOTICE_NS: u64 = 250_000_000;

unsafe extern "C-unwind" {
    /// access/xlogarchive.h; pgrx has no binding. Logs what it cannot do, and raises nothing.
    fn XLogArchiveNotify(xlog: *const std::ffi::c_char);
}

/// One that was begun.
#[derive(Debug)]
pub(super) struct Promotion {
    timeline: u32,
    /// When it was asked for, the last time.
    asked_ns: u64,
    placeholders: Vec<u32>,
}

impl Promotion {
    /// Asks for the promotion onto `timeline`, or sees to it that one asked for goes on. `Err`: why
    /// it cannot be.
    pub(super) fn go_on(
        promotion: &mut Option<Promotion>,
        timeline: u32,
        now_ns: u64,
    ) -> Result<(), String> {
        if Promotion::is_under_way() {
            // By this worker, the one before it, or somebody else: there is no way back.
            let new = || Promotion { timeline, asked_ns: now_ns, placeholders: Vec::new() };
            promotion.get_or_insert_with(new);
            return Ok(());
        }
        let asked = |promotion: &Promotion| {
            promotion.timeline == timeline && now_ns < promotion.asked_ns + NOTICE_NS
        };
        if promotion.as_ref().is_some_and(asked) {
            return Ok(());
        }
        *promotion = None;
        if facts::recovery_is_paused() {
            return Err("recovery is paused on this server: run pg_wal_replay_resume()".to_owned());
        }
        if !facts::is_consistent() {
            return Err("this server has not reached a consistent state yet".to_owned());
        }
        let (_, current) = facts::received_or_replayed();
        let placeholders = timelines::make_way(current, timeline)?;
        let path = guc::data_directory().join("promote");
        File::create(&path)
            .map_err(|error| format!("could not make the file \"{}\": {error}", path.display()))?;
        // SAFETY: the postmaster is there, or this process would not run on.
        unsafe { libc::kill(pg_sys::PostmasterPid, libc::SIGUSR1) };
        log::info!("this server is being promoted onto timeline {timeline}");
        *promotion = Some(Promotion { timeline, asked_ns: now_ns, placeholders });
        Ok(())
    }

    /// Whether Postgres has taken up a request, whoever made it.
    pub(super) fn is_under_way() -> bool {
        // SAFETY: both read a flag in shared memory under its spinlock.
        unsafe { pg_sys::RecoveryInProgress() && pg_sys::PromoteIsTriggered() }
    }

    /// It has happened: now the placeholders belong into the archive, where a recovery looks for
    /// each number in turn.
    pub(super) fn finish(self) {
        // SAFETY: set by the postmaster, changed by none.
        let archives =
            unsafe { pg_sys::XLogArchiveMode } != pg_sys::ArchiveMode::ARCHIVE_MODE_OFF as i32;
        for number in self.placeholders.iter().filter(|_| archives) {
            let name = crate::hand::timeline::file_name(*number);
            if let Ok(name) = std::ffi::CString::new(name) {
                // SAFETY: the name is only read; the main thread of a process with a PGPROC.
                unsafe { XLogArchiveNotify(name.as_ptr()) };
            }
        }
    }
}
