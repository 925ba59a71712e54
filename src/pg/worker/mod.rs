//! The background worker's main thread: the only thread of pgraft that talks to Postgres. It starts
//! with the postmaster, before recovery, and has no database connection: it reads shared memory,
//! writes the server's log, sets latches, and nothing else.
//!
//! It sleeps until its latch is set (a backend has a request, or a signal came) or a thread of the
//! runtime wakes it through a socket pair. Nothing here polls.
//!
//! - `node` — what this node is: configuration, identity, starting and stopping consensus
//! - `duty` — what Postgres is to be, made so
//! - `membership` — what outlives consensus on a member: its marker and its fence
//! - `recovery` — consensus that should run and cannot: tried again, by itself
//! - `requests` — requests from the command slots, and their answers
//! - `sleep` — how main waits
//! - `logging` — from the `log` crate to the server's log

mod duty;
mod logging;
mod membership;
mod node;
mod recovery;
mod requests;
mod sleep;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;

use crate::cluster::Request;
use crate::config::Config;
use crate::runtime::logger::{Logger, Record};
use crate::runtime::real::TO_MAIN_MAX;
use crate::runtime::retry::Retry;
use crate::runtime::wake::{self, WakeSource};
use crate::runtime::{MainQueue, Runtime, STOP_MAX, ToMain};
use crate::shmem::{Desk, Shared, Turns};

use super::shared;
use requests::{LISTS_MAX, List};
use sleep::Bed;

/// Asks the postmaster to run the worker again a second after it ended.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Exit status for "restart me"; 0 would mean "not before the server restarts", and any other makes
/// the postmaster restart the whole server.
const EXIT_AND_RESTART: i32 = 1;

/// How long leadership may take to go to another when the server is shut down: with what the threads
/// may take to end, less than the second that the worker has.
const LEAVE_AT_MOST: Duration = Duration::from_millis(150);
/// The number of the request for that; no slot has it.
const LEAVING: u64 = u64::MAX;

/// Registers the worker, while libraries are preloaded.
pub(super) fn register() {
    BackgroundWorkerBuilder::new("pgraft")
        .set_library("pgraft")
        .set_function("pgraft_worker_main")
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(Some(RESTART_AFTER))
        .load();
}

/// Where the postmaster's new child begins.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
#[doc(hidden)]
pub extern "C-unwind" fn pgraft_worker_main(_arg: pg_sys::Datum) {
    attend_signals();
    appear();
    let mut worker = match Worker::new(shared::get_or_raise()) {
        Ok(worker) => worker,
        Err(error) => panic!("could not create a socket pair: {error}"),
    };
    worker.begin();
    let bed = Bed::new(worker.wake.fd());
    while worker.go_on() {
        bed.sleep(worker.wakes_at_ns());
    }
    worker.end();
    // SAFETY: the main thread's last act; `end` has stopped the others.
    unsafe { pg_sys::proc_exit(EXIT_AND_RESTART) };
}

// Declared here and not taken from pgrx, whose bindings are Rust functions around these: fit for
// calls, not for signal handlers.
unsafe extern "C-unwind" {
    fn SignalHandlerForConfigReload(signal: i32);
    fn SignalHandlerForShutdownRequest(signal: i32);
}

/// SIGHUP and SIGTERM set a flag and the latch, by Postgres' own handlers. They run on this thread
/// only: all others are started with every signal blocked.
fn attend_signals() {
    // SAFETY: the handlers are Postgres' own, made for this; the postmaster started this process
    // with signals blocked, so that none came before.
    unsafe {
        set_handler(libc::SIGHUP, SignalHandlerForConfigReload);
        set_handler(libc::SIGTERM, SignalHandlerForShutdownRequest);
        pg_sys::BackgroundWorkerUnblockSignals();
    }
}

/// # Safety
/// `handler` must be async-signal-safe.
unsafe fn set_handler(signal: i32, handler: unsafe extern "C-unwind" fn(i32)) {
    // SAFETY: as the caller's promise.
    unsafe {
        #[cfg(feature = "pg17")]
        pg_sys::pqsignal(signal, Some(handler));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(signal, Some(handler));
    }
}

/// Tells the backends whom to wake, from now until this process ends in whatever way.
fn appear() {
    // SAFETY: the main thread, after Postgres gave it a PGPROC; a guarded function that stays
    // loaded.
    unsafe {
        pg_sys::on_shmem_exit(Some(disappear), pg_sys::Datum::from(0));
        shared::worker_area().set_worker(pg_sys::MyProcNumber);
    }
}

/// Takes back what shared memory promises on behalf of this worker.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn disappear(_code: i32, _arg: pg_sys::Datum) {
    shared::worker_area().set_worker(-1);
    shared::get_or_raise().page().clear();
}

