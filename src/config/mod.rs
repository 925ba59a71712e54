//! `pgraft.conf`, from text to checked values (docs/configuration.md is for people). Pure but for
//! `Config::load`, which reads the file; any thread.
#![forbid(unsafe_code)]

mod error;
mod keys;
mod lines;
#[cfg(test)]
mod tests;

pub use error::{ConfigError, Problem};
pub use keys::{Fault, Keys, required};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use log::LevelFilter;

use crate::cluster::Address;
use crate::cluster::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::raft::{NodeId, SNAPSHOT_BYTES_MAX};
use crate::shmem::{MEMBERS_MAX, SHMEM_BYTES_DEFAULT, SHMEM_BYTES_MAX, SHMEM_BYTES_MIN};
use lines::Value;

/// The longest file that is read: the sample with all its comments is a tenth of it.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;
/// The longest `raft_cluster_id`.
pub const CLUSTER_ID_BYTES_MAX: usize = 64;
/// The longest `node_name`, as long as PostgreSQL's own names.
pub const NODE_NAME_BYTES_MAX: usize = 63;
/// The longest `raft_data_dir`; file names below it must fit Linux's 4096 as well.
pub const DATA_DIR_BYTES_MAX: usize = 1024;
/// The most for `raft_snapshot_entries` and `raft_log_keep_entries`: all of them are in memory.
pub const ENTRIES_MAX: i64 = 1_000_000;
/// The longest `replication_conninfo`.
pub const CONNINFO_BYTES_MAX: usize = 1024;
/// The longest `authentication_token`.
pub const TOKEN_BYTES_MAX: usize = 256;

/// The least `kv_max_store_bytes`: a few settings and locks.
pub const STORE_BYTES_MIN: u64 = 64 << 10;
/// `kv_max_store_bytes` if it is not set.
pub const STORE_BYTES_DEFAULT: u64 = 16 << 20;
/// The most `kv_max_store_bytes`: half of the largest snapshot, of which it is the main part.
pub const STORE_BYTES_MAX: u64 = SNAPSHOT_BYTES_MAX / 2;

/// Every key.
pub const KEYS: [&str; 27] = [
    NODE_ID,
    CLUSTER_ID,
    DATA_DIR,
    LOG_LEVEL,
    PORT,
    BIND_ADDRESS,
    PEER_ADDRESSES,
    ADVERTISE_ADDRESS,
    HEARTBEAT_INTERVAL,
    ELECTION_TIMEOUT,
    SNAPSHOT_ENTRIES,
    LOG_KEEP_ENTRIES,
    NODE_NAME,
    KV_MAX_KEY_BYTES,
    KV_MAX_VALUE_BYTES,
    KV_MAX_STORE_BYTES,
    INTEGRATION_ENABLED,
    AUTO_FAILOVER,
    SYNCHRONOUS_MODE,
    FAILOVER_GRACE,
    REPLICATION_CONNINFO,
    SHMEM_KEY,
    SHMEM_SIZE,
    METRICS_ENABLED,
    METRICS_PORT,
    METRICS_BIND_ADDRESS,
    AUTHENTICATION_TOKEN,
];

const NODE_ID: &str = "raft_node_id";
const CLUSTER_ID: &str = "raft_cluster_id";
const DATA_DIR: &str = "raft_data_dir";
const LOG_LEVEL: &str = "raft_log_level";
const PORT: &str = "raft_port";
const BIND_ADDRESS: &str = "raft_bind_address";
const PEER_ADDRESSES: &str = "raft_peer_addresses";
const ADVERTISE_ADDRESS: &str = "raft_advertise_address";
const HEARTBEAT_INTERVAL: &str = "raft_heartbeat_interval_ms";
const ELECTION_TIMEOUT: &str = "raft_election_timeout_ms";
const SNAPSHOT_ENTRIES: &str = "raft_snapshot_entries";
const LOG_KEEP_ENTRIES: &str = "raft_log_keep_entries";
const NODE_NAME: &str = "node_name";
const KV_MAX_KEY_BYTES: &str = "kv_max_key_bytes";
const KV_MAX_VALUE_BYTES: &str = "kv_max_value_bytes";
const KV_MAX_STORE_BYTES: &str = "kv_max_store_bytes";
const INTEGRATION_ENABLED: &str = "postgresql_integration_enabled";
const AUTO_FAILOVER: &str = "auto_failover_enabled";
const SYNCHRONOUS_MODE: &str = "synchronous_mode";
const FAILOVER_GRACE: &str = "failover_grace_ms";
const REPLICATION_CONNINFO: &str = "replication_conninfo";
const SHMEM_KEY: &str = "postgresql_shmem_key";
const SHMEM_SIZE: &str = "postgresql_shmem_size";
const METRICS_ENABLED: &str = "metrics_enabled";
const METRICS_PORT: &str = "metrics_port";
const METRICS_BIND_ADDRESS: &str = "metrics_bind_address";
const AUTHENTICATION_TOKEN: &str = "authentication_token";

