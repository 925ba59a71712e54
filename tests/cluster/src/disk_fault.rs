//! Disks that are full, fail or hang when a test says so: a library that the servers preload
//! (`tests/c/disk_fault.c`) fails the system calls that write below a node's Raft directory, or
//! below that of Postgres' WAL. One thing at a time is wrong with a node.

use std::fs;

use crate::{Cluster, Failure, Node, Result};

/// What goes wrong with all that is written below a node's Raft directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFault {
    /// ENOSPC, after a part of what was to be written. What is there can be written over.
    Full,
    /// EIO of fsync and fdatasync, which write nothing.
    SyncFails,
    /// EIO of every write.
    WriteFails,
    /// Every write waits until nothing is wrong any more.
    Hangs,
}

impl DiskFault {
    /// The words of the operating system for it; one that hangs has none.
    pub fn words(self) -> &'static str {
        match self {
            DiskFault::Full => "No space left on device (os error 28)",
            DiskFault::SyncFails | DiskFault::WriteFails => "Input/output error (os error 5)",
            DiskFault::Hangs => "",
        }
    }
}

/// What goes wrong with all that is written below a node's `pg_wal`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalFault {
    /// ENOSPC. Segments that are there can be written over.
    Full,
    /// Every write waits until nothing is wrong any more.
    Hangs,
}

impl Cluster {
    /// Lets every node's disk fail on demand. Before the servers start, which preload the library.
    pub fn prepare_disk_faults(&mut self) -> Result<()> {
        let library = self.build_preload("disk_fault")?;
        let ids: Vec<u32> = self.nodes().iter().map(Node::id).collect();
        for id in ids {
            let node = self.node_mut(id);
            let (folder, wal) = (node.raft(), node.data().join("pg_wal"));
            let control = node.place.folder.join("disk.fault");
            node.set_variable("LD_PRELOAD", &library);
            node.set_variable("PGRAFT_FAULT_FOLDER", &folder);
            node.set_variable("PGRAFT_FAULT_WAL", &wal);
            node.set_variable("PGRAFT_FAULT_CONTROL", &control);
        }
        Ok(())
    }
}

impl Node {
    /// Nothing is wrong with the node's disk any more, if anything was.
    pub fn clear_disk_fault(&self) -> Result<()> {
        match self.place.folder.join("disk.fault").exists() {
            true => self.set_fault(None),
            false => Ok(()),
        }
    }

    /// From now on this is wrong with the disk of the node's Raft directory; `None`: nothing is.
    pub fn set_disk_fault(&self, fault: Option<DiskFault>) -> Result<()> {
        self.set_fault(fault.map(|fault| match fault {
            DiskFault::Full => "f",
            DiskFault::SyncFails => "s",
            DiskFault::WriteFails => "w",
            DiskFault::Hangs => "h",
        }))
    }

    /// From now on this is wrong with the disk of the node's WAL; `None`: nothing is.
    pub fn set_wal_fault(&self, fault: Option<WalFault>) -> Result<()> {
        self.set_fault(fault.map(|fault| match fault {
            WalFault::Full => "F",
            WalFault::Hangs => "H",
        }))
    }

    /// The letter, as the library has it.
    fn set_fault(&self, letter: Option<&str>) -> Result<()> {
        let control = self.place.folder.join("disk.fault");
        let doing = Failure::while_doing(format!("change \"{}\"", control.display()));
        // Aside first: the servers must not find the file without its letter.
        let aside = self.place.folder.join("disk.fault.new");
        let Some(letter) = letter else { return fs::remove_file(&control).map_err(doing) };
        let put = || {
            fs::write(&aside, letter)?;
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(&aside, readable)?;
            fs::rename(&aside, &control)
        };
        put().map_err(doing)
    }
}
