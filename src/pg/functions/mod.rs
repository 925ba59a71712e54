//! The SQL functions. Each is declared in `sql/pgraft--1.0.0.sql`, by hand; a test calls every one,
//! so that a signature that drifts fails.
//!
//! Those that read answer from shared memory and wait for nothing. Those that change something
//! check their arguments here and leave the rest to the worker (`command`), as do all of the store.

mod changes;
mod is_leader;
mod logs;
mod nodes;
mod reads;
mod status;
mod store;
mod types;
