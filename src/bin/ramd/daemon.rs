//! What every part of ramd works with.

use std::fs::{File, TryLockError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pgraft::config::Config;

use crate::clock::unix_ms;
use crate::files::could_not;
use crate::history::History;
use crate::memory::MemoryFile;
use crate::orders::Orders;
use crate::overview::{Board, Doing, Page};
use crate::page::{Owner, PageReader};
use crate::pgraft_conf::PgraftConf;
use crate::server::Server;
use crate::settings::Settings;

/// The parts that threads share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// `ramd.conf`, as it was at the start.
    pub settings: Arc<Settings>,
    /// The node's `pgraft.conf`, as it was at the start: who the node is.
    pub pgraft: Arc<Config>,
    /// What ramd knows.
    pub board: Board,
    /// What it did and saw.
    pub history: Arc<History>,
    /// What it must remember.
    pub memory: Arc<MemoryFile>,
    /// Where it is asked to do something.
    pub orders: Orders,
    /// How often the primary was seen to change since ramd began.
    pub failovers: Arc<AtomicU64>,
    /// Set once: ramd is to end.
    ending: Arc<AtomicBool>,
    page: Arc<Mutex<PageReader>>,
    pgraft_conf: Arc<PgraftConf>,
    seen: Arc<Mutex<Seen>>,
    data_lock: Arc<Mutex<Option<File>>>,
}

/// What was last seen of what is told when it changes; it outlives times in which it is unknown.
#[derive(Debug, Default)]
pub struct Seen {
    /// The server's role.
    pub role: Option<&'static str>,
    /// The primary.
    pub primary_id: Option<u32>,
    /// The leader.
    pub leader_id: Option<u32>,
    /// Why something could not be remembered: told once.
    pub forgot: Option<String>,
}

/// What a daemon is made of.
pub struct Parts {
    /// `ramd.conf`.
    pub settings: Settings,
    /// `pgraft.conf`.
    pub pgraft: Config,
    /// The history.
    pub history: History,
    /// The memory.
    pub memory: MemoryFile,
    /// Where orders are given.
    pub orders: Orders,
}

impl Daemon {
    /// Of these.
    pub fn new(parts: Parts) -> Daemon {
        let key = parts.settings.shmem_key.unwrap_or(parts.pgraft.shmem_key);
        let owner = Owner {
            node_id: parts.pgraft.node_id.get(),
            cluster_id: parts.pgraft.cluster_id.clone(),
            data: parts.settings.data.clone(),
        };
        let pgraft = Arc::new(parts.pgraft);
        Daemon {
            settings: Arc::new(parts.settings),
            pgraft_conf: Arc::new(PgraftConf::new(pgraft.clone())),
            pgraft,
            board: Board::default(),
            history: Arc::new(parts.history),
            memory: Arc::new(parts.memory),
            orders: parts.orders,
            failovers: Arc::default(),
            ending: Arc::default(),
            page: Arc::new(Mutex::new(PageReader::new(key, owner))),
            seen: Arc::default(),
            data_lock: Arc::default(),
        }
    }

    /// pgraft's page as it is at this moment: some microseconds. For answers that must not be a
    /// moment old, as `/primary`; all else is on the board. `Err`: why it is unknown.
    pub fn page_now(&self) -> Result<Page, String> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner).look()
    }

    /// The node's `pgraft.conf` as it is now: what a reload applies.
    pub fn pgraft_now(&self) -> Arc<Config> {
        self.pgraft_conf.latest()
    }

    /// The server beside which it runs.
    pub fn server(&self) -> Server {
        Server::new(&self.settings, self.memory.get().programs)
    }

    /// Locks the data directory, if there is one, against a ramd with another state directory; to
    /// be done again when another has taken its place. The server does not ask for this lock.
    pub fn hold_data(&self) -> Result<(), String> {
        let path = &self.settings.data;
        if !path.exists() {
            return Ok(());
        }
        let data = File::open(path).map_err(could_not("open", path))?;
        match data.try_lock() {
            Ok(()) => {
                let mut held = self.data_lock.lock().unwrap_or_else(PoisonError::into_inner);
                *held = Some(data);
                Ok(())
            }
            Err(TryLockError::Error(error)) => Err(could_not("lock", path)(error)),
            Err(TryLockError::WouldBlock) => {
                Err(format!("another ramd runs for this server (\"{}\" is locked)", path.display()))
            }
        }
    }

    /// Changes what was last seen.
    pub fn seen<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what ramd is doing from now on, and why.
    pub fn doing(&self, what: &str, why: &str) {
        self.board.update(|overview| {
            if overview.doing.what != what || overview.doing.why != why {
                let (what, why) = (what.to_owned(), why.to_owned());
                overview.doing = Doing { what, why, since_unix_ms: unix_ms() };
            }
        });
    }

    /// Says what went wrong; empty: nothing any more.
    pub fn trouble(&self, error: &str) {
        self.board.update(|overview| error.clone_into(&mut overview.last_error));
    }

    /// ramd is to end.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Whether it is.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }
}
