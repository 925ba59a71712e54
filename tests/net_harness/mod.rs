//! What the tests of `net` share: nodes on loopback with ephemeral ports and little patience, raw
//! callers that speak the protocol only as far as a test wants, and the log.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use pgraft::cluster::{Address, Uuid};
use pgraft::net::{ConnId, Gate, Limits, Net, NetCounters, NetEvent, Sink, Spawner};
use pgraft::raft::{Body, LogIndex, Message, NodeId, Term};
use pgraft::wire::{self, Hello, HelloAnswer, PROTOCOL_NEWEST, PROTOCOL_OLDEST, Packet};

/// Longer than anything here may take, even on a busy machine.
pub const LONG: Duration = Duration::from_secs(10);

/// Deadlines short enough to wait for.
pub const LIMITS: Limits = Limits {
    handshake: Duration::from_millis(500),
    silence: Duration::from_millis(1500),
    frame: Duration::from_secs(3),
    write: Duration::from_millis(600),
    connect: Duration::from_millis(800),
};

/// One test at a time: some count this process' threads, memory and descriptors.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    log_lines("");
    LINES.lock().unwrap_or_else(PoisonError::into_inner).clear();
    turn
}

pub fn id(n: i64) -> NodeId {
    NodeId::new(n).unwrap()
}

pub fn uuid(n: u8) -> Uuid {
    Uuid::from_bytes([n; 16])
}

/// How node `n` introduces itself, with its own data directory.
pub fn hello(n: i64) -> Hello {
    Hello {
        oldest: PROTOCOL_OLDEST,
        newest: PROTOCOL_NEWEST,
        cluster_id: "main".to_owned(),
        cluster: Some(uuid(200)),
        node: id(n),
        directory: uuid(n as u8),
        name: format!("node{n}"),
        raft_address: None,
        raft_port: 7400,
        pg_port: 5432,
        system_identifier: Some(7),
        dialled: None,
        auth_method: 0,
        members_at: pgraft::raft::LogIndex(0),
        challenge: [0; 16],
    }
}

/// A packet that carries a number.
pub fn numbered(round: u64) -> Packet {
    let body = Body::Heartbeat { commit: LogIndex(0), round };
    Packet::Raft(Message { term: Term(1), body })
}

/// Its number.
pub fn number(packet: &Packet) -> u64 {
    match packet {
        Packet::Raft(Message { body: Body::Heartbeat { round, .. }, .. }) => *round,
        other => panic!("unexpected packet {other:?}"),
    }
}

