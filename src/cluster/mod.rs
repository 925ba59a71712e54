//! What the log means: the replicated state machine, as pure as `raft`.
#![forbid(unsafe_code)]

pub mod address;
pub mod request;
pub mod state;
#[cfg(test)]
mod tests;
pub mod uuid;

pub use address::Address;
pub use request::{Answer, Done, Failure, FailureKind, Request};
pub use state::{Applied, ClusterState, Command, Member};
pub use uuid::Uuid;
