//! Changes that were asked for, carried out: by pgraft, through SQL on the local server, or by
//! ramd's hand. Meanwhile what happens is written down as steps.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pgraft::cluster::Address;
use pgraft::http::{Request, Response};
use pgraft::sys::now_boottime_ns;
use serde_json::json;

use super::Api;
use super::envelope::{self, Refusal};
use super::moment::Moment;
use super::operations::{Outcome, UNKNOWN, UnderWay};
use super::plan::{By, Change, Plan};
use crate::orders::{NoOutcome, What};
use crate::overview::{FenceState, Page};
use crate::sql::{Row, SqlError, Target, ask_once};
use crate::threads;

/// pgraft itself gives up earlier (`pgraft.command_timeout`, 10 s), and knows better why.
const SQL_AT_MOST: Duration = Duration::from_secs(30);
/// A move has been decided by then; this is for the promotion.
const PROMOTED_AT_MOST: Duration = Duration::from_secs(60);
/// How often pgraft's page is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a stop and a start may take.
const HAND_AT_MOST: Duration = Duration::from_secs(180);

/// Answers a request for a change by someone who may.
pub fn answer(api: &Arc<Api>, request: &Request, change: Change) -> Response {
    let (dry_run, wait) = match (flag(request, "dry_run", false), flag(request, "wait", true)) {
        (Ok(dry_run), Ok(wait)) => (dry_run, wait),
        (Err(refusal), _) | (_, Err(refusal)) => return refusal.response(),
    };
    let plan = match change.plan(&Moment::take(&api.daemon)) {
        Ok(plan) => plan,
        Err(refusal) => return refusal.response(),
    };
    if dry_run {
        let data = json!({ "dry_run": true, "would": plan.text, "candidate": plan.candidate });
        return envelope::ok(200, &format!("this would {}", plan.text), data);
    }
    let from = request.from.map_or("?".to_owned(), |from| from.ip().to_string());
    let who = format!("POST {} from {from}", request.path);
    let under_way = match api.operations.begin(change.name(), who.clone()) {
        Ok(under_way) => under_way,
        Err(refusal) => return refusal.response(),
    };
    let id = under_way.id();
    let text = plan.text.clone();
    if wait {
        let outcome = run(api, &change, &plan, &who, &under_way);
        under_way.end(&outcome);
        return match outcome {
            Ok(message) => {
                envelope::ok(200, &message, json!({ "operation": api.operations.get(id) }))
            }
            Err(refusal) => refusal.response(),
        };
    }
    let background = api.clone();
    let spawned = threads::spawn("ramd operation", move || {
        let outcome = run(&background, &change, &plan, &who, &under_way);
        under_way.end(&outcome);
    });
    match spawned {
        Ok(()) => envelope::ok(202, &text, json!({ "operation": api.operations.get(id) }))
            .with("Location", &format!("/api/v1/operations/{id}")),
        Err(error) => {
            Refusal::new(503, "busy", format!("could not start a thread: {error}")).response()
        }
    }
}

/// A truth value in the query.
fn flag(request: &Request, name: &str, default: bool) -> Result<bool, Refusal> {
    match request.param(name) {
        None => Ok(default),
        Some("true" | "1" | "") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => {
            Err(Refusal::new(400, "bad_request", format!("\"{name}\" must be true or false")))
        }
    }
}

fn run(api: &Api, change: &Change, plan: &Plan, who: &str, under_way: &UnderWay) -> Outcome {
    let began = Instant::now();
    under_way.step(plan.text.clone());
    let outcome = match &plan.by {
        By::Pgraft(sql) => by_pgraft(api, plan, sql, local(api)?, under_way),
        By::Leader(sql) => {
            let target = leader(api).map_or_else(|| local(api), Ok)?;
            by_pgraft(api, plan, sql, target, under_way)
        }
        // The hand writes its own history.
        By::Hand(what) => return by_hand(api, *what, who),
    };
    let said = match &outcome {
        Ok(_) => "ok".to_owned(),
        Err(refusal) => refusal.message.clone(),
    };
    let why = format!("{} ({who})", plan.text);
    api.daemon.history.action(change.name(), &why, &said, began.elapsed().as_millis() as u64);
    outcome
}

