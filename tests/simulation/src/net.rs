//! The network: TCP as `net` uses it. Each node dials the others and sends on what it dialled;
//! handshakes go through the production `Gate`, packets as real frames.

use std::collections::VecDeque;

use pgraft::cluster::Address;
use pgraft::net::{Backoff, ConnId, NetEvent, Pass, STEADY};
use pgraft::raft::NodeId;
use pgraft::runtime::Event;
use pgraft::wire::{self, FRAME_HEADER_BYTES, FrameHeader, Hello, HelloAnswer, Packet, Refusal};

use crate::host::Dialler;
use crate::world::{What, World, id};

/// A connection on which nothing came for so long is closed by who listens.
const SILENCE_NS: u64 = 5_000_000_000;
/// As long as a host that does not answer is waited for.
const CONNECT_NS: u64 = 800_000_000;
/// As long as a handshake may take.
const HANDSHAKE_NS: u64 = 5_000_000_000;
/// Until what was held up by a cut is sent again after it.
const AGAIN_NS: u64 = 200_000_000;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// The handshake is under way.
    Shaking,
    /// `Connected` was told.
    Open,
    /// It is gone.
    Closed,
}

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From the dialler to the listener.
    There,
    /// From the listener to the dialler.
    Back,
}

/// What travels on a connection.
#[derive(Debug)]
pub enum Parcel {
    /// A handshake's frame, or a packet's.
    Frame(Vec<u8>),
    /// The sender closed.
    End,
}

/// One connection.
pub struct Conn {
    from: u32,
    from_boot: u64,
    to: u32,
    to_boot: u64,
    address: Address,
    dialler: End,
    listener: End,
    /// Who is at the other end, as each side heard in the handshake.
    hello: Option<Hello>,
    answerer: Option<NodeId>,
    opened_ns: u64,
    heard_ns: u64,
    /// The last arrival each way: nothing overtakes it but on purpose.
    last_ns: [u64; 2],
    on_the_way: u32,
    /// What a cut holds up.
    held: VecDeque<(Way, Parcel)>,
    passes: [Option<Pass>; 2],
}

impl World {
    /// Nothing goes from `from` to `to`, once more or once less; what was held up goes on.
    pub fn block(&mut self, from: u32, to: u32, blocked: bool) {
        let count = self.blocked.entry((from, to)).or_default();
        *count = if blocked { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            self.blocked.remove(&(from, to));
            self.release(from, to);
        }
    }

    /// Everything goes everywhere.
    pub fn unblock_all(&mut self) {
        for (from, to) in std::mem::take(&mut self.blocked).into_keys() {
            self.release(from, to);
        }
    }

    fn release(&mut self, from: u32, to: u32) {
        let ids: Vec<u64> = self.conns.keys().copied().collect();
        for conn in ids {
            let Some(found) = self.conns.get_mut(&conn) else { continue };
            let way = match (found.from, found.to) {
                ends if ends == (from, to) => Way::There,
                ends if ends == (to, from) => Way::Back,
                _ => continue,
            };
            let held = std::mem::take(&mut found.held);
            let (go, stay) = held.into_iter().partition(|(held, _)| *held == way);
            found.held = stay;
            let go: VecDeque<(Way, Parcel)> = go;
            let pause = self.random.below(AGAIN_NS);
            for (way, parcel) in go {
                self.transmit(conn, way, parcel, pause);
            }
        }
    }

    fn is_blocked(&self, from: u32, to: u32) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// How long a packet is on its way.
    fn latency(&mut self) -> u64 {
        let mix = &self.mix;
        let mut latency = mix.latency_ns + self.random.below(mix.latency_spread_ns + 1);
        if self.random.chance(self.mix.delayed_ppm) {
            self.stats.packets_delayed += 1;
            latency += self.random.below(1_000_000_000);
        }
        latency
    }

    /// Puts something on its way, in order.
    fn transmit(&mut self, conn: u64, way: Way, parcel: Parcel, pause_ns: u64) {
        let at = self.now_ns + pause_ns + self.latency();
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let (from, to) = match way {
            Way::There => (found.from, found.to),
            Way::Back => (found.to, found.from),
        };
        if self.blocked.contains_key(&(from, to)) {
            found.held.push_back((way, parcel));
            return;
        }
        let last = &mut found.last_ns[way as usize];
        *last = at.max(*last + 1);
        let at = *last;
        self.schedule(at, What::Arrival { conn, way, parcel });
    }

