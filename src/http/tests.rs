//! The server over real sockets: clients that are slow, rude, many, or gone.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Limits, Method, Request, Response, Server};
use crate::runtime::spawn::Threads;

/// A hang is a failure; nothing here waits for it to pass.
const HANG: Duration = Duration::from_secs(30);
/// For what must run out in a test.
const SHORT: Duration = Duration::from_millis(200);

/// A server whose answers are its requests, and what its threads' panics said.
struct Echo {
    server: Server,
    threads: Threads,
    panics: Receiver<String>,
    /// Each item lets one request for /wait go on.
    go_on: mpsc::Sender<()>,
    /// An item for each request that came to /wait.
    waiting: Receiver<()>,
}

fn echo(limits: Limits) -> Echo {
    let (report, panics) = mpsc::channel();
    let threads = Threads::new(Arc::new(move |text| drop(report.send(text))));
    let (go_on, wait) = mpsc::channel();
    let (came, waiting) = mpsc::channel();
    let (wait, came) = (Mutex::new(wait), Mutex::new(came));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let spawn = {
        let threads = threads.clone();
        Arc::new(move |name, body| threads.spawn(name, body))
    };
    let handler = move |request: &Request| match request.path.as_str() {
        "/panic" => panic!("asked to"),
        "/large" => Response::new(200, "text/plain", vec![b'x'; 32 << 20]),
        "/wait" => {
            came.lock().unwrap().send(()).unwrap();
            let _ = wait.lock().unwrap().recv();
            Response::text(200, "waited")
        }
        path => {
            let body = String::from_utf8_lossy(&request.body);
            Response::text(200, &format!("{} {path} {body}", request.method.name()))
        }
    };
    let server = Server::start(listener, limits, spawn, handler).unwrap();
    Echo { server, threads, panics, go_on, waiting }
}

impl Echo {
    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_write_timeout(Some(HANG)).unwrap();
        Client { stream, unused: Vec::new() }
    }

    /// Asks on a connection of its own.
    fn ask(&self, bytes: impl AsRef<[u8]>) -> Answer {
        let mut client = self.client();
        client.write(bytes);
        client.answer().expect("an answer")
    }

    /// Stops it; nobody may be left behind.
    fn stop(self) {
        let address = self.address();
        drop(self.go_on);
        assert_eq!(self.server.stop(HANG), 0);
        assert_eq!(self.threads.join(HANG), 0);
        assert_eq!(self.panics.try_iter().collect::<Vec<_>>(), [""; 0]);
        drop(TcpListener::bind(address).expect("the port is free again"));
    }
}

struct Client {
    stream: TcpStream,
    unused: Vec<u8>,
}