/// All that main holds.
struct Worker {
    shared: &'static Shared,
    logger: &'static Logger,
    /// What is in force; `None`: pgraft.conf has an error.
    config: Option<Config>,
    /// Consensus, while it runs on this node.
    runtime: Option<Runtime>,
    /// When it is tried again, while it should run and does not.
    retry: Retry,
    /// Handed to each runtime.
    queue: MainQueue,
    messages: Receiver<ToMain>,
    records: Receiver<Record>,
    wake: WakeSource,
    /// The worker's side of the command slots.
    desk: Desk,
    /// Requests that the runtime works on, by their slots.
    passed_on: BTreeSet<u64>,
    /// Requests whose answer may be the whole store.
    lists: Turns<List>,
    /// When slots of dead processes were last looked for.
    reclaimed_ns: u64,
    stopping: Option<Stopping>,
    /// The data directory says that this is a member, or is not to say so.
    marked: bool,
    /// What is done to Postgres.
    hand: duty::Hand,
    /// A thread panicked: the process is in no state to go on.
    broken: bool,
}

/// `pgraft_stop()` under way: the runtime hands leadership over first.
struct Stopping {
    /// Who waits for it.
    tokens: Vec<u64>,
    /// When it happens all the same.
    by_ns: u64,
}

impl Worker {
    fn new(shared: &'static Shared) -> std::io::Result<Worker> {
        let (waker, wake) = wake::pair()?;
        let (sender, messages) = crossbeam_channel::bounded(TO_MAIN_MAX);
        let (logger, records) = logging::install(shared.log(), waker.clone());
        Ok(Worker {
            shared,
            logger,
            config: None,
            runtime: None,
            retry: Retry::default(),
            queue: MainQueue { sender, waker },
            messages,
            records,
            wake,
            desk: Desk::new(shared.slots()),
            passed_on: BTreeSet::new(),
            lists: Turns::new(LISTS_MAX),
            reclaimed_ns: 0,
            stopping: None,
            marked: false,
            hand: duty::Hand::default(),
            broken: false,
        })
    }

    /// Takes over from the worker before, if there was one, and starts consensus if it is to run.
    fn begin(&mut self) {
        self.shared.log().repair();
        for procno in self.shared.slots().abandon_taken() {
            shared::set_latch(procno);
        }
        self.logger.set_debug(self.shared.page().debug());
        self.start_if_wanted();
    }

    /// Does all there is to do now; false: it is time to end.
    fn go_on(&mut self) -> bool {
        self.wake.drain();
        if shutdown_requested() {
            return false;
        }
        if take_reload_request() {
            self.reload();
        }
        self.take_records();
        self.take_messages();
        self.take_requests();
        self.mark_new_member();
        self.do_duty();
        self.stop_if_overdue();
        self.start_if_due();
        !self.broken
    }

    fn take_records(&mut self) {
        for record in self.records.try_iter() {
            logging::write(&record);
        }
    }

    fn take_messages(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                ToMain::Answer { token, answer } => self.take_answer(token, answer),
                ToMain::WantReport => {
                    let report = self.own_report();
                    if let Some(runtime) = &self.runtime {
                        runtime.report(report);
                    }
                }
                ToMain::Panicked(text) => {
                    log::error!("{text}; the pgraft worker restarts");
                    self.broken = true;
                }
                ToMain::StorageFailed(text) => self.storage_failed(&text),
                ToMain::WantStanding(ask) => self.take_ask(ask),
                ToMain::WantFlush => self.take_flush(),
                ToMain::Duty(duty) => self.take_duty(*duty),
            }
        }
    }

    /// When there is something to do even if nobody wakes main.
    fn wakes_at_ns(&self) -> Option<u64> {
        let stop_ns = self.stopping.as_ref().map(|stopping| stopping.by_ns);
        let hand_ns = self.hand.due_ns();
        stop_ns.into_iter().chain(self.retry.due_ns()).chain(hand_ns).min()
    }

    /// The whole server is being shut down: leadership goes to another at once, and the others hear
    /// that they must wait until the last WAL has been sent.
    fn leave_office(&mut self) {
        let report = self.own_report();
        let Some(runtime) = self.runtime.as_ref().filter(|_| report.stopping && !self.broken)
        else {
            return;
        };
        runtime.report(report);
        let ms = LEAVE_AT_MOST.as_millis() as u32;
        if !runtime.request(LEAVING, Request::Stop, ms) {
            return;
        }
        let until = Instant::now() + LEAVE_AT_MOST;
        while let Ok(message) = self.messages.recv_deadline(until) {
            if matches!(message, ToMain::Answer { token: LEAVING, .. }) {
                return;
            }
        }
    }

    /// Ends the threads and what they promised; the process ends next.
    fn end(&mut self) {
        self.leave_office();
        let runtime = self.runtime.take();
        // After a panic there may be nobody left to stop; the process takes its threads along.
        if let Some(runtime) = runtime.filter(|_| !self.broken) {
            runtime.stop(STOP_MAX);
        }
        self.take_records();
    }
}

fn shutdown_requested() -> bool {
    // SAFETY: a flag that the signal handler sets, on this very thread.
    unsafe { (&raw const pg_sys::ShutdownRequestPending).read_volatile() != 0 }
}

fn take_reload_request() -> bool {
    // SAFETY: as `shutdown_requested`; a signal between the two is seen at the next wake-up, as the
    // handler sets the latch, too.
    unsafe {
        let flag = &raw mut pg_sys::ConfigReloadPending;
        let requested = flag.read_volatile() != 0;
        if requested {
            flag.write_volatile(0);
        }
        requested
    }
}
