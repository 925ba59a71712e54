//! pgraft: Raft consensus inside PostgreSQL. ARCHITECTURE.md has the map.

pub mod cluster;
pub mod config;
pub mod metrics;
pub mod net;
pub mod raft;
pub mod runtime;
pub mod shmem;
pub mod sys;
pub mod wire;