fn by_hand(api: &Api, what: What, who: &str) -> Outcome {
    let outcome = api.daemon.orders.give(what, who, HAND_AT_MOST);
    // The next question is answered by what is now.
    api.daemon.board.await_later(now_boottime_ns());
    match outcome {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(why)) => {
            Err(Refusal::new(409, "failed", why)
                .hint("GET /history, and the server's log, say more."))
        }
        Err(NoOutcome::Busy) => Err(Refusal::new(409, "busy", "too many orders wait already")),
        Err(NoOutcome::Ending) => Err(Refusal::new(503, "ending", "ramd is ending")),
        Err(NoOutcome::Late) => Err(Refusal::new(504, UNKNOWN, "it is still under way")
            .hint("GET /history says what comes of it.")),
    }
}

fn local(api: &Api) -> Result<Target, Refusal> {
    let settings = &api.daemon.settings;
    let server = api.daemon.server();
    let target = server.postmaster().and_then(|postmaster| server.target(settings, &postmaster));
    target.ok_or_else(|| Refusal::new(503, "no_server", "PostgreSQL is down"))
}

/// The leader's server, as far as this node knows where it is.
fn leader(api: &Api) -> Option<Target> {
    let page = api.daemon.page_now().ok()?;
    let leader = page.member(page.leader_id)?;
    let address = Address::parse(&leader.pg_address).ok()?;
    Some(Target::at(&api.daemon.settings, &address))
}

fn by_pgraft(api: &Api, plan: &Plan, sql: &str, at: Target, under_way: &UnderWay) -> Outcome {
    let (done, answer) = channel();
    let sql = sql.to_owned();
    threads::spawn("ramd asks", move || {
        let _ = done.send(ask_once(&at, &sql, SQL_AT_MOST)); // nobody waits: ramd ends
    })
    .map_err(|error| Refusal::new(503, "busy", format!("could not start a thread: {error}")))?;
    let mut watch = Watch::begin(api, under_way);
    let rows = watch.until_answered(&answer).map_err(|error| refusal(&error))?;
    if rows.first().and_then(|row| row.first()?.as_deref()) != Some("t") {
        return Err(Refusal::new(409, "refused", "pgraft did not do it")
            .hint("pgraft_get_logs() on the leader says why."));
    }
    match plan.candidate {
        Some(candidate) => watch.until_promoted(candidate),
        None => Ok("done".to_owned()),
    }
}

/// What is to be said of what may or may not take effect.
const LOOK: &str = "It may or may not take effect: look at who is the primary.";

/// What pgraft said, as an answer of ours. Whatever ended a question that was under way, and is no
/// refusal of pgraft's own, leaves the outcome unknown: the leader may have committed it.
fn refusal(error: &SqlError) -> Refusal {
    match error {
        SqlError::Server { sqlstate, message, hint } => {
            let (status, reason) = match sqlstate.as_str() {
                // statement_completion_unknown: pgraft itself says so.
                "40003" => (504, UNKNOWN),
                // Cancelled, by statement_timeout too; its backend was ended, by somebody, by a
                // crash, by transaction_timeout; its database was dropped.
                "57014" | "57P01" | "57P02" | "25P04" | "57P04" => {
                    let hint = if hint.is_empty() { LOOK } else { hint };
                    return Refusal::new(504, UNKNOWN, message.clone()).hint(hint);
                }
                "22023" | "22004" => (412, "refused"),
                // cannot_connect_now: it was never asked.
                "57P03" => (409, "unavailable"),
                "42501" | "42883" => (500, "not_set_up"),
                _ => (409, "refused"),
            };
            Refusal::new(status, reason, message.clone()).hint(hint)
        }
        SqlError::Late => Refusal::new(504, UNKNOWN, "no answer within the deadline").hint(LOOK),
        SqlError::Broke(why) => {
            Refusal::new(504, UNKNOWN, format!("the server ended before it answered: {why}"))
                .hint(LOOK)
        }
        SqlError::NoConnection(why) => {
            Refusal::new(503, "no_server", format!("could not ask the server: {why}"))
                .hint("Ask the ramd of another node.")
        }
        SqlError::Here(why) => Refusal::new(500, "not_set_up", why.clone()),
    }
}

/// Looks at the page while something is done, and writes down what changes.
struct Watch<'a> {
    api: &'a Api,
    under_way: &'a UnderWay,
    last: Option<Page>,
}

