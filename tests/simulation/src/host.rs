//! One machine: its clock and disk, and the server on it while it runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use pgraft::cluster::{Address, Uuid};
use pgraft::config::Config;
use pgraft::net::{Backoff, Gate};
use pgraft::raft::NodeId;
use pgraft::runtime::Event;
use pgraft::runtime::consensus::Consensus;
use pgraft::storage::Identity;
use pgraft::storage::testing::MemDisk;

use crate::clock::Clock;
use crate::errands::Main;
use crate::hands::{DiskSpeed, Hands, Outbox, Page, Save, Writing};
use crate::judge::Memory;
use crate::postgres::Postgres;

/// A machine. It keeps its place in the network whoever runs on it.
pub struct Host {
    /// Its node id, and with 7400 its port.
    pub node: u32,
    /// Whether anything there can answer: a machine without power is silent, one on which nobody
    /// listens refuses.
    pub powered: bool,
    /// A firewall refuses callers for it.
    pub refusing: bool,
    /// Its clock.
    pub clock: Clock,
    /// Its disk.
    pub disk: MemDisk,
    /// How fast that is.
    pub disk_speed: DiskSpeed,
    /// The identity file.
    pub identity: Identity,
    /// Peers in its configuration.
    pub peers: Vec<u32>,
    /// `raft_election_timeout_ms`.
    pub election_ms: u32,
    /// `raft_heartbeat_interval_ms`.
    pub heartbeat_ms: u32,
    /// `raft_snapshot_entries`.
    pub snapshot_entries: u64,
    /// `raft_log_keep_entries`.
    pub keep_entries: u64,
    /// `postgresql_integration_enabled`.
    pub integration: bool,
    /// `auto_failover_enabled`.
    pub auto_failover: bool,
    /// `synchronous_mode = quorum`.
    pub synchronous: bool,
    /// `failover_grace_ms`.
    pub grace_ms: u32,
    /// Counts its workers: what was meant for an earlier one is void.
    pub boot: u64,
    /// Counts the directories that this node id had here.
    pub directories: u64,
    /// What its shared memory shows; outlives the process, not the power.
    pub page: Page,
    /// What its disk must hold, as the judge knows it.
    pub memory: Memory,
    /// Writes that were begun and are not known to be done.
    pub begun: VecDeque<Save>,
    /// Its Postgres server.
    pub pg: Postgres,
    /// That server's worker, while it runs.
    pub up: Option<Up>,
}

/// A worker that runs.
pub struct Up {
    /// The production code.
    pub consensus: Consensus<Hands>,
    /// What it does.
    pub out: Rc<RefCell<Outbox>>,
    /// Whom it lets in.
    pub gate: Arc<Gate>,
    /// What happened to it and was not taken in yet.
    pub inbox: VecDeque<Event>,
    /// Its main thread.
    pub main: Main,
    /// A tick waits in `inbox`.
    pub tick_pending: bool,
    /// When it is to run, if that is decided.
    pub run_at: Option<u64>,
    /// Until when it is at work.
    pub busy_until_ns: u64,
    /// A snapshot that is being written.
    pub writing: Option<Box<Writing>>,
    /// It is stopped: things happen to it, and it does nothing.
    pub paused: bool,
    /// Whom it dials.
    pub diallers: BTreeMap<Address, Dialler>,
    /// The connections it dialled that stand, with their beginnings.
    pub opened: BTreeMap<u64, u64>,
}

/// The thread that keeps one address connected.
pub struct Dialler {
    /// Its connection, from the first packet of the handshake on.
    pub conn: Option<u64>,
    /// Counts its attempts: an alarm for an earlier one is void.
    pub attempt: u64,
    /// Its pauses.
    pub backoff: Backoff,
    /// Who answered there last.
    pub node: Option<NodeId>,
}

impl Host {
    /// pgraft.conf as it stands on this machine.
    pub fn config(&self) -> Config {
        let peers: Vec<String> =
            self.peers.iter().map(|peer| crate::world::address(*peer).to_string()).collect();
        let text = format!(
            "raft_node_id = {}\nraft_cluster_id = test\nraft_data_dir = /nowhere\n\
             postgresql_integration_enabled = {}\nauto_failover_enabled = {}\n\
             synchronous_mode = {}\nfailover_grace_ms = {}\n\
             raft_port = {}\nraft_advertise_address = {}\nraft_peer_addresses = {}\n\
             raft_election_timeout_ms = {}\nraft_heartbeat_interval_ms = {}\n\
             raft_snapshot_entries = {}\nraft_log_keep_entries = {}\n",
            self.node,
            self.integration,
            self.auto_failover,
            if self.synchronous { "quorum" } else { "off" },
            self.grace_ms,
            7400 + self.node,
            crate::world::address(self.node),
            peers.join(","),
            self.election_ms,
            self.heartbeat_ms,
            self.snapshot_entries,
            self.keep_entries,
        );
        Config::parse("pgraft.conf".as_ref(), &text).expect("a configuration that is allowed")
    }

    /// The identity of a directory that was just made.
    pub fn fresh_identity(node: u32, directories: u64) -> Identity {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&node.to_be_bytes());
        bytes[8..].copy_from_slice(&directories.to_be_bytes());
        Identity {
            node: crate::world::id(node),
            cluster_id: "test".to_owned(),
            directory: Uuid::from_bytes(bytes),
            cluster: None,
            system_identifier: Some(1),
            started: true,
            boots: 0,
        }
    }
}
