//! `ramd.conf`: the syntax of `pgraft.conf` (docs/ramd.md lists the keys). Checked here, once.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;
use pgraft::cluster::Address;
use pgraft::config::{ConfigError, Fault, Keys, required};

const DATA_DIRECTORY: &str = "postgresql_data_directory";
const BIN_DIRECTORY: &str = "postgresql_bin_directory";
const CONFIG_FILE: &str = "postgresql_config_file";
const LOG_FILE: &str = "postgresql_log_file";
const HOST: &str = "postgresql_host";
const USER: &str = "postgresql_user";
const DATABASE: &str = "postgresql_database";
const PASSFILE: &str = "postgresql_passfile";
const REPLICATION_USER: &str = "postgresql_replication_user";
const SHMEM_KEY: &str = "postgresql_shmem_key";
const START_TIMEOUT: &str = "postgresql_start_timeout_seconds";
const STOP_TIMEOUT: &str = "postgresql_stop_timeout_seconds";
const PGRAFT_CONFIG: &str = "pgraft_config_file";
const STATE_DIRECTORY: &str = "ramd_state_directory";
const LOG_LEVEL: &str = "ramd_log_level";
const RAMD_LOG_FILE: &str = "ramd_log_file";
const MONITOR_INTERVAL: &str = "monitor_interval_ms";
const PROBE_TIMEOUT: &str = "probe_timeout_ms";
const HUNG_TIMEOUT: &str = "hung_timeout_seconds";
const AUTO_START: &str = "auto_start_enabled";
const AUTO_REJOIN: &str = "auto_rejoin_enabled";
const AUTO_CLONE: &str = "auto_clone_enabled";
const RETRY_INTERVAL: &str = "retry_interval_ms";
const RETRY_INTERVAL_MAX: &str = "retry_interval_max_ms";
const JOIN: &str = "join";
const HTTP_ENABLED: &str = "http_enabled";
const HTTP_BIND_ADDRESS: &str = "http_bind_address";
const HTTP_PORT: &str = "http_port";
const HTTP_TOKEN_FILE: &str = "http_token_file";

/// Every key.
pub const KEYS: [&str; 29] = [
    DATA_DIRECTORY,
    BIN_DIRECTORY,
    CONFIG_FILE,
    LOG_FILE,
    HOST,
    USER,
    DATABASE,
    PASSFILE,
    REPLICATION_USER,
    SHMEM_KEY,
    START_TIMEOUT,
    STOP_TIMEOUT,
    PGRAFT_CONFIG,
    STATE_DIRECTORY,
    LOG_LEVEL,
    RAMD_LOG_FILE,
    MONITOR_INTERVAL,
    PROBE_TIMEOUT,
    HUNG_TIMEOUT,
    AUTO_START,
    AUTO_REJOIN,
    AUTO_CLONE,
    RETRY_INTERVAL,
    RETRY_INTERVAL_MAX,
    JOIN,
    HTTP_ENABLED,
    HTTP_BIND_ADDRESS,
    HTTP_PORT,
    HTTP_TOKEN_FILE,
];
/// Keys whose values no message shows.
const SECRETS: [&str; 0] = [];

const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 63;

/// A checked `ramd.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file it came from.
    pub path: PathBuf,
    /// The server's data directory, required.
    pub data: PathBuf,
    /// Where PostgreSQL's programs are; `None`: where the server was last started from, else PATH.
    pub bin: Option<PathBuf>,
    /// `postgresql.conf`, if it is not in the data directory.
    pub config_file: Option<PathBuf>,
    /// What the server writes before its own logging begins.
    pub server_log: PathBuf,
    /// Where ramd connects to its own server; `None`: as the server itself says.
    pub host: Option<String>,
    /// As whom ramd connects, to its own server and to others.
    pub user: String,
    /// To which database: one that has the extension pgraft.
    pub database: String,
    /// A file of passwords, as libpq's.
    pub passfile: Option<PathBuf>,
    /// As whom this server connects to its primary, if pgraft.conf does not say it.
    pub replication_user: String,
    /// The key of pgraft's page; `None`: that of pgraft.conf.
    pub shmem_key: Option<i32>,
    /// How long a start may take before that is told.
    pub start_timeout: Duration,
    /// How long a fast shutdown may take before it becomes an immediate one.
    pub stop_timeout: Duration,
    /// The node's `pgraft.conf`.
    pub pgraft_config: PathBuf,
    /// Where ramd keeps what it must remember.
    pub state: PathBuf,
    /// The least serious messages that are logged.
    pub log_level: LevelFilter,
    /// Where they go; `None`: standard error.
    pub log_file: Option<PathBuf>,
    /// How often everything is looked at.
    pub monitor_interval: Duration,
    /// How long a server may take to answer.
    pub probe_timeout: Duration,
    /// How long it may give no answer before it is stopped and started; zero: for ever.
    pub hung_timeout: Duration,
    /// Whether a server that is down is started.
    pub auto_start: bool,
    /// Whether a deposed primary is made a standby, and a standby that cannot follow is rewound.
    pub auto_rejoin: bool,
    /// Whether a new copy of the primary may be made for that.
    pub auto_clone: bool,
    /// How long ramd waits after a failure; each further one doubles that.
    pub retry_interval: Duration,
    /// Until it is this.
    pub retry_interval_max: Duration,
    /// The Postgres of a member, to make a new standby from.
    pub join: Option<Address>,
    /// Where the API listens; `None`: it is off.
    pub http: Option<SocketAddr>,
    /// The file with the token that those who change something by the API must have.
    pub http_token: Option<PathBuf>,
}