    /// A node sends a packet to whoever answers at `address`.
    pub(crate) fn send_packet(&mut self, from: u32, address: &Address, packet: &Packet) {
        let Some(up) = self.up(from) else { return };
        let Some(conn) = up.diallers.get(address).and_then(|dialler| dialler.conn) else { return };
        let Some(found) = self.conns.get_mut(&conn) else { return };
        if found.dialler != End::Open {
            return;
        }
        if found.on_the_way >= self.mix.queue_max {
            self.stats.packets_dropped += 1;
            return;
        }
        let mut bytes = Vec::new();
        wire::frame(|out| wire::encode_packet(packet, out), &mut bytes);
        if self.random.chance(self.mix.lost_ppm) {
            self.stats.packets_lost += 1;
            return;
        }
        // The handshake's end is not overtaken.
        let (to, open) = (found.to, found.listener == End::Open);
        let twice = self.random.chance(self.mix.doubled_ppm);
        let astray =
            self.random.chance(self.mix.reordered_ppm) && open && !self.is_blocked(from, to);
        let found = self.conns.get_mut(&conn).expect("looked up above");
        found.on_the_way += 1 + u32::from(twice);
        if twice {
            self.stats.packets_doubled += 1;
            self.transmit(conn, Way::There, Parcel::Frame(bytes.clone()), 0);
        }
        if astray {
            self.stats.packets_reordered += 1;
            let at = self.now_ns + self.latency() + self.random.below(50_000_000);
            let parcel = Parcel::Frame(bytes);
            self.schedule(at, What::Arrival { conn, way: Way::There, parcel });
        } else {
            self.transmit(conn, Way::There, Parcel::Frame(bytes), 0);
        }
    }

    /// A node wants a connection.
    pub(crate) fn dial(&mut self, host: u32, address: Address) {
        let (now, seed) = (self.now_ns, self.random.number());
        let Some(up) = self.up_mut(host) else { return };
        if up.diallers.contains_key(&address) {
            return;
        }
        let dialler = Dialler { conn: None, attempt: 1, backoff: Backoff::new(seed), node: None };
        up.diallers.insert(address.clone(), dialler);
        self.schedule_attempt(host, address, 1, now);
    }

    /// A node does not want it any more.
    pub(crate) fn hang_up(&mut self, host: u32, address: &Address) {
        let Some(up) = self.up_mut(host) else { return };
        let Some(Dialler { conn: Some(conn), node, .. }) = up.diallers.remove(address) else {
            return;
        };
        if let (Some(node), Some(_)) = (node, up.opened.remove(&conn)) {
            let closed = NetEvent::Closed { node, conn: ConnId(conn), outbound: true };
            self.tell(host, Event::Net(closed));
        }
        self.close_end(conn, Way::There);
    }

    /// A node wants to know whether there is still someone at `address`.
    pub(crate) fn retry(&mut self, host: u32, address: &Address) {
        let now = self.now_ns;
        let Some(up) = self.up_mut(host) else { return };
        let Some(dialler) = up.diallers.get_mut(address) else { return };
        match dialler.conn {
            None => {
                dialler.backoff.reset();
                dialler.attempt += 1;
                let attempt = dialler.attempt;
                self.schedule_attempt(host, address.clone(), attempt, now);
            }
            Some(conn) => {
                let young = now < self.conns[&conn].opened_ns + STEADY.as_nanos() as u64;
                if !young && self.conns[&conn].dialler == End::Open {
                    self.close_end(conn, Way::There);
                    self.dialler_lost(host, address.clone(), conn);
                }
            }
        }
    }

    /// Closes what `node` dialled to `host`.
    pub(crate) fn disconnect(&mut self, host: u32, node: NodeId) {
        for conn in self.conns_where(|c| c.to == host && c.from == node.get()) {
            if self.conns[&conn].listener == End::Open {
                self.listener_lost(conn);
                self.transmit(conn, Way::Back, Parcel::End, 0);
            }
        }
    }

    fn conns_where(&self, wanted: impl Fn(&Conn) -> bool) -> Vec<u64> {
        self.conns.iter().filter(|(_, conn)| wanted(conn)).map(|(id, _)| *id).collect()
    }