/// Keys whose values no message shows.
const SECRETS: [&str; 1] = [AUTHENTICATION_TOKEN];

/// A checked configuration.
///
/// Invariant: `election_timeout_ms >= 3 * heartbeat_interval_ms`; every range below holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The file it came from.
    pub path: PathBuf,
    /// `raft_node_id`, required.
    pub node_id: NodeId,
    /// `raft_cluster_id`, required: 1 to 64 printable ASCII characters.
    pub cluster_id: String,
    /// `raft_data_dir`, required: an absolute path.
    pub data_dir: PathBuf,
    /// `raft_log_level`.
    pub log_level: LevelFilter,
    /// `raft_port`.
    pub port: u16,
    /// `raft_bind_address`: an IP address or a host name.
    pub bind_address: String,
    /// `raft_peer_addresses`, each once; this node's own may be among them.
    pub peer_addresses: Vec<Address>,
    /// `raft_advertise_address`.
    pub advertise_address: Option<Address>,
    /// `raft_heartbeat_interval_ms`.
    pub heartbeat_interval_ms: u32,
    /// `raft_election_timeout_ms`, the shortest; it is randomized to twice that.
    pub election_timeout_ms: u32,
    /// `raft_snapshot_entries`: every so many entries of the log a snapshot takes their place.
    pub snapshot_entries: u64,
    /// `raft_log_keep_entries`: so many entries before the snapshot stay in the log.
    pub log_keep_entries: u64,
    /// `node_name`, or "node" and the id.
    pub node_name: String,
    /// `kv_max_key_bytes`: the longest key that this node, leading, lets into the store.
    pub kv_key_bytes_max: usize,
    /// `kv_max_value_bytes`: the longest value.
    pub kv_value_bytes_max: usize,
    /// `kv_max_store_bytes`: the largest store (`cluster::store::item_bytes`).
    pub kv_store_bytes_max: u64,
    /// `postgresql_integration_enabled`.
    pub integration_enabled: bool,
    /// `auto_failover_enabled`: whether this node, leading, promotes a standby by itself.
    pub auto_failover: bool,
    /// `synchronous_mode`, `quorum` or `off`: whether commits wait for a majority. The primary's
    /// counts.
    pub synchronous: bool,
    /// `failover_grace_ms`: how long a primary that has lost its worker, but whose Postgres still
    /// answers, is given to get it back.
    pub failover_grace_ms: u32,
    /// `replication_conninfo`: what a standby's connection to its primary needs beside host and
    /// port. Empty: what `primary_conninfo` has.
    pub replication_conninfo: String,
    /// `postgresql_shmem_key`; 0: no SysV segment.
    pub shmem_key: i32,
    /// `postgresql_shmem_size`, in bytes.
    pub shmem_size: usize,
    /// `metrics_enabled`: whether this node serves its metrics over HTTP.
    pub metrics_enabled: bool,
    /// `metrics_port`.
    pub metrics_port: u16,
    /// `metrics_bind_address`.
    pub metrics_bind_address: IpAddr,
    /// `authentication_token`, not used yet.
    pub authentication_token: Option<Secret>,
    /// Keys that the file sets and this version does not use.
    unused: Vec<&'static str>,
}

