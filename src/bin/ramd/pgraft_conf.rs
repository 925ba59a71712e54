//! The node's `pgraft.conf` while ramd runs. Who the node is stays as it was when ramd began; what
//! a reload of the server applies follows the file, as it does in pgraft.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use pgraft::config::Config;

/// What tells one version of a file from another: device, inode, length, and time of the change.
type Stamp = (u64, u64, u64, i64, i64);

/// See the file's head.
#[derive(Debug)]
pub struct PgraftConf {
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    /// Of the version that was read last, good or bad; `None`: none was, or there is no file.
    stamp: Option<Stamp>,
    config: Arc<Config>,
}

impl PgraftConf {
    /// As it was read at the start.
    pub fn new(config: Arc<Config>) -> PgraftConf {
        // Without a stamp: it may have changed since it was read.
        PgraftConf { now: Mutex::new(Now { stamp: None, config }) }
    }

    /// As it is now: read anew if the file is another one. A file that is bad, or another node's
    /// (the primary's, for a moment, while a data directory with the file in it is replaced),
    /// changes nothing, and is logged once.
    pub fn latest(&self) -> Arc<Config> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is read: a change in between is seen the next time.
        let stamp = stamp(&now.config.path);
        if stamp.is_some() && stamp != now.stamp {
            match Config::load(&now.config.path) {
                Ok(new) if !is_same_node(&now.config, &new) => {
                    let (path, id, cluster) = (new.path.display(), new.node_id, &new.cluster_id);
                    log::warn!(
                        "\"{path}\" is that of node {id} of cluster \"{cluster}\" now; ramd goes \
                         on with what it had"
                    );
                }
                Ok(new) => now.config = Arc::new(now.config.reloaded(&new)),
                Err(error) => log::warn!("{error}; ramd goes on with what it had"),
            }
        }
        now.stamp = stamp;
        now.config.clone()
    }
}

fn is_same_node(one: &Config, other: &Config) -> bool {
    (one.node_id, &one.cluster_id) == (other.node_id, &other.cluster_id)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reload_applies_follows_the_file_and_the_rest_stays() {
        let path = std::env::temp_dir().join(format!("ramd-pgraft-{}.conf", std::process::id()));
        let write = |id: u32, more: &str| {
            let text = format!(
                "raft_node_id = {id}\nraft_cluster_id = ram\nraft_data_dir = /raft\n{more}\n"
            );
            // As an editor does it: another file takes its place.
            let aside = path.with_extension("new");
            fs::write(&aside, text).unwrap();
            fs::rename(&aside, &path).unwrap();
        };
        write(1, "");
        let conf = PgraftConf::new(Arc::new(Config::load(&path).unwrap()));
        assert!(!conf.latest().synchronous);
        write(1, "synchronous_mode = quorum\npostgresql_shmem_key = 77");
        let latest = conf.latest();
        assert!(latest.synchronous && latest.shmem_key == 0, "{latest:?}");
        // Nonsense, another node's, and none at all.
        write(1, "nonsense = 1");
        assert!(conf.latest().synchronous);
        write(2, "");
        assert!(conf.latest().synchronous && conf.latest().node_id.get() == 1);
        fs::remove_file(&path).unwrap();
        assert!(conf.latest().synchronous);
        write(1, "replication_conninfo = 'user=r'");
        let latest = conf.latest();
        assert_eq!((latest.synchronous, latest.replication_conninfo.as_str()), (false, "user=r"));
        fs::remove_file(&path).unwrap();
    }
}
