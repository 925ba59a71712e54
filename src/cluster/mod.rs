//! What the log means: the replicated state machine, as pure as `raft`.
#![forbid(unsafe_code)]

pub mod address;
pub mod position;
pub mod request;
pub mod sessions;
pub mod state;
pub mod store;
#[cfg(test)]
mod tests;
pub mod uuid;

pub use address::Address;
pub use position::{Position, SWITCHES_MAX, Switch};
pub use request::{Answer, Done, Failure, FailureKind, Found, Request};
pub use sessions::{OUTCOMES_MAX, Session, Sessions};
pub use state::{Applied, ClusterState, Command, Member, Primary, TIMELINES_MAX, Timeline};
pub use store::{Change, Item, KEY_BYTES_MAX, LimitError, RequestId, Store, VALUE_BYTES_MAX};
pub use uuid::Uuid;