/// A text that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Keys::load(path, &KEYS, &SECRETS, |keys| keys.config(path))
    }

    /// Checks a text; `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
        Keys::parse(text, &KEYS, &SECRETS)
            .and_then(|keys| keys.config(path))
            .map_err(|(line, problem)| ConfigError { path: path.to_owned(), line, problem })
    }

    /// What the operator should know about a file that is good: lower-case messages.
    pub fn warnings(&self) -> Vec<String> {
        let path = self.path.display();
        let unused = |key| format!("\"{key}\" in file \"{path}\" is not used yet by this version");
        self.unused.iter().map(unused).collect()
    }

    /// Which keys differ in `new` that take effect only after a restart of the server.
    pub fn restart_only_changes(&self, new: &Config) -> Vec<&'static str> {
        let changes = [
            (NODE_ID, self.node_id != new.node_id),
            (CLUSTER_ID, self.cluster_id != new.cluster_id),
            (DATA_DIR, self.data_dir != new.data_dir),
            (PORT, self.port != new.port),
            (BIND_ADDRESS, self.bind_address != new.bind_address),
            (ADVERTISE_ADDRESS, self.advertise_address != new.advertise_address),
            (NODE_NAME, self.node_name != new.node_name),
            (INTEGRATION_ENABLED, self.integration_enabled != new.integration_enabled),
            (SHMEM_KEY, self.shmem_key != new.shmem_key),
            (SHMEM_SIZE, self.shmem_size != new.shmem_size),
        ];
        changes.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }

    /// Where metrics are to be served; `None`: nowhere.
    pub fn metrics_socket(&self) -> Option<SocketAddr> {
        let socket = SocketAddr::new(self.metrics_bind_address, self.metrics_port);
        self.metrics_enabled.then_some(socket)
    }

    /// This configuration with what `new` may change while the server runs: log level, timeouts,
    /// peers, snapshots, limits of the store, failover, metrics.
    pub fn reloaded(&self, new: &Config) -> Config {
        Config {
            log_level: new.log_level,
            peer_addresses: new.peer_addresses.clone(),
            heartbeat_interval_ms: new.heartbeat_interval_ms,
            election_timeout_ms: new.election_timeout_ms,
            snapshot_entries: new.snapshot_entries,
            log_keep_entries: new.log_keep_entries,
            kv_key_bytes_max: new.kv_key_bytes_max,
            kv_value_bytes_max: new.kv_value_bytes_max,
            kv_store_bytes_max: new.kv_store_bytes_max,
            auto_failover: new.auto_failover,
            synchronous: new.synchronous,
            failover_grace_ms: new.failover_grace_ms,
            replication_conninfo: new.replication_conninfo.clone(),
            metrics_enabled: new.metrics_enabled,
            metrics_port: new.metrics_port,
            metrics_bind_address: new.metrics_bind_address,
            authentication_token: new.authentication_token.clone(),
            unused: new.unused.clone(),
            ..self.clone()
        }
    }
}

