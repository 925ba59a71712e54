//! Starting and stopping the server. A fast stop that takes too long becomes an immediate one, and
//! that one a kill: a server that hangs needs to be stopped, too.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgraft::sys::daemon::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, signal_process};
use pgraft::sys::pid_in_use;

use crate::command::Program;
use crate::daemon::Daemon;
use crate::memory::Step;
use crate::server::{Server, works_in};

/// What a server that was told to stop at once is given.
const IMMEDIATE_AT_MOST: Duration = Duration::from_secs(10);
/// A killed postmaster's children notice by themselves that it is gone, unless they stand still.
const ORPHANS_AT_MOST: Duration = Duration::from_secs(5);
/// How often it is looked whether something has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With a checkpoint, and WAL for its standbys.
    Fast,
    /// At once: it does not answer.
    Immediate,
}

/// Starts the server, if it is down, and waits until it takes connections. What was done.
pub fn start(daemon: &Daemon, server: &Server) -> Result<String, String> {
    let settings = &daemon.settings;
    if daemon.memory.get().step != Step::None {
        return Err("its data directory is being rewound or replaced: \
                    no server may be started on it before that is done"
            .to_owned());
    }
    if let Some(postmaster) = server.postmaster() {
        return Ok(format!("it runs already, process {}", postmaster.pid));
    }
    if !server.has_data() {
        return Err(format!("\"{}\" is no data directory", settings.data.display()));
    }
    end_orphans(daemon, server)?;
    remove_stale_pid_file(daemon)?;
    let timeout = settings.start_timeout.as_secs().to_string();
    let mut program = Program::new(&server.program("pg_ctl"))
        .arg("start")
        .arg("-D")
        .arg(&settings.data)
        .args(["-w", "-s", "-t", &timeout, "-l"])
        .arg(&settings.server_log);
    if let Some(file) = &settings.config_file {
        program = program.arg("-o").arg(format!("-c config_file='{}'", file.display()));
    }
    let outcome = program.run(daemon);
    match (server.postmaster(), outcome) {
        (Some(postmaster), Ok(_)) => Ok(format!("process {}", postmaster.pid)),
        // It recovers, or a standby waits for WAL: no failure of the start.
        (Some(postmaster), Err(_)) => {
            Ok(format!("process {} does not take connections yet", postmaster.pid))
        }
        (None, Ok(_)) => Err("it ended at once, see its log".to_owned()),
        (None, Err(why)) => Err(format!("{why}; see \"{}\"", settings.server_log.display())),
    }
}

/// Stops the server, if it runs, and waits until all of it is gone. What was done.
pub fn stop(daemon: &Daemon, server: &Server, how: How) -> Result<String, String> {
    let mut done = "it was down".to_owned();
    if let Some(postmaster) = server.postmaster() {
        let fast = (SIGINT, daemon.settings.stop_timeout, "stopped");
        let immediate = (SIGQUIT, IMMEDIATE_AT_MOST, "stopped at once");
        let steps: &[_] = match how {
            How::Fast => &[fast, immediate],
            How::Immediate => &[immediate],
        };
        let gone = || server.postmaster().is_none_or(|now| now.pid != postmaster.pid);
        let stopped = steps.iter().find(|(signal, at_most, _)| {
            // A process that was stopped takes no signal but one.
            if stands_still(postmaster.pid) {
                return false;
            }
            // Fails only if it has ended meanwhile, which is then seen.
            let _ = signal_process(postmaster.pid, *signal);
            wait_until(daemon, *at_most, gone)
        });
        done = match stopped {
            Some((_, _, done)) => (*done).to_owned(),
            None if daemon.is_ending() => return Err("ramd ends".to_owned()),
            None => {
                let _ = signal_process(postmaster.pid, SIGKILL); // as above
                "killed: it did not stop".to_owned()
            }
        };
    }
    end_orphans(daemon, server)?;
    Ok(done)
}

/// Has the server read its configuration again.
pub fn reload(server: &Server) -> Result<String, String> {
    let postmaster = server.postmaster().ok_or("the server is down")?;
    signal_process(postmaster.pid, SIGHUP).map_err(|error| error.to_string())?;
    Ok("told to read its configuration again".to_owned())
}

/// Whether somebody has stopped the process (SIGSTOP): it does nothing, and so does not end.
fn stands_still(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state comes after the name, which may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}

/// Waits until no process without a postmaster is left, and kills what stays.
fn end_orphans(daemon: &Daemon, server: &Server) -> Result<(), String> {
    let none = || server.processes().is_empty();
    let still = || server.processes().into_iter().any(stands_still);
    if wait_until(daemon, ORPHANS_AT_MOST, || none() || still()) && none() {
        return Ok(());
    }
    if server.postmaster().is_some() {
        return Err("somebody else starts it".to_owned());
    }
    for pid in server.processes() {
        let _ = signal_process(pid, SIGKILL); // gone meanwhile: as wanted
    }
    match wait_until(daemon, ORPHANS_AT_MOST, none) {
        true => Ok(()),
        false => Err(format!("processes {:?} of it do not end", server.processes())),
    }
}

/// A server that was killed leaves its file; Postgres takes any process with that pid for the
/// server, which after a reboot may be anything. No process of the server's is there: it is stale,
/// unless that one works in the data directory all the same.
fn remove_stale_pid_file(daemon: &Daemon) -> Result<(), String> {
    let path = daemon.settings.data.join("postmaster.pid");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let pid = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    let Some(pid) = pid.map(i32::saturating_abs).filter(|pid| pid_in_use(*pid)) else {
        return Ok(());
    };
    if works_in(pid, &daemon.settings.data) {
        return Err(format!(
            "process {pid}, which \"{}\" names, works in the data directory, and its program is \
             not called postgres: it is left alone",
            path.display()
        ));
    }
    log::warn!("\"{}\" names a process that is not the server: removed", path.display());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("could not remove \"{}\": {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Whether it came true within the time, or before ramd is to end.
fn wait_until(daemon: &Daemon, at_most: Duration, is: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if is() {
            return true;
        }
        if began.elapsed() >= at_most || daemon.is_ending() {
            return false;
        }
        sleep(LOOK_EVERY);
    }
}