impl Settings {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Settings, ConfigError> {
        Keys::load(path, &KEYS, &SECRETS, |keys| settings(path, keys))
    }
}

fn settings(path: &Path, keys: &Keys) -> Result<Settings, Fault> {
    let file = |key| keys.path(key, PATH_BYTES_MAX);
    let millis = |key, min, max, default: u64| {
        let number = keys.number(key, min, max)?;
        Ok(Duration::from_millis(number.map_or(default, i64::unsigned_abs)))
    };
    let seconds = |key, min, max, default: u64| {
        let number = keys.number(key, min, max)?;
        Ok(Duration::from_secs(number.map_or(default, i64::unsigned_abs)))
    };
    let data = file(DATA_DIRECTORY)?.ok_or_else(|| required(DATA_DIRECTORY))?;
    if data.file_name().is_none() {
        return Err(keys.bad(DATA_DIRECTORY, "the path of a directory that is not the root"));
    }
    let state = file(STATE_DIRECTORY)?.unwrap_or_else(|| beside(&data, "ramd"));
    if state.starts_with(&data) {
        return Err(keys.bad(STATE_DIRECTORY, "a directory outside the data directory"));
    }
    let user = name(keys, USER)?.unwrap_or_else(|| "postgres".to_owned());
    let retry_interval = millis(RETRY_INTERVAL, 100, 600_000, 1000)?;
    let retry_interval_max = millis(RETRY_INTERVAL_MAX, 100, 3_600_000, 60_000)?;
    if retry_interval_max < retry_interval {
        let allowed = format!("at least {RETRY_INTERVAL}, {} ms", retry_interval.as_millis());
        return Err(keys.bad(RETRY_INTERVAL_MAX, &allowed));
    }
    Ok(Settings {
        path: path.to_owned(),
        bin: file(BIN_DIRECTORY)?,
        config_file: file(CONFIG_FILE)?,
        server_log: file(LOG_FILE)?.unwrap_or_else(|| state.join("postgres.log")),
        host: host(keys)?,
        database: name(keys, DATABASE)?.unwrap_or_else(|| "postgres".to_owned()),
        passfile: file(PASSFILE)?,
        replication_user: name(keys, REPLICATION_USER)?.unwrap_or_else(|| user.clone()),
        user,
        shmem_key: keys.number(SHMEM_KEY, 1, i64::from(i32::MAX))?.map(|key| key as i32),
        start_timeout: seconds(START_TIMEOUT, 1, 86_400, 60)?,
        stop_timeout: seconds(STOP_TIMEOUT, 1, 86_400, 60)?,
        pgraft_config: file(PGRAFT_CONFIG)?.unwrap_or_else(|| data.join("pgraft.conf")),
        log_level: keys.level(LOG_LEVEL)?.unwrap_or(LevelFilter::Info),
        log_file: file(RAMD_LOG_FILE)?,
        monitor_interval: millis(MONITOR_INTERVAL, 100, 60_000, 1000)?,
        probe_timeout: millis(PROBE_TIMEOUT, 100, 60_000, 2000)?,
        hung_timeout: seconds(HUNG_TIMEOUT, 0, 86_400, 60)?,
        auto_start: keys.truth(AUTO_START)?.unwrap_or(true),
        auto_rejoin: keys.truth(AUTO_REJOIN)?.unwrap_or(true),
        auto_clone: keys.truth(AUTO_CLONE)?.unwrap_or(true),
        retry_interval,
        retry_interval_max,
        join: join(keys)?,
        http: http(keys)?,
        http_token: file(HTTP_TOKEN_FILE)?,
        data,
        state,
    })
}

/// `/a/data` and "ramd": `/a/data.ramd`, on the same file system unless somebody mounted there.
pub fn beside(data: &Path, suffix: &str) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

