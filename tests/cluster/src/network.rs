//! A network for one cluster, that a test can cut: a namespace for each node, joined by a bridge
//! in a namespace of its own. The test has an address in it too, which no cut concerns.
//!
//! A cut is one permanent entry in a node's table of neighbours: the other's address, and a MAC
//! that nobody has. What is sent there is lost without a word, in this direction only: connections
//! stall, none is refused or reset. It takes neither netfilter nor traffic control.
//!
//! Needs root, and `ip` (iproute2). All names hold the test's pid, so that [`sweep`] removes what
//! dead ones left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::owner::{is_alive, this_process};
use crate::{Failure, Result};

/// Where `ip netns` keeps the names.
const NAMES: &str = "/run/netns";
/// All namespaces of ours begin so: `pgraft.PID.START.BLOCK.WHO`.
const PREFIX: &str = "pgraft.";
/// Networks are 10.79.0.0/24 and those after it, one for each block of ports.
const FIRST_NETWORK: u16 = 79;
/// The test's own address: the last of its network.
const OBSERVER: u32 = 254;
/// No interface has this address.
const NOBODY: &str = "02:00:00:00:00:fe";

/// A network namespace, by its name.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Does something in it, on a thread that moved there: what that starts or connects is inside.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> T + Send) -> Result<T> {
        let file = Path::new(NAMES).join(&self.0);
        let doing = || format!("enter the network namespace \"{}\"", self.0);
        let file = File::open(file).map_err(Failure::while_doing(doing()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(Failure::while_doing(doing()))?;
                Ok(what())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Commands of `ip` in it, one a line.
    fn ip(&self, commands: &str) -> Result<()> {
        ip(&["-n", &self.0], commands)
    }
}

/// The network of one cluster. Dropped, it is gone.
#[derive(Debug)]
pub struct Network {
    /// Which of all networks on this machine: no other cluster has it.
    block: u16,
    nodes: BTreeSet<u32>,
    /// Pairs of which the first one's packets do not reach the second.
    cuts: BTreeSet<(u32, u32)>,
}

impl Network {
    /// An empty network. `block` is a number that no other cluster on this machine has now.
    pub fn make(block: u16) -> Result<Network> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new(
                "this test cuts networks, and makes network namespaces for it: run it as root",
            ));
        }
        sweep();
        let network = Network { block, nodes: BTreeSet::new(), cuts: BTreeSet::new() };
        let (bridge, end) = (network.bridge(), network.observer_end());
        ip(&[], &format!("netns add {}\n", bridge.0))?;
        bridge.ip(&format!(
            "link add bridge type bridge\n\
             link set bridge up\n\
             link add observer type veth peer name {end} netns {}\n\
             link set observer master bridge up\n",
            std::process::id(),
        ))?;
        let address = network.observer();
        ip(&[], &format!("address add {address}/24 dev {end}\nlink set {end} up\n"))?;
        Ok(network)
    }

    /// Adds a node's namespace.
    pub fn add(&mut self, id: u32) -> Result<()> {
        let (inside, address) = (self.namespace(id), self.address(id));
        self.nodes.insert(id);
        ip(&[], &format!("netns add {}\n", inside.0))?;
        self.bridge().ip(&format!(
            "link add node{id} type veth peer name eth0 netns {}\n\
             link set node{id} master bridge up\n",
            inside.0,
        ))?;
        inside.ip(&format!("link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n"))
    }

    /// A node's namespace.
    pub fn namespace(&self, id: u32) -> Namespace {
        self.named(&id.to_string())
    }

    /// A node's address.
    pub fn address(&self, id: u32) -> String {
        let (high, low) = (FIRST_NETWORK + self.block / 256, self.block % 256);
        format!("10.{high}.{low}.{id}")
    }

    /// The test's address.
    pub fn observer(&self) -> String {
        self.address(OBSERVER)
    }

    /// All addresses, as pg_hba.conf has them.
    pub fn all_addresses(&self) -> String {
        format!("{}/24", self.address(0))
    }

    /// From now on packets of `from` to `to` are lost.
    pub fn cut(&mut self, from: u32, to: u32) -> Result<()> {
        self.cuts.insert((from, to));
        let to = self.address(to);
        self.namespace(from)
            .ip(&format!("neighbour replace {to} lladdr {NOBODY} nud permanent dev eth0\n"))
    }

    /// They arrive again.
    pub fn mend(&mut self, from: u32, to: u32) -> Result<()> {
        if !self.cuts.remove(&(from, to)) {
            return Ok(());
        }
        let to = self.address(to);
        self.namespace(from).ip(&format!("neighbour delete {to} dev eth0\n"))
    }

    /// Pairs of which the first one's packets do not reach the second.
    pub fn cuts(&self) -> &BTreeSet<(u32, u32)> {
        &self.cuts
    }

    fn bridge(&self) -> Namespace {
        self.named("bridge")
    }

    fn named(&self, who: &str) -> Namespace {
        Namespace(format!("{PREFIX}{}.{}.{who}", this_process('.'), self.block))
    }

    /// The name of the test's interface, of at most 15 letters.
    fn observer_end(&self) -> String {
        observer_end(&std::process::id().to_string(), &self.block.to_string())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // First and by itself, because a namespace goes when its last process has gone; and then
        // the address may be another test's already.
        let _ = ip(&[], &format!("link delete {}\n", self.observer_end())); // half made: none
        let nodes = self.nodes.iter().map(|id| self.namespace(*id));
        for namespace in nodes.chain([self.bridge()]) {
            let _ = ip(&[], &format!("netns delete {}\n", namespace.0)); // the next sweep tries
        }
    }
}

fn observer_end(pid: &str, block: &str) -> String {
    format!("pgr{pid}x{block}")
}

/// Removes the namespaces whose test is gone.
fn sweep() {
    for entry in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let fields: Vec<&str> = name.split('.').collect();
        let ["pgraft", pid, started, block, who] = fields[..] else { continue };
        if is_alive(Some(pid), Some(started)) {
            continue;
        }
        // Somebody else may sweep at the same time.
        if who == "bridge" {
            let _ = ip(&[], &format!("link delete {}\n", observer_end(pid, block)));
        }
        let _ = ip(&[], &format!("netns delete {name}\n"));
    }
}

/// Runs commands of `ip`, one a line.
fn ip(options: &[&str], commands: &str) -> Result<()> {
    let doing = || "run \"ip\" (of the package iproute2)";
    let mut child = Command::new(program())
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Failure::while_doing(doing()))?;
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(commands.as_bytes()); // one that ended early says why
    }
    let output = child.wait_with_output().map_err(Failure::while_doing(doing()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("ip failed: {} in:\n{commands}", said.trim())))
}

/// Root's PATH does not have it everywhere.
fn program() -> PathBuf {
    let places = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].map(PathBuf::from);
    places.into_iter().find(|place| place.exists()).unwrap_or_else(|| PathBuf::from("ip"))
}
