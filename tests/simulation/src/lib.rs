//! A deterministic simulator (docs/testing.md): the production code of `raft`, `cluster`, `wire`,
//! `storage` and the runtime's consensus loop runs unchanged; clock, network, disk and people are
//! made up here, all from one seed. Two runs of a seed are the same run, step by step.
//!
//! - [`World`] holds the servers and the queue of what happens next; `net` is its network, `hands`
//!   what a node does to the world, `nemesis` what goes wrong, `people` who asks for something.
//! - `postgres` is the server on each machine, which streams (`streaming`), commits (`writers`) and
//!   is moved by its worker's main thread (`errands`); `auditor` watches what becomes of commits.
//! - [`Judge`] watches every step and panics at the first that breaks a promise.
//! - [`run`] plays one seed: chaos for a while, then everything heals and must come together.

mod auditor;
mod clients;
mod clock;
mod errands;
mod hands;
mod host;
mod judge;
mod mix;
mod nemesis;
mod net;
mod people;
mod postgres;
mod random;
mod run;
mod streaming;
mod themes;
mod trace;
mod world;
mod writers;

pub use judge::Judge;
pub use mix::Mix;
pub use random::Random;
pub use run::{Failure, Outcome, Stats, run, run_caught};
pub use trace::{Trace, print_logs};
pub use world::{World, address, id};
