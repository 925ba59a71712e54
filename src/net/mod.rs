//! Sockets: the listener, one link to and one from every peer. Frames and handshakes are `wire`'s.
//!
//! One duplex policy: a node dials every other, sends on the connections it dialled and receives on
//! those it accepted. Threads, all started through the [`Spawner`] handed in:
//! - one accepts (`listener`) and ends when the net is stopped;
//! - one an accepted connection, which only reads; it ends with the connection;
//! - two a dialled address (`peer`), until [`Net::hang_up`]: one dials and then blocks in a read
//!   until the link breaks, so that a break is known at once; the other takes packets from the
//!   peer's bounded queue and blocks in writes, so that a stopped peer holds up nobody else.
//!
//! What happens is told through the [`Sink`]. No clock is polled: every thread blocks in a call
//! that has a deadline or that [`Net::stop`] ends by shutting the socket down.
#![forbid(unsafe_code)]

mod backoff;
mod counters;
mod frames;
mod gate;
mod handshake;
mod inbound;
mod inbounds;
mod listener;
mod notices;
mod peer;
pub mod probe;

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use backoff::{BACKOFF_MAX, BACKOFF_MIN, Backoff};
pub use counters::{NetCounters, PeerCounters};
pub use gate::{Gate, Pass};
pub use inbounds::{
    CONNECTIONS_MAX, LINKS_PER_NODE_MAX, STRANGERS_MAX, UNKNOWN_MAX, UNKNOWN_PER_SOURCE_MAX,
};
pub use peer::{QUEUE_PACKETS_MAX, STEADY};

use crate::cluster::Address;
use crate::raft::NodeId;
use crate::wire::{Hello, Packet, Refusal};
use inbounds::Inbounds;
use notices::Notices;
use peer::Peer;

/// Each connection has one buffer of this size: an accepted one for reading, a dialled one for
/// writing. With one of each a peer, these are the guide's 256 KB.
pub const BUFFER_BYTES: usize = 128 << 10;
/// Addresses dialled at once: the 32 members and as many aliases from the configuration.
pub const PEERS_MAX: usize = 64;

/// A connection, unique while its [`Gate`] exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// What the network has to tell. A node may have several links each way; only the link with the
/// same `conn` is meant.
#[derive(Clone, Debug)]
pub enum NetEvent {
    /// A handshake succeeded on both sides.
    Connected {
        /// Who the other is.
        hello: Hello,
        /// Outbound: the address dialled; inbound: where the caller listens, going by what it
        /// says and where it called from.
        address: Option<Address>,
        /// The link.
        conn: ConnId,
        /// Whether this node dialled, and so may send on it.
        outbound: bool,
    },
    /// A link of which `Connected` told has ended.
    Closed {
        /// Who was at its other end.
        node: NodeId,
        /// The link.
        conn: ConnId,
        /// As in `Connected`.
        outbound: bool,
    },
    /// The host at a dialled address is up, and nobody listens at the port; told at each attempt.
    PortRefused {
        /// The address.
        address: Address,
        /// Who answered there the last time.
        node: Option<NodeId>,
    },
    /// A handshake was refused. Of those at a dialled address each is told, of strangers' as many
    /// as are logged.
    HandshakeRefused {
        /// The address dialled, or `None` for a caller.
        address: Option<Address>,
        /// Who the other is, or was the last time.
        node: Option<NodeId>,
        /// Why.
        refusal: Refusal,
        /// Whether this side said no.
        by_us: bool,
    },
    /// A packet came.
    Packet {
        /// Who sent it, by the handshake.
        from: NodeId,
        /// The link.
        conn: ConnId,
        /// It.
        packet: Packet,
        /// Its size on the wire.
        bytes: usize,
    },
}

/// Takes an event, or returns false because its queue is full. A packet is dropped then;
/// `Connected`, `Closed`, `PortRefused` and refusals at a dialled address are offered again until
/// taken.
pub type Sink = Arc<dyn Fn(NetEvent) -> bool + Send + Sync>;
/// The body of a thread.
pub type Body = Box<dyn FnOnce() + Send>;
/// Starts a thread of the given name.
pub type Spawner = Arc<dyn Fn(String, Body) -> io::Result<()> + Send + Sync>;

/// Deadlines; the defaults are what the cluster runs with, tests have less patience.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From accept or connect to the end of the handshake, however the bytes trickle.
    pub handshake: Duration,
    /// A link on which nothing came for so long is dead: a peer reports once a second.
    pub silence: Duration,
    /// From the first byte of a frame to its last: 16 MiB at 5 Mbit/s.
    pub frame: Duration,
    /// A write that made no room for so long: the peer is stopped or gone.
    pub write: Duration,
    /// For a connection to be accepted; below a second, so that `stop` can wait for it.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake: Duration::from_secs(5),
            silence: Duration::from_secs(5),
            frame: Duration::from_secs(30),
            write: Duration::from_secs(5),
            connect: Duration::from_millis(800),
        }
    }
}

/// Locks; a panic elsewhere leaves plain data that is valid as it stands.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of the layer share.
struct Inner {
    gate: Arc<Gate>,
    sink: Sink,
    spawn: Spawner,
    counters: Arc<NetCounters>,
    limits: Limits,
    notices: Notices,
    inbounds: Arc<Inbounds>,
    peers: Mutex<BTreeMap<Address, Peer>>,
    stopping: Mutex<bool>,
    stopped: Condvar,
}

impl Inner {
    fn is_stopping(&self) -> bool {
        *lock(&self.stopping)
    }

