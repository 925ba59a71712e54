//! The link to one address: the bodies of its two threads. The dialler connects, shakes hands and
//! then blocks in a read, which ends when the other side closes (it never writes after the
//! handshake); the sender blocks in the queue or in a write. They meet in [`Shared`].
//!
//! Most packets never see the sender: while nothing is queued, who sends writes to the socket
//! itself, as much as goes without waiting. A thread less to wake, twice on the way to a commit.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::counters::{PeerCounters, add, count};
use super::frames::{FrameReader, timed_out, write_all_within};
use super::gate::Pass;
use super::handshake::{Failed, Handshake};
use super::notices::{Kind, Source};
use super::{BUFFER_BYTES, ConnId, Inner, NetEvent, lock};
use crate::cluster::Address;
use crate::queue::{Receiver, RecvTimeoutError, Sender, bounded};
use crate::raft::{Body, NodeId, Payload};
use crate::sys;
use crate::wire::{
    self, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, HANDSHAKE_BYTES_MAX, Hello, Packet, Refusal,
};

/// Packets waiting for one peer: more than its appends in flight and a second of heartbeats; older
/// ones are stale, and Raft sends again.
pub const QUEUE_PACKETS_MAX: usize = 256;
/// Their bytes, estimated; a single larger packet is taken when the queue is empty, and a small one
/// always, so that heartbeats pass beside entries.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// What is small: a full queue of these is a megabyte.
const SMALL_PACKET_BYTES: usize = 4 << 10;
/// A packet of more bytes is left to the sender's thread: copying it takes time, too.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;
/// A host name is tried at so many of its addresses.
const RESOLVED_MAX: usize = 4;
/// A link that broke sooner did not work: no quick look follows, and pauses go on growing. Also the
/// age below which `retry_now` takes a link for fresh.
pub const STEADY: Duration = Duration::from_secs(1);

struct Queued {
    conn: ConnId,
    weight: usize,
    /// `None`: the rest of what the socket did not take at once lies in [`Shared::out`].
    packet: Option<Packet>,
}

/// The owner's handle; dropping it hangs up.
pub(super) struct Peer {
    shared: Arc<Shared>,
    queue: Sender<Queued>,
    wake: Sender<()>,
}

struct Shared {
    current: Mutex<Current>,
    /// The link that takes packets; 0 for none.
    conn: AtomicU64,
    /// Of everything that is behind somebody else's turn to write. Falls only under `out`'s lock.
    queued_bytes: AtomicUsize,
    /// What is being written: locked by who writes, for as long as it takes. Otherwise empty, or
    /// begun by a `Queued` without a packet.
    out: Mutex<Vec<u8>>,
    /// Who answered the last time; 0 for nobody yet.
    node: AtomicU32,
}

#[derive(Default)]
struct Current {
    /// No more dialling.
    ended: bool,
    /// From connect to close.
    socket: Option<Arc<TcpStream>>,
    /// From the handshake to the close of `socket`.
    link: Option<Arc<Link>>,
}

struct Link {
    conn: ConnId,
    stream: Arc<TcpStream>,
    counters: Arc<PeerCounters>,
    since: Instant,
    /// Why this side gave it up.
    fault: Mutex<Option<String>>,
}

