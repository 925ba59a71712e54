//! The HTTP API (docs/ramd-api.md): what people, load balancers, Prometheus and `pgraftctl` ask
//! this node. Answers come from memory, in microseconds; only changes, which need the token, and
//! the logs ask the server.
//!
//! - `moment` — what is known when a request is answered, and what follows from it
//! - `checks` — the health checks, as questions to a moment
//! - `view` — nodes and the cluster as JSON
//! - `v1`, `envelope` — `/api/v1`
//! - `auth` — who may change something
//! - `plan` — what a change would do, or why it would be refused
//! - `changes`, `operations` — changes carried out, and how far they have come
//! - `traffic`, `metrics` — `/metrics`

mod auth;
mod changes;
mod checks;
mod envelope;
mod metrics;
mod moment;
mod operations;
mod plan;
#[cfg(test)]
mod samples;
mod time;
mod traffic;
mod v1;
mod view;

use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use pgraft::http::{Limits, Method, Request, Response, Server};
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::history::EVENTS_MAX;
use crate::settings::Settings;
use crate::sql::Line;
use crate::threads;
use auth::Token;
use checks::{Check, parse_bytes};
use moment::Moment;
use operations::Operations;
use traffic::Traffic;

pub use time::iso8601;

/// The page for people.
const UI: &str = include_str!("../ui/index.html");
/// It is one file and asks nobody but us.
const UI_POLICY: &str = concat!(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; ",
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// What all of this is, for programs.
const OPENAPI: &str = include_str!("../../../../docs/openapi.yaml");
/// How many events `/history` tells if nobody says how many.
const EVENTS_DEFAULT: usize = 100;

/// What answers have to do with.
struct Api {
    daemon: Daemon,
    token: Token,
    operations: Operations,
    traffic: Traffic,
    /// For the logs, which are the server's to tell: one question at a time.
    logs: Line,
}

/// Where the API listens, and who may change something.
pub struct Door {
    listener: TcpListener,
    token: Token,
}

impl Door {
    /// `None`: it is off. `Err`: why it cannot be opened.
    pub fn open(settings: &Settings) -> Result<Option<Door>, String> {
        let Some(address) = settings.http else { return Ok(None) };
        let token = Token::open(settings.http_token.as_deref())?;
        let listener = TcpListener::bind(address).map_err(|error| {
            format!(
                "could not listen on {address}: {error}\n\
                 hint: Give this ramd an http_port of its own, or set http_enabled to false."
            )
        })?;
        Ok(Some(Door { listener, token }))
    }
}

/// Begins to answer.
pub fn begin(daemon: &Daemon, door: Door) -> io::Result<Server> {
    let api = Arc::new(Api {
        daemon: daemon.clone(),
        token: door.token,
        operations: Operations::default(),
        traffic: Traffic::default(),
        logs: Line::default(),
    });
    let spawn =
        Arc::new(|name: String, body: Box<dyn FnOnce() + Send>| threads::spawn(&name, body));
    let server = Server::start(door.listener, Limits::default(), spawn, move |request| {
        let began = Instant::now();
        // A bug in an answer must not end the daemon.
        let answered = catch_unwind(AssertUnwindSafe(|| answer(&api, request)));
        let (path, response) = answered.unwrap_or_else(|_| {
            log::error!("the answer to {} {} panicked", request.method.name(), request.path);
            ("other", Response::text(500, "this is a bug; ramd's log says more"))
        });
        api.traffic.count(path, response.status, began.elapsed());
        response
    })?;
    log::info!("the API listens on http://{}, for people at /ui", server.address());
    Ok(server)
}

/// The answer, and the path that it is counted under.
fn answer(api: &Arc<Api>, request: &Request) -> (&'static str, Response) {
    let path = request.path.as_str();
    if path.starts_with("/api/v1/") {
        return v1::answer(api, request);
    }
    type Get = fn(&Arc<Api>, &Request) -> Response;
    let (counted, get): (&'static str, Get) = match path {
        "/" => ("/", check),
        "/primary" => ("/primary", check),
        "/read-write" => ("/read-write", check),
        "/leader" => ("/leader", check),
        "/replica" => ("/replica", check),
        "/read-only" => ("/read-only", check),
        "/sync" | "/synchronous" => ("/sync", check),
        "/async" | "/asynchronous" => ("/async", check),
        "/health" => ("/health", check),
        "/readiness" => ("/readiness", check),
        "/liveness" => ("/liveness", check),
        "/cluster" => {
            ("/cluster", |api, _| envelope::json(200, &view::cluster(&Moment::take(&api.daemon))))
        }
        "/history" => ("/history", history),
        "/metrics" => ("/metrics", |api, _| {
            let failovers = api.daemon.failovers.load(Ordering::Relaxed);
            let moment = Moment::take(&api.daemon);
            let text = metrics::text(&moment, failovers, &api.traffic.counted());
            Response::new(200, metrics::TEXT, text)
        }),
        "/openapi.yaml" => {
            ("/openapi.yaml", |_, _| Response::new(200, "application/yaml", OPENAPI))
        }
        "/ui" | "/ui/" => ("/ui", |_, _| {
            Response::new(200, "text/html; charset=utf-8", UI)
                .with("Content-Security-Policy", UI_POLICY)
                .with("X-Content-Type-Options", "nosniff")
                .with("Referrer-Policy", "no-referrer")
        }),
        _ => return ("other", Response::not_found()),
    };
    match request.method {
        Method::Post => (counted, Response::method_not_allowed("GET, HEAD, OPTIONS")),
        Method::Options => {
            let mut response = get(api, request).with("Allow", "GET, HEAD, OPTIONS");
            response.body.clear();
            (counted, response)
        }
        Method::Get | Method::Head => (counted, get(api, request)),
    }
}

fn check(api: &Arc<Api>, request: &Request) -> Response {
    let Some(check) = Check::at(&request.path) else { return Response::not_found() };
    let lag_max = match request.param("lag").map(parse_bytes) {
        Some(None) => {
            let why = "lag must be a number of bytes, as 1048576, 16kB or 10MB";
            return envelope::json(400, &json!({ "reason": why }));
        }
        None => None,
        Some(lag_max) => lag_max,
    };
    // The last before the answer is made: what may end at any moment is looked at last.
    let moment = Moment::take(&api.daemon);
    match check.ask(&moment, lag_max) {
        Ok(()) => envelope::json(200, &view::node(&moment, None)),
        Err(why) => envelope::json(503, &view::node(&moment, Some(&why))),
    }
}

fn history(api: &Arc<Api>, request: &Request) -> Response {
    match events(api, request) {
        Some(events) => envelope::json(200, &events),
        None => {
            let why = format!("limit must be a number from 1 to {EVENTS_MAX}");
            envelope::json(400, &json!({ "reason": why }))
        }
    }
}

/// The latest events; `None`: the limit is none.
fn events(api: &Api, request: &Request) -> Option<Value> {
    let limit = match request.param("limit") {
        None => EVENTS_DEFAULT,
        Some(text) => text.parse().ok().filter(|limit| (1..=EVENTS_MAX).contains(limit))?,
    };
    let with_time = |event: &crate::history::Event| {
        let mut value = serde_json::to_value(event).unwrap_or_default();
        value["time"] = json!(iso8601(event.unix_ms));
        value
    };
    Some(api.daemon.history.latest(limit).iter().map(with_time).collect())
}