impl Keys {
    fn config(&self, path: &Path) -> Result<Config, Fault> {
        let node_id = self.number(NODE_ID, 1, i64::from(i32::MAX))?;
        let node_id = node_id.and_then(NodeId::new).ok_or_else(|| required(NODE_ID))?;
        let config = Config {
            path: path.to_owned(),
            node_id,
            cluster_id: self.cluster_id()?,
            data_dir: self.path(DATA_DIR, DATA_DIR_BYTES_MAX)?.ok_or_else(|| required(DATA_DIR))?,
            log_level: self.level(LOG_LEVEL)?.unwrap_or(LevelFilter::Info),
            port: self.number(PORT, 1, 65535)?.unwrap_or(7400) as u16,
            bind_address: self.bind_address()?,
            peer_addresses: self.peer_addresses()?,
            advertise_address: self.advertise_address()?,
            heartbeat_interval_ms: self.number(HEARTBEAT_INTERVAL, 50, 10_000)?.unwrap_or(100)
                as u32,
            election_timeout_ms: self.number(ELECTION_TIMEOUT, 150, 300_000)?.unwrap_or(1000)
                as u32,
            snapshot_entries: self.number(SNAPSHOT_ENTRIES, 10, ENTRIES_MAX)?.unwrap_or(10_000)
                as u64,
            log_keep_entries: self.number(LOG_KEEP_ENTRIES, 0, ENTRIES_MAX)?.unwrap_or(1000) as u64,
            node_name: self.node_name()?.unwrap_or_else(|| format!("node{node_id}")),
            kv_key_bytes_max: self
                .number(KV_MAX_KEY_BYTES, 1, KEY_BYTES_MAX as i64)?
                .map_or(KEY_BYTES_MAX, |bytes| bytes as usize),
            kv_value_bytes_max: self
                .number(KV_MAX_VALUE_BYTES, 1, VALUE_BYTES_MAX as i64)?
                .map_or(VALUE_BYTES_MAX, |bytes| bytes as usize),
            kv_store_bytes_max: self
                .number(KV_MAX_STORE_BYTES, STORE_BYTES_MIN as i64, STORE_BYTES_MAX as i64)?
                .map_or(STORE_BYTES_DEFAULT, |bytes| bytes as u64),
            integration_enabled: self.truth(INTEGRATION_ENABLED)?.unwrap_or(true),
            auto_failover: self.truth(AUTO_FAILOVER)?.unwrap_or(true),
            synchronous: self.synchronous()?,
            failover_grace_ms: self.number(FAILOVER_GRACE, 0, 600_000)?.unwrap_or(5000) as u32,
            replication_conninfo: self.replication_conninfo()?,
            shmem_key: self.number(SHMEM_KEY, 0, i64::from(i32::MAX))?.unwrap_or(0) as i32,
            shmem_size: self
                .number(SHMEM_SIZE, SHMEM_BYTES_MIN as i64, SHMEM_BYTES_MAX as i64)?
                .map_or(SHMEM_BYTES_DEFAULT, |size| size as usize),
            metrics_enabled: self.truth(METRICS_ENABLED)?.unwrap_or(false),
            metrics_port: self.number(METRICS_PORT, 1, 65535)?.unwrap_or(9091) as u16,
            metrics_bind_address: self.metrics_bind_address()?,
            authentication_token: self.token()?,
            unused: [AUTHENTICATION_TOKEN]
                .into_iter()
                .filter(|key| self.set.contains_key(key))
                .collect(),
        };
        self.check_timeouts(&config)?;
        Ok(config)
    }

    fn check_timeouts(&self, config: &Config) -> Result<(), Fault> {
        let heartbeat_ms = config.heartbeat_interval_ms;
        if config.election_timeout_ms >= 3 * heartbeat_ms {
            return Ok(());
        }
        // If only the heartbeat is set, that is the line to look at.
        let allowed = format!("at least three times {HEARTBEAT_INTERVAL}, {} ms", 3 * heartbeat_ms);
        let value = Some(config.election_timeout_ms.to_string());
        let setting = self.set.get(ELECTION_TIMEOUT).or_else(|| self.set.get(HEARTBEAT_INTERVAL));
        let line = setting.map(|setting| setting.line);
        Err((line, Problem::BadValue { key: ELECTION_TIMEOUT, value, allowed }))
    }

    fn synchronous(&self) -> Result<bool, Fault> {
        const ALLOWED: &str = "off or quorum";
        match self.word(SYNCHRONOUS_MODE, ALLOWED)?.map(str::to_ascii_lowercase).as_deref() {
            None | Some("off") => Ok(false),
            Some("quorum") => Ok(true),
            Some(_) => Err(self.bad(SYNCHRONOUS_MODE, ALLOWED)),
        }
    }

    fn replication_conninfo(&self) -> Result<String, Fault> {
        let allowed = format!(
            "connection parameters such as user and passfile, at most {CONNINFO_BYTES_MAX} bytes"
        );
        let text = self.word(REPLICATION_CONNINFO, &allowed)?.unwrap_or("");
        let fits = text.len() <= CONNINFO_BYTES_MAX && !text.contains(char::is_control);
        if fits { Ok(text.to_owned()) } else { Err(self.bad(REPLICATION_CONNINFO, &allowed)) }
    }

