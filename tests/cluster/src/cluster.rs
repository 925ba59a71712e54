//! A cluster for one test: made for it, ended with it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::account::remove_folder;
use crate::network::Network;
use crate::owner::{is_alive, this_process};
use crate::{
    Failure, Home, Install, Node, Place, PortBlock, Process, Result, Stop, leader_of, wait_for,
};

/// A cluster of three on an idle machine has its leader in two seconds.
const LEADER_AT_MOST: Duration = Duration::from_secs(40);
/// The ports for Raft begin here in a cluster's block.
const RAFT_PORTS: u16 = 8;
/// Those for metrics, in a cluster that has them, which is no larger than this.
const METRICS_PORTS: u16 = 4;
/// Set to anything, it keeps the folders of tests that passed.
const KEEP: &str = "PGRAFT_KEEP";
const LOCALHOST: &str = "127.0.0.1";

/// What a test wants of its cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, numbered from 1. The first is the primary, the others its standbys.
    pub nodes: u32,
    /// Whether the servers have pgraft preloaded and a pgraft.conf.
    pub preload: bool,
    /// Whether the others are standbys of node 1; if not, each is a server of its own.
    pub standbys: bool,
    /// Whether pgraft moves the primary role. If not, node 1 is the primary for ever.
    pub failover: bool,
    /// Whether each node has a network namespace, so that the network can be cut. Needs root.
    pub network: bool,
    /// Whether each node serves its metrics, on a port of its own.
    pub metrics: bool,
    /// Lines added to each node's postgresql.conf.
    pub postgresql: String,
    /// Lines added to each node's pgraft.conf.
    pub pgraft: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            preload: true,
            standbys: true,
            failover: false,
            network: false,
            metrics: false,
            postgresql: String::new(),
            pgraft: String::new(),
        }
    }
}

impl Options {
    /// For tests that hold that nothing moves the leader: with timeouts that a busy machine, which
    /// may stand still for a second, does not run into.
    pub fn calm() -> Options {
        Options { pgraft: "raft_election_timeout_ms = 4000\n".to_owned(), ..Options::default() }
    }
}

/// The servers of one test. Dropped, they are gone; after a panic their logs are kept.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    options: Options,
    home: Home,
    install: Install,
    folder: PathBuf,
    ports: PortBlock,
    /// After the nodes, which are in it.
    network: Option<Network>,
    /// Whether what was made so far is worth looking at when it goes.
    failed: bool,
}

impl Cluster {
    /// Servers that are made and configured, and not started. The name is the folder's.
    pub fn prepare(name: &str, options: Options) -> Result<Cluster> {
        let home = Home::open("cluster-tests")?;
        let install = Install::find(&home.account)?;
        if options.preload {
            install.require_extension()?;
        }
        sweep(&home);
        let folder = home.folder.join(format!("{name}-{}", std::process::id()));
        remove_folder(&folder)?;
        home.account.make_folder(&folder)?;
        home.account.write_file(&folder.join("owner"), &this_process(' '))?;
        let ports = PortBlock::claim()?;
        let network = options.network.then(|| Network::make(ports.number())).transpose()?;
        let nodes = Vec::new();
        let mut cluster =
            Cluster { nodes, options, home, install, folder, ports, network, failed: false };
        let template = cluster.template()?;
        for id in 1..=cluster.options.nodes {
            let node = cluster.new_node(id)?;
            node.copy_of(&template)?;
            cluster.nodes.push(node);
        }
        let peers = cluster.raft_addresses();
        for node in &cluster.nodes {
            cluster.configure(node, &peers)?;
            if cluster.options.standbys && node.id() != 1 {
                node.follow(&cluster.nodes[0])?;
            }
        }
        Ok(cluster)
    }