#[derive(PartialEq, Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Client {
    fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// The next answer, or `None` at the end of the connection.
    fn answer(&mut self) -> Option<Answer> {
        self.answer_to(Method::Get)
    }

    fn answer_to(&mut self, method: Method) -> Option<Answer> {
        const BLANK: &[u8] = b"\r\n\r\n";
        let head_bytes = loop {
            match self.unused.windows(4).position(|window| window == BLANK) {
                Some(at) => break at + 4,
                None if !self.more() => {
                    assert!(self.unused.is_empty(), "cut short: {:?}", self.unused);
                    return None;
                }
                None => {}
            }
        };
        let head = String::from_utf8(self.unused.drain(..head_bytes).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = match method {
            Method::Head => 0,
            _ => length.map_or(0, |length| length.parse().unwrap()),
        };
        while self.unused.len() < length {
            assert!(self.more(), "the body is cut short");
        }
        let body = String::from_utf8(self.unused.drain(..length).collect()).unwrap();
        Some(Answer { status, head, body })
    }

    /// False at the end, be it an orderly one or not.
    fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let got = match self.stream.read(&mut bytes) {
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("no answer: {error}"),
        };
        self.unused.extend_from_slice(&bytes[..got]);
        got > 0
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn post(body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn one_connection_serves_many_requests() {
    let echo = echo(Limits::default());
    let mut client = echo.client();
    client.write(get("/a"));
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "GET /a \n"));
    for header in ["\r\nDate: ", "\r\nContent-Type: text/plain", "\r\nCache-Control: no-store"] {
        assert!(answer.head.contains(header), "{}", answer.head);
    }
    client.write(post("one two"));
    assert_eq!(client.answer().unwrap().body, "POST /p one two\n");
    client.write("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.answer_to(Method::Head).unwrap();
    assert!(answer.head.contains("\r\nContent-Length: 9\r\n"), "{}", answer.head);
    client.write("OPTIONS /o HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let answer = client.answer().unwrap();
    assert!(answer.head.contains("\r\nConnection: close\r\n"), "{}", answer.head);
    assert_eq!((answer.body.as_str(), client.answer()), ("OPTIONS /o \n", None));
    echo.stop();
}

#[test]
fn requests_may_come_all_at_once_or_byte_by_byte() {
    let echo = echo(Limits::default());
    let all = [get("/1"), post(&"x".repeat(10_000)), get("/3")].concat();
    let expected = ["GET /1 \n", &format!("POST /p {}\n", "x".repeat(10_000)), "GET /3 \n"];
    for piece in [all.len(), 1, 4096] {
        let mut client = echo.client();
        client.stream.set_nodelay(true).unwrap();
        all.as_bytes().chunks(piece).for_each(|bytes| client.write(bytes));
        for body in expected {
            assert_eq!(client.answer().unwrap().body, body);
        }
    }
    echo.stop();
}

#[test]
fn trickling_bytes_do_not_hold_a_place() {
    let echo = echo(Limits { request: SHORT, ..Limits::default() });
    for beginning in [
        "GET / HTTP/1.1\r\nHost: a\r\nX: ",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n",
    ] {
        let mut client = echo.client();
        client.write(beginning);
        client.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let began = Instant::now();
        while client.stream.peek(&mut [0]).is_err() {
            assert!(began.elapsed() < HANG, "it may go on for ever");
            client.write("x");
        }
        client.stream.set_read_timeout(Some(HANG)).unwrap();
        assert_eq!(client.answer().unwrap().status, 408);
    }
    echo.stop();
}

#[test]
fn who_says_nothing_is_let_go_without_a_word() {
    let echo = echo(Limits { request: SHORT, idle: SHORT, ..Limits::default() });
    assert_eq!(echo.client().answer(), None, "before the first request");
    let mut client = echo.client();
    client.write(get("/a"));
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.answer(), None, "between two");
    echo.stop();
}

#[test]
fn a_request_after_a_pause_has_its_time_in_full() {
    let idle = Duration::from_millis(400);
    let echo = echo(Limits { idle, ..Limits::default() });
    let mut client = echo.client();
    client.write(get("/a"));
    assert_eq!(client.answer().unwrap().status, 200);
    std::thread::sleep(idle / 2);
    let (beginning, rest) = ("GET /b HTTP", "/1.1\r\nHost: a\r\n\r\n");
    client.write(beginning);
    std::thread::sleep(idle);
    client.write(rest);
    assert_eq!(client.answer().unwrap().body, "GET /b \n");
    echo.stop();
}

#[test]
fn what_is_no_request_is_refused_in_words() {
    let echo = echo(Limits::default());
    let host = "HTTP/1.1\r\nHost: a\r\n";
    for (text, status, word) in [
        ("\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03 hello".to_owned(), 400, "not HTTP"),
        ("PGRAFT\r\n\r\n".to_owned(), 400, "not HTTP"),
        (format!("PATCH / {host}\r\n"), 405, "GET, HEAD"),
        (format!("POST / {host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 411, "Length"),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), 505, "HTTP/1.1"),
    ] {
        let mut client = echo.client();
        client.write(text);
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(word), "{answer:?}");
        assert_eq!(client.answer(), None, "the connection ends");
    }
    echo.stop();
}

/// The server does not read them to the end; the kernel's answer to that must not overtake its own.
#[test]
fn a_refusal_reaches_who_still_sends() {
    let echo = echo(Limits::default());
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n", 413),
    ] {
        for _ in 0..20 {
            let answer = echo.ask(format!("{head}{}", "x".repeat(200_000)));
            assert_eq!(answer.status, status);
        }
    }
    echo.stop();
}

#[test]
fn a_crowd_of_slow_clients_keeps_nobody_out() {
    let limits = Limits { connections_max: 4, request: HANG, ..Limits::default() };
    let echo = echo(limits);
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut client = echo.client();
        client.write("GET / HTTP/1.1\r\nHo");
        slow.push(client);
        let path = format!("/{number}");
        assert_eq!(echo.ask(get(&path)).body, format!("GET {path} \n"));
    }
    let open = slow.iter().filter(|client| {
        client.stream.set_nonblocking(true).unwrap();
        let peeked = client.stream.peek(&mut [0]);
        peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    });
    assert!(open.count() <= 4, "the others made room");
    echo.stop();
}