    /// The connections that stand, for the nemesis.
    pub(crate) fn open_conns(&self) -> Vec<u64> {
        self.conns_where(|conn| conn.dialler == End::Open && conn.listener == End::Open)
    }

    /// A connection breaks, for both ends.
    pub(crate) fn break_conn(&mut self, conn: u64) {
        let Some(found) = self.conns.get(&conn) else { return };
        let (from, address) = (found.from, found.address.clone());
        if found.listener == End::Open {
            self.listener_lost(conn);
        }
        self.end(conn, Way::Back);
        if self.conns.get(&conn).is_some_and(|found| found.dialler != End::Closed) {
            self.end(conn, Way::There);
            self.dialler_lost(from, address, conn);
        }
    }

    /// All connections to or from `host`, or only to it.
    pub(crate) fn break_conns(&mut self, host: u32) {
        for conn in self.conns_where(|conn| conn.from == host || conn.to == host) {
            self.break_conn(conn);
        }
    }

    /// A process is gone: the kernel closes its connections, unless the machine is gone too.
    pub(crate) fn process_gone(&mut self, host: u32, machine_too: bool) {
        for conn in self.conns_where(|conn| conn.from == host || conn.to == host) {
            let way = if self.conns[&conn].from == host { Way::There } else { Way::Back };
            if machine_too {
                self.end(conn, way);
                if let Some(found) = self.conns.get_mut(&conn) {
                    found.held.retain(|(held, _)| *held != way);
                }
            } else {
                self.close_end(conn, way);
            }
        }
    }

    /// One end closes, and tells the other.
    fn close_end(&mut self, conn: u64, way: Way) {
        self.end(conn, way);
        if self.conns.contains_key(&conn) {
            self.transmit(conn, way, Parcel::End, 0);
        }
    }

    /// One end is gone; with the second goes the connection.
    fn end(&mut self, conn: u64, way: Way) {
        let Some(found) = self.conns.get_mut(&conn) else { return };
        match way {
            Way::There => found.dialler = End::Closed,
            Way::Back => found.listener = End::Closed,
        }
        found.passes[way as usize] = None;
        if found.dialler == End::Closed && found.listener == End::Closed {
            self.conns.remove(&conn);
        }
    }

    fn schedule_attempt(&mut self, host: u32, address: Address, attempt: u64, at_ns: u64) {
        let boot = self.hosts[&host].boot;
        self.schedule(at_ns, What::Attempt { host, boot, address, attempt });
    }

    /// The dialler's connection ended: `Closed` is told, and it dials again.
    fn dialler_lost(&mut self, host: u32, address: Address, conn: u64) {
        let now = self.now_ns;
        let Some(up) = self.up_mut(host) else { return };
        let Some(dialler) = up.diallers.get_mut(&address) else { return };
        if dialler.conn != Some(conn) {
            return;
        }
        dialler.conn = None;
        let opened = dialler.node.zip(up.opened.remove(&conn));
        if let Some((node, opened_ns)) = opened {
            if now >= opened_ns + STEADY.as_nanos() as u64 {
                dialler.backoff.link_broke();
            }
            let closed = NetEvent::Closed { node, conn: ConnId(conn), outbound: true };
            self.tell(host, Event::Net(closed));
        }
        self.dial_again(host, address);
    }

    /// After a pause.
    fn dial_again(&mut self, host: u32, address: Address) {
        let now = self.now_ns;
        let Some(up) = self.up_mut(host) else { return };
        let Some(dialler) = up.diallers.get_mut(&address) else { return };
        dialler.conn = None;
        dialler.attempt += 1;
        let (attempt, pause) = (dialler.attempt, dialler.backoff.pause());
        self.schedule_attempt(host, address, attempt, now + pause.as_nanos() as u64);
    }

    /// The listener's end of a connection is gone.
    fn listener_lost(&mut self, conn: u64) {
        let Some(found) = self.conns.get(&conn) else { return };
        let (host, boot) = (found.to, found.to_boot);
        let node = found.hello.as_ref().map(|hello| hello.node);
        let was_open = found.listener == End::Open;
        self.end(conn, Way::Back);
        if let (true, Some(node)) = (was_open && self.hosts[&host].boot == boot, node) {
            let closed = NetEvent::Closed { node, conn: ConnId(conn), outbound: false };
            self.tell(host, Event::Net(closed));
        }
    }

