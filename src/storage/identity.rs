//! Who a directory belongs to: the file `identity`, replaced as a whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use super::disk::replace_file;
use super::error::StorageError;
use super::segment;
use crate::cluster::Uuid;
use crate::raft::NodeId;

/// A real one has some 300 bytes.
const IDENTITY_BYTES_MAX: u64 = 4096;

/// What a data directory says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `raft_node_id` at `pgraft_init()`.
    pub node: NodeId,
    /// `raft_cluster_id` at `pgraft_init()`.
    pub cluster_id: String,
    /// Drawn at `pgraft_init()`: a wiped directory gets another one, and so is recognised.
    pub directory: Uuid,
    /// The cluster this directory takes part in, once it does.
    pub cluster: Option<Uuid>,
    /// Of its Postgres, once known.
    pub system_identifier: Option<u64>,
    /// How often consensus was started here. Raised, durably, before anything else is done: with it
    /// the requests of one run are told from those of all others.
    pub boots: u64,
    /// Whether consensus runs here: `pgraft_start()` sets it, `pgraft_stop()` clears it.
    pub started: bool,
}

impl Identity {
    /// The directory's identity; `None` if it has none yet.
    pub fn load(dir: &Path) -> Result<Option<Identity>, StorageError> {
        let path = dir.join("identity");
        let damaged = |what: &str| StorageError::Damaged {
            path: path.clone(),
            offset: 0,
            what: what.to_owned(),
        };
        let text = match fs::metadata(&path) {
            Ok(file) if file.len() > IDENTITY_BYTES_MAX => return Err(damaged("it is too long")),
            Ok(_) => fs::read(&path).map_err(StorageError::io("read", &path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_log(dir)? => {
                return Err(damaged("it is missing, although there is a log"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("read", &path)(error)),
        };
        let text = String::from_utf8(text).map_err(|_| damaged("it is not text"))?;
        Identity::parse(&text).map(Some).map_err(damaged)
    }

    /// Replaces the directory's identity: after a crash the old or the new one is there, whole.
    pub fn store(&self, dir: &Path) -> Result<(), StorageError> {
        replace_file(&dir.join("identity"), &self.text(), 0o600)
    }

    fn text(&self) -> String {
        let mut text =
            String::from("# pgraft: who this directory belongs to; do not edit or copy\n");
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key} = {value}").expect("a String takes every byte");
        };
        line("node", &self.node);
        line("cluster_id", &self.cluster_id);
        line("directory", &self.directory);
        if let Some(cluster) = self.cluster {
            line("cluster", &cluster);
        }
        if let Some(system) = self.system_identifier {
            line("system_identifier", &system);
        }
        line("boots", &self.boots);
        line("started", &self.started);
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum = {checksum:08x}\n")
    }

    fn parse(text: &str) -> Result<Identity, &'static str> {
        let (body, checksum) = text.rsplit_once("checksum = ").ok_or("its checksum is missing")?;
        if checksum.trim_end() != format!("{:08x}", crc32c::crc32c(body.as_bytes())) {
            return Err("its checksum does not match");
        }
        let values: BTreeMap<&str, &str> =
            body.lines().filter_map(|line| line.split_once(" = ")).collect();
        let value = |key| values.get(key).copied();
        let uuid = |text| Uuid::parse(text).ok_or("a uuid cannot be read");
        let number = |text: &str| text.parse().map_err(|_| "a number cannot be read");
        Ok(Identity {
            node: value("node")
                .and_then(|text| NodeId::new(text.parse().ok()?))
                .ok_or("its node id cannot be read")?,
            cluster_id: value("cluster_id").ok_or("its cluster id is missing")?.to_owned(),
            directory: uuid(value("directory").ok_or("its uuid is missing")?)?,
            cluster: value("cluster").map(uuid).transpose()?,
            system_identifier: value("system_identifier").map(number).transpose()?,
            boots: number(value("boots").ok_or("its count of starts is missing")?)?,
            started: value("started") == Some("true"),
        })
    }
}

/// Whether there are votes and entries: then a missing identity was lost, and another one would
/// not know what was promised in its name.
fn has_log(dir: &Path) -> Result<bool, StorageError> {
    let log = dir.join("log");
    match fs::read_dir(&log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StorageError::io("list", &log)(error)),
        Ok(files) => Ok(files
            .flatten()
            .any(|file| file.file_name().to_str().and_then(segment::number).is_some())),
    }
}
