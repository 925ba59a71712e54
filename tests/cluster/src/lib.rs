//! Real PostgreSQL servers with pgraft in them, on one machine: made, started, killed and removed.
//!
//! A test asks for a [`Cluster`] and gets servers with their own ports and folders, so that tests
//! run beside one another; when the value is dropped, by a panic too, the servers are gone, and
//! after a failure their logs are kept. The program `cluster` (`make cluster`) uses the same
//! [`Node`]s in a folder that stays.
//!
//! Nothing here signals a process by name. A server is known by the pid in its `postmaster.pid`
//! *and* by having its data directory as working directory, and so are its children.

#![forbid(unsafe_code)]

mod account;
pub mod api;
pub mod chaos;
pub mod check;
pub mod clock;
mod cluster;
mod disk_fault;
mod failure;
pub mod haproxy;
mod home;
pub mod http;
mod install;
pub mod ledger;
pub mod network;
mod node;
mod owner;
mod ports;
mod preload;
mod primary;
mod process;
mod programs;
pub mod prometheus;
mod ramd;
pub mod random;
mod reigns;
mod rejoin;
mod session;
mod small_disk;
mod status;
pub mod timeline;
mod wait;
pub mod writer;

pub use account::Account;
pub use cluster::{Cluster, Options, with};
pub use disk_fault::{DiskFault, WalFault};
pub use failure::{Failure, Result};
pub use haproxy::Haproxy;
pub use home::Home;
pub use install::Install;
pub use ledger::{Ledger, Verdict};
pub use node::{Node, Place, Stop};
pub use ports::PortBlock;
pub use primary::Named;
pub use process::Process;
pub use ramd::{API_TOKEN, Ramd};
pub use reigns::{Reign, Reigns};
pub use rejoin::Rejoined;
pub use session::{Notice, Row, Session, SqlError};
pub use small_disk::SmallDisk;
pub use status::{Status, leader_of, table};
pub use wait::wait_for;
