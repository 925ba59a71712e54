//! Everything that can happen to this node, and everything it tells the worker's main thread.

use crate::cluster::{Address, Answer, Request};
use crate::config::Config;
use crate::net::NetEvent;
use crate::raft::SnapshotMeta;
use crate::wire::{Ask, Report, Standing};

use super::duty::Duty;

/// One thing that happened. The consensus thread takes them one by one.
#[derive(Debug)]
pub enum Event {
    /// [`super::ticker::TICK`] passed.
    Tick,
    /// From the network.
    Net(NetEvent),
    /// From SQL.
    Request {
        /// The asker's number; the answer carries it.
        token: u64,
        /// What is asked.
        request: Request,
        /// How long the asker waits, in milliseconds.
        timeout_ms: u32,
    },
    /// How this node's Postgres is doing.
    Report(Report),
    /// How far this node's Postgres has come, as was asked.
    Standing {
        /// What was asked.
        ask: Ask,
        /// The answer.
        standing: Box<Standing>,
    },
    /// All that was committed on this primary before it was asked is flushed up to here.
    Flushed {
        /// The end of that WAL.
        lsn: u64,
    },
    /// What keeps this node's Postgres from what it is to be.
    Hindrance {
        /// In words; empty: nothing.
        what: String,
        /// Whether from its role itself, and not from something beside it, such as slots.
        blocked: bool,
    },
    /// Whether a Postgres answers at this address.
    Probed {
        /// Which.
        address: Address,
        /// Whether it does.
        answers: bool,
    },
    /// A snapshot that this node took is durable, or why it is not.
    SnapshotStored(SnapshotMeta, Result<(), String>),
    /// pgraft.conf was read again.
    Reconfigure(Box<Config>),
    /// End now.
    Stop,
}

/// What the worker's main thread hears from the others.
#[derive(Debug)]
pub enum ToMain {
    /// A request's outcome.
    Answer {
        /// The asker's number.
        token: u64,
        /// The outcome.
        answer: Answer,
    },
    /// Look how Postgres is doing and say so by `Runtime::report`.
    WantReport,
    /// Look how far Postgres has come, after freezing it if that is asked, and say so by
    /// `Runtime::standing`.
    WantStanding(Ask),
    /// Flush what is committed on this primary, and say how far by `Runtime::flushed`.
    WantFlush,
    /// What Postgres is to be from now on.
    Duty(Box<Duty>),
    /// A thread panicked: end the worker so that the postmaster starts a new one.
    Panicked(String),
    /// The log could not be written: stop the runtime and show this.
    StorageFailed(String),
}
