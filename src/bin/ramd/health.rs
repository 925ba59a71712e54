//! The health loops. One asks the server, and may have to wait for it; the other looks at what
//! needs nobody's help (page, processes, disk), puts both together, and puts up the result. So a
//! server that hangs is reported as soon as its answer is late, and all else goes on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pgraft::sys::daemon::room;
use pgraft::sys::now_boottime_ns;

use crate::clock::unix_ms;
use crate::daemon::Daemon;
use crate::overview::{Disk, KnownMember, Overview, Page, PgFacts, PgState, Postgres};
use crate::probe::{Probe, probe};
use crate::server::Postmaster;
use crate::sql::{Line, SqlError};
use crate::threads;

/// SQLSTATE cannot_connect_now: the server starts, recovers, or shuts down.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// The last probe, and of which postmaster; shared by the two loops.
type Last = Arc<Mutex<Option<(i32, Probe)>>>;

/// Starts both loops.
pub fn begin(daemon: &Daemon) -> std::io::Result<()> {
    let last = Last::default();
    let (asking, results) = (daemon.clone(), last.clone());
    threads::spawn("ramd probe", move || ask(&asking, &results))?;
    let daemon = daemon.clone();
    threads::spawn("ramd health", move || look(&daemon, &last))
}

/// Sleeps until an interval after `began`.
fn rest(began: Instant, interval: Duration) {
    sleep(interval.saturating_sub(began.elapsed()));
}

fn ask(daemon: &Daemon, last: &Last) {
    let settings = &daemon.settings;
    let server = daemon.server();
    let line = Line::default();
    loop {
        let began = Instant::now();
        let result = server.postmaster().map(|postmaster| {
            let result = match server.target(settings, &postmaster) {
                Some(target) => probe(&line, &target, settings.probe_timeout),
                None => Probe {
                    took: Duration::ZERO,
                    outcome: Err(SqlError::NoConnection("it does not listen yet".into())),
                },
            };
            (postmaster.pid, result)
        });
        *last.lock().unwrap_or_else(PoisonError::into_inner) = result;
        rest(began, settings.monitor_interval);
    }
}

fn look(daemon: &Daemon, last: &Last) {
    let server = daemon.server();
    loop {
        let began = Instant::now();
        let page = daemon.page_now();
        let postmaster = server.postmaster();
        let probe = last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        put(daemon, page, postgres(postmaster.as_ref(), probe));
        rest(began, daemon.settings.monitor_interval.min(LOOK_AT_LEAST));
    }
}

/// Looking costs microseconds; who waits for a change should not wait for the next probe.
const LOOK_AT_LEAST: Duration = Duration::from_millis(200);

fn postgres(postmaster: Option<&Postmaster>, probe: Option<(i32, Probe)>) -> Postgres {
    let Some(postmaster) = postmaster else {
        return Postgres { state: PgState::Down, ..Postgres::default() };
    };
    let running = Postgres { pid: Some(postmaster.pid), ..Postgres::default() };
    // A probe of the server before it says nothing about this one.
    let Some((_, probe)) = probe.filter(|(pid, _)| *pid == postmaster.pid) else {
        let reason = "it was not asked yet".to_owned();
        return Postgres { state: PgState::Unknown, reason, ..running };
    };
    let probe_us = probe.took.as_micros() as u64;
    let (state, reason, facts) = match probe.outcome {
        Ok(facts) => (PgState::Answering, String::new(), Some(facts)),
        Err(error) => (state_of(&error), error.to_string(), None),
    };
    Postgres { state, reason, facts, probe_us, ..running }
}

fn state_of(error: &SqlError) -> PgState {
    match error {
        SqlError::Late => PgState::Hung,
        SqlError::Here(_) => PgState::Unknown,
        SqlError::NoConnection(_) | SqlError::Broke(_) => PgState::Rejecting,
        SqlError::Server { sqlstate, .. } if sqlstate == CANNOT_CONNECT_NOW => PgState::Rejecting,
        // It answers, but not to us: no such role, too many connections.
        SqlError::Server { .. } => PgState::Rejecting,
    }
}

