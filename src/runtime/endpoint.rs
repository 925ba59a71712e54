//! `/metrics` over HTTP: open as pgraft.conf wants it, tried again while the port is taken. It
//! works whether or not consensus does: all it reads is the page.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Limits, Method, Request, Response, Server};
use crate::metrics::{CONTENT_TYPE, exposition, metrics};
use crate::shmem::StatusPage;
use crate::sys;

use super::retry::Retry;
use super::spawn::Threads;

/// A few scrapers, each with a connection that it keeps.
const LIMITS: Limits = Limits {
    connections_max: 16,
    changes_max: 16,
    head_bytes_max: 8 << 10,
    body_bytes_max: 0,
    request: Duration::from_secs(5),
    // Longer than the usual pause between two scrapes.
    idle: Duration::from_secs(65),
    response: Duration::from_secs(5),
};
/// What its threads may take to end: they answer from memory.
const STOP_MAX: Duration = Duration::from_millis(200);

/// The port of this node's metrics. Times are nanoseconds of `CLOCK_BOOTTIME`.
pub struct Endpoint {
    page: &'static StatusPage,
    wanted: Option<SocketAddr>,
    server: Option<Server>,
    retry: Retry,
    trouble: String,
}

impl Endpoint {
    /// Closed.
    pub fn new(page: &'static StatusPage) -> Endpoint {
        let retry = Retry::default();
        Endpoint { page, wanted: None, server: None, retry, trouble: String::new() }
    }

    /// Opens or closes it, if need be and if it is time. True: what `trouble` says may be new.
    pub fn keep(&mut self, wanted: Option<SocketAddr>, now_ns: u64) -> bool {
        let moved = wanted != self.wanted;
        let due = self.retry.due_ns().is_some_and(|due_ns| due_ns <= now_ns);
        let died = self.server.as_ref().is_some_and(|server| !server.is_accepting());
        if !(moved || due || died) {
            return false;
        }
        self.close();
        if moved {
            self.retry.give_up();
            self.trouble.clear();
            self.wanted = wanted;
        }
        let Some(socket) = wanted else { return true };
        match self.open(socket) {
            Ok(server) => {
                log::info!("metrics are served at http://{socket}/metrics");
                self.server = Some(server);
                self.trouble.clear();
                self.retry.runs(now_ns);
            }
            Err(error) => {
                self.retry.failed(now_ns);
                let (ip, port) = (socket.ip(), socket.port());
                let text = format!("could not serve metrics on {ip} port {port}: {error}");
                if text != self.trouble {
                    let hint = hint(error.kind());
                    log::error!("{text}; it is tried again by itself ({hint})");
                    self.trouble = text;
                }
            }
        }
        true
    }

    /// When `keep` has something to do.
    pub fn due_ns(&self) -> Option<u64> {
        self.retry.due_ns()
    }

    /// Why it is not open; empty: nothing is wrong.
    pub fn trouble(&self) -> &str {
        &self.trouble
    }

    /// Closes it.
    pub fn close(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(STOP_MAX);
        }
    }

    fn open(&self, socket: SocketAddr) -> std::io::Result<Server> {
        let listener = TcpListener::bind(socket)?;
        // It shares nothing with consensus but the page, which it only reads: no reason to restart.
        let threads = Threads::new(Arc::new(|text| log::error!("{text}; that was for metrics")));
        let spawn = Arc::new(move |name, body| threads.spawn(name, body));
        let page = self.page;
        Server::start(listener, LIMITS, spawn, move |request| answer(page, request))
    }
}

fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => "Is another server using metrics_port? Choose another one.",
        _ => "Check metrics_bind_address and metrics_port in pgraft.conf.",
    }
}

fn answer(page: &StatusPage, request: &Request) -> Response {
    const ALLOW: &str = "GET, HEAD, OPTIONS";
    match (request.method, request.path.as_str()) {
        (_, path) if path != "/metrics" && path != "/" => Response::not_found(),
        (Method::Post, _) => Response::method_not_allowed(ALLOW),
        (Method::Options, _) => Response::text(200, ALLOW).with("Allow", ALLOW),
        (_, "/") => Response::text(200, "pgraft: the metrics of this node are at /metrics"),
        _ => {
            let view = page.view().unwrap_or_default();
            let list = metrics(&view, page, sys::now_boottime_ns());
            Response::new(200, CONTENT_TYPE, exposition(&list))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::retry::RETRY_MIN;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    /// A port that was free a moment ago, on a loopback address that no other process is given.
    fn free() -> SocketAddr {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let any = SocketAddr::from(([127, a + 1, b, c], 0));
        TcpListener::bind(any).unwrap().local_addr().unwrap()
    }

    fn ask(socket: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_is_where_it_is_wanted_and_says_what_the_page_says() {
        let mut endpoint = Endpoint::new(StatusPage::for_tests());
        assert!(!endpoint.keep(None, 1));
        let (first, second) = (free(), free());
        for socket in [first, second] {
            assert!(endpoint.keep(Some(socket), 2));
            assert!(!endpoint.keep(Some(socket), 3), "nothing to do");
            assert_eq!((endpoint.trouble(), endpoint.due_ns()), ("", None));
            let answer = ask(socket, "GET /metrics");
            assert!(answer.contains("\r\nContent-Type: text/plain; version=0.0.4"), "{answer}");
            assert!(answer.contains("\npgraft_up 0\n"), "{answer}");
        }
        assert!(TcpStream::connect(first).is_err(), "it moved");
        assert!(endpoint.keep(None, 4));
        assert!(TcpStream::connect(second).is_err(), "it is closed");
    }

    #[test]
    fn other_paths_and_methods_are_told_apart() {
        let mut endpoint = Endpoint::new(StatusPage::for_tests());
        let socket = free();
        endpoint.keep(Some(socket), 1);
        for (line, status) in [
            ("GET /", "200 OK"),
            ("HEAD /metrics", "200 OK"),
            ("OPTIONS /metrics", "200 OK"),
            ("GET /metrics/", "404 Not Found"),
            ("GET /favicon.ico", "404 Not Found"),
            ("POST /metrics", "405 Method Not Allowed"),
            ("PUT /metrics", "405 Method Not Allowed"),
        ] {
            let answer = ask(socket, line);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{line}: {answer}");
        }
    }

    #[test]
    fn a_taken_port_is_tried_again_until_it_is_free() {
        let mut endpoint = Endpoint::new(StatusPage::for_tests());
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = other.local_addr().unwrap();
        let second = RETRY_MIN.as_nanos() as u64;
        assert!(endpoint.keep(Some(socket), second));
        let trouble = format!("could not serve metrics on 127.0.0.1 port {}: ", socket.port());
        assert!(endpoint.trouble().starts_with(&trouble), "{}", endpoint.trouble());
        assert_eq!(endpoint.due_ns(), Some(2 * second));
        assert!(!endpoint.keep(Some(socket), 2 * second - 1), "not yet");
        assert!(endpoint.keep(Some(socket), 2 * second));
        assert_eq!(endpoint.due_ns(), Some(4 * second));
        drop(other);
        assert!(endpoint.keep(Some(socket), 4 * second));
        assert_eq!((endpoint.trouble(), endpoint.due_ns()), ("", None));
        assert!(ask(socket, "GET /metrics").contains("pgraft_up"));
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        endpoint.keep(Some(other.local_addr().unwrap()), 5 * second);
        assert_ne!(endpoint.trouble(), "");
        endpoint.keep(None, 5 * second);
        assert_eq!((endpoint.trouble(), endpoint.due_ns()), ("", None));
    }
}