#[test]
fn who_is_worked_for_keeps_the_place_and_others_are_told_so() {
    let echo = echo(Limits { connections_max: 2, ..Limits::default() });
    let mut clients = [echo.client(), echo.client()];
    for client in &mut clients {
        client.write(get("/wait"));
        echo.waiting.recv_timeout(HANG).unwrap();
    }
    for _ in 0..40 {
        let answer = echo.ask(get("/a"));
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.head.contains("\r\nRetry-After: 1\r\n"), "{answer:?}");
    }
    // Who waits for which of them is not known.
    (0..2).for_each(|_| echo.go_on.send(()).unwrap());
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().body, "waited\n");
    }
    assert_eq!(echo.ask(get("/a")).status, 200);
    echo.stop();
}

#[test]
fn changes_leave_room_for_questions() {
    let echo = echo(Limits { changes_max: 2, ..Limits::default() });
    let change = "POST /wait HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut clients = [echo.client(), echo.client()];
    for client in &mut clients {
        client.write(change);
        echo.waiting.recv_timeout(HANG).unwrap();
    }
    assert_eq!(echo.ask(change).status, 503);
    assert_eq!(echo.ask(get("/a")).status, 200);
    // Who waits for which of them is not known.
    (0..2).for_each(|_| echo.go_on.send(()).unwrap());
    for client in &mut clients {
        assert_eq!(client.answer().unwrap().body, "waited\n");
        client.write(post("again"));
        assert_eq!(client.answer().unwrap().status, 200);
    }
    echo.stop();
}

#[test]
fn who_has_said_all_still_gets_the_answer() {
    let echo = echo(Limits::default());
    for (text, status) in [(get("/a"), 200), (post("x")[..40].to_owned(), 400)] {
        let mut client = echo.client();
        client.write(text);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.answer().unwrap().status, status);
        assert_eq!(client.answer(), None);
    }
    echo.stop();
}

#[test]
fn who_takes_no_answer_is_let_go() {
    let echo = echo(Limits { response: SHORT, ..Limits::default() });
    let mut client = echo.client();
    client.write(get("/large"));
    let began = Instant::now();
    // The server's side is closed when the client can read to the end, short of the whole.
    client.stream.peek(&mut [0]).unwrap();
    while echo.server.inner.places.len() > 0 {
        assert!(began.elapsed() < HANG, "it waits for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    echo.stop();
}

#[test]
fn a_body_may_wait_for_permission() {
    let echo = echo(Limits::default());
    let mut client = echo.client();
    let head = "POST /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    client.write(head);
    assert_eq!(client.answer().unwrap().status, 100);
    client.write("abc");
    assert_eq!(client.answer().unwrap().body, "POST /p abc\n");
    echo.stop();
}

#[test]
fn a_panic_ends_one_connection_and_is_reported() {
    let echo = echo(Limits::default());
    let mut bystander = echo.client();
    bystander.write(get("/a"));
    assert_eq!(bystander.answer().unwrap().status, 200);
    let mut client = echo.client();
    client.write(get("/panic"));
    assert_eq!(client.answer(), None);
    let said = echo.panics.recv_timeout(HANG).unwrap();
    assert_eq!(said, "thread \"pgraft http\" panicked: asked to");
    bystander.write(get("/b"));
    assert_eq!(bystander.answer().unwrap().body, "GET /b \n");
    echo.stop();
}

#[test]
fn stopping_waits_for_nobody_but_a_handler_at_work() {
    let echo = echo(Limits { request: HANG, idle: HANG, ..Limits::default() });
    let mut clients: Vec<_> = (0..10).map(|_| echo.client()).collect();
    for client in &mut clients[..5] {
        client.write(get("/a"));
        assert_eq!(client.answer().unwrap().status, 200);
    }
    clients[9].write(get("/wait"));
    echo.waiting.recv_timeout(HANG).unwrap();
    assert!(echo.server.is_accepting());
    let Echo { server, threads, go_on, .. } = echo;
    assert_eq!(server.stop(SHORT), 1, "the handler");
    for client in &mut clients {
        assert_eq!(client.answer(), None);
    }
    go_on.send(()).unwrap();
    assert_eq!(threads.join(HANG), 0);
}

/// What a node answers per second, for the documentation: run it with `--nocapture`.
#[test]
fn thousands_of_requests_are_answered() {
    const REQUESTS: usize = 2000;
    let echo = echo(Limits::default());
    let began = Instant::now();
    for _ in 0..REQUESTS {
        assert_eq!(echo.ask(get("/a")).status, 200);
    }
    println!("{REQUESTS} connections: {:?}", began.elapsed());
    let began = Instant::now();
    let mut client = echo.client();
    for _ in 0..REQUESTS {
        client.write(get("/a"));
        assert_eq!(client.answer().unwrap().status, 200);
    }
    println!("{REQUESTS} requests on one: {:?}", began.elapsed());
    echo.stop();
}
