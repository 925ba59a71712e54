//! Accepting connections: the body of the listener's thread. It only accepts, finds a place and
//! starts the connection's own thread; nothing a client does can hold it up.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::places::{Accepting, Entry, Places};
use super::{Inner, Response, THREAD, connection};
use crate::sys;

/// The first pause when something fails for want of descriptors, memory or threads; doubled from
/// time to time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// At most one line about such a failure in this time.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Connections that were turned away and may still be open: closed at once, what they have sent
/// would make the kernel take back the answer that is on its way.
const TURNED_AWAY_MAX: usize = 16;

/// Accepts until the server is stopped.
pub(super) fn run(server: &Arc<Inner>, listener: &TcpListener, _accepting: Accepting) {
    let mut pause = PAUSE_MIN;
    let mut logged: Option<Instant> = None;
    let mut turned_away = VecDeque::new();
    while !server.places.is_stopping() {
        let done = match listener.accept() {
            Ok((stream, from)) => welcome(server, stream, from, &mut turned_away),
            Err(error) if passing(&error) => Ok(()),
            Err(error) => Err(error),
        };
        let Err(error) = done else {
            pause = PAUSE_MIN;
            continue;
        };
        if server.places.is_stopping() {
            return;
        }
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            log::warn!("could not serve an HTTP connection: {error}");
            logged = Some(Instant::now());
        }
        server.places.stopping_within(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Errors of the one connection that was about to be accepted, not of the listener.
fn passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Fails for want of a thread.
fn welcome(
    server: &Arc<Inner>,
    stream: TcpStream,
    from: SocketAddr,
    turned_away: &mut VecDeque<Arc<TcpStream>>,
) -> io::Result<()> {
    let place = match Places::enter(&server.places, stream) {
        Entry::Place(place) => place,
        Entry::Full(stream) => {
            let busy = Response::unavailable("too many requests are being worked on");
            // What the socket does not take at once is not worth a wait.
            let _ = sys::send_now(stream.as_fd(), &busy.encode(false, true));
            let _ = stream.shutdown(Shutdown::Write);
            turned_away.push_back(stream);
            if turned_away.len() > TURNED_AWAY_MAX {
                turned_away.pop_front();
            }
            return Ok(());
        }
        Entry::Stopping => return Ok(()),
    };
    let body = {
        let server = server.clone();
        Box::new(move || connection::run(&server, &place, from))
    };
    (server.spawn)(THREAD.to_owned(), body)
}
