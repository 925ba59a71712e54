//! ramd, the daemon beside one Postgres with pgraft (docs/ramd.md). It decides nothing: it carries
//! out on its own server what the Raft log decided and pgraft's page says, and tells what it knows.
//!
//! Entry points: here (`main`), `health.rs` (what is), `hand.rs` (what is done). Threads:
//!
//! | thread | does |
//! |---|---|
//! | main | waits for signals |
//! | `ramd health` | page, processes, disk; puts up the [`overview::Overview`] |
//! | `ramd probe` | asks the server |
//! | `ramd asks` | one question to a server that may never answer; at most one a [`sql::Line`] |
//! | `ramd hand` | the only one that does something to the server |
//! | `pgraft http` | one accepts, and one a connection: the API (`api/`) |
//! | `ramd operation` | a change that was asked for by the API and is not waited for |

mod api;
mod auto_conf;
mod backoff;
mod cli;
mod clock;
mod command;
mod control;
mod control_data;
mod daemon;
mod files;
mod hand;
mod health;
mod history;
mod interrupted;
mod join;
mod lock;
mod logging;
mod memory;
mod options;
mod orders;
mod overview;
mod page;
mod pgraft_conf;
mod policy;
mod primary;
mod probe;
mod recovery;
mod rejoin;
mod server;
mod server_log;
mod settings;
mod sql;
mod standby;
mod start;
mod swap;
mod threads;
mod watched;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

/// What ramd ends with when it cannot run.
const EXIT_FAILURE: u8 = 1;
/// What it ends with after a panic.
const EXIT_PANIC: i32 = 101;

/// The name under which the same program is the command line for people.
const CTL: &str = "pgraftctl";

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    if name.is_some_and(|name| Path::new(&name).file_name().is_some_and(|name| name == CTL)) {
        return cli::Ctl::parse().run();
    }
    let options = options::Options::parse();
    if let Some(command) = &options.command {
        return cli::run(command);
    }
    match start::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ramd: {why}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