    /// One attempt to connect.
    pub(crate) fn attempt(&mut self, host: u32, address: Address, attempt: u64) {
        let Some(up) = self.up(host) else { return };
        let Some(dialler) = up.diallers.get(&address) else { return };
        if dialler.attempt != attempt || dialler.conn.is_some() {
            return;
        }
        let (node, to) = (dialler.node, u32::from(address.port()) - 7400);
        let silent = self.hosts.get(&to).is_none_or(|host| !host.powered)
            || self.is_blocked(host, to)
            || self.is_blocked(to, host);
        if silent {
            let (now, boot) = (self.now_ns, self.hosts[&host].boot);
            return self
                .schedule(now + CONNECT_NS, What::AttemptFailed { host, boot, address, attempt });
        }
        let target = &self.hosts[&to];
        if target.refusing || target.up.is_none() {
            let (at, boot) = (self.now_ns + 2 * self.latency(), self.hosts[&host].boot);
            return self.schedule(at, What::PortRefused { host, boot, address, attempt, node });
        }
        let (to_boot, from_boot) = (target.boot, self.hosts[&host].boot);
        self.last_conn += 1;
        let conn = self.last_conn;
        let own = self.up(host).expect("looked up above").gate.hello(Some(&address));
        let now = self.now_ns;
        let found = Conn {
            from: host,
            from_boot,
            to,
            to_boot,
            address: address.clone(),
            dialler: End::Shaking,
            listener: End::Shaking,
            hello: None,
            answerer: None,
            opened_ns: now,
            heard_ns: now,
            last_ns: [0; 2],
            on_the_way: 1,
            held: VecDeque::new(),
            passes: [None, None],
        };
        self.conns.insert(conn, found);
        let up = self.up_mut(host).expect("looked up above");
        up.diallers.get_mut(&address).expect("looked up above").conn = Some(conn);
        self.transmit(conn, Way::There, hello_frame(&own), 0);
        self.schedule(now + HANDSHAKE_NS, What::HandshakeOver { conn });
    }

    /// Nobody answered.
    pub(crate) fn attempt_failed(&mut self, host: u32, address: Address, attempt: u64) {
        let current = self.up(host).and_then(|up| up.diallers.get(&address));
        if current.is_some_and(|dialler| dialler.attempt == attempt && dialler.conn.is_none()) {
            self.dial_again(host, address);
        }
    }

    /// Someone answered that nobody listens.
    pub(crate) fn port_refused(
        &mut self,
        host: u32,
        address: Address,
        attempt: u64,
        node: Option<NodeId>,
    ) {
        let current = self.up(host).and_then(|up| up.diallers.get(&address));
        if current.is_some_and(|dialler| dialler.attempt == attempt && dialler.conn.is_none()) {
            self.stats.ports_refused += 1;
            let event = NetEvent::PortRefused { address: address.clone(), node };
            self.tell(host, Event::Net(event));
            self.dial_again(host, address);
        }
    }

    /// A handshake that is not done by now never is.
    pub(crate) fn handshake_over(&mut self, conn: u64) {
        let Some(found) = self.conns.get(&conn) else { return };
        let (host, address) = (found.from, found.address.clone());
        if found.listener == End::Shaking {
            self.close_end(conn, Way::Back);
        }
        if self.conns.get(&conn).is_some_and(|found| found.dialler == End::Shaking) {
            self.close_end(conn, Way::There);
            self.dialler_lost(host, address, conn);
        }
    }

    /// Something arrives.
    pub(crate) fn arrive(&mut self, conn: u64, way: Way, parcel: Parcel) {
        let Some(found) = self.conns.get_mut(&conn) else { return };
        let (receiver, boot) = match way {
            Way::There => (found.to, found.to_boot),
            Way::Back => (found.from, found.from_boot),
        };
        if way == Way::There && matches!(parcel, Parcel::Frame(_)) {
            found.on_the_way = found.on_the_way.saturating_sub(1);
        }
        let host = &self.hosts[&receiver];
        if host.boot != boot || host.up.is_none() {
            // Another process, or none: the kernel says that there is no such connection.
            if host.powered && matches!(parcel, Parcel::Frame(_)) {
                let back = if way == Way::There { Way::Back } else { Way::There };
                self.transmit(conn, back, Parcel::End, 0);
            }
            return;
        }
        match (way, parcel) {
            (Way::There, Parcel::Frame(bytes)) => self.listener_reads(conn, &bytes),
            (Way::Back, Parcel::Frame(bytes)) => self.dialler_reads(conn, &bytes),
            (Way::There, Parcel::End) => self.listener_lost(conn),
            (Way::Back, Parcel::End) => {
                let (host, address) = (self.conns[&conn].from, self.conns[&conn].address.clone());
                if self.conns[&conn].dialler != End::Closed {
                    self.end(conn, Way::There);
                    self.dialler_lost(host, address, conn);
                }
            }
        }
    }

