//! What a node keeps on disk, in `raft_data_dir` (DESIGN section 5):
//!
//! ```text
//! LOCK               flock, names the holder's pid
//! identity           who this directory belongs to
//! log/0000000007.log the durable log, in segments of 8 MiB, numbered from 1
//! snapshot/current   stands for the log's beginning, whose segments may be gone
//! snapshot/*.new     a snapshot on its way; one that a crash left is removed at the next start
//! ```
//!
//! | file | what |
//! |---|---|
//! | `log.rs` | [`Storage`]: what is written, and in which order |
//! | `recovery.rs` | what is read back, and what a crash left half done |
//! | `outline.rs` | what may follow what in a log: the judge of both |
//! | `segment.rs` | a segment's bytes |
//! | `snapshot.rs` | [`Snapshots`]: the snapshot file |
//! | `disk.rs` | the file operations below all of that; `testing.rs` has a disk in memory |
//! | `identity.rs` `lock.rs` `location.rs` | the directory: whose, whether in use, where |
//!
//! The consensus thread writes the log, a thread in the background the snapshots that this node
//! takes, the worker's main thread the rest.
#![forbid(unsafe_code)]

mod disk;
mod error;
mod identity;
mod location;
mod lock;
mod log;
mod outline;
mod recovery;
mod segment;
mod snapshot;
pub mod testing;
#[cfg(test)]
mod tests;

pub use disk::{Disk, FileDisk, remove_file, replace_file};
pub use error::StorageError;
pub use identity::Identity;
pub use location::check_location;
pub use lock::DirLock;
pub use log::{Recovered, Storage, TornTail};
pub use snapshot::Snapshots;