    /// Servers that run. pgraft is preloaded if the options say so, and has not been told to start.
    pub fn start(name: &str, options: Options) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(name, options)?;
        let started = cluster.start_all();
        cluster.noting(started)?;
        Ok(cluster)
    }

    /// Servers on which pgraft runs and has a leader that all agree on.
    pub fn form(name: &str, options: Options) -> Result<Cluster> {
        let mut cluster = Cluster::start(name, options)?;
        let formed = cluster.init_and_start().and_then(|()| cluster.leader());
        cluster.noting(formed)?;
        Ok(cluster)
    }

    /// The extension, then `pgraft_init()` and `pgraft_start()` on each node.
    pub fn init_and_start(&mut self) -> Result<()> {
        self.create_extension()?;
        for node in &self.nodes {
            let mut session = node.session()?;
            session.run("SELECT pgraft_init()")?;
            session.run("SELECT pgraft_start()")?;
        }
        Ok(())
    }

    /// Does something with the cluster, which is gone afterwards; if it fails, the logs are shown
    /// and kept.
    pub fn run<T>(mut self, what: impl FnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
        let outcome = what(&mut self);
        self.noting(outcome)
    }

    /// Does something with the cluster, which stays; if it fails, the logs are shown and kept when
    /// it goes.
    pub fn noting_while<T>(&mut self, what: impl FnOnce(&mut Cluster) -> Result<T>) -> Result<T> {
        let outcome = what(self);
        self.noting(outcome)
    }

    /// Remembers a failure, so that the logs are kept.
    fn noting<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.failed |= outcome.is_err();
        outcome
    }

    /// CREATE EXTENSION on the primary, and waits until the standbys have it.
    pub fn create_extension(&mut self) -> Result<()> {
        for node in &self.nodes {
            if node.id() == 1 || !self.options.standbys {
                node.session()?.run("CREATE EXTENSION IF NOT EXISTS pgraft")?;
            }
        }
        for node in &self.nodes {
            let what = format!("node {} has the extension", node.id());
            let sql = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pgraft')";
            wait_for(&what, LEADER_AT_MOST, || Ok(node.session()?.is_true(sql)?.then_some(())))?;
        }
        Ok(())
    }

    /// A node by its id.
    ///
    /// # Panics
    /// When there is none: that is the test's own mistake.
    pub fn node(&self, id: u32) -> &Node {
        self.nodes.iter().find(|node| node.id() == id).expect("a node of this cluster")
    }

    /// A node by its id, to start or stop it.
    ///
    /// # Panics
    /// When there is none: that is the test's own mistake.
    pub fn node_mut(&mut self, id: u32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id() == id).expect("a node of this cluster")
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The same, to start and stop them.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// The addresses of all nodes' Raft ports.
    pub fn raft_addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Node::raft_address).collect()
    }

    /// Where the cluster's files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The PostgreSQL that it runs.
    pub fn install(&self) -> &Install {
        &self.install
    }

    /// Starts every node that is down and waits until all take connections.
    pub fn start_all(&mut self) -> Result<()> {
        // All at once: they come up beside one another.
        self.nodes.iter_mut().filter(|node| !node.is_running()).try_for_each(Node::spawn)?;
        self.nodes.iter_mut().try_for_each(Node::await_start)
    }

    /// Stops every node.
    pub fn stop_all(&mut self, how: Stop) -> Result<()> {
        self.nodes.iter().for_each(|node| node.begin_stop(how));
        self.nodes.iter_mut().try_for_each(Node::await_stop)
    }

    /// Waits until those that are being shut down are gone.
    pub fn await_stopping(&mut self) -> Result<()> {
        self.nodes.iter_mut().filter(|node| node.is_stopping()).try_for_each(Node::await_stop)
    }

    /// Waits until all running nodes agree on one leader: its id and its term.
    pub fn leader(&self) -> Result<(u32, u64)> {
        self.leader_within(LEADER_AT_MOST)
    }

    /// The same with another deadline.
    pub fn leader_within(&self, at_most: Duration) -> Result<(u32, u64)> {
        wait_for("the running nodes agree on one leader", at_most, || leader_of(self.running()))
            .map_err(|failure| Failure::new(format!("{failure}\n{}", self.table())))
    }

    /// Waits until all running nodes agree on a leader of a later term than this one. A killed
    /// leader's followers go on agreeing on it until they notice.
    pub fn leader_after(&self, term: u64, at_most: Duration) -> Result<(u32, u64)> {
        wait_for(&format!("a leader of a term after {term}"), at_most, || {
            Ok(leader_of(self.running())?.filter(|(_, now)| *now > term))
        })
        .map_err(|failure| Failure::new(format!("{failure}\n{}", self.table())))
    }

    /// The node that leads, after waiting for agreement.
    pub fn leader_node(&self) -> Result<&Node> {
        Ok(self.node(self.leader()?.0))
    }

    // ---- the network, of a cluster that has one ----

    /// From now on packets of `from` to `to` are lost; those of `to` to `from` are not.
    pub fn cut(&mut self, from: u32, to: u32) -> Result<()> {
        self.network()?.cut(from, to)
    }

    /// Packets between the two are lost.
    pub fn cut_both(&mut self, a: u32, b: u32) -> Result<()> {
        self.cut(a, b)?;
        self.cut(b, a)
    }

    /// Packets between this node and every other are lost. Tests reach it as before.
    pub fn isolate(&mut self, id: u32) -> Result<()> {
        let others: Vec<u32> =
            self.nodes.iter().map(Node::id).filter(|other| *other != id).collect();
        others.into_iter().try_for_each(|other| self.cut_both(id, other))
    }

    /// Packets of `from` to `to` arrive again.
    pub fn mend(&mut self, from: u32, to: u32) -> Result<()> {
        self.network()?.mend(from, to)
    }

    /// The address that servers see the test connect from.
    pub fn observer(&self) -> String {
        self.network.as_ref().map_or_else(|| LOCALHOST.to_owned(), Network::observer)
    }

    /// Nothing is cut any more.
    pub fn heal(&mut self) -> Result<()> {
        let Some(network) = &mut self.network else { return Ok(()) };
        let cuts = network.cuts().clone();
        cuts.into_iter().try_for_each(|(from, to)| network.mend(from, to))
    }

    fn network(&mut self) -> Result<&mut Network> {
        self.network.as_mut().ok_or_else(|| Failure::new("this cluster's network cannot be cut"))
    }

    /// The table that `make cluster` shows.
    pub fn table(&self) -> String {
        crate::table(&self.nodes)
    }

    /// Makes one more node, as a standby of node 1 by pg_basebackup if the others are, and
    /// configures it with all others as peers. It is not started, and no node has been told of it.
    pub fn add_node(&mut self) -> Result<u32> {
        let id = self.nodes.iter().map(Node::id).max().unwrap_or(0) + 1;
        let node = self.new_node(id)?;
        if self.options.standbys && !self.nodes.is_empty() {
            node.base_backup(self.node(1))?;
        } else {
            node.copy_of(&self.template()?)?;
        }
        self.nodes.push(node);
        self.configure(self.node(id), &self.raft_addresses())?;
        Ok(id)
    }

    /// A place for one more node, with a pgraft.conf that has all others as peers, and without a
    /// data directory.
    pub fn add_place(&mut self) -> Result<u32> {
        let id = self.nodes.iter().map(Node::id).max().unwrap_or(0) + 1;
        let node = self.new_node(id)?;
        self.home.account.make_folder(&node.place.folder)?;
        self.nodes.push(node);
        let peers = self.raft_addresses();
        self.node(id).configure_pgraft(&peers, self.options.failover, &self.options.pgraft)?;
        Ok(id)
    }

    fn new_node(&mut self, id: u32) -> Result<Node> {
        let offset = u16::try_from(id).unwrap_or(u16::MAX) - 1;
        let max = if self.options.metrics { METRICS_PORTS } else { RAFT_PORTS };
        assert!(offset < max, "such a cluster has at most {max} nodes");
        let (mut host, mut namespace) = (LOCALHOST.to_owned(), None);
        if let Some(network) = &mut self.network {
            network.add(id)?;
            (host, namespace) = (network.address(id), Some(network.namespace(id)));
        }
        let place = Place {
            id,
            folder: self.folder.join(format!("node{id}")),
            host,
            namespace,
            pg_port: self.ports.base + offset,
            raft_port: self.ports.base + RAFT_PORTS + offset,
            // Ports are unique on the machine, so these are; the offset keeps clear of others.
            shmem_key: 0x5067_0000 + i32::from(self.ports.base + offset),
            metrics_port: self.options.metrics.then_some(self.ports.base + METRICS_PORTS + offset),
            api_port: None,
        };
        Ok(Node::new(place, &self.install, &self.home.account))
    }

    fn configure(&self, node: &Node, peers: &[String]) -> Result<()> {
        // A kill of processes loses nothing that the kernel has: no test here cuts the power.
        let settings = format!("fsync = off\n{}", self.options.postgresql);
        node.configure(self.options.preload, &settings)?;
        if self.options.preload {
            node.configure_pgraft(peers, self.options.failover, &self.options.pgraft)?;
        }
        if let Some(network) = &self.network {
            node.trust(&network.all_addresses())?;
        }
        Ok(())
    }

    /// A fresh data directory to copy: initdb takes a second or two, and every test needs some.
    fn template(&self) -> Result<PathBuf> {
        let name = format!("template-{}", self.install.version.replace(['/', ' '], "-"));
        let folder = self.home.folder.join(&name);
        let doing = "lock the template of data directories";
        let lock = File::create(self.home.folder.join(format!("{name}.lock")))
            .map_err(Failure::while_doing(doing))?;
        lock.lock().map_err(Failure::while_doing(doing))?;
        if !folder.join("complete").exists() {
            remove_folder(&folder)?;
            Node::new(Place::of_files(&folder), &self.install, &self.home.account).init()?;
            self.home.account.write_file(&folder.join("complete"), "")?;
        }
        Ok(folder.join("data"))
    }
}