    fn listener_reads(&mut self, conn: u64, bytes: &[u8]) {
        let now = self.now_ns;
        let found = self.conns.get_mut(&conn).expect("looked up by the caller");
        found.heard_ns = now;
        match found.listener {
            End::Closed => {}
            End::Open => {
                let from = found.hello.as_ref().expect("known since the handshake").node;
                let to = found.to;
                let packet = wire::decode_packet(body(bytes)).expect("what was encoded");
                let conn = ConnId(conn);
                let event = NetEvent::Packet { from, conn, packet, bytes: bytes.len() };
                self.deliver(to, event);
            }
            End::Shaking if found.hello.is_none() => self.listener_judges(conn, bytes),
            End::Shaking => self.listener_opens(conn, bytes),
        }
    }

    fn listener_judges(&mut self, conn: u64, bytes: &[u8]) {
        let hello = wire::decode_hello(body(bytes)).expect("what was encoded");
        let to = self.conns[&conn].to;
        let gate = self.up(to).expect("looked up by the caller").gate.clone();
        let answer = match gate.judge(&hello) {
            Ok(()) => HelloAnswer::Accepted(gate.hello(None)),
            Err(refusal) => HelloAnswer::Refused(refusal),
        };
        let refusal = match &answer {
            HelloAnswer::Refused(refusal) => Some(*refusal),
            HelloAnswer::Accepted(_) => None,
        };
        let node = hello.node;
        self.conns.get_mut(&conn).expect("looked up above").hello = Some(hello);
        self.transmit(conn, Way::Back, answer_frame(&answer), 0);
        if let Some(refusal) = refusal {
            self.stats.handshakes_refused += 1;
            self.end(conn, Way::Back);
            if refusal != Refusal::Oneself {
                let event = NetEvent::HandshakeRefused {
                    address: None,
                    node: Some(node),
                    refusal,
                    by_us: true,
                };
                self.tell(to, Event::Net(event));
            }
        }
    }

    fn listener_opens(&mut self, conn: u64, bytes: &[u8]) {
        let answer = wire::decode_hello_answer(body(bytes)).expect("what was encoded");
        let found = self.conns.get_mut(&conn).expect("looked up by the caller");
        let (to, hello) = (found.to, found.hello.clone().expect("judged before"));
        let gate = self.hosts[&to].up.as_ref().expect("looked up by the caller").gate.clone();
        if let HelloAnswer::Refused(_) = answer {
            return self.end(conn, Way::Back);
        }
        let found = self.conns.get_mut(&conn).expect("looked up by the caller");
        match gate.enter(&hello, ConnId(conn)) {
            Ok(pass) => {
                found.passes[Way::Back as usize] = Some(pass);
                found.listener = End::Open;
                found.opened_ns = self.now_ns;
                let address = hello.raft_address.clone();
                let (node, conn_id) = (hello.node, ConnId(conn));
                let event = NetEvent::Connected { hello, address, conn: conn_id, outbound: false };
                self.tell(to, Event::Net(event));
                self.schedule(self.now_ns + SILENCE_NS, What::Silence { conn });
                self.heard_of(to, node);
            }
            Err(_) => {
                self.end(conn, Way::Back);
                self.transmit(conn, Way::Back, Parcel::End, 0);
            }
        }
    }

    /// A node that dials in is up: no pause before it is dialled.
    fn heard_of(&mut self, host: u32, node: NodeId) {
        let now = self.now_ns;
        let Some(up) = self.up_mut(host) else { return };
        let mut attempts = Vec::new();
        for (address, dialler) in &mut up.diallers {
            if dialler.node == Some(node) && dialler.conn.is_none() {
                dialler.backoff.reset();
                dialler.attempt += 1;
                attempts.push((address.clone(), dialler.attempt));
            }
        }
        for (address, attempt) in attempts {
            self.schedule_attempt(host, address, attempt, now);
        }
    }