    /// Waits for `pause`, or until the net is stopped; returns whether it is.
    fn stopping_within(&self, pause: Duration) -> bool {
        let guard = lock(&self.stopping);
        let (guard, _) = self
            .stopped
            .wait_timeout_while(guard, pause, |stopping| !*stopping)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }

    /// Tells an event that must not be lost: offered until taken. The caller's thread is that of
    /// one connection, which may wait; once the net is stopped nobody may listen any more.
    fn emit(&self, event: NetEvent) {
        /// The consumer is behind by a whole queue: this is no time it could notice.
        const PAUSE: Duration = Duration::from_millis(2);
        while !(self.sink)(event.clone()) && !self.stopping_within(PAUSE) {}
    }

    /// A node dialled in: it is up, so do not wait out the pause before dialling it.
    fn heard_of(&self, node: NodeId) {
        lock(&self.peers).values().filter(|p| p.node() == Some(node)).for_each(Peer::wake);
    }

    /// `node` fell silent: what it was dialled at is dialled again, which tells whether it is
    /// there.
    fn check_links(&self, node: NodeId) {
        lock(&self.peers).values().filter(|p| p.node() == Some(node)).for_each(Peer::retry_now);
    }
}

/// The network layer of one node. Dropping it stops it.
pub struct Net {
    inner: Arc<Inner>,
    /// A second descriptor of the listener's socket, to shut it down by: that ends a blocked accept
    /// and, unlike a connection to oneself, cannot fail for want of descriptors.
    listener: Mutex<Option<TcpStream>>,
    seed: u64,
}

impl Net {
    /// Opens the port. `SO_REUSEADDR` is set, as std does.
    pub fn listen(bind: &str, port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((bind, port))
    }

    /// Starts to accept. Fails only for want of a descriptor or a thread.
    pub fn start(
        listener: TcpListener,
        gate: Arc<Gate>,
        sink: Sink,
        spawn: Spawner,
        counters: Arc<NetCounters>,
        seed: u64,
    ) -> io::Result<Net> {
        Net::start_with(Limits::default(), listener, gate, sink, spawn, counters, seed)
    }

    /// As `start`, with other deadlines.
    pub fn start_with(
        limits: Limits,
        listener: TcpListener,
        gate: Arc<Gate>,
        sink: Sink,
        spawn: Spawner,
        counters: Arc<NetCounters>,
        seed: u64,
    ) -> io::Result<Net> {
        let handle = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        let inner = Arc::new(Inner {
            gate,
            sink,
            spawn,
            counters,
            limits,
            notices: Notices::default(),
            inbounds: Arc::default(),
            peers: Mutex::default(),
            stopping: Mutex::new(false),
            stopped: Condvar::new(),
        });
        let body = {
            let inner = inner.clone();
            Box::new(move || listener::run(&inner, &listener))
        };
        (inner.spawn)("pgraft listen".to_owned(), body)?;
        Ok(Net { inner, listener: Mutex::new(Some(handle)), seed })
    }

    /// Keeps connected to `address` until `hang_up`. Without effect if it is dialled already. When
    /// there are too many addresses, or no thread for it, a log line says so and nothing is
    /// dialled.
    pub fn dial(&self, address: &Address) {
        let mut peers = lock(&self.inner.peers);
        if peers.contains_key(address) || self.inner.is_stopping() {
            return;
        }
        if peers.len() >= PEERS_MAX {
            log::error!("cannot dial \"{address}\": {PEERS_MAX} addresses are dialled already");
            return;
        }
        let seed = self.seed.wrapping_add(self.inner.gate.next_conn().0 << 32);
        match Peer::start(&self.inner, address, seed) {
            Ok(peer) => drop(peers.insert(address.clone(), peer)),
            Err(error) => log::error!("could not start a thread to dial \"{address}\": {error}"),
        }
    }

    /// Ends the link to `address` and dials it no more.
    pub fn hang_up(&self, address: &Address) {
        // Dropping a peer ends it.
        drop(lock(&self.inner.peers).remove(address));
    }

    /// Dials `address` at once instead of waiting out the pause; if there is a link that is not
    /// brand new, closes it and dials again: a host that vanished answers nothing, and only a new
    /// connection tells.
    pub fn retry_now(&self, address: &Address) {
        if let Some(peer) = lock(&self.inner.peers).get(address) {
            peer.retry_now();
        }
    }

    /// Queues a packet for whoever answers at `address`. False if there is no link, its queue is
    /// full, or the packet longer than a frame: it is dropped and counted. Never blocks.
    pub fn send(&self, address: &Address, packet: Packet) -> bool {
        let peers = lock(&self.inner.peers);
        let sent = peers.get(address).is_some_and(|peer| peer.send(packet));
        if !sent {
            counters::count(&self.inner.counters.sends_dropped);
        }
        sent
    }

    /// Closes the links that `node` dialled; it may come again and is judged anew. Used when it was
    /// removed, so that it hears of it.
    pub fn disconnect(&self, node: NodeId) {
        self.inner.inbounds.close_node(node);
    }

    /// Closes the port, then all connections. Does not wait: the threads end within a second, but
    /// for one that is resolving a host name.
    pub fn stop(&self) {
        *lock(&self.inner.stopping) = true;
        self.inner.stopped.notify_all();
        if let Some(listener) = lock(&self.listener).take() {
            // Linux ends a blocked accept and refuses further callers from here on.
            let _ = listener.shutdown(Shutdown::Both);
        }
        self.inner.inbounds.close_all();
        lock(&self.inner.peers).clear();
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.stop();
    }
}
