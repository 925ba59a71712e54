//! One accepted connection: the body of its thread. It reads, and after the handshake never writes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::counters::{PeerCounters, add, count};
use super::frames::{FrameReader, Patience, ReadError};
use super::handshake::{Failed, Handshake};
use super::inbounds::{Place, source_of};
use super::notices::{Kind, Source};
use super::{BUFFER_BYTES, Inner, NetEvent};
use crate::cluster::Address;
use crate::wire::{self, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, HANDSHAKE_BYTES_MAX, Hello, Refusal};

/// From the handshake to the end of the connection.
pub(super) fn run(net: &Arc<Inner>, place: &Place, from: SocketAddr) {
    let stream = &*place.stream;
    // Only latency is lost if it fails.
    let _ = stream.set_nodelay(true);
    let mut reader = FrameReader::new(stream, HANDSHAKE_BYTES_MAX as usize + FRAME_HEADER_BYTES);
    let mut handshake = Handshake {
        stream,
        reader: &mut reader,
        gate: &net.gate,
        conn: place.conn,
        deadline: Instant::now() + net.limits.handshake,
    };
    let (hello, pass) = match handshake.listen(net) {
        Ok(done) => done,
        Err(failed) => return report(net, from, failed),
    };
    let member = net.gate.is_member(hello.node);
    if !net.inbounds.establish(place.conn, hello.node, hello.dialled.clone(), member) {
        return;
    }
    reader.grow(BUFFER_BYTES);
    let (node, conn) = (hello.node, place.conn);
    log::debug!("node {node} connected from {from}");
    let counters = net.counters.peer_or_new(node);
    let reached = || Address::new(&from.ip().to_string(), hello.raft_port).ok();
    let address = hello.raft_address.clone().or_else(reached);
    net.emit(NetEvent::Connected { hello: hello.clone(), address, conn, outbound: false });
    net.heard_of(node);
    let end = receive(net, place, &hello, &mut reader, &counters);
    farewell(net, from, &hello, &counters, end);
    drop(pass);
    net.emit(NetEvent::Closed { node, conn, outbound: false });
}

/// Delivers packets until the connection ends; returns how.
fn receive(
    net: &Inner,
    place: &Place,
    hello: &Hello,
    reader: &mut FrameReader<'_>,
    counters: &PeerCounters,
) -> ReadError {
    let patience = Patience::Idle { silence: net.limits.silence, frame: net.limits.frame };
    loop {
        let body = match reader.next(FRAME_BYTES_MAX, patience) {
            Ok(body) => body,
            Err(end) => return end,
        };
        let bytes = FRAME_HEADER_BYTES + body.len();
        let packet = match wire::decode_packet(body) {
            Ok(packet) => packet,
            Err(error) => return ReadError::Frame(error),
        };
        count(&counters.messages_received);
        add(&counters.bytes_received, bytes as u64);
        let packet = NetEvent::Packet { from: hello.node, conn: place.conn, packet, bytes };
        if !(net.sink)(packet) {
            count(&counters.dropped);
            count(&net.counters.received_dropped);
        }
    }
}

/// Counts and logs how a link ended, and looks after the one in the other direction.
fn farewell(net: &Inner, from: SocketAddr, hello: &Hello, counters: &PeerCounters, end: ReadError) {
    let node = hello.node;
    match &end {
        ReadError::Frame(error) => {
            count(&net.counters.bad_frames);
            count(&counters.errors);
            let source = Source::Ip(source_of(from.ip()));
            if let Some(more) = net.notices.may_log(source, Kind::BadFrame, Instant::now()) {
                log::warn!("closed the connection from node {node} at {from}: {error}{more}");
            }
            return;
        }
        ReadError::Closed => {}
        ReadError::TimedOut => {
            count(&counters.errors);
            // Its host may be gone without a word; what was sent there is then on no one's way.
            net.check_links(node);
        }
        ReadError::Cut | ReadError::Io(_) => count(&counters.errors),
    }
    log::debug!("the connection from node {node} at {from} ended: {end}");
}

/// Counts and logs a handshake that did not succeed.
fn report(net: &Inner, from: SocketAddr, failed: Failed) {
    if net.is_stopping() {
        return;
    }
    let source = Source::Ip(source_of(from.ip()));
    let may_log = |kind| net.notices.may_log(source, kind, Instant::now());
    match failed {
        Failed::Refused { refusal: Refusal::Oneself, .. } => {}
        Failed::Refused { refusal, by_us, node, why } => {
            count(&net.counters.handshakes_refused);
            let Some(more) = may_log(Kind::Refused(refusal as u8)) else { return };
            if by_us {
                log::warn!("refused a connection from {from}: {why}{more}");
            } else {
                log::warn!("a node at {from} refused this node's answer: {why}{more}");
            }
            // With the log line's rate, so that a stranger cannot fill the queue of events.
            let event = NetEvent::HandshakeRefused { address: None, node, refusal, by_us };
            (net.sink)(event);
        }
        Failed::Bad(error) => {
            count(&net.counters.bad_frames);
            if let Some(more) = may_log(Kind::BadFrame) {
                log::warn!("closed a connection from {from}: {error}{more}");
            }
        }
        Failed::Lost(why) => {
            count(&net.counters.handshakes_failed);
            if let Some(more) = may_log(Kind::NoHandshake) {
                log::warn!("closed a connection from {from} without a handshake: {why}{more}");
            }
        }
    }
}
