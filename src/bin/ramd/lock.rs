//! One ramd for one server: a lock on a file in its state directory, which the kernel lets go when
//! the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Held while ramd runs.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes it, or says who has it.
    pub fn take(state: &Path) -> Result<Lock, String> {
        let path = state.join("ramd.lock");
        let shown = path.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let mut file =
            options.open(&path).map_err(|error| format!("could not open \"{shown}\": {error}"))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::Error(error)) => Err(format!("could not lock \"{shown}\": {error}")),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only to name it: unreadable is unknown.
                let _ = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
                let pid = pid.trim();
                let who = if pid.is_empty() { String::new() } else { format!(", process {pid}") };
                Err(format!("another ramd runs for this server{who} (\"{shown}\" is locked)"))
            }
        }
    }

    /// Writes this process into it, after it went to the background.
    pub fn sign(&mut self) -> std::io::Result<()> {
        self.0.set_len(0)?;
        writeln!(self.0, "{}", std::process::id())
    }
}