/// A node's network layer, its events in a queue.
pub struct Node {
    pub net: Net,
    pub gate: Arc<Gate>,
    pub counters: Arc<NetCounters>,
    pub events: Receiver<NetEvent>,
    pub address: Address,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Node {
    /// Node `n` on a port of its own; `members` are bound to their usual directories.
    pub fn start(n: i64, members: &[i64]) -> Node {
        Node::start_at(n, members, Net::listen("127.0.0.1", 0).unwrap())
    }

    pub fn start_at(n: i64, members: &[i64], listener: TcpListener) -> Node {
        let (sender, events) = bounded(100_000);
        Node::start_with(
            n,
            members,
            listener,
            events,
            Arc::new(move |e| sender.try_send(e).is_ok()),
        )
    }

    pub fn start_with(
        n: i64,
        members: &[i64],
        listener: TcpListener,
        events: Receiver<NetEvent>,
        sink: Sink,
    ) -> Node {
        let address = address(listener.local_addr().unwrap());
        let gate = Arc::new(Gate::new(hello(n)));
        let bindings = members.iter().map(|m| (id(*m), Some(uuid(*m as u8)))).collect();
        gate.update(hello(n), bindings, [id(9)].into());
        let counters = Arc::new(NetCounters::default());
        let threads: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let spawn: Spawner = {
            let threads = threads.clone();
            Arc::new(move |name, body| {
                let mut threads = threads.lock().unwrap();
                // As the runtime's, this keeps no account of threads that ended well.
                threads.retain(|t| !t.is_finished());
                threads.push(thread::Builder::new().name(name).spawn(body)?);
                Ok(())
            })
        };
        let (g, c) = (gate.clone(), counters.clone());
        let net = Net::start_with(LIMITS, listener, g, sink, spawn, c, n as u64).unwrap();
        Node { net, gate, counters, events, address, threads }
    }

    /// The first event that `pick` likes; others are dropped.
    pub fn wait<T>(&self, what: &str, mut pick: impl FnMut(NetEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + LONG;
        loop {
            match self.events.recv_deadline(deadline) {
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {what} within {LONG:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("no {what}: stopped"),
            }
        }
    }

    pub fn wait_connected(&self, node: i64, out: bool) -> ConnId {
        self.wait("connection", |event| match event {
            NetEvent::Connected { hello, conn, outbound, .. }
                if hello.node == id(node) && outbound == out =>
            {
                Some(conn)
            }
            _ => None,
        })
    }

    pub fn wait_closed(&self, conn: ConnId) {
        self.wait("close", |event| match event {
            NetEvent::Closed { conn: closed, .. } if closed == conn => Some(()),
            _ => None,
        });
    }

    pub fn wait_packet(&self, node: i64) -> Packet {
        self.wait("packet", |event| match event {
            NetEvent::Packet { from, packet, .. } if from == id(node) => Some(packet),
            _ => None,
        })
    }

    /// Threads of this node that run.
    pub fn threads(&self) -> usize {
        let threads = self.threads.lock().unwrap();
        threads.iter().filter(|t| !t.is_finished()).count()
    }

    /// Stops and returns how long the threads took to end; a panic in one is one here.
    pub fn stop(self) -> Duration {
        let start = Instant::now();
        self.net.stop();
        eventually("threads to end", || self.threads() == 0);
        let took = start.elapsed();
        for thread in self.threads.lock().unwrap().drain(..) {
            thread.join().expect("a thread of the net panicked");
        }
        took
    }
}

pub fn address(at: SocketAddr) -> Address {
    Address::new(&at.ip().to_string(), at.port()).unwrap()
}

pub fn socket_addr(address: &Address) -> SocketAddr {
    SocketAddr::new(address.host().parse().unwrap(), address.port())
}

/// Waits until `done`.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A frame around `body`.
pub fn framed(body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    wire::frame(body, &mut out);
    out
}

pub fn hello_frame(hello: &Hello) -> Vec<u8> {
    framed(|out| wire::encode_hello(hello, out))
}

pub fn answer_frame(answer: &HelloAnswer) -> Vec<u8> {
    framed(|out| wire::encode_hello_answer(answer, out))
}

pub fn packet_frame(packet: &Packet) -> Vec<u8> {
    framed(|out| wire::encode_packet(packet, out))
}

/// One end of a connection that does only what a test says.
pub struct Raw(pub TcpStream);

impl Raw {
    pub fn connect(to: &Address) -> Raw {
        Raw::of(TcpStream::connect(socket_addr(to)).unwrap())
    }

    pub fn of(stream: TcpStream) -> Raw {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        Raw(stream)
    }

    /// A caller that is through the handshake.
    pub fn established(to: &Address, hello: &Hello) -> Raw {
        let mut raw = Raw::connect(to);
        raw.write(&hello_frame(hello));
        match raw.read_answer() {
            HelloAnswer::Accepted(_) => {}
            HelloAnswer::Refused(refusal) => panic!("refused: {refusal:?}"),
        }
        raw.write(&answer_frame(&HelloAnswer::Accepted(hello.clone())));
        raw
    }

    /// Writes; that the other side has closed already is for the test to find by reading.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    pub fn read_frame(&mut self) -> Vec<u8> {
        let mut header = [0; 8];
        self.0.read_exact(&mut header).expect("a frame");
        let header = wire::FrameHeader::decode(&header, wire::FRAME_BYTES_MAX).unwrap();
        let mut body = vec![0; header.len as usize];
        self.0.read_exact(&mut body).expect("a frame's body");
        header.check(&body).unwrap();
        body
    }

    pub fn read_answer(&mut self) -> HelloAnswer {
        wire::decode_hello_answer(&self.read_frame()).unwrap()
    }

    /// Waits until the other side closes; returns what came before.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut part) {
                Ok(0) => return all,
                Ok(n) => all.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => panic!("not closed in {LONG:?}"),
                Err(_) => return all,
            }
        }
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }
}

/// Node 2, which keeps sending numbered packets to node 1 and would notice any loss or pause.
pub struct Healthy {
    node: Arc<Node>,
    conn: ConnId,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<()>>,
    next: u64,
}

impl Healthy {
    pub fn start(target: &Node) -> Healthy {
        let node = Arc::new(Node::start(2, &[1, 2, 3]));
        node.net.dial(&target.address);
        node.wait_connected(1, true);
        let conn = target.wait_connected(2, false);
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let pump = {
            let (node, sent, stop) = (node.clone(), sent.clone(), stop.clone());
            let to = target.address.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    assert!(node.net.send(&to, numbered(n)), "packet {n} was not taken");
                    thread::sleep(Duration::from_millis(5));
                }
            })
        };
        Healthy { node, conn, sent, stop, pump: Some(pump), next: 0 }
    }

    /// Everything sent so far arrives at `target`, in order, over the first link, without a long
    /// wait; then a few more do. Other events are handed to `other`.
    pub fn check(&mut self, target: &Node, mut other: impl FnMut(NetEvent)) {
        let until = self.sent.load(Ordering::Relaxed) + 5;
        let start = Instant::now();
        while self.next < until {
            match target.events.recv_timeout(LONG).expect("a healthy peer's packet") {
                NetEvent::Packet { from, conn, packet, .. } if from == id(2) => {
                    assert_eq!(conn, self.conn);
                    assert_eq!(number(&packet), self.next);
                    self.next += 1;
                }
                NetEvent::Closed { node, .. } if node == id(2) => panic!("healthy link closed"),
                event => other(event),
            }
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "a healthy peer waited {took:?}");
    }

    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pump.take().unwrap().join().expect("the pump");
        if let Ok(node) = Arc::try_unwrap(self.node) {
            node.stop();
        }
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{}: {}", record.level(), record.args());
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn flush(&self) {}
}

/// The lines logged at info and above that contain `part`.
pub fn log_lines(part: &str) -> Vec<String> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_boxed_logger(Box::new(Lines)).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| line.contains(part)).cloned().collect()
}

/// This process' memory in bytes by a name of /proc/self/status: `VmRSS` what is in use, `VmData`
/// what was asked for.
pub fn memory(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// This process' open descriptors.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
