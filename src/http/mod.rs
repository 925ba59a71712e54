//! A small blocking HTTP/1.1 server: what Prometheus scrapes and load balancers ask.
//!
//! Requests come from anyone who reaches the port, so each is read within bounds: of time in all,
//! however its bytes trickle, and of size. Threads, all started through the [`Spawner`] handed in
//! and named `pgraft http`: one accepts, and one a connection. When there are too many, the
//! connection that has kept its place for longest without being worked on makes room: an honest
//! client is through in milliseconds, so slow ones cannot keep it out.
//!
//! - `request` — from bytes to a [`Request`], as values
//! - `response` — from a [`Response`] to bytes
//! - `places` — the connections, and how many there may be
//! - `connection` — the body of a connection's thread
//! - `listener` — the accepting thread's
#![forbid(unsafe_code)]

mod connection;
mod listener;
mod places;
mod request;
mod response;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

pub use crate::net::Spawner;
use crate::sys;
pub use request::{Bad, HEADERS_MAX, Head, Method, Request, read_head};
pub use response::Response;

use places::Places;

/// What a thread of this layer is called.
const THREAD: &str = "pgraft http";

/// What clients may take. The defaults are for an API beside a server of Postgres.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections, each with its thread. Twice as many threads may be there for a moment:
    /// those of connections that were closed to make room take a while to notice.
    pub connections_max: usize,
    /// Requests that change something (POST) worked on at once: they may take long, and shall leave
    /// places for the others. Beyond: 503.
    pub changes_max: usize,
    /// The request line and the headers.
    pub head_bytes_max: usize,
    /// The body.
    pub body_bytes_max: usize,
    /// From the first byte of a request, or the beginning of the connection, to its last byte.
    pub request: Duration,
    /// Between two requests of one connection.
    pub idle: Duration,
    /// For the client to take in the answer.
    pub response: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 64,
            changes_max: 8,
            head_bytes_max: 8 << 10,
            body_bytes_max: 64 << 10,
            request: Duration::from_secs(5),
            idle: Duration::from_secs(20),
            response: Duration::from_secs(5),
        }
    }
}

/// Answers a request. Called on the connection's thread. A panic ends that thread only, and is
/// reported by whatever the [`Spawner`] does with panics.
type Handler = Box<dyn Fn(&Request) -> Response + Send + Sync>;

/// What all threads of a server share.
struct Inner {
    limits: Limits,
    handler: Handler,
    places: Arc<Places>,
    /// Requests that change something and are worked on.
    changes: AtomicUsize,
    spawn: Spawner,
}

/// A running server. Dropping it stops it, without waiting.
pub struct Server {
    inner: Arc<Inner>,
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

impl Server {
    /// Starts to answer. Fails only for want of a thread.
    pub fn start(
        listener: TcpListener,
        limits: Limits,
        spawn: Spawner,
        handler: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let address = listener.local_addr()?;
        let listener = Arc::new(listener);
        let inner = Arc::new(Inner {
            limits,
            handler: Box::new(handler),
            places: Arc::new(Places::new(limits.connections_max)),
            changes: AtomicUsize::new(0),
            spawn,
        });
        let accepting = Places::accepting(&inner.places);
        let body = {
            let (inner, listener) = (inner.clone(), listener.clone());
            Box::new(move || listener::run(&inner, &listener, accepting))
        };
        (inner.spawn)(THREAD.to_owned(), body)?;
        Ok(Server { inner, listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether connections are accepted; no longer if the thread that does so panicked.
    pub fn is_accepting(&self) -> bool {
        self.inner.places.is_accepting()
    }

    /// Closes the port and every connection, and waits until the threads have ended, at most for
    /// `limit`; how many have not. Only a handler that is at work can keep one.
    pub fn stop(self, limit: Duration) -> usize {
        self.close();
        self.inner.places.wait_for_end(limit)
    }

    fn close(&self) {
        self.inner.places.close_all();
        // Ends the blocked accept. Fails only if that happened before.
        let _ = sys::shutdown_listener(self.listener.as_fd());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}
