//! The file `pgraft.member` in Postgres' data directory: this server takes part in a cluster, so
//! that it commits nothing before its worker holds the lease. The postmaster looks for it when it
//! makes shared memory, the worker writes and removes it.
//!
//! It is there as long as the node *may* have been a member; what is in it is for people. Copies of
//! the data directory have it, too, as they should: two of them are two primaries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::config::Config;
use crate::pg::guc;
use crate::shmem::FenceMode;
use crate::storage::{Identity, StorageError, remove_file, replace_file};

/// The file.
pub(in crate::pg) struct Marker {
    path: PathBuf,
}

impl Marker {
    /// Of this server.
    pub(in crate::pg) fn of_server() -> Marker {
        Marker { path: guc::data_directory().join("pgraft.member") }
    }

    /// One that cannot be looked for is there.
    fn is_there(&self) -> bool {
        self.path.try_exists().unwrap_or(true)
    }

    /// The server takes part as this node.
    pub(in crate::pg) fn write(&self, config: &Config) -> Result<(), StorageError> {
        let text = format!(
            "# pgraft: a member of a cluster commits nothing without the lease as primary; \
             docs/failover.md says how to use it by itself\n\
             cluster_id = {}\nnode = {}\n",
            config.cluster_id, config.node_id
        );
        if fs::read_to_string(&self.path).is_ok_and(|found| found == text) {
            return Ok(());
        }
        replace_file(&self.path, &text, self.file_mode())
    }

    /// It takes part no more; whether it did until now.
    pub(in crate::pg) fn remove(&self) -> Result<bool, StorageError> {
        remove_file(&self.path)
    }

    /// As Postgres' own files: for the group, too, if the directory is.
    fn file_mode(&self) -> u32 {
        let dir = self.path.parent().and_then(|dir| fs::metadata(dir).ok());
        dir.map_or(0o600, |dir| 0o600 | dir.permissions().mode() & 0o040)
    }
}

/// How the fence of a server that just started stands, before its worker runs.
pub(in crate::pg) fn mode_at_start() -> FenceMode {
    if Marker::of_server().is_there() || is_member_by_directory() {
        FenceMode::Paused
    } else {
        FenceMode::Off
    }
}

/// Whether the directory that pgraft.conf names is a member's; the marker may be lost. A file
/// that cannot be read names none, and an identity that cannot be read may be a member's.
fn is_member_by_directory() -> bool {
    let Ok(config) = Config::load(&guc::config_file()) else { return false };
    config.integration_enabled
        && match Identity::load(&config.data_dir) {
            Ok(identity) => identity.is_some_and(|identity| identity.cluster.is_some()),
            Err(_) => true,
        }
}
