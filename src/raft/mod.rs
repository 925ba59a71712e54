//! Raft, as in Ongaro's dissertation, as a pure state machine (see README.md in this folder).
//!
//! Absent on purpose: clocks, threads, files, sockets, hash maps, globals. Time is `Node::tick`,
//! chance is the seed, everything else comes in as a call and goes out as a [`Ready`].
#![forbid(unsafe_code)]

pub mod config;
pub mod errors;
pub mod message;
pub mod node;
pub mod progress;
pub mod ready;
pub mod types;

mod election;
mod log;
mod membership;
mod prng;
mod quorum;
mod read;
mod replication;
mod snapshot;
mod step;
mod transfer;

pub use config::{Config, MEMBERS_MAX};
pub use errors::{ConfigError, ProposeError};
pub use membership::PROMOTE_LAG_MAX;
pub use message::{AppendResult, Body, Message, Outgoing};
pub use node::{Node, Restored, RoleKind};
pub use progress::{PeerProgress, ProgressState};
pub use read::READS_MAX;
pub use ready::{Durable, Note, ReadReady, Ready};
pub use types::*;
