//! One connection: the body of its thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::places::Place;
use super::{Bad, Inner, Limits, Method, Request, Response, read_head};
use crate::sys;

/// One read of a body or a head.
const READ_BYTES: usize = 4 << 10;
/// After a refusal, how long and how much of what the client still sends is read: closed at once,
/// the kernel would answer it with a reset that takes the refusal back.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: usize = 256 << 10;

/// Answers requests until the connection ends.
pub(super) fn run(server: &Inner, place: &Place, from: SocketAddr) {
    let stream = &*place.stream;
    // Only latency is lost if it fails.
    let _ = stream.set_nodelay(true);
    let mut reader = Reader { stream, unused: Vec::new(), limits: server.limits };
    let mut first = true;
    loop {
        let mut request = match reader.next(first) {
            Ok(request) => request,
            Err(End::Closed) => return,
            Err(End::Refused(why)) => return refuse(server, stream, &why),
        };
        request.from = Some(from);
        if !place.at_work() {
            return;
        }
        let response = answer(server, &request);
        place.waits();
        let close = !request.keep_alive;
        let bytes = response.encode(request.method == Method::Head, close);
        let sent = send(stream, &bytes, server.limits.response);
        if sent.is_err() || close {
            return;
        }
        first = false;
    }
}

fn answer(server: &Inner, request: &Request) -> Response {
    if request.method != Method::Post {
        return (server.handler)(request);
    }
    match Change::begin(&server.changes, server.limits.changes_max) {
        Some(_under_way) => (server.handler)(request),
        None => Response::unavailable("too many changes are being worked on"),
    }
}

/// A request that changes something, while it is worked on.
struct Change<'a>(&'a AtomicUsize);

impl Change<'_> {
    fn begin(count: &AtomicUsize, max: usize) -> Option<Change<'_>> {
        let change = Change(count);
        // Counted back by the drop if it was one too many.
        (count.fetch_add(1, Ordering::Relaxed) < max).then_some(change)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn refuse(server: &Inner, stream: &TcpStream, why: &Bad) {
    let bytes = why.response().encode(false, true);
    if send(stream, &bytes, server.limits.response).is_err() {
        return;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + LINGER;
    let mut sink = [0; READ_BYTES];
    let mut left = LINGER_BYTES;
    while left > 0 {
        match read(stream, &mut sink, deadline) {
            Ok(0) | Err(_) => return,
            Ok(got) => left = left.saturating_sub(got),
        }
    }
}

/// Why there is no next request.
enum End {
    /// The client closed, or has been silent between two requests.
    Closed,
    /// What came is none, or came too slowly.
    Refused(Bad),
}

/// Reads requests one after the other.
struct Reader<'a> {
    stream: &'a TcpStream,
    /// What came and belongs to the next request.
    unused: Vec<u8>,
    limits: Limits,
}

impl Reader<'_> {
    /// The next request. The first one's time begins with the connection, another's with its first
    /// byte.
    fn next(&mut self, first: bool) -> Result<Request, End> {
        let limits = self.limits;
        let mut deadline = Instant::now() + if first { limits.request } else { limits.idle };
        if self.unused.is_empty() {
            self.more(deadline)?;
        }
        if !first {
            deadline = Instant::now() + limits.request;
        }
        let head = loop {
            match read_head(&self.unused, &self.limits).map_err(End::Refused)? {
                Some(head) => break head,
                None => self.more(deadline)?,
            }
        };
        let whole = head.head_bytes + head.body_bytes;
        if head.expects_continue && self.unused.len() < whole {
            let left = deadline.saturating_duration_since(Instant::now());
            let go_on = send(self.stream, b"HTTP/1.1 100 Continue\r\n\r\n", left);
            go_on.map_err(|_| End::Closed)?;
        }
        while self.unused.len() < whole {
            self.more(deadline)?;
        }
        let mut request = head.request;
        request.body = self.unused[head.head_bytes..whole].to_vec();
        self.unused.drain(..whole);
        if self.unused.is_empty() {
            // An idle connection holds no memory.
            self.unused = Vec::new();
        }
        Ok(request)
    }

    /// At least one more byte.
    fn more(&mut self, deadline: Instant) -> Result<(), End> {
        let mut bytes = [0; READ_BYTES];
        match read(self.stream, &mut bytes, deadline) {
            Ok(0) | Err(_) if self.unused.is_empty() => Err(End::Closed),
            Ok(0) => Err(End::Refused(Bad::new(400, "the request ends too early"))),
            Ok(got) => {
                self.unused.extend_from_slice(&bytes[..got]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                Err(End::Refused(Bad::new(408, "the request took too long")))
            }
            Err(_) => Err(End::Closed),
        }
    }
}

/// Reads at least a byte, or 0 at the end; fails with `TimedOut` at the deadline.
fn read(mut stream: &TcpStream, bytes: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(bytes) {
            Err(error) if again(&error) => {}
            read => return read,
        }
    }
}

/// Writes everything within `limit`.
fn send(mut stream: &TcpStream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    // Most answers fit into the socket's buffer.
    match sys::send_now(stream.as_fd(), bytes) {
        Ok(sent) => bytes = &bytes[sent..],
        Err(error) if again(&error) => {}
        Err(error) => return Err(error),
    }
    let deadline = Instant::now() + limit;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if again(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is left until the deadline, which has not passed: a timeout of zero would mean none.
fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Whether a call ended without having come to anything: by its timeout or by a signal.
fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