impl Watch<'_> {
    fn begin<'a>(api: &'a Api, under_way: &'a UnderWay) -> Watch<'a> {
        Watch { api, under_way, last: api.daemon.page_now().ok() }
    }

    fn until_answered(
        &mut self,
        answer: &Receiver<Result<Vec<Row>, SqlError>>,
    ) -> Result<Vec<Row>, SqlError> {
        loop {
            self.look();
            match answer.recv_timeout(LOOK_EVERY) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) => {}
                // The thread panicked, and with it ramd ends.
                Err(RecvTimeoutError::Disconnected) => return Err(SqlError::Late),
            }
        }
    }

    /// Waits until the server of `node` is a primary, as far as this node hears.
    fn until_promoted(&mut self, node: u32) -> Outcome {
        let deadline = Instant::now() + PROMOTED_AT_MOST;
        while Instant::now() < deadline && !self.api.daemon.is_ending() {
            self.look();
            let promoted = self.last.as_ref().is_some_and(|page| {
                let member = page.member(node);
                page.primary_id == node && member.is_some_and(|m| m.pg_role == Some("primary"))
            });
            if promoted {
                return Ok(format!("node {node} is the primary"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(format!("node {node} is to be the primary, and has not said yet that it is"))
    }

    fn look(&mut self) {
        let Ok(page) = self.api.daemon.page_now() else { return };
        let own = self.api.daemon.pgraft.node_id.get();
        for text in self.last.iter().flat_map(|last| changes(last, &page, own)) {
            self.under_way.step(text);
        }
        self.last = Some(page);
    }
}

/// What is worth telling of the way from one page to the next.
fn changes(last: &Page, page: &Page, own: u32) -> Vec<String> {
    let mut told = Vec::new();
    if page.fence != last.fence {
        match page.fence {
            FenceState::Paused => told.push("commits wait".to_owned()),
            FenceState::Open => told.push(format!("node {own} takes writes")),
            FenceState::Closed if last.fence != FenceState::Closed => {
                told.push(format!("node {own} takes no writes any more"));
            }
            FenceState::Closed | FenceState::Off => {}
        }
    }
    if page.primary_id != last.primary_id && page.primary_id != 0 {
        told.push(format!("node {} is named the primary", page.primary_id));
    }
    if page.leader_id != last.leader_id && page.leader_id != 0 {
        told.push(format!("node {} leads, term {}", page.leader_id, page.term));
    }
    if page.paused != last.paused {
        let what = if page.paused { "is paused" } else { "goes on" };
        told.push(format!("automatic failover {what}"));
    }
    for member in &page.members {
        let was = last.member(member.id).and_then(|member| member.pg_role);
        if member.pg_role != was && member.pg_role == Some("primary") {
            told.push(format!("the server of node {} is promoted", member.id));
        }
    }
    told
}

/// A path's change, from its body. Called before anything else is looked at.
pub fn read(path: &Path<'_>, body: &[u8]) -> Result<Change, Refusal> {
    use super::plan::nodes;
    Ok(match path {
        Path::Switchover => {
            let [leader, candidate] = nodes(body, ["leader", "candidate"])?;
            Change::Switchover { leader, candidate }
        }
        Path::Failover => {
            let [candidate] = nodes(body, ["candidate"])?;
            Change::Failover { candidate }
        }
        Path::Pause => nodes(body, []).map(|[]| Change::Pause)?,
        Path::Resume => nodes(body, []).map(|[]| Change::Resume)?,
        Path::Reload => nodes(body, []).map(|[]| Change::Reload)?,
        Path::Server(what, node) => {
            nodes(body, []).map(|[]| Change::Server { what: *what, node: (*node).to_owned() })?
        }
    })
}

/// Where changes are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// `cluster/switchover`
    Switchover,
    /// `cluster/failover`
    Failover,
    /// `cluster/pause`
    Pause,
    /// `cluster/resume`
    Resume,
    /// `nodes/{id}/start`, `stop`, `restart`
    Server(What, &'a str),
    /// `config/reload`
    Reload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_for_certain_is_a_refusal() {
        let server = |sqlstate: &str| SqlError::Server {
            sqlstate: sqlstate.to_owned(),
            message: "so it is".to_owned(),
            hint: String::new(),
        };
        let broke = || SqlError::Broke("connection closed".to_owned());
        let unknown = ["40003", "57014", "57P01", "57P02", "57P04", "25P04"].map(server);
        for error in unknown.into_iter().chain([broke(), SqlError::Late]) {
            let refusal = refusal(&error);
            assert_eq!((refusal.status, refusal.reason), (504, UNKNOWN), "{error:?}");
        }
        for (error, status, reason) in [
            (server("22023"), 412, "refused"),
            (server("55000"), 409, "refused"),
            (server("57P03"), 409, "unavailable"),
            (server("42501"), 500, "not_set_up"),
            (SqlError::NoConnection("refused".to_owned()), 503, "no_server"),
            (SqlError::Here("no passfile".to_owned()), 500, "not_set_up"),
        ] {
            let refusal = refusal(&error);
            assert_eq!((refusal.status, refusal.reason), (status, reason), "{error:?}");
        }
    }
}