    fn cluster_id(&self) -> Result<String, Fault> {
        let allowed =
            format!("1 to {CLUSTER_ID_BYTES_MAX} printable ASCII characters without spaces");
        let text = self.word(CLUSTER_ID, &allowed)?.ok_or_else(|| required(CLUSTER_ID))?;
        let fits = (1..=CLUSTER_ID_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(text.to_owned())
        } else {
            Err(self.bad(CLUSTER_ID, &allowed))
        }
    }

    fn bind_address(&self) -> Result<String, Fault> {
        const ALLOWED: &str = "an IP address or host name of this machine, or 0.0.0.0 for all";
        let text = self.word(BIND_ADDRESS, ALLOWED)?.unwrap_or("0.0.0.0");
        // Brackets are how addresses with a port are written; here there is none.
        let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match Address::new(host, 1) {
            Ok(_) => Ok(host.to_owned()),
            Err(_) => Err(self.bad(BIND_ADDRESS, ALLOWED)),
        }
    }

    /// An address and no name: looking one up could hold up the worker.
    fn metrics_bind_address(&self) -> Result<IpAddr, Fault> {
        const ALLOWED: &str = "an IP address of this machine, or 0.0.0.0 for all";
        let text = self.word(METRICS_BIND_ADDRESS, ALLOWED)?.unwrap_or("127.0.0.1");
        let host = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match host {
            "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
            _ => host.parse().map_err(|_| self.bad(METRICS_BIND_ADDRESS, ALLOWED)),
        }
    }

    fn peer_addresses(&self) -> Result<Vec<Address>, Fault> {
        let texts: Vec<&str> = match self.set.get(PEER_ADDRESSES).map(|setting| &setting.value) {
            None => Vec::new(),
            Some(Value::One { text, .. }) if text.is_empty() => Vec::new(),
            Some(Value::One { text, .. }) => text.split(',').collect(),
            Some(Value::Many(texts)) => texts.iter().map(String::as_str).collect(),
        };
        let mut addresses = Vec::new();
        for text in texts {
            let address = Address::parse(text).map_err(|error| {
                let allowed = format!("a list of host:port: in \"{}\" {error}", text.trim());
                self.bad(PEER_ADDRESSES, &allowed)
            })?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
            if addresses.len() > MEMBERS_MAX {
                let allowed = format!("a list of at most {MEMBERS_MAX} addresses");
                return Err(self.bad(PEER_ADDRESSES, &allowed));
            }
        }
        Ok(addresses)
    }

    fn advertise_address(&self) -> Result<Option<Address>, Fault> {
        const ALLOWED: &str = "the host:port at which other nodes reach this one";
        match self.word(ADVERTISE_ADDRESS, ALLOWED)? {
            None | Some("") => Ok(None),
            Some(text) => match Address::parse(text) {
                Ok(address) => Ok(Some(address)),
                Err(error) => Err(self.bad(ADVERTISE_ADDRESS, &format!("{ALLOWED} ({error})"))),
            },
        }
    }

    fn node_name(&self) -> Result<Option<String>, Fault> {
        let allowed = format!("1 to {NODE_NAME_BYTES_MAX} bytes without control characters");
        match self.word(NODE_NAME, &allowed)? {
            None | Some("") => Ok(None),
            Some(name) if name.len() <= NODE_NAME_BYTES_MAX && !name.contains(char::is_control) => {
                Ok(Some(name.to_owned()))
            }
            Some(_) => Err(self.bad(NODE_NAME, &allowed)),
        }
    }

    fn token(&self) -> Result<Option<Secret>, Fault> {
        let allowed = format!("a text of at most {TOKEN_BYTES_MAX} bytes");
        match self.word(AUTHENTICATION_TOKEN, &allowed)? {
            None | Some("") => Ok(None),
            Some(token) if token.len() <= TOKEN_BYTES_MAX => Ok(Some(Secret(token.to_owned()))),
            Some(_) => Err(self.bad(AUTHENTICATION_TOKEN, &allowed)),
        }
    }
}
