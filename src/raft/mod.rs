//! Raft, as in Ongaro's dissertation, as a pure state machine (see README.md in this folder).
#![forbid(unsafe_code)]

pub mod message;
pub mod ready;
pub mod types;

pub use message::{AppendResult, Body, Message, Outgoing};
pub use ready::{Durable, Note, ReadReady, Ready};
pub use types::*;
