//! Disks that are full or fail when a test says so: a library that the servers preload
//! (`tests/c/disk_fault.c`) fails the system calls that write below a node's Raft directory.

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
}

impl DiskFault {
    /// The words of the operating system for it.
    pub fn words(self) -> &'static str {
        match self {
            DiskFault::Full => "No space left on device (os error 28)",
            DiskFault::SyncFails | DiskFault::WriteFails => "Input/output error (os error 5)",
        }
    }
}

impl Cluster {
    /// Lets every node's disk fail on demand. Before the servers start, which preload the library.
    pub fn prepare_disk_faults(&mut self) -> Result<()> {
        let library = self.build_preload("disk_fault")?;
        let ids: Vec<u32> = self.nodes().iter().map(Node::id).collect();
        for id in ids {
            let node = self.node_mut(id);
            let (folder, control) = (node.raft(), node.place.folder.join("disk.fault"));
            node.set_variable("LD_PRELOAD", &library);
            node.set_variable("PGRAFT_FAULT_FOLDER", &folder);
            node.set_variable("PGRAFT_FAULT_CONTROL", &control);
        }
        Ok(())
    }
}

impl Node {
    /// Nothing is wrong with the node's disk any more, if anything was.
    pub fn clear_disk_fault(&self) -> Result<()> {
        match self.place.folder.join("disk.fault").exists() {
            true => self.set_disk_fault(None),
            false => Ok(()),
        }
    }

    /// From now on this is wrong with the node's disk; `None`: nothing is.
    pub fn set_disk_fault(&self, fault: Option<DiskFault>) -> Result<()> {
        let control = self.place.folder.join("disk.fault");
        let doing = Failure::while_doing(format!("change \"{}\"", control.display()));
        // Aside first: the servers must not find the file without its letter.
        let aside = self.place.folder.join("disk.fault.new");
        let letter = match fault {
            None => return fs::remove_file(&control).map_err(doing),
            Some(DiskFault::Full) => "f",
            Some(DiskFault::SyncFails) => "s",
            Some(DiskFault::WriteFails) => "w",
        };
        let put = || {
            fs::write(&aside, letter)?;
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            fs::set_permissions(&aside, readable)?;
            fs::rename(&aside, &control)
        };
        put().map_err(doing)
    }
}
