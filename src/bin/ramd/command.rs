//! PostgreSQL's programs, run to their end, or ours: one that runs when ramd is to end is killed,
//! and one whose ramd was killed is, too, so that no two ramds ever work on one directory.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::Duration;

use pgraft::sys::daemon::end_with_parent;

use crate::daemon::Daemon;
use crate::threads;

/// How much of what a program says is kept: the end of it.
const SAID_BYTES_MAX: usize = 8 << 10;
/// How many lines of that an error quotes.
const SAID_LINES_MAX: usize = 5;
/// How often it is looked whether the program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For what a program has said to arrive, once it has ended.
const LAST_WORDS_AT_MOST: Duration = Duration::from_secs(1);

/// A program and its arguments.
pub struct Program {
    path: PathBuf,
    command: Command,
}

impl Program {
    /// With the environment of ramd.
    pub fn new(path: &Path) -> Program {
        let mut command = Command::new(path);
        command.current_dir("/");
        Program { path: path.to_owned(), command }
    }

    /// One that connects to a server: nothing in its environment says where or as whom, and
    /// passwords come from the passfile, or from [`Program::password`].
    pub fn client(path: &Path, passfile: Option<&Path>) -> Program {
        let Program { path, mut command } = Program::new(path);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("PG") && !name.starts_with("PGSSL") {
                command.env_remove(name);
            }
        }
        if let Some(passfile) = passfile {
            command.env("PGPASSFILE", passfile);
        }
        command.env("PGCONNECT_TIMEOUT", "10");
        Program { path, command }
    }

    /// With a password in its environment, which nobody but its user sees; arguments everybody
    /// does.
    pub fn password(mut self, password: Option<&str>) -> Program {
        if let Some(password) = password {
            self.command.env("PGPASSWORD", password);
        }
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Program {
        self.command.arg(argument);
        self
    }

    /// Adds several.
    pub fn args<A: AsRef<std::ffi::OsStr>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Program {
        self.command.args(arguments);
        self
    }

    /// In PostgreSQL's own words, for output that is read.
    pub fn untranslated(mut self) -> Program {
        self.command.env("LC_ALL", "C");
        self
    }

    /// Runs it to its end; what it wrote to standard output. `Err`: in words.
    pub fn run(mut self, daemon: &Daemon) -> Result<String, String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        end_with_parent(&mut self.command);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .map_err(|error| format!("could not run \"{}\": {error}", self.path.display()))?;
        let out = child.stdout.take().map(read_to_end);
        let err = child.stderr.take().map(read_to_end);
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if daemon.is_ending() => {
                    // Both fail only if it has ended by itself.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("{name} was ended, because ramd ends"));
                }
                Ok(None) => sleep(LOOK_EVERY),
                Err(error) => return Err(format!("could not wait for {name}: {error}")),
            }
        };
        let (out, err) = (last_words(out), last_words(err));
        if status.success() { Ok(out) } else { Err(failure(&name, status, &out, &err)) }
    }
}

/// Reads what a program says, in a thread: a full pipe would make it wait.
fn read_to_end(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (said, words) = channel();
    let body = move || {
        let mut kept = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = pipe.read(&mut buffer) {
            kept.extend_from_slice(&buffer[..bytes]);
            if kept.len() > 2 * SAID_BYTES_MAX {
                kept.drain(..kept.len() - SAID_BYTES_MAX);
            }
        }
        // Nobody listens any more: ramd ends.
        let _ = said.send(String::from_utf8_lossy(&kept).into_owned());
    };
    if let Err(error) = threads::spawn("ramd reads", body) {
        log::warn!("could not start a thread: {error}");
    }
    words
}

fn last_words(words: Option<Receiver<String>>) -> String {
    // A server that it started may hold the pipe.
    words.and_then(|words| words.recv_timeout(LAST_WORDS_AT_MOST).ok()).unwrap_or_default()
}

fn failure(name: &str, status: ExitStatus, out: &str, err: &str) -> String {
    let said = if err.trim().is_empty() { out } else { err };
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let end = lines[lines.len().saturating_sub(SAID_LINES_MAX)..].join("; ");
    format!("{name} failed ({status}): {end}")
}