/// Runs a test on a cluster. A failure of either becomes a panic while the cluster is there, so
/// that the logs of the servers are shown and kept.
///
/// # Panics
/// When the cluster could not be made, or the test returned a failure.
#[track_caller]
pub fn with(cluster: Result<Cluster>, test: impl FnOnce(&mut Cluster) -> Result<()>) {
    match cluster {
        Ok(mut cluster) => {
            if let Err(failure) = test(&mut cluster) {
                panic!("{failure}");
            }
        }
        Err(failure) => panic!("{failure}"),
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = self.failed || std::thread::panicking();
        if failed {
            eprintln!("---- the cluster as it is now\n{}", self.table());
        }
        for node in &mut self.nodes {
            if failed {
                eprintln!("---- node {}, end of its log\n{}", node.id(), node.log_tail(25));
            }
            node.end();
        }
        if failed {
            for node in &self.nodes {
                let _ = remove_folder(&node.data()); // large, and the logs tell more
            }
            eprintln!("---- logs and Raft directories are kept in {}", self.folder.display());
            let _ = fs::remove_file(self.folder.join("owner")); // the next sweep spares it
        } else if std::env::var_os(KEEP).is_none() {
            let _ = remove_folder(&self.folder); // the next sweep tries again
        }
    }
}

/// Ends and removes what tests left that were themselves killed: folders whose owner is gone.
fn sweep(home: &Home) {
    for entry in fs::read_dir(&home.folder).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Ok(owner) = fs::read_to_string(folder.join("owner")) else { continue };
        let mut fields = owner.split_whitespace();
        if is_alive(fields.next(), fields.next()) {
            continue;
        }
        for node in fs::read_dir(&folder).into_iter().flatten().flatten() {
            for process in Process::all_in_folder(&node.path().join("data")) {
                process.kill();
            }
        }
        let _ = remove_folder(&folder); // somebody else may sweep at the same time
    }
}