fn name(keys: &Keys, key: &'static str) -> Result<Option<String>, Fault> {
    let allowed = format!("1 to {NAME_BYTES_MAX} bytes without control characters");
    match keys.word(key, &allowed)? {
        None | Some("") => Ok(None),
        Some(text) if text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control) => {
            Ok(Some(text.to_owned()))
        }
        Some(_) => Err(keys.bad(key, &allowed)),
    }
}

fn host(keys: &Keys) -> Result<Option<String>, Fault> {
    const ALLOWED: &str = "a host name, an IP address, or the absolute path of a socket directory";
    match keys.word(HOST, ALLOWED)? {
        None | Some("") => Ok(None),
        Some(text) if text.starts_with('/') && !text.contains(char::is_control) => {
            Ok(Some(text.to_owned()))
        }
        Some(text) if Address::new(text, 1).is_ok() => Ok(Some(text.to_owned())),
        Some(_) => Err(keys.bad(HOST, ALLOWED)),
    }
}

fn http(keys: &Keys) -> Result<Option<SocketAddr>, Fault> {
    const ALLOWED: &str = "an IP address of this machine; 0.0.0.0 is all of IPv4, :: all";
    let address = match keys.word(HTTP_BIND_ADDRESS, ALLOWED)? {
        None | Some("") => IpAddr::from([127, 0, 0, 1]),
        Some(text) => text.parse().map_err(|_| keys.bad(HTTP_BIND_ADDRESS, ALLOWED))?,
    };
    let port = keys.number(HTTP_PORT, 1, 65_535)?.map_or(8008, |port| port as u16);
    let enabled = keys.truth(HTTP_ENABLED)?.unwrap_or(true);
    Ok(enabled.then_some(SocketAddr::new(address, port)))
}

fn join(keys: &Keys) -> Result<Option<Address>, Fault> {
    const ALLOWED: &str = "the host:port of a member's Postgres";
    match keys.word(JOIN, ALLOWED)? {
        None | Some("") => Ok(None),
        Some(text) => Address::parse(text).map(Some).map_err(|_| keys.bad(JOIN, ALLOWED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SAMPLE: &str = include_str!("../../../conf/ramd.conf");

    fn load(text: &str) -> Result<Settings, String> {
        let thread = std::thread::current().id();
        let file = format!("ramd-settings-{}-{thread:?}.conf", std::process::id());
        let path = std::env::temp_dir().join(file);
        fs::write(&path, text).unwrap();
        let loaded = Settings::load(&path).map_err(|error| error.to_string());
        fs::remove_file(&path).unwrap();
        loaded
    }

    #[test]
    fn the_sample_has_every_key_and_its_comments_show_the_defaults() {
        let plain = load(SAMPLE).unwrap();
        for key in KEYS {
            let is_it = |line: &str| {
                line.trim_start_matches('#').split_once('=').is_some_and(|(k, _)| k.trim() == key)
            };
            assert!(SAMPLE.lines().any(is_it), "{key} is not in conf/ramd.conf");
        }
        let shown = SAMPLE.lines().map(|line| match line.strip_prefix('#') {
            // "# words" is a comment, "#key = value" a default; an empty one is none.
            Some(rest) if rest.contains('=') && !rest.starts_with(' ') => match rest.trim_end() {
                rest if rest.ends_with('=') || rest.starts_with(SHMEM_KEY) => "",
                rest => rest,
            },
            _ => line,
        });
        let shown: Vec<&str> = shown.collect();
        assert_eq!(load(&shown.join("\n")).unwrap(), plain);
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_what_is() {
        let with = |line: &str| load(&format!("postgresql_data_directory = /data\n{line}\n"));
        assert!(with("").is_ok());
        for (line, says) in [
            ("monitor_interval_ms = 99", "from 100 to 60000"),
            ("hung_timeout_seconds = -1", "of seconds from 0 to 86400"),
            (
                "retry_interval_ms = 5000\nretry_interval_max_ms = 4999",
                "at least retry_interval_ms",
            ),
            ("ramd_state_directory = /data/state", "outside the data directory"),
            ("auto_clone_enabled = maybe", "true or false"),
            ("ramd_log_level = loud", "one of error"),
            ("postgresql_host = a b", "socket directory"),
            ("join = db1", "host:port"),
            ("postgresql_user = ''", ""),
            ("auto_clone = on", "unknown key"),
        ] {
            match with(line) {
                Err(error) => assert!(error.contains(says) && error.contains("line"), "{error}"),
                // An empty name is the default.
                Ok(settings) => assert_eq!((settings.user.as_str(), says), ("postgres", "")),
            }
        }
        assert!(load("").unwrap_err().contains("\"postgresql_data_directory\" is not set"));
        assert!(load("postgresql_data_directory = /\n").unwrap_err().contains("not the root"));
    }
}
