//! The hand: the only thread that does something to the server. It looks at the board, does the
//! first thing that leads from what is to what the Raft log decided, and looks again; an outcome is
//! not believed but seen. What is to be done is `policy.rs`'s to say.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use pgraft::hand::standby_name;
use pgraft::sys::now_boottime_ns;

use crate::backoff::Backoff;
use crate::control::{self, How};
use crate::daemon::Daemon;
use crate::join;
use crate::memory::Step;
use crate::orders::{Order, What};
use crate::overview::{Overview, PgState};
use crate::policy::{Known, Wish, wish};
use crate::primary::{Search, has_diverged, segment_in_title, segment_start};
use crate::rejoin::{Rejoin, Way, finish_clone};
use crate::server::Server;
use crate::threads;

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A server that has been well for so long has its failures forgotten.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// Replaying one segment takes less than that.
const STANDS_STILL_AFTER: Duration = Duration::from_secs(15);
/// What a server says whose data directory is of no use for a start, in PostgreSQL's words: it is
/// of another history, or has not the WAL that it needs.
const USELESS: [&str; 4] = [
    "is not a child of this server's history",
    "could not locate a valid checkpoint record",
    "could not locate required checkpoint record",
    "invalid checkpoint record",
];
/// How much of the end of the server's log is looked at for that.
const LOG_BYTES_MAX: u64 = 16 << 10;

/// The hand as others hold it.
pub struct Hand {
    ended: Receiver<()>,
}

impl Hand {
    /// Waits until it has let go, at most so long.
    pub fn await_end(self, at_most: Duration) {
        // Its sender only ever goes: the thread has ended, or it takes too long.
        let _ = self.ended.recv_timeout(at_most);
    }
}

/// Starts it.
pub fn begin(daemon: &Daemon, orders: Receiver<Order>) -> std::io::Result<Hand> {
    let (alive, ended) = channel();
    let mut work = Work::new(daemon);
    threads::spawn("ramd hand", move || {
        work.run(&orders);
        drop(alive);
    })?;
    Ok(Hand { ended })
}

struct Work {
    daemon: Daemon,
    server: Server,
    search: Search,
    starts: Backoff,
    rejoins: Backoff,
    /// When the other members may be asked again.
    ask_after: Option<Instant>,
    useless: Option<String>,
    /// The server's state, and since when it is that; not by a clock that people set.
    state: Option<(PgState, Instant)>,
    starving_since: Option<Instant>,
    well_since: Option<Instant>,
    /// Where recovery is, of a server that takes no connections, and since when it is there.
    recovers: Option<(u64, Instant)>,
    /// The last rejoin was a rewind, and the server has not been well since.
    rewound: bool,
    /// When the last action ended, CLOCK_BOOTTIME: what was seen before says nothing any more.
    acted_ns: u64,
}

