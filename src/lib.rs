//! pgraft: Raft consensus inside PostgreSQL. ARCHITECTURE.md has the map.

pub mod cluster;
pub mod net;
pub mod raft;
pub mod wire;
