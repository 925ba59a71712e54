//! Joins raft, cluster, wire, storage and net, and starts the threads. Knows no Postgres.
//!
//! [`Runtime`] is what the worker holds while consensus runs on this node.
#![forbid(unsafe_code)]

mod commands;
pub mod consensus;
pub mod duty;
pub mod effects;
pub mod event;
mod failover;
pub mod failures;
mod forming;
mod lease;
mod links;
pub mod logger;
mod reads;
pub mod real;
mod requests;
pub mod retry;
mod room;
pub mod show;
mod snapshots;
pub mod spawn;
mod store;
#[cfg(test)]
mod tests;
pub mod ticker;
mod upkeep;
pub mod wake;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Failure, FailureKind, Request};
use crate::config::Config;
use crate::net::{Gate, Net, NetCounters};
use crate::queue::{self, Receiver, Sender};
use crate::shmem::Pages;
use crate::storage::{DirLock, FileDisk, Identity, Storage, StorageError};
use crate::sys;
use crate::wire::{Ask, Report, Standing};

use consensus::{Consensus, Start, StartError};
pub use event::{Event, ToMain};
use failures::failure;
pub use real::MainQueue;
use real::Real;
use spawn::Threads;
use ticker::TickPending;

/// Events that wait for the consensus thread; its places are most of the worker's memory. Packets
/// beyond are dropped, as if lost on the way.
pub const EVENTS_MAX: usize = 2048;
/// Events taken in before their outcome is carried out: what one fsync may cover.
pub const EVENTS_PER_BATCH: usize = 512;
/// How long the threads may take to end when the worker does, too: the postmaster expects it to be
/// gone in a second.
pub const STOP_MAX: Duration = Duration::from_millis(800);

/// What a node is started with.
pub struct Setup {
    /// pgraft.conf.
    pub config: Config,
    /// Who this is, from `raft_data_dir`.
    pub identity: Identity,
    /// Held as long as the runtime runs.
    pub lock: DirLock,
    /// The port of this server's Postgres.
    pub pg_port: u16,
    /// Where to show the node's state.
    pub pages: Pages,
    /// The worker's main thread.
    pub main: MainQueue,
}

/// Consensus, running on this node.
pub struct Runtime {
    events: Sender<Event>,
    net: Arc<Net>,
    threads: Threads,
    /// Dropped to end the ticker.
    ticker: Option<Sender<()>>,
    _lock: DirLock,
}

impl Runtime {
    /// Recovers the log, opens the port and starts the threads. `Err`: nothing runs.
    pub fn start(setup: Setup) -> Result<Runtime, Failure> {
        let Setup { config, identity, lock, pg_port, pages, main } = setup;
        let disk = FileDisk::open(&config.data_dir).map_err(|e| storage_failure(&e))?;
        let (storage, recovered) = Storage::open(disk).map_err(|e| storage_failure(&e))?;
        let forgot = recovered.entries.is_empty() && recovered.snapshot.is_none();
        if identity.cluster.is_some() && forgot {
            return Err(failure(
                FailureKind::Corrupt,
                format!("raft_data_dir \"{}\" has lost its log", config.data_dir.display()),
                "Its identity says that it takes part in a cluster, and so may have voted.",
                "Remove the node from the cluster, move raft_data_dir aside, add the node again.",
            ));
        }
        if let Some(torn) = &recovered.torn {
            log::warn!("{torn}");
        }
        let listener = Net::listen(&config.bind_address, config.port).map_err(|error| {
            failure(
                FailureKind::WrongState,
                format!(
                    "could not listen on {} port {}: {error}",
                    config.bind_address, config.port
                ),
                "",
                match error.kind() {
                    std::io::ErrorKind::AddrInUse => {
                        "Is another server using raft_port? Choose another one in pgraft.conf."
                    }
                    _ => "Check raft_bind_address and raft_port in pgraft.conf.",
                },
            )
        })?;

        let (events, inbox) = queue::bounded(EVENTS_MAX);
        let panicked = main.clone();
        let threads = Threads::new(Arc::new(move |text| panicked.push(ToMain::Panicked(text))));
        let gate =
            Arc::new(Gate::new(consensus::hello(&config, &identity, identity.cluster, pg_port)));
        let counters = Arc::new(NetCounters::default());
        let net = {
            let (queue, threads) = (events.clone(), threads.clone());
            let sink = Arc::new(move |event| queue.try_send(Event::Net(event)).is_ok());
            let spawn = Arc::new(move |name, body| threads.spawn(name, body));
            let net = Net::start(listener, gate.clone(), sink, spawn, counters.clone(), seed());
            Arc::new(net.map_err(|error| no_thread(&error))?)
        };
        let data_dir = config.data_dir.clone();
        let effects = Real {
            storage,
            data_dir,
            net: net.clone(),
            gate,
            counters,
            pages,
            main,
            threads: threads.clone(),
            events: events.clone(),
        };
        let runtime = Runtime { events, net, threads, ticker: None, _lock: lock };
        let start = Start { effects, config, identity, recovered, pg_port, seed: seed() };
        match Consensus::new(start) {
            Ok(consensus) => runtime.launch(consensus, inbox),
            Err(error) => {
                runtime.stop(STOP_MAX);
                Err(match error {
                    StartError::Storage(error) => storage_failure(&error),
                    StartError::Log(error) => {
                        failure(FailureKind::Corrupt, error.to_string(), "", "")
                    }
                    StartError::Snapshot(what) => failure(FailureKind::Corrupt, what, "", ""),
                })
            }
        }
    }