impl Work {
    fn new(daemon: &Daemon) -> Work {
        let settings = &daemon.settings;
        let backoff = || Backoff::new(settings.retry_interval, settings.retry_interval_max);
        Work {
            server: daemon.server(),
            search: Search::default(),
            starts: backoff(),
            rejoins: backoff(),
            ask_after: None,
            useless: None,
            state: None,
            starving_since: None,
            well_since: None,
            recovers: None,
            rewound: false,
            acted_ns: 0,
            daemon: daemon.clone(),
        }
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        while !self.daemon.is_ending() {
            match orders.recv_timeout(LOOK_EVERY) {
                Ok(order) => {
                    let outcome = self.carry_out(&order);
                    // Gone already: whoever gave it did not wait.
                    let _ = order.answer.send(outcome);
                }
                Err(RecvTimeoutError::Timeout) => self.act(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    // ---- by order ----

    fn carry_out(&mut self, order: &Order) -> Result<String, String> {
        let began = Instant::now();
        let (what, outcome) = match order.what {
            What::Start => ("start", self.start_by_order()),
            What::Stop => ("stop", self.stop_by_order()),
            What::Restart => ("restart", self.restart_by_order()),
            What::Reload => ("reload", control::reload(&self.server)),
        };
        let why = format!("ordered by {}", order.who);
        self.write_down(what, &why, &outcome, began);
        outcome
    }

    fn start_by_order(&mut self) -> Result<String, String> {
        self.daemon.doing("start", "by order");
        self.starts.reset();
        self.daemon.memory.change(|memory| memory.stopped_by_order = false)?;
        control::start(&self.daemon, &self.server)
    }

    /// Interrupted in between, it is started all the same: nobody asked for it to be down.
    fn restart_by_order(&mut self) -> Result<String, String> {
        self.daemon.doing("restart", "by order");
        control::stop(&self.daemon, &self.server, How::Fast)?;
        self.start_by_order()
    }

    fn stop_by_order(&mut self) -> Result<String, String> {
        self.daemon.doing("stop", "by order");
        self.daemon.memory.change(|memory| memory.stopped_by_order = true)?;
        control::stop(&self.daemon, &self.server, How::Fast)
    }

    /// After each thing that was done.
    fn write_down<T: AsRef<str>>(
        &mut self,
        what: &str,
        why: &str,
        outcome: &Result<T, String>,
        began: Instant,
    ) {
        let words = match outcome {
            Ok(done) => format!("ok, {}", done.as_ref()),
            Err(error) => error.clone(),
        };
        self.daemon.history.action(what, why, &words, began.elapsed().as_millis() as u64);
        self.daemon.trouble(outcome.as_ref().err().map_or("", |error| error.as_str()));
        self.acted_ns = now_boottime_ns();
    }

    // ---- by itself ----

    fn act(&mut self) {
        let now = self.daemon.board.latest();
        // Something older than the last action, or nothing yet.
        if now.taken_ns == 0 || now.taken_ns <= self.acted_ns {
            return;
        }
        let known = self.learn(&now);
        let memory = self.daemon.memory.get();
        match wish(&now, &memory, &self.daemon.settings, &known) {
            Wish::Watch(why) => self.daemon.doing("watch", &why),
            Wish::Start(why) => self.start(&why),
            Wish::Restart(why) => self.restart(&why),
            Wish::Rejoin(why) => self.rejoin(&now, &why, Way::Rewind),
            Wish::LookAtStandby(why) => self.look_at_standby(&now, &why),
            Wish::Join => self.join(),
        }
    }

    /// What the board shows that has to be followed over some time.
    fn learn(&mut self, now: &Overview) -> Known {
        let at = Instant::now();
        let facts = now.postgres.facts.as_ref();
        let starves = facts.is_some_and(|facts| facts.in_recovery && !facts.streaming);
        self.starving_since = if starves { self.starving_since.or(Some(at)) } else { None };
        let primary = now.page.as_ref().map_or(0, |page| page.primary_id);
        let well = facts.is_some_and(|facts| facts.streaming || primary == now.node_id);
        self.well_since = if well { self.well_since.or(Some(at)) } else { None };
        if well {
            (self.useless, self.rewound) = (None, false);
        }
        if self.well_since.is_some_and(|since| at - since >= WELL_AFTER) {
            self.starts.reset();
            self.rejoins.reset();
        }
        let memory = self.daemon.memory.get();
        if memory.stopped_by_order && now.postgres.state == PgState::Answering {
            // Somebody started it: that is an order, too.
            let forgot = self.daemon.memory.change(|memory| memory.stopped_by_order = false);
            forgot.unwrap_or_else(|why| log::warn!("{why}"));
        }
        let state = now.postgres.state;
        let since = self.state.filter(|(same, _)| *same == state).map_or(at, |(_, since)| since);
        self.state = Some((state, since));
        Known {
            useless: self.useless.clone(),
            starving: self.starving_since.map_or(Duration::ZERO, |since| at - since),
            in_state: at - since,
        }
    }

    fn start(&mut self, why: &str) {
        if !self.starts.allows(Instant::now()) {
            return;
        }
        let began = Instant::now();
        self.daemon.doing("start", why);
        let log_end = self.log_length();
        let mut outcome = control::start(&self.daemon, &self.server);
        if let Err(error) = &mut outcome {
            let said = self.said_since(log_end);
            let fatal =
                said.lines().rfind(|line| line.contains("FATAL:") || line.contains("PANIC:"));
            error.extend(fatal.map(|line| format!(": {line}")));
            self.useless = why_useless(&said);
        }
        self.starts.made(Instant::now());
        self.write_down("start", why, &outcome, began);
    }

    fn restart(&mut self, why: &str) {
        if !self.starts.allows(Instant::now()) {
            return;
        }
        let began = Instant::now();
        self.daemon.doing("restart", why);
        let outcome = control::stop(&self.daemon, &self.server, How::Immediate)
            .and_then(|_| control::start(&self.daemon, &self.server));
        self.starts.made(Instant::now());
        self.write_down("restart", why, &outcome, began);
    }

    fn log_length(&self) -> u64 {
        fs::metadata(&self.daemon.settings.server_log).map_or(0, |meta| meta.len())
    }

    /// What the server has said since its log was so long, or the end of it.
    fn said_since(&self, length: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.daemon.settings.server_log)?;
            let from = length.max(file.metadata()?.len().saturating_sub(LOG_BYTES_MAX));
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    fn join(&mut self) {
        if !self.rejoins.allows(Instant::now()) {
            return;
        }
        let began = Instant::now();
        self.daemon.doing("join", "it was told to make a new member");
        let outcome = join::go_on(&self.daemon, &self.server);
        self.rejoins.made(Instant::now());
        self.write_down("join", "it was told to make a new member", &outcome, began);
    }

    /// Makes the server a standby of the primary, as soon as there is one.
    fn rejoin(&mut self, now: &Overview, why: &str, way: Way) {
        if !self.rejoins.allows(Instant::now()) {
            return;
        }
        let swapping = self.daemon.memory.get().step == Step::Swapping;
        if swapping && !self.daemon.settings.data.exists() {
            // Half of it was done: there is no way back, and no server that could be the primary.
            return self.finish_clone(why);
        }
        if !self.may_ask() {
            return;
        }
        let hint = now.page.as_ref().map_or(0, |page| page.primary_id);
        let primary = match self.search.find(&self.daemon, hint) {
            Ok(primary) => primary,
            Err(missing) => {
                self.daemon.doing("wait", &format!("{why}; {missing}"));
                return;
            }
        };
        if swapping {
            return self.finish_clone(why);
        }
        let began = Instant::now();
        // Rewound, and it still cannot be: a copy helps.
        let way = if self.rewound && self.useless.is_some() { Way::Clone } else { way };
        let mut rejoin = Rejoin { daemon: &self.daemon, server: &self.server, primary, why };
        let outcome = rejoin.run(way);
        self.rejoins.made(Instant::now());
        if let Err(error) = outcome {
            log::warn!("{why}: {error}");
            self.daemon.trouble(&error);
            self.acted_ns = now_boottime_ns();
            return;
        }
        self.rewound = way == Way::Rewind;
        self.useless = None;
        self.daemon.trouble("");
        self.acted_ns = now_boottime_ns();
        log::info!("it is a standby now, after {} ms", began.elapsed().as_millis());
        self.starts.reset();
        self.start("it was made a standby");
    }

    /// The copy is complete: nobody else is needed for the rest.
    fn finish_clone(&mut self, why: &str) {
        let began = Instant::now();
        self.daemon.doing("clone", why);
        let outcome = finish_clone(&self.daemon, &self.server).map(|()| "swapped in");
        self.rejoins.made(Instant::now());
        self.write_down("clone", why, &outcome, began);
    }

    /// Whether a standby that receives nothing could ever follow the primary.
    fn look_at_standby(&mut self, now: &Overview, why: &str) {
        if !self.rejoins.allows(Instant::now()) || !self.may_ask() {
            return;
        }
        let hint = now.page.as_ref().map_or(0, |page| page.primary_id);
        match self.what_hinders(now, hint) {
            Ok(Some((way, what))) => {
                self.ask_after = None;
                self.rejoin(now, &format!("{why}, and {what}"), way);
            }
            Ok(None) => self.daemon.doing("watch", why),
            Err(unknown) => self.daemon.doing("watch", &format!("{why}; {unknown}")),
        }
    }

    /// Whether the others may be asked: not five times a second.
    fn may_ask(&mut self) -> bool {
        let now = Instant::now();
        if self.ask_after.is_some_and(|after| now < after) {
            return false;
        }
        self.ask_after = Some(now + self.daemon.settings.retry_interval);
        true
    }

    fn what_hinders(&mut self, now: &Overview, hint: u32) -> Result<Option<(Way, String)>, String> {
        let primary = self.search.find(&self.daemon, hint)?;
        primary.is_of_our_system(&self.daemon, &self.server)?;
        // One that has lost its WAL would keep it from what there is.
        primary.has_slot(&self.daemon, &standby_name(self.daemon.pgraft.node_id))?;
        let place = match &now.postgres.facts {
            Some(facts) => {
                let history = primary.history(&self.daemon)?;
                if has_diverged(facts.timeline, facts.lsn, primary.timeline, &history) {
                    let what = format!("has written what node {} does not have", primary.id);
                    return Ok(Some((Way::Rewind, what)));
                }
                Some(facts.lsn)
            }
            None => self.place_in_recovery(primary.segment_bytes),
        };
        let Some(place) = place else { return Ok(None) };
        let gone = !primary.has_wal_from(&self.daemon, place)?;
        let what = format!(
            "node {} has no longer the WAL from {}",
            primary.id,
            crate::probe::show_lsn(place)
        );
        Ok(gone.then_some((Way::Clone, what)))
    }

    /// Where recovery is, of a server that takes no connections: the titles of its processes say.
    /// Only once it has stayed there for long: what it has itself it replays in that time.
    fn place_in_recovery(&mut self, segment_bytes: u64) -> Option<u64> {
        let title = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
        let titles: Vec<String> = self.server.processes().into_iter().filter_map(title).collect();
        let segment = titles.iter().find_map(|title| segment_in_title(title.trim_matches('\0')))?;
        let place = segment_start(segment, segment_bytes)?;
        let since = match self.recovers {
            Some((same, since)) if same == place => since,
            _ => Instant::now(),
        };
        self.recovers = Some((place, since));
        (since.elapsed() >= STANDS_STILL_AFTER).then_some(place)
    }
}

/// The line of what a server said that shows that its data directory is of no use.
fn why_useless(said: &str) -> Option<String> {
    let line = said.lines().find(|line| USELESS.iter().any(|words| line.contains(words)))?;
    Some(line.to_owned())
}
