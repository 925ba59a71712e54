//! The command line for people, and for their scripts (docs/ramd-api.md): `pgraftctl status`, or
//! `ramd status`. It asks the API of any node; nothing here touches a server.
//!
//! - `client` — asks the first node that answers
//! - `show` — tables
//! - `change` — has something done, and says how far it has come
//! - `logs` — what happened

mod change;
mod client;
mod logs;
mod show;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};

use client::Client;

/// What these commands end with; 2, of a wrong usage, is clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// It is so, or was done.
    Ok = 0,
    /// It was refused, and nothing was changed; or an order to a server failed.
    Refused = 1,
    /// What was asked for makes no sense.
    Usage = 2,
    /// Nobody answered; or what became of it is not known.
    Unreachable = 3,
    /// The cluster was reached, and is not well.
    Unhealthy = 4,
}

/// Why there is nothing to show.
#[derive(Debug)]
struct Trouble {
    exit: Exit,
    message: String,
}

impl Trouble {
    fn new(exit: Exit, message: impl Into<String>) -> Trouble {
        Trouble { exit, message: message.into() }
    }
}

/// Shows and steers a cluster of PostgreSQL servers with pgraft, through the ramd of any node.
#[derive(Parser, Debug)]
#[command(name = "pgraftctl", version, after_help = AFTER_HELP)]
pub struct Ctl {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 it is so, or was done; 1 refused; 2 wrong usage; 3 nobody answers, or the outcome is
not known; 4 the cluster is not well.
Environment: PGRAFT_URL (several, separated by commas), PGRAFT_TOKEN_FILE, PGRAFT_TOKEN.";

impl Ctl {
    /// Does what was asked for.
    pub fn run(&self) -> ExitCode {
        run(&self.command)
    }
}

/// What can be asked for.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// The cluster: who is the primary, who follows, how far behind, and what is wrong.
    Status {
        #[command(flatten)]
        reach: Reach,
        /// Show it again and again.
        #[arg(short, long)]
        watch: bool,
        /// Seconds between two looks.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// The members of the cluster.
    Members {
        #[command(flatten)]
        reach: Reach,
    },
    /// Moves the primary to another node, without loss.
    Switchover {
        #[command(flatten)]
        reach: Reach,
        /// The next primary, its id or its name; else the standby that has the most.
        #[arg(short, long, value_name = "NODE")]
        candidate: Option<String>,
        /// Only if this node is the primary.
        #[arg(short, long, value_name = "NODE")]
        leader: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Has another primary, also when the one there is does not do well.
    Failover {
        #[command(flatten)]
        reach: Reach,
        /// The next primary, its id or its name; else the standby that has the most.
        #[arg(short, long, value_name = "NODE")]
        candidate: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// No failover by itself from now on, on all nodes.
    Pause {
        #[command(flatten)]
        reach: Reach,
        #[command(flatten)]
        how: How,
    },
    /// Failover by itself again.
    Resume {
        #[command(flatten)]
        reach: Reach,
        #[command(flatten)]
        how: How,
    },
    /// What happened at a node: ramd's history, and, with a token, pgraft's log.
    Logs {
        #[command(flatten)]
        reach: Reach,
        /// How many lines.
        #[arg(short = 'n', long, default_value_t = 50)]
        #[arg(value_parser = clap::value_parser!(u64).range(1..=1000))]
        lines: u64,
        /// Go on as more happens.
        #[arg(short, long)]
        follow: bool,
    },
}

/// How something is done.
#[derive(Args, Clone, Copy, Debug)]
pub struct How {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

/// Whom to ask, and in what form to tell.
#[derive(Args, Clone, Debug)]
pub struct Reach {
    /// The API of a node; repeat it for others, to be asked if that one does not answer.
    #[arg(short, long, value_name = "URL", env = "PGRAFT_URL", value_delimiter = ',')]
    #[arg(default_value = "http://127.0.0.1:8008")]
    url: Vec<String>,
    /// The file with the token, for what changes something.
    #[arg(long, value_name = "FILE", env = "PGRAFT_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// JSON, for scripts.
    #[arg(long)]
    json: bool,
    /// Seconds to wait for an answer.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Does what was asked for.
pub fn run(command: &Command) -> ExitCode {
    let done = match command {
        Command::Status { reach, watch: false, .. } => status(reach),
        Command::Status { reach, interval, .. } => watch(reach, Duration::from_secs(*interval)),
        Command::Members { reach } => members(reach),
        Command::Switchover { reach, candidate, leader, how } => {
            let body = json!({ "candidate": candidate, "leader": leader });
            change::run(reach, "cluster/switchover", &body, how.dry_run)
        }
        Command::Failover { reach, candidate, how } => {
            let body = json!({ "candidate": candidate });
            change::run(reach, "cluster/failover", &body, how.dry_run)
        }
        Command::Pause { reach, how } => {
            change::run(reach, "cluster/pause", &json!({}), how.dry_run)
        }
        Command::Resume { reach, how } => {
            change::run(reach, "cluster/resume", &json!({}), how.dry_run)
        }
        Command::Logs { reach, lines, follow } => logs::run(reach, *lines, *follow),
    };
    let exit = done.unwrap_or_else(|trouble| {
        eprintln!("pgraftctl: {}", trouble.message);
        trouble.exit
    });
    ExitCode::from(exit as u8)
}

fn status(reach: &Reach) -> Result<Exit, Trouble> {
    let (text, exit) = look(reach)?;
    say(&text);
    Ok(exit)
}

/// What `status` shows.
fn look(reach: &Reach) -> Result<(String, Exit), Trouble> {
    let client = Client::new(reach)?;
    let cluster = client.get("/cluster")?;
    // Of the same node: two views would be confusing.
    let health = client.at(&cluster.url).get("/api/v1/cluster/health")?;
    let health = &health.body["data"];
    let exit = if health["healthy"] == true { Exit::Ok } else { Exit::Unhealthy };
    let text = match reach.json {
        true => {
            let all = json!({ "url": cluster.url, "cluster": cluster.body, "health": health });
            pretty(&all)
        }
        false => show::status(&cluster.url, &cluster.body, health),
    };
    Ok((text, exit))
}

fn watch(reach: &Reach, interval: Duration) -> Result<Exit, Trouble> {
    if !reach.json {
        say("\x1b[2J");
    }
    loop {
        let text = match look(reach) {
            Ok((text, _)) => text,
            Err(Trouble { exit: Exit::Usage, message }) => {
                return Err(Trouble::new(Exit::Usage, message));
            }
            Err(trouble) => trouble.message + "\n",
        };
        // Home, then the rest of each line and of the screen: less restless than a cleared one.
        let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
        let screen = if reach.json { text } else { format!("\x1b[H{lines}\x1b[J") };
        if !say(&screen) {
            return Ok(Exit::Ok);
        }
        std::thread::sleep(interval);
    }
}

fn members(reach: &Reach) -> Result<Exit, Trouble> {
    let answer = Client::new(reach)?.get("/api/v1/nodes")?;
    let nodes = &answer.body["data"]["nodes"];
    say(&if reach.json { pretty(nodes) } else { show::members(nodes) });
    Ok(Exit::Ok)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Whether anybody is there to read it: `| head` may not be.
fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}