impl Link {
    fn give_up(&self, why: String) {
        lock(&self.fault).get_or_insert(why);
        // Ends the dialler's read; fails only if the socket is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Peer {
    /// Starts the two threads.
    pub(super) fn start(net: &Arc<Inner>, address: &Address, seed: u64) -> io::Result<Peer> {
        let shared = Arc::new(Shared {
            current: Mutex::default(),
            conn: AtomicU64::new(0),
            queued_bytes: AtomicUsize::new(0),
            out: Mutex::default(),
            node: AtomicU32::new(0),
        });
        let (queue, packets) = bounded(QUEUE_PACKETS_MAX);
        let (wake, woken) = bounded(1);
        let send = {
            let (net, shared) = (net.clone(), shared.clone());
            Box::new(move || send_all(&net, &shared, &packets))
        };
        (net.spawn)(format!("pgraft to {address}"), send)?;
        let mut dialler = Dialler {
            net: net.clone(),
            shared: shared.clone(),
            address: address.clone(),
            woken,
            backoff: Backoff::new(seed),
            resolved: Vec::new(),
        };
        // If this fails, dropping `queue` ends the sender.
        (net.spawn)(format!("pgraft dial {address}"), Box::new(move || dialler.run()))?;
        Ok(Peer { shared, queue, wake })
    }

    /// Who answered the last time.
    pub(super) fn node(&self) -> Option<NodeId> {
        self.shared.node()
    }

    /// Ends a pause between two attempts.
    pub(super) fn wake(&self) {
        // Full: it is about to wake.
        let _ = self.wake.try_send(());
    }

    /// See [`super::Net::retry_now`].
    pub(super) fn retry_now(&self) {
        let link = lock(&self.shared.current).link.clone();
        match link {
            None => self.wake(),
            Some(link) if link.since.elapsed() >= STEADY => {
                link.give_up("it is to be made anew".to_owned());
            }
            Some(_) => {}
        }
    }

    /// See [`super::Net::send`].
    pub(super) fn send(&self, packet: Packet) -> bool {
        let conn = self.shared.conn.load(Ordering::Acquire);
        if conn == 0 {
            return false;
        }
        let weight = weight(&packet);
        let queued = &self.shared.queued_bytes;
        if weight <= AT_ONCE_BYTES_MAX
            && let Ok(mut out) = self.shared.out.try_lock()
            && queued.load(Ordering::Relaxed) == 0
            && let Some(link) = self.shared.link(ConnId(conn))
        {
            return self.send_at_once(&link, &mut out, &packet);
        }
        let before = queued.fetch_add(weight, Ordering::Relaxed);
        let room = before == 0 || before + weight <= QUEUE_BYTES_MAX;
        let fits = weight <= FRAME_BYTES_MAX as usize && (room || weight <= SMALL_PACKET_BYTES);
        let packet = Some(packet);
        if fits && self.queue.try_send(Queued { conn: ConnId(conn), weight, packet }).is_ok() {
            return true;
        }
        queued.fetch_sub(weight, Ordering::Relaxed);
        if let Some(link) = &lock(&self.shared.current).link {
            count(&link.counters.dropped);
        }
        false
    }

    /// Writes the packet without waiting. What the socket does not take stays in `out`, for the
    /// sender's thread.
    fn send_at_once(&self, link: &Link, out: &mut Vec<u8>, packet: &Packet) -> bool {
        wire::frame(|body| wire::encode_packet(packet, body), out);
        let frame_bytes = out.len() as u64;
        let sent = match sys::send_now(link.stream.as_fd(), out) {
            Ok(sent) => sent,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                0
            }
            Err(error) => {
                out.clear();
                link.give_up(error.to_string());
                return false;
            }
        };
        out.drain(..sent);
        if !out.is_empty() {
            let rest = Queued { conn: link.conn, weight: out.len(), packet: None };
            self.shared.queued_bytes.fetch_add(rest.weight, Ordering::Relaxed);
            if self.queue.try_send(rest).is_err() {
                // A queue without bytes is empty: it cannot be full.
                link.give_up("its queue does not take the rest of a packet".to_owned());
            }
        }
        count(&link.counters.messages_sent);
        add(&link.counters.bytes_sent, frame_bytes);
        true
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The queue's and the waker's ends go with `self`, which ends a wait in either thread.
        let mut current = lock(&self.shared.current);
        current.ended = true;
        self.shared.conn.store(0, Ordering::Release);
        if let Some(socket) = &current.socket {
            // Fails only if it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// About the bytes that a packet takes in memory, and never less than it takes on the wire.
fn weight(packet: &Packet) -> usize {
    const SMALL: usize = 128;
    let entry = |payload: &Payload| match payload {
        Payload::Empty => SMALL,
        Payload::Command(command) => SMALL + command.len(),
        Payload::Membership { command, .. } => 4 * SMALL + command.len(),
    };
    let entries = match packet {
        Packet::Raft(message) => match &message.body {
            Body::AppendEntries { entries, .. } => entries.as_slice(),
            _ => &[],
        },
        Packet::Genesis(genesis) => std::slice::from_ref(genesis),
        Packet::Report(_) | Packet::Forming { .. } | Packet::AskStanding(_) => &[],
        Packet::Standing { standing, .. } => {
            return SMALL + standing.obstacle.len() + 16 * standing.position.history.len();
        }
        // Texts that SQL bounds.
        Packet::Forward { .. } | Packet::Answer { .. } => return 8 * SMALL,
    };
    SMALL + entries.iter().map(|e| entry(&e.payload)).sum::<usize>()
}

impl Shared {
    fn node(&self) -> Option<NodeId> {
        NodeId::new(self.node.load(Ordering::Relaxed).into())
    }

    /// The link `conn`, if it is still the one that stands.
    fn link(&self, conn: ConnId) -> Option<Arc<Link>> {
        lock(&self.current).link.as_ref().filter(|link| link.conn == conn).cloned()
    }

    /// Makes `socket` the one that hanging up closes; false if that has happened.
    fn open(&self, socket: &Arc<TcpStream>) -> bool {
        let mut current = lock(&self.current);
        if !current.ended {
            current.socket = Some(socket.clone());
        }
        !current.ended
    }

    /// From now on packets are taken, unless it was hung up.
    fn establish(&self, link: &Arc<Link>) -> bool {
        let mut current = lock(&self.current);
        if !current.ended {
            current.link = Some(link.clone());
            self.conn.store(link.conn.0, Ordering::Release);
        }
        !current.ended
    }

    fn close(&self) {
        let mut current = lock(&self.current);
        self.conn.store(0, Ordering::Release);
        current.link = None;
        if let Some(socket) = current.socket.take() {
            // The sender may hold the stream a moment longer.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The sender's thread: until the handle is dropped.
fn send_all(net: &Inner, shared: &Shared, packets: &Receiver<Queued>) {
    while let Ok(first) = packets.recv() {
        let mut out = lock(&shared.out);
        let Some(link) = shared.link(first.conn) else {
            shared.queued_bytes.fetch_sub(first.weight, Ordering::Relaxed);
            count(&net.counters.sends_dropped);
            // It may be the rest of a packet.
            out.clear();
            continue;
        };
        let (mut messages, mut next) = (0, Some(first));
        let rest = out.len();
        // What has queued up meanwhile goes out in one write.
        while let Some(queued) = next.take() {
            shared.queued_bytes.fetch_sub(queued.weight, Ordering::Relaxed);
            if queued.conn != link.conn {
                count(&net.counters.sends_dropped);
                count(&link.counters.dropped);
            } else if let Some(packet) = &queued.packet {
                wire::frame(|body| wire::encode_packet(packet, body), &mut out);
                messages += 1;
            }
            if out.len() < BUFFER_BYTES / 2 {
                next = packets.try_recv().ok();
            }
        }
        match write_all_within(&link.stream, &out, net.limits.write) {
            Ok(()) => {
                add(&link.counters.messages_sent, messages);
                add(&link.counters.bytes_sent, (out.len() - rest) as u64);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                link.give_up(format!("it took nothing for {} s", net.limits.write.as_secs_f32()));
            }
            Err(error) => link.give_up(error.to_string()),
        }
        out.clear();
        out.shrink_to(BUFFER_BYTES);
    }
}

struct Dialler {
    net: Arc<Inner>,
    shared: Arc<Shared>,
    address: Address,
    woken: Receiver<()>,
    backoff: Backoff,
    /// What the host was last resolved to, the address that worked first.
    resolved: Vec<SocketAddr>,
}

impl Dialler {
    /// The dialler's thread: until hung up.
    fn run(&mut self) {
        loop {
            self.attempt();
            self.shared.close();
            if lock(&self.shared.current).ended || self.net.is_stopping() {
                return;
            }
            match self.woken.recv_timeout(self.backoff.pause()) {
                Ok(()) => self.backoff.reset(),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// From connecting to the end of the link, if it comes to one.
    fn attempt(&mut self) {
        let stream = match self.connect() {
            Ok(stream) => Arc::new(stream),
            Err(error) => {
                log::debug!("could not connect to \"{}\": {error}", self.address);
                if error.kind() == ErrorKind::ConnectionRefused {
                    let node = self.shared.node();
                    self.net.emit(NetEvent::PortRefused { address: self.address.clone(), node });
                }
                return;
            }
        };
        // Only latency is lost if it fails.
        let _ = stream.set_nodelay(true);
        if !self.shared.open(&stream) {
            return;
        }
        let conn = self.net.gate.next_conn();
        match self.shake_hands(&stream, conn) {
            Ok((hello, pass)) => self.linked(stream, conn, hello, pass),
            Err(failed) => self.report(failed),
        }
    }

    /// The error is a refusal only if every address of the host refuses.
    fn connect(&mut self) -> io::Result<TcpStream> {
        self.resolve()?;
        let mut worst: Option<io::Error> = None;
        for at in 0..self.resolved.len() {
            let to = self.resolved[at];
            match TcpStream::connect_timeout(&to, self.net.limits.connect) {
                // A port of the ephemeral range may be met by our own outgoing port: TCP then
                // connects the socket to itself. Nobody listens there.
                Ok(stream) if stream.local_addr()? == to => {
                    worst.get_or_insert(ErrorKind::ConnectionRefused.into());
                }
                Ok(stream) => {
                    self.resolved.swap(0, at);
                    return Ok(stream);
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                    worst.get_or_insert(error);
                }
                Err(error) => worst = Some(error),
            }
            if lock(&self.shared.current).ended {
                break;
            }
        }
        Err(worst.unwrap_or_else(|| io::Error::other("the host has no address")))
    }

    /// Asks the resolver each time, as addresses change; where it fails, the last answer stands.
    /// The resolver may block for as long as it likes: this thread has nothing else to do.
    fn resolve(&mut self) -> io::Result<()> {
        match (self.address.host(), self.address.port()).to_socket_addrs() {
            Ok(found) => {
                let worked = self.resolved.first().copied();
                self.resolved = found.take(RESOLVED_MAX).collect();
                self.resolved.sort_by_key(|to| Some(*to) != worked);
                Ok(())
            }
            Err(error) if self.resolved.is_empty() => Err(error),
            Err(_) => Ok(()),
        }
    }

    fn shake_hands(&self, stream: &TcpStream, conn: ConnId) -> Result<(Hello, Pass), Failed> {
        let bytes = HANDSHAKE_BYTES_MAX as usize + FRAME_HEADER_BYTES;
        let mut reader = FrameReader::new(stream, bytes);
        let deadline = Instant::now() + self.net.limits.handshake;
        let gate = &self.net.gate;
        let done = Handshake { stream, reader: &mut reader, gate, conn, deadline }
            .dial(&self.address, self.shared.node())?;
        if !reader.is_empty() {
            return Err(Failed::Lost("it goes on after its answer".to_owned()));
        }
        Ok(done)
    }

    /// The life of a link.
    fn linked(&mut self, stream: Arc<TcpStream>, conn: ConnId, hello: Hello, pass: Pass) {
        let node = hello.node;
        let counters = self.net.counters.peer_or_new(node);
        count(&counters.connects);
        let fault = Mutex::new(None);
        let since = Instant::now();
        let link = Arc::new(Link { conn, stream, counters, since, fault });
        self.shared.node.store(node.get(), Ordering::Relaxed);
        if !self.shared.establish(&link) {
            return;
        }
        log::info!("connected to node {node} at \"{}\"", self.address);
        let address = Some(self.address.clone());
        self.net.emit(NetEvent::Connected { hello, address, conn, outbound: true });
        let end = self.watch(&link);
        self.shared.close();
        if !lock(&self.shared.current).ended {
            log::info!("lost the connection to node {node} at \"{}\": {end}", self.address);
        }
        drop(pass);
        self.net.emit(NetEvent::Closed { node, conn, outbound: true });
        if since.elapsed() >= STEADY {
            self.backoff.link_broke();
        }
    }

    /// Blocks until the link ends; returns why.
    fn watch(&self, link: &Link) -> String {
        let mut stream = &*link.stream;
        let end = loop {
            if let Err(error) = stream.set_read_timeout(None) {
                break error.to_string();
            }
            match stream.read(&mut [0; 1]) {
                Ok(0) => break "it closed the connection".to_owned(),
                Ok(_) => {
                    count(&self.net.counters.bad_frames);
                    count(&link.counters.errors);
                    break "it sent where it only receives".to_owned();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted || timed_out(&error) => {}
                Err(error) => break error.to_string(),
            }
        };
        match lock(&link.fault).take() {
            Some(fault) => {
                count(&link.counters.errors);
                fault
            }
            None => end,
        }
    }

    /// Tells of a handshake that did not succeed.
    fn report(&mut self, failed: Failed) {
        let (net, address) = (&self.net, &self.address);
        if lock(&self.shared.current).ended {
            return;
        }
        let source = Source::Dialled(address.clone());
        let may_log = |kind| net.notices.may_log(source, kind, Instant::now());
        match failed {
            Failed::Refused { refusal, by_us, node, why } => {
                self.backoff.refused();
                if refusal != Refusal::Oneself {
                    count(&net.counters.handshakes_refused);
                    let who = if by_us { "refused the node" } else { "refused by the node" };
                    if let Some(more) = may_log(Kind::Refused(refusal as u8)) {
                        log::warn!("{who} at \"{address}\": {why}{more}");
                    }
                }
                let address = Some(address.clone());
                net.emit(NetEvent::HandshakeRefused { address, node, refusal, by_us });
            }
            Failed::Bad(error) => {
                self.backoff.refused();
                count(&net.counters.bad_frames);
                if let Some(more) = may_log(Kind::BadFrame) {
                    log::warn!("what answers at \"{address}\" is no pgraft: {error}{more}");
                }
            }
            // A server that stops or starts: as if it had not accepted.
            Failed::Lost(why) => {
                count(&net.counters.handshakes_failed);
                log::debug!("no handshake with \"{address}\": {why}");
            }
        }
    }
}
