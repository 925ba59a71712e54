//! The command line. `ramd --config=conf/ramd.conf` runs the daemon; what people ask a running one
//! are subcommands.

use std::path::PathBuf;

use clap::Parser;
use log::LevelFilter;

use crate::cli::Command;

/// The daemon beside one Postgres with pgraft: watches it, starts it, and makes it what the
/// cluster decided.
#[derive(Parser, Debug)]
#[command(name = "ramd", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// What a running one is asked.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/pgraft/ramd.conf")]
    pub config: PathBuf,
    /// The least serious messages that are logged: error, warn, info, debug, trace, off; instead
    /// of ramd_log_level.
    #[arg(short, long, value_name = "LEVEL")]
    pub log_level: Option<LevelFilter>,
    /// Run in the background.
    #[arg(short, long)]
    pub daemonize: bool,
    /// Write the process id to this file, and remove it at the end.
    #[arg(short, long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Check the configuration files, say what is wrong with them, and end.
    #[arg(long)]
    pub validate: bool,
    /// Make a new standby of the primary of the cluster that this Postgres is a member of, in the
    /// empty data directory, add it to the cluster, and go on as its daemon.
    #[arg(long, value_name = "HOST:PORT")]
    pub join: Option<String>,
}
