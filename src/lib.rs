//! pgraft: Raft consensus inside PostgreSQL. ARCHITECTURE.md has the map.

pub mod bugs;
pub mod calendar;
pub mod cluster;
pub mod config;
pub mod hand;
pub mod http;
pub mod metrics;
pub mod net;
pub mod queue;
pub mod raft;
pub mod runtime;
pub mod shmem;
pub mod storage;
pub mod sys;
pub mod wire;

#[cfg(feature = "postgres")]
pub mod pg;

#[cfg(all(feature = "postgres", feature = "deliberate-bugs"))]
compile_error!("the feature deliberate-bugs is for the simulator, never for a server");

#[cfg(feature = "postgres")]
pgrx::pg_module_magic!();

/// Called by Postgres when it loads the library.
#[cfg(feature = "postgres")]
#[pgrx::pg_guard]
#[allow(non_snake_case, reason = "the name that Postgres looks for")]
pub extern "C-unwind" fn _PG_init() {
    pg::init();
}
