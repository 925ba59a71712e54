//! What a node keeps on disk, in `raft_data_dir` (DESIGN section 5):
//!
//! ```text
//! LOCK      flock, names the holder's pid        lock.rs
//! identity  who this directory belongs to        identity.rs
//! log/      the durable log, in segments         segment.rs, log.rs on disk.rs
//! ```
//!
//! The consensus thread writes the log; the worker's main thread the rest. Snapshots are not here
//! yet.
#![forbid(unsafe_code)]

mod disk;
mod error;
mod identity;
mod location;
mod lock;
mod log;
mod segment;
pub mod testing;
#[cfg(test)]
mod tests;

pub use disk::{Disk, FileDisk};
pub use error::StorageError;
pub use identity::Identity;
pub use location::check_location;
pub use lock::DirLock;
pub use log::{Recovered, Storage, TornTail};