    fn dialler_reads(&mut self, conn: u64, bytes: &[u8]) {
        let found = self.conns.get(&conn).expect("looked up by the caller");
        if found.dialler != End::Shaking {
            return;
        }
        let (host, address) = (found.from, found.address.clone());
        let gate = self.up(host).expect("looked up by the caller").gate.clone();
        let (refusal, by_us) = match wire::decode_hello_answer(body(bytes)).expect("encoded") {
            HelloAnswer::Refused(refusal) => (refusal, false),
            HelloAnswer::Accepted(hello) => match gate.enter(&hello, ConnId(conn)) {
                Ok(pass) => return self.dialler_opens(conn, hello, pass),
                Err(refusal) => {
                    let frame = answer_frame(&HelloAnswer::Refused(refusal));
                    self.transmit(conn, Way::There, frame, 0);
                    (refusal, true)
                }
            },
        };
        self.end(conn, Way::There);
        let Some(up) = self.up_mut(host) else { return };
        let Some(dialler) = up.diallers.get_mut(&address) else { return };
        dialler.backoff.refused();
        let node = dialler.node;
        let event =
            NetEvent::HandshakeRefused { address: Some(address.clone()), node, refusal, by_us };
        self.tell(host, Event::Net(event));
        self.dial_again(host, address);
    }

    fn dialler_opens(&mut self, conn: u64, hello: Hello, pass: Pass) {
        let now = self.now_ns;
        let found = self.conns.get_mut(&conn).expect("looked up by the caller");
        let (host, address) = (found.from, found.address.clone());
        found.passes[Way::There as usize] = Some(pass);
        found.dialler = End::Open;
        found.answerer = Some(hello.node);
        found.opened_ns = now;
        let up = self.up_mut(host).expect("looked up by the caller");
        let own = up.gate.hello(Some(&address));
        if let Some(dialler) = up.diallers.get_mut(&address) {
            dialler.node = Some(hello.node);
        }
        up.opened.insert(conn, now);
        self.transmit(conn, Way::There, answer_frame(&HelloAnswer::Accepted(own)), 0);
        let connected = NetEvent::Connected {
            hello,
            address: Some(address),
            conn: ConnId(conn),
            outbound: true,
        };
        self.tell(host, Event::Net(connected));
    }

    /// Whether the one who dialled has fallen silent.
    pub(crate) fn check_silence(&mut self, conn: u64) {
        let Some(found) = self.conns.get(&conn) else { return };
        if found.listener != End::Open {
            return;
        }
        let (over, host) = (found.heard_ns + SILENCE_NS, found.to);
        let paused = self.up(host).is_some_and(|up| up.paused);
        if self.now_ns < over || paused {
            let at = over.max(self.now_ns + 1_000_000_000);
            return self.schedule(at, What::Silence { conn });
        }
        let node = found.hello.as_ref().expect("known since the handshake").node;
        self.stats.connections_silent += 1;
        self.listener_lost(conn);
        self.transmit(conn, Way::Back, Parcel::End, 0);
        let Some(up) = self.up(host) else { return };
        let dialled = up.diallers.iter().filter(|(_, dialler)| dialler.node == Some(node));
        let addresses: Vec<Address> = dialled.map(|(address, _)| address.clone()).collect();
        for address in addresses {
            self.retry(host, &address);
        }
    }
}

/// The body of a whole frame, checked.
fn body(bytes: &[u8]) -> &[u8] {
    let header = bytes.first_chunk().expect("a whole frame");
    let header = FrameHeader::decode(header, wire::FRAME_BYTES_MAX).expect("a frame that fits");
    let body = &bytes[FRAME_HEADER_BYTES..];
    header.check(body).expect("a frame as it was sent");
    body
}

fn hello_frame(hello: &Hello) -> Parcel {
    let mut bytes = Vec::new();
    wire::frame(|out| wire::encode_hello(hello, out), &mut bytes);
    Parcel::Frame(bytes)
}

fn answer_frame(answer: &HelloAnswer) -> Parcel {
    let mut bytes = Vec::new();
    wire::frame(|out| wire::encode_hello_answer(answer, out), &mut bytes);
    Parcel::Frame(bytes)
}

/// The host at an address.
pub fn host_at(address: &Address) -> NodeId {
    id(u32::from(address.port()) - 7400)
}
