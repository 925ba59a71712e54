//! The background worker's main thread: the only thread of pgraft that talks to Postgres. It starts
//! with the postmaster, before recovery, and has no database connection: it reads shared memory,
//! writes the server's log, sets latches, and nothing else.
//!
//! It sleeps until its latch is set (a backend has a request, or a signal came) or a thread of the
//! runtime wakes it through a socket pair. Nothing here polls.
//!
//! - `node` — what this node is: configuration, identity, starting and stopping consensus
//! - `duty` — what this server's Postgres is to be, and what is done for it; with `promotion`,
//!   `upstream`, `confirm`, `flush`
//! - `membership` — what outlives consensus on a member: its marker and its fence
//! - `recovery` — consensus that should run and cannot: tried again, by itself
//! - `requests` — requests from the command slots, and their answers
//! - `sleep` — how main waits
//! - `logging` — from the `log` crate to the server's log

mod confirm;
mod duty;
mod flush;
mod logging;
mod membership;
mod node;
mod promotion;
mod recovery;
mod requests;
mod sleep;
mod upstream;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;

use crate::cluster::Request;
use crate::config::Config;
use crate::runtime::endpoint::Endpoint;
use crate::runtime::logger::{Logger, Record};
use crate::runtime::real::TO_MAIN_MAX;
use crate::runtime::retry::Retry;
use crate::runtime::wake::{self, WakeSource};
use crate::runtime::{MainQueue, Runtime, STOP_MAX, ToMain};
use crate::shmem::{Desk, Shared, Turns};
use crate::sys;
use crate::wire::Report;

use super::{facts, shared};
use duty::{Hand, Scene};
use requests::{LISTS_MAX, List};
use sleep::Bed;

/// Asks the postmaster to run the worker again a second after it ended.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Exit status for "restart me"; 0 would mean "not before the server restarts", and any other makes
/// the postmaster restart the whole server.
const EXIT_AND_RESTART: i32 = 1;
/// How long the cluster is given to take over from a server that stops.
const FAREWELL_MAX: Duration = Duration::from_millis(300);
/// What the threads are given to end after that, so that the process is gone within a second.
const STOP_AFTER_FAREWELL_MAX: Duration = Duration::from_millis(500);
/// The number of a request of the worker's own; no slot has it.
const FAREWELL: u64 = u64::MAX;

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
    hand: Hand,
    /// The port of the metrics.
    endpoint: Endpoint,
    /// The data directory says that this is a member, or is not to say so.
    marked: bool,
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
            hand: Hand::default(),
            endpoint: Endpoint::new(shared.page()),
            marked: false,
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
        self.stop_if_overdue();
        self.start_if_due();
        self.act();
        self.keep_endpoint();
        !self.broken
    }

    fn take_records(&mut self) {
        for record in self.records.try_iter() {
            logging::write(&record);
        }
    }

    fn take_messages(&mut self) {
        while let Ok(message) = self.messages.try_recv() {
            self.take_message(message);
        }
    }

    fn take_message(&mut self, message: ToMain) {
        match message {
            ToMain::Answer { token, answer } => self.take_answer(token, answer),
            ToMain::WantReport => {
                if let Some(runtime) = &self.runtime {
                    runtime.report(self.hand.report());
                }
            }
            ToMain::WantStanding(ask) => self.hand.take_ask(ask),
            ToMain::WantFlush => {
                if let (Some(runtime), Some(lsn)) = (&self.runtime, flush::flush()) {
                    runtime.flushed(lsn);
                }
            }
            ToMain::Duty(duty) => self.hand.take_duty(duty),
            ToMain::Panicked(text) => {
                log::error!("{text}; the pgraft worker restarts");
                self.broken = true;
            }
            ToMain::StorageFailed(text) => self.storage_failed(&text),
        }
    }

    /// Does what Postgres needs to become what it is to be.
    fn act(&mut self) {
        match (&self.runtime, &self.config) {
            (Some(runtime), Some(config)) => self.hand.act(&Scene { config, runtime }),
            _ => self.hand.let_go(),
        }
    }

    /// Serves metrics as pgraft.conf says, or as it said before there was an error in it.
    fn keep_endpoint(&mut self) {
        let Some(config) = &self.config else { return };
        if self.endpoint.keep(config.metrics_socket(), sys::now_boottime_ns()) {
            shared::worker_area().metrics_note.set(self.endpoint.trouble());
        }
    }

    /// When there is something to do even if nobody wakes main.
    fn wakes_at_ns(&self) -> Option<u64> {
        let stop_ns = self.stopping.as_ref().map(|stopping| stopping.by_ns);
        let due_ns = [self.retry.due_ns(), self.hand.due_ns(), self.endpoint.due_ns()];
        stop_ns.into_iter().chain(due_ns.into_iter().flatten()).min()
    }

    /// Ends the threads and what they promised; the process ends next.
    fn end(&mut self) {
        self.endpoint.close();
        // After a panic there may be nobody left to stop; the process takes its threads along.
        let said = !self.broken && facts::is_stopping() && self.say_farewell();
        let runtime = self.runtime.take().filter(|_| !self.broken);
        if let Some(runtime) = runtime {
            runtime.stop(if said { STOP_AFTER_FAREWELL_MAX } else { STOP_MAX });
        }
        self.take_records();
    }

    /// The server stops in order: the others hear so, and who leads hands that over. Whether there
    /// was anybody to say it to.
    fn say_farewell(&mut self) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        runtime.report(Report { stopping: true, ..self.hand.report() });
        if !runtime.request(FAREWELL, Request::Stop, FAREWELL_MAX.as_millis() as u32) {
            return true;
        }
        let until = Instant::now() + FAREWELL_MAX;
        while let Ok(message) = self.messages.recv_deadline(until) {
            if matches!(message, ToMain::Answer { token: FAREWELL, .. }) {
                break;
            }
            self.take_message(message);
        }
        true
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