/// Puts up what was found, and remembers what has to outlive the page.
fn put(daemon: &Daemon, page: Result<Page, String>, mut postgres: Postgres) {
    let before = daemon.board.latest();
    let disk = room(&daemon.settings.data).ok();
    let disk = disk.map(|(total_bytes, free_bytes)| Disk { total_bytes, free_bytes });
    let (page, page_unknown) = match page {
        Ok(page) => (Some(page), String::new()),
        Err(why) => (None, why),
    };
    if let (Some(facts), Some(page)) = (&mut postgres.facts, &page) {
        facts.lag_bytes = lag_bytes(facts, page);
    }
    postgres.since_unix_ms = match postgres.state == before.postgres.state {
        true => before.postgres.since_unix_ms,
        false => unix_ms(),
    };
    if let Some(page) = &page {
        remember(daemon, page);
    }
    let (memory, synchronous) = (daemon.memory.get(), daemon.pgraft_now().synchronous);
    daemon.board.update(|overview| {
        overview.taken_unix_ms = unix_ms();
        overview.take(now_boottime_ns());
        overview.node_id = daemon.pgraft.node_id.get();
        overview.node_name.clone_from(&daemon.pgraft.node_name);
        overview.cluster_id.clone_from(&daemon.pgraft.cluster_id);
        overview.synchronous = synchronous;
        overview.paused = page.as_ref().map_or(memory.paused, |page| page.paused);
        overview.known_members = memory.members;
        overview.page = page;
        overview.page_unknown = page_unknown;
        overview.postgres = postgres;
        overview.disk = disk;
    });
    note_changes(daemon, &before, &daemon.board.latest());
}

/// How far a standby's replay is behind the primary, as far as this node has heard.
fn lag_bytes(facts: &PgFacts, page: &Page) -> Option<u64> {
    let primary = page.member(page.primary_id).filter(|member| member.wal_lsn != 0)?;
    let end = primary.wal_lsn.max(facts.received_lsn);
    facts.in_recovery.then(|| end.saturating_sub(facts.lsn))
}

fn remember(daemon: &Daemon, page: &Page) {
    // A node that is no member, or not yet, knows of nobody.
    if page.state != "member" {
        return;
    }
    let members = page.members.iter().filter(|member| !member.pg_address.is_empty());
    let known = |member: &crate::overview::Member| KnownMember {
        id: member.id,
        pg_address: member.pg_address.clone(),
    };
    let members: Vec<KnownMember> = members.map(known).collect();
    let remembered = daemon.memory.change(|memory| {
        memory.paused = page.paused;
        memory.members = members;
    });
    if let Err(why) = remembered
        && daemon.seen(|seen| seen.forgot.replace(why.clone())).as_ref() != Some(&why)
    {
        log::warn!("{why}");
    }
}

/// What people want to see in the history.
fn note_changes(daemon: &Daemon, before: &Overview, now: &Overview) {
    let history = &daemon.history;
    let (state, was) = (now.postgres.state, before.postgres.state);
    let reason = &now.postgres.reason;
    let other_reason = state == PgState::Rejecting && *reason != before.postgres.reason;
    if state != was || other_reason {
        let colon = if reason.is_empty() { "" } else { ": " };
        history.transition("postgres", &format!("{was:?} -> {state:?}{colon}{reason}"));
    }
    let role = |overview: &Overview| {
        overview.postgres.facts.as_ref().map(|facts| match facts.in_recovery {
            true => "standby",
            false => "primary",
        })
    };
    if let (Some(role), was) = (role(now), daemon.seen(|seen| seen.role.replace(role(now)?)))
        && was != Some(role)
    {
        let timeline = now.postgres.facts.as_ref().map_or(0, |facts| facts.timeline);
        history.transition("role", &format!("{} -> {role}, timeline {timeline}", or_unknown(was)));
    }
    let Some(page) = &now.page else { return };
    if page.primary_id != 0 {
        let was = daemon.seen(|seen| seen.primary_id.replace(page.primary_id));
        if was != Some(page.primary_id) {
            daemon.failovers.fetch_add(u64::from(was.is_some()), Ordering::Relaxed);
            let was = was.map_or_else(|| "?".to_owned(), |id| format!("node {id}"));
            history.transition("primary", &format!("{was} -> node {}", page.primary_id));
        }
    }
    if page.leader_id != 0 {
        let was = daemon.seen(|seen| seen.leader_id.replace(page.leader_id));
        if was != Some(page.leader_id) {
            let was = was.map_or_else(|| "?".to_owned(), |id| format!("node {id}"));
            let change = format!("{was} -> node {}, term {}", page.leader_id, page.term);
            history.transition("leader", &change);
        }
    }
    if before.paused != now.paused {
        let change = if now.paused { "automatic failover is paused" } else { "it goes on" };
        history.transition("paused", change);
    }
}

fn or_unknown(text: Option<&str>) -> &str {
    text.unwrap_or("?")
}
