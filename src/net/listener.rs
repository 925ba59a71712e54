//! Accepting connections: the body of the listener's thread. It only accepts, finds a place and
//! starts the connection's own thread; nothing a caller does can hold it up.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::counters::count;
use super::inbounds::source_of;
use super::notices::{Kind, Source};
use super::{Inner, inbound};

/// The first pause when accepting fails for want of descriptors or memory; doubled from time to
/// time.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest such pause.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until the net is stopped.
pub(super) fn run(net: &Arc<Inner>, listener: &TcpListener) {
    let mut pause = ACCEPT_PAUSE_MIN;
    while !net.is_stopping() {
        match listener.accept() {
            Ok((stream, from)) => {
                pause = ACCEPT_PAUSE_MIN;
                welcome(net, stream, from);
            }
            Err(_) if net.is_stopping() => return,
            Err(error) if passing(&error) => {}
            Err(error) => {
                count(&net.counters.accept_errors);
                if let Some(more) = net.notices.may_log(Source::Here, Kind::Accept, Instant::now())
                {
                    log::warn!("could not accept a connection: {error}{more}");
                }
                net.stopping_within(pause);
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Errors of the one connection that was about to be accepted, not of the listener.
fn passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn welcome(net: &Arc<Inner>, stream: TcpStream, from: SocketAddr) {
    count(&net.counters.accepted);
    let conn = net.gate.next_conn();
    let (place, crowded) = net.inbounds.open(conn, Arc::new(stream), from.ip());
    if crowded || place.is_none() {
        too_many(net, from.ip());
    }
    let Some(place) = place else { return };
    if net.is_stopping() {
        // `close_all` may have run before the place was taken.
        return;
    }
    let body = {
        let net = net.clone();
        Box::new(move || inbound::run(&net, &place, from))
    };
    if let Err(error) = (net.spawn)(format!("pgraft in {}", conn.0), body) {
        count(&net.counters.rejected_full);
        if let Some(more) = net.notices.may_log(Source::Here, Kind::Full, Instant::now()) {
            log::warn!("could not start a thread for a connection from {from}: {error}{more}");
        }
    }
}

fn too_many(net: &Inner, ip: IpAddr) {
    count(&net.counters.rejected_full);
    let source = Source::Ip(source_of(ip));
    if let Some(more) = net.notices.may_log(source, Kind::Full, Instant::now()) {
        log::warn!("closed a connection: there are too many, the latest from {ip}{more}");
    }
}