    fn launch(
        mut self,
        consensus: Consensus<Real>,
        inbox: Receiver<Event>,
    ) -> Result<Runtime, Failure> {
        let pending = TickPending::default();
        let (ticker, stopped) = queue::bounded(1);
        self.ticker = Some(ticker);
        let (events, ticks) = (self.events.clone(), pending.clone());
        let started = self
            .threads
            .spawn("pgraft raft".into(), Box::new(move || run(consensus, &inbox, &pending)))
            .and_then(|()| {
                let body = Box::new(move || ticker::run(events, ticks, stopped));
                self.threads.spawn("pgraft ticker".into(), body)
            });
        match started {
            Ok(()) => {
                log::info!("consensus starts on this node");
                Ok(self)
            }
            Err(error) => {
                self.stop(STOP_MAX);
                Err(no_thread(&error))
            }
        }
    }

    /// Passes a request on; its answer comes as `ToMain::Answer` with this token. `false`: it was
    /// not taken, as consensus has more to do than it can remember.
    pub fn request(&self, token: u64, request: Request, timeout_ms: u32) -> bool {
        self.events.try_send(Event::Request { token, request, timeout_ms }).is_ok()
    }

    /// Answers `ToMain::WantReport`.
    pub fn report(&self, report: Report) {
        // Full: the next one, a second later, says the same.
        let _ = self.events.try_send(Event::Report(report));
    }

    /// Answers `ToMain::WantStanding`.
    pub fn standing(&self, ask: Ask, standing: Standing) {
        // Full: the leader asks again.
        let _ = self.events.try_send(Event::Standing { ask, standing: Box::new(standing) });
    }

    /// Answers `ToMain::WantFlush`.
    pub fn flushed(&self, lsn: u64) {
        // Full: the planned move is given up in time.
        let _ = self.events.try_send(Event::Flushed { lsn });
    }

    /// What keeps Postgres from doing its duty, and whether from its role itself; empty: nothing.
    pub fn hindrance(&self, what: String, blocked: bool) {
        // Full: said again when it changes.
        let _ = self.events.try_send(Event::Hindrance { what, blocked });
    }

    /// pgraft.conf was read again.
    pub fn reconfigure(&self, config: Config) {
        if self.events.try_send(Event::Reconfigure(Box::new(config))).is_err() {
            log::warn!("pgraft is too busy to take in the new pgraft.conf; reload it again");
        }
    }

    /// Ends all threads and gives the directory free. `false`: one of them still ran when the time
    /// was over, and may write there yet; only the end of this process ends it.
    pub fn stop(mut self, at_most: Duration) -> bool {
        self.ticker = None;
        self.net.stop();
        // Full or closed: the thread is stuck or gone; `join` tells.
        let _ = self.events.send_timeout(Event::Stop, at_most / 4);
        let left = self.threads.join(at_most);
        if left > 0 {
            log::warn!("{left} threads did not end in time");
        }
        log::info!("consensus has stopped on this node");
        left == 0
    }
}

fn seed() -> u64 {
    u64::from_le_bytes(sys::random_bytes().expect("the kernel has random bytes"))
}

fn no_thread(error: &std::io::Error) -> Failure {
    let message = format!("could not start a thread: {error}");
    failure(FailureKind::Io, message, "", "Check the limits of the server's user (ulimit -u, -n).")
}

/// The consensus thread's body.
fn run(mut consensus: Consensus<Real>, inbox: &Receiver<Event>, pending: &TickPending) {
    consensus.settle();
    while let Ok(event) = inbox.recv() {
        let batch = std::iter::once(event).chain(inbox.try_iter().take(EVENTS_PER_BATCH));
        for event in batch {
            if matches!(event, Event::Tick) {
                pending.taken();
            }
            if !consensus.handle(event) {
                return;
            }
        }
        consensus.settle();
    }
}

/// A storage error as the SQL caller sees it.
pub fn storage_failure(error: &StorageError) -> Failure {
    let kind = if error.is_damage() { FailureKind::Corrupt } else { FailureKind::Io };
    failure(kind, error.to_string(), "", error.hint())
}

/// Takes the lock on `data_dir`, for `init` and `start`.
pub fn lock(data_dir: &Path) -> Result<DirLock, Failure> {
    DirLock::acquire(data_dir).map_err(|error| storage_failure(&error))
}
