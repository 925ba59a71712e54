//! Processes of a server, found by what they work on and never by name.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// A process that has a server's data directory as its working directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
}

impl Process {
    /// The process with this id, if its working directory is that folder.
    pub fn in_folder(pid: u32, folder: &Path) -> Option<Process> {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        // A zombie has no working directory; a removed folder reads "... (deleted)".
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        (cwd == folder).then_some(Process { pid })
    }

    /// Every process whose working directory is that folder: a postmaster and its children.
    pub fn all_in_folder(folder: &Path) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Process::in_folder(pid, folder)).collect()
    }

    /// Sends a signal. A process that is gone by now is no failure.
    pub fn signal(self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal); // gone already: what was wanted, or soon noticed
        }
    }

    /// SIGSTOP: the process stands still, and its sockets stay open.
    pub fn pause(self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT, after [`Process::pause`].
    pub fn resume(self) {
        self.signal(Signal::CONT);
    }

    /// SIGKILL.
    pub fn kill(self) {
        self.signal(Signal::KILL);
    }

    /// What it calls itself, as `ps` shows it: `postgres: walwriter`.
    pub fn title(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        text.trim().to_owned()
    }
}
