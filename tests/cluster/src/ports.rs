//! Ports for one cluster that no other cluster on this machine uses.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::{Failure, Result};

/// How many ports a cluster gets: eight servers, with one port for clients, one for Raft, and one
/// for ramd's API each, and as many to spare.
const BLOCK: u16 = 32;
/// Below the range from which Linux takes ports for outgoing connections.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// Ports in a row, claimed by a file lock until this is dropped.
#[derive(Debug)]
pub struct PortBlock {
    /// The first of them.
    pub base: u16,
    _lock: File,
}

impl PortBlock {
    /// Which of all blocks it is, from 0.
    pub fn number(&self) -> u16 {
        (self.base - FIRST) / BLOCK
    }

    /// Claims a block that nobody holds and whose ports are free.
    pub fn claim() -> Result<PortBlock> {
        let folder = std::env::temp_dir().join("pgraft-ports");
        fs::create_dir_all(&folder)
            .map_err(Failure::while_doing(format!("make \"{}\"", folder.display())))?;
        // For all users; fails where another one has made it so already.
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777));
        // Each process begins elsewhere, so that ports just given back rest for a while.
        let blocks = (LAST - FIRST) / BLOCK;
        let start = (std::process::id() % u32::from(blocks)) as u16;
        for step in 0..blocks {
            let base = FIRST + (start + step) % blocks * BLOCK;
            let file = folder.join(base.to_string());
            // One that another user made cannot be opened: that block is not for us.
            let Ok(file) = OpenOptions::new().create(true).append(true).open(file) else {
                continue;
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(Failure::new(format!("could not lock ports: {error}")));
                }
            }
            if (base..base + BLOCK).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Ok(PortBlock { base, _lock: file });
            }
        }
        Err(Failure::new(format!("no free ports between {FIRST} and {LAST}")))
    }
}
