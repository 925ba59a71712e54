//! The hand: the only thread that does something to the server. It looks at the board, does the
//! first thing that leads from what is to what the Raft log decided, and looks again; an outcome is
//! not believed but seen. What is to be done is `policy.rs`'s to say.

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
use crate::overview::{BOARD_AGE_MAX, Overview, PgState};
use crate::policy::{Known, Wish, wish};
use crate::primary::{Primary, Search, has_diverged, segment_start};
use crate::recovery::{AtWork, has_wal_behind, waits_for_wal};
use crate::rejoin::{Rejoin, Way, finish_clone};
use crate::server::Server;
use crate::server_log;
use crate::swap::prune;
use crate::threads;
use crate::watched::Watched;

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);

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
    /// What shows only over some time.
    watched: Watched,
    /// What copies have left was removed since the last rejoin.
    pruned: bool,
    /// The last rejoin was a rewind, and the server has not been well since.
    rewound: bool,
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
            watched: Watched::default(),
            pruned: false,
            rewound: false,
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
        self.watched.acted();
    }

    // ---- by itself ----

    fn act(&mut self) {
        let now = self.daemon.board.latest();
        // Something older than the last action, or nothing yet.
        if !self.watched.is_news(&now) {
            return;
        }
        // Whoever looks stands still, or everything did.
        if now.age(now_boottime_ns()) > BOARD_AGE_MAX {
            self.daemon.doing("wait", "what is known of the server is old");
            return;
        }
        let known = self.learn(&now);
        self.tidy_up(&now);
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

    /// Takes in what the board shows.
    fn learn(&mut self, now: &Overview) -> Known {
        self.watched.see(now);
        if self.watched.is_well() {
            (self.useless, self.rewound) = (None, false);
        }
        if self.watched.is_well_for_long(now) {
            self.starts.reset();
            self.rejoins.reset();
        }
        if self.daemon.memory.get().stopped_by_order && now.postgres.state == PgState::Answering {
            // Somebody started it: that is an order, too.
            let forgot = self.daemon.memory.change(|memory| memory.stopped_by_order = false);
            forgot.unwrap_or_else(|why| log::warn!("{why}"));
        }
        Known {
            useless: self.useless.clone(),
            starving: self.watched.starving(now),
            in_state: self.watched.in_state(now),
        }
    }

    /// What copies have left is needed no more once the server is well. One that has been well, or
    /// has written something itself, is to be kept when another takes its place.
    fn tidy_up(&mut self, now: &Overview) {
        let well = self.watched.is_well_for_long(now);
        let wrote = now.postgres.facts.as_ref().is_some_and(|facts| !facts.in_recovery);
        let memory = self.daemon.memory.get();
        if memory.untried && (well || wrote) {
            let tried = self.daemon.memory.change(|memory| memory.untried = false);
            tried.unwrap_or_else(|why| log::warn!("{why}"));
        }
        let pending = memory.step != Step::None || memory.joining.is_some();
        if well && !self.pruned && !pending {
            prune(&self.daemon.settings).unwrap_or_else(|why| log::warn!("{why}"));
            self.pruned = true;
        }
    }

    fn start(&mut self, why: &str) {
        if !self.starts.allows(Instant::now()) {
            return;
        }
        let began = Instant::now();
        self.daemon.doing("start", why);
        let log = &self.daemon.settings.server_log;
        let before = server_log::length(log);
        let mut outcome = control::start(&self.daemon, &self.server);
        if let Err(error) = &mut outcome {
            let said = server_log::said_since(log, before);
            error.extend(server_log::why_ended(&said).map(|line| format!(": {line}")));
            self.useless = server_log::why_useless(&said).map(str::to_owned);
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
            self.watched.acted();
            return;
        }
        self.rewound = way == Way::Rewind;
        (self.useless, self.pruned) = (None, false);
        self.daemon.trouble("");
        self.watched.acted();
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
        let work = AtWork::of(&self.server);
        if let Some(facts) = &now.postgres.facts {
            let history = primary.history(&self.daemon)?;
            // The control file tells of the last restartpoint's, which may be that before.
            let timeline = work.as_ref().map_or(0, |work| work.timeline).max(facts.timeline);
            if has_diverged(timeline, facts.lsn, primary.timeline, &history) {
                let what = format!("has written what node {} does not have", primary.id);
                return Ok(Some((Way::Rewind, what)));
            }
        }
        let place = self.waits_for(now, &primary, work)?;
        let gone = !primary.has_wal_from(&self.daemon, place)?;
        let what = format!(
            "node {} has no longer the WAL from {}",
            primary.id,
            crate::probe::show_lsn(place)
        );
        Ok(gone.then_some((Way::Clone, what)))
    }

    /// From where on the server needs WAL that neither it nor the archive has. `Err`: it is not
    /// known to wait for any; one that has something to replay, however late, needs no other.
    fn waits_for(
        &mut self,
        now: &Overview,
        primary: &Primary,
        work: Option<AtWork>,
    ) -> Result<u64, String> {
        let bytes = primary.segment_bytes;
        let begins = work.as_ref().and_then(|work| segment_start(&work.segment, bytes));
        let Some(facts) = &now.postgres.facts else {
            let (Some(work), Some(place)) = (work, begins) else {
                return Err("it is not known where its recovery is".to_owned());
            };
            let still = self.watched.stands_still(now, place);
            let data = &self.daemon.settings.data;
            if !still || work.restores || has_wal_behind(data, &work.segment, bytes) {
                return Err("it recovers".to_owned());
            }
            return Ok(place);
        };
        if facts.replay_paused {
            return Err("its replay is paused".to_owned());
        }
        if !self.watched.stands_still(now, facts.lsn) {
            return Err("it replays what it has".to_owned());
        }
        if !waits_for_wal(&self.server, &self.daemon.settings)? {
            return Err("its replay is held back, or has more to replay".to_owned());
        }
        // A record that is not whole here began before.
        Ok(facts.lsn.max(begins.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::Parts;
    use crate::files::remove_tree;
    use crate::history::History;
    use crate::memory::MemoryFile;
    use crate::orders::Orders;
    use crate::overview::{Page, PgFacts, Postgres};
    use crate::settings::Settings;
    use pgraft::config::Config;
    use std::fs;
    use std::path::{Path, PathBuf};

    const SECOND: u64 = 1_000_000_000;

    /// A hand for a server that is nowhere, and its folder.
    fn work(name: &str) -> (Work, PathBuf) {
        let folder = format!("ramd-hand-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        remove_tree(&folder).unwrap();
        fs::create_dir_all(folder.join("state")).unwrap();
        let at = |name: &str| folder.join(name);
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
        let place = folder.display();
        write(
            &at("ramd.conf"),
            &format!(
                "postgresql_data_directory = {place}/data\nramd_state_directory = {place}/state\n\
                 hung_timeout_seconds = 30\n"
            ),
        );
        write(
            &at("pgraft.conf"),
            &format!("raft_node_id = 1\nraft_cluster_id = c\nraft_data_dir = {place}/raft\n"),
        );
        let daemon = Daemon::new(Parts {
            settings: Settings::load(&at("ramd.conf")).unwrap(),
            pgraft: Config::load(&at("pgraft.conf")).unwrap(),
            history: History::open(&at("state/history.jsonl")).unwrap(),
            memory: MemoryFile::open(&at("state/memory.json")).unwrap(),
            orders: Orders::channel().0,
        });
        (Work::new(&daemon), folder)
    }

    /// Puts up a board, taken then, with a server like that.
    fn put(work: &Work, taken_ns: u64, state: PgState, facts: Option<PgFacts>) {
        let page = Page { state: "member", primary_id: 2, ..Page::default() };
        work.daemon.board.update(|board| {
            board.take(taken_ns);
            board.node_id = 1;
            board.page = Some(page);
            board.postgres = Postgres { state, facts, ..Postgres::default() };
        });
    }

    fn learn(work: &mut Work) -> Known {
        let now = work.daemon.board.latest();
        work.learn(&now)
    }

    /// Boards each second from `from` to `to`, seconds before now.
    fn watch(
        work: &mut Work,
        from: u64,
        to: u64,
        state: PgState,
        facts: Option<&PgFacts>,
    ) -> Known {
        let now = now_boottime_ns();
        for ago in (to..=from).rev() {
            put(work, now - ago * SECOND, state, facts.cloned());
            learn(work);
        }
        learn(work)
    }

    fn restarts(work: &Work) -> usize {
        work.daemon.history.latest(100).iter().filter(|event| event.what == "restart").count()
    }

    #[test]
    fn an_old_board_is_not_acted_on_and_a_pause_is_not_a_time_in_which_a_server_hung() {
        let (mut work, folder) = work("old");
        // All stands still for a minute, and what was seen last is a late answer.
        let known = watch(&mut work, 65, 60, PgState::Hung, None);
        assert_eq!(known.in_state.as_secs(), 5);
        work.act();
        // The hand wakes up first, and then whoever looks, still with that answer.
        put(&work, now_boottime_ns(), PgState::Hung, None);
        assert_eq!(learn(&mut work).in_state, Duration::ZERO);
        work.act();
        assert_eq!(restarts(&work), 0);
        remove_tree(&folder).unwrap();
        // One that is seen to hang all the time is restarted, but not for an old board.
        let (mut work, folder) = self::work("hung");
        let known = watch(&mut work, 40, 3, PgState::Hung, None);
        assert_eq!(known.in_state.as_secs(), 37);
        work.act();
        assert_eq!(restarts(&work), 0);
        let known = watch(&mut work, 2, 0, PgState::Hung, None);
        assert_eq!(known.in_state.as_secs(), 40);
        work.act();
        assert_eq!(restarts(&work), 1);
        remove_tree(&folder).unwrap();
    }

    #[test]
    fn a_copy_has_been_tried_once_it_was_well_for_long_or_wrote_something() {
        let (mut work, folder) = work("untried");
        let untried = |work: &Work| work.daemon.memory.get().untried;
        let is_untried = |memory: &mut crate::memory::Memory| memory.untried = true;
        let old = ["data.old-1", "data.old-2"].map(|name| folder.join(name));
        old.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        work.daemon.memory.change(is_untried).unwrap();
        let streams = PgFacts { in_recovery: true, streaming: true, ..PgFacts::default() };
        let tidy_up = |work: &mut Work| {
            let now = work.daemon.board.latest();
            work.tidy_up(&now);
        };
        watch(&mut work, 100, 41, PgState::Answering, Some(&streams));
        tidy_up(&mut work);
        assert!(untried(&work) && old[0].exists());
        watch(&mut work, 40, 40, PgState::Answering, Some(&streams));
        tidy_up(&mut work);
        assert!(!untried(&work) && !old[0].exists() && old[1].exists());
        work.daemon.memory.change(is_untried).unwrap();
        watch(&mut work, 1, 0, PgState::Answering, Some(&PgFacts::default()));
        tidy_up(&mut work);
        assert!(!untried(&work));
        remove_tree(&folder).unwrap();
    }
}
