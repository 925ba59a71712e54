//! The worker's hand: makes this server's Postgres what the log says that it is to be. It is told
//! what (`ToMain::Duty`), looks what is, and does the first thing that leads from here to there;
//! then it looks again. So it may be interrupted anywhere, and an outcome is not believed but
//! seen. It never decides who is what.
//!
//! - here — what is wanted, what is under way, what hinders
//! - `promotion` — from standby to primary, onto the right timeline
//! - `upstream` — whom a standby receives WAL from, if anyone
//! - `confirm` — whether all that was committed is confirmed by the members there are now
//! - `flush` — all that was committed is on disk

use std::time::Duration;

use pgrx::pg_sys;

use crate::config::Config;
use crate::hand::advice::advice;
use crate::hand::errand::Op;
use crate::hand::pace::Pace;
use crate::hand::slots::{Use, plan};
use crate::pg::errand::Errand;
use crate::pg::{facts, receiver, slots, synchronous};
use crate::runtime::Runtime;
use crate::runtime::duty::{Duty, Synchronous, Task};
use crate::sys;
use crate::wire::{Ask, PgRole, Report};

use super::confirm::Confirm;
use super::promotion::Promotion;
use super::upstream::Upstream;

/// How often a promotion, a freeze, or a confirmation that is under way is looked at.
const LOOK_SOON: Duration = Duration::from_millis(3);
/// The same for what takes longer than it should.
const LOOK_LATER: Duration = Duration::from_millis(100);
/// After so long it does.
const SOON_AT_MOST: Duration = Duration::from_secs(3);
/// How often it is looked whether all is as it should be: anyone may change a setting or a slot.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A helper process takes some ten milliseconds; one that is not there after so long waits for a
/// place, or for a state of the server that it may never reach.
const ERRAND_MAX: Duration = Duration::from_secs(10);
const DEPOSED: &str =
    "this server is a deposed primary: rewind it with pg_rewind, see docs/failover.md";

/// What the hand works with.
pub(super) struct Scene<'a> {
    pub(super) config: &'a Config,
    pub(super) runtime: &'a Runtime,
}

/// What there is to do, as far as can be seen now.
#[derive(Default)]
struct Wish {
    ops: Vec<Op>,
    /// What keeps it from being done.
    hindrance: String,
    /// To be promoted onto this timeline.
    promote: Option<u32>,
    /// Something is under way that is over in a moment.
    soon: bool,
    /// Something is awaited that may take a while.
    later: bool,
}

/// The worker's hand.
#[derive(Default)]
pub(super) struct Hand {
    duty: Option<Box<Duty>>,
    /// The newest question, and whether it has had an answer that could be better.
    asked: Option<(Ask, bool)>,
    /// Since a question that asked for it, until the next duty.
    freezes: bool,
    errand: Option<Errand>,
    /// When it was sent.
    sent_ns: u64,
    /// What it is to do, or the last one did.
    ops: Vec<Op>,
    /// Why the last one failed, or did not help.
    trouble: String,
    pace: Pace,
    upstream: Upstream,
    promotion: Option<Promotion>,
    confirm: Confirm,
    /// It was said what should be set otherwise; a server alone needs none of it.
    advised: bool,
    /// What was last said about hindrances.
    told: (String, bool),
    reported: Report,
    /// When to look; 0: now.
    due_ns: u64,
    /// Since when something is to be over in a moment.
    soon_since_ns: Option<u64>,
}

impl Hand {
    /// What Postgres is to be from now on. One that says the same again lifts a freeze, too.
    pub(super) fn take_duty(&mut self, duty: Box<Duty>) {
        log::debug!("duty: {duty:?}");
        self.freezes = false;
        // A leader that wants to know, and named nobody yet, is answered all the same.
        self.asked = self.asked.filter(|(ask, _)| !ask.freeze || duty.task == Task::Freeze);
        if self.duty.as_ref() != Some(&duty) {
            self.start_afresh();
        }
        if !self.advised && !duty.slots.is_empty() {
            self.advised = true;
            for advice in advice(&facts::settings(), duty.slots.len()) {
                log::warn!("{advice}");
            }
        }
        self.duty = Some(duty);
        self.due_ns = 0;
    }

    /// Somebody wants to know how far Postgres has come.
    pub(super) fn take_ask(&mut self, ask: Ask) {
        if ask.freeze && !self.freezes {
            self.freezes = true;
            self.start_afresh();
        }
        self.asked = Some((ask, false));
        self.due_ns = 0;
    }

    /// The configuration was read again, or a signal came that may be an errand's.
    pub(super) fn look(&mut self) {
        self.due_ns = 0;
    }

    /// Consensus has ended on this node: nothing is wanted any more.
    pub(super) fn let_go(&mut self) {
        *self = Hand::default();
    }

    fn start_afresh(&mut self) {
        self.pace.reset();
        self.trouble.clear();
        self.ops.clear();
    }

    /// When there is something to look at.
    pub(super) fn due_ns(&self) -> Option<u64> {
        (self.duty.is_some() || self.asked.is_some()).then_some(self.due_ns)
    }

    /// How Postgres is doing, with what only the hand knows.
    pub(super) fn report(&self) -> Report {
        let (names_at, synchronous_at) = (self.confirm.names_at(), self.confirm.members_at());
        Report { names_at, synchronous_at, ..facts::report() }
    }

    /// Does what there is to do now.
    pub(super) fn act(&mut self, scene: &Scene<'_>) {
        let now_ns = sys::now_boottime_ns();
        let over = self.errand.as_ref().is_some_and(|errand| errand.outcome().is_some());
        if !over && self.due_ns().is_none_or(|due_ns| due_ns > now_ns) {
            return;
        }
        self.take_outcome(now_ns);
        let role = facts::role();
        if role == Some(PgRole::Primary)
            && let Some(promotion) = self.promotion.take()
        {
            promotion.finish();
        }
        let mut wish = self.wish(role, scene, now_ns);
        self.send(&wish, now_ns);
        if let Some(timeline) = wish.promote {
            match Promotion::go_on(&mut self.promotion, timeline, now_ns) {
                Ok(()) => wish.soon = true,
                Err(why) => wish.hindrance = why,
            }
        }
        wish.soon |= self.answer(role, &wish.hindrance, scene);
        self.tell(&wish, scene, now_ns);
        self.tell_change(scene);
        self.plan_next(&wish, now_ns);
    }

    fn take_outcome(&mut self, now_ns: u64) {
        let Some(outcome) = self.errand.as_ref().and_then(Errand::outcome) else { return };
        self.errand = None;
        let sets = self.ops.iter().any(|op| matches!(op, Op::Set { .. }));
        if sets {
            // What the errand wrote. The postmaster's SIGHUP comes on its own way.
            // SAFETY: the main thread, outside of any transaction, as at a reload.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
        match outcome {
            Ok(()) => {
                self.trouble.clear();
                if self.ops.contains(&Op::Settle) {
                    self.upstream.settled();
                }
            }
            Err(why) => {
                self.trouble = why;
                self.pace.failed(now_ns);
            }
        }
    }

    /// What is to be done here and now.
    fn wish(&mut self, role: Option<PgRole>, scene: &Scene<'_>, now_ns: u64) -> Wish {
        let mut wish = Wish::default();
        let none = Duty::default();
        let duty = self.duty.as_deref().unwrap_or(&none);
        let task = if self.freezes { &Task::Freeze } else { &duty.task };
        let standby = match role {
            Some(role) => role == PgRole::Standby,
            None => return wish,
        };
        let own_slots = match task {
            Task::BePrimary { timeline } => {
                wish.promote = standby.then_some(*timeline);
                Some(Use::Hold)
            }
            Task::Follow { .. } | Task::Freeze if !standby => {
                if matches!(task, Task::Follow { .. }) {
                    wish.hindrance = DEPOSED.to_owned();
                }
                None
            }
            Task::Follow { node, address } => {
                let (ops, hindrance) = self.upstream.follow(scene.config, *node, address, now_ns);
                (wish.ops, wish.hindrance) = (ops, hindrance);
                wish.later = self.upstream.starves(now_ns);
                Some(Use::Wait)
            }
            Task::Freeze => {
                match self.upstream.freeze(now_ns) {
                    Ok(ops) => wish.ops = ops,
                    Err(why) => wish.hindrance = why,
                }
                wish.soon = !self.upstream.is_frozen();
                None
            }
            Task::Nothing if standby => Some(Use::Wait),
            Task::Nothing => Some(Use::Hold),
        };
        // Before anything is known of the cluster, nothing is known of its members either.
        if let Some(what_for) = own_slots.filter(|_| duty.epoch > 0) {
            wish.ops.extend(plan(&slots::physical(), &duty.slots, what_for));
        }
        let deposed = !standby && matches!(task, Task::Follow { .. } | Task::Freeze);
        if let Some(synchronous) = duty.synchronous.as_ref().filter(|_| !deposed) {
            let (present, names) = (synchronous::names(), names(synchronous));
            // The operator's own names are left alone while commits wait for no members.
            let ours = synchronous.needed > 0 || present.contains("pgraft_");
            if present != names && ours {
                if synchronous::may_change() {
                    wish.ops.push(Op::Set { name: synchronous::SETTING.to_owned(), value: names });
                    wish.ops.push(Op::Reload);
                } else {
                    wish.later = true;
                }
            }
            wish.soon |= !standby && self.confirm.look(synchronous, now_ns);
        }
        wish
    }

    /// Sends an errand, unless one is under way or the last one failed a moment ago.
    fn send(&mut self, wish: &Wish, now_ns: u64) {
        if wish.ops.is_empty() {
            if self.errand.is_none() {
                self.start_afresh();
            }
            return;
        }
        if self.errand.is_some() || !self.pace.allows(now_ns) {
            return;
        }
        let done_already = self.trouble.is_empty() && self.ops == wish.ops;
        if done_already && self.pace.due_ns().is_none_or(|due_ns| due_ns < now_ns) {
            // Once more, but not at once: somebody works against us.
            self.trouble = in_vain(&wish.ops);
            return self.pace.failed(now_ns);
        }
        self.ops.clone_from(&wish.ops);
        match Errand::send(&wish.ops) {
            Ok(errand) => (self.errand, self.sent_ns) = (Some(errand), now_ns),
            Err(why) => {
                self.trouble = why;
                self.pace.hindered(now_ns);
            }
        }
        self.upstream.note_sent(&self.ops);
    }

    /// Answers the question there is, once it can be. Whether there will be another answer.
    fn answer(&mut self, role: Option<PgRole>, hindrance: &str, scene: &Scene<'_>) -> bool {
        let Some((ask, answered)) = self.asked else { return false };
        let freezes = ask.freeze && role == Some(PgRole::Standby) && !Promotion::is_under_way();
        let frozen = freezes && self.upstream.is_frozen();
        if freezes && !frozen {
            let why = if hindrance.is_empty() { &self.trouble } else { hindrance };
            if !answered && !why.is_empty() {
                // No answer that counts, but the leader can say why there is none.
                scene.runtime.standing(ask, facts::unfrozen(ask, why));
                self.asked = Some((ask, true));
            }
            return true;
        }
        // It has WAL on disk that it has not looked at: there will be a better answer.
        let wait = role == Some(PgRole::Standby) && !receiver::has_reached_end_of_wal();
        if !(answered && wait) {
            let standing = facts::standing(ask, frozen);
            log::debug!("standing for {ask:?}: {standing:?}");
            scene.runtime.standing(ask, standing);
        }
        self.asked = wait.then_some((ask, true));
        wait
    }

    fn tell(&mut self, wish: &Wish, scene: &Scene<'_>, now_ns: u64) {
        let late_ns = self.sent_ns + ERRAND_MAX.as_nanos() as u64;
        if self.errand.is_some() && now_ns >= late_ns && self.trouble.is_empty() {
            self.trouble = "pgraft's helper process does not come up or hangs: \
                            is max_worker_processes large enough, and hot_standby on?"
                .to_owned();
        }
        let text = match wish.hindrance.is_empty() {
            true => &self.trouble,
            false => &wish.hindrance,
        };
        let blocked = !wish.hindrance.is_empty();
        if (text, blocked) != (&self.told.0, self.told.1) {
            self.told = (text.clone(), blocked);
            scene.runtime.hindrance(text.clone(), blocked);
        }
    }

    /// What the leader waits for is told at once, not with the next second's report: until it is
    /// known that a promotion has happened, nobody writes.
    fn tell_change(&mut self, scene: &Scene<'_>) {
        let report = self.report();
        let told = self.reported;
        if (Report { wal_lsn: told.wal_lsn, ..report }) != told {
            self.reported = report;
            scene.runtime.report(report);
        }
    }

    fn plan_next(&mut self, wish: &Wish, now_ns: u64) {
        self.soon_since_ns = if wish.soon { self.soon_since_ns.or(Some(now_ns)) } else { None };
        let in_time = |since_ns| now_ns - since_ns < SOON_AT_MOST.as_nanos() as u64;
        let pause = match self.soon_since_ns {
            Some(since_ns) if in_time(since_ns) => LOOK_SOON,
            Some(_) => LOOK_LATER,
            None if wish.later => LOOK_LATER,
            None => LOOK_AGAIN,
        };
        let next_ns = now_ns + pause.as_nanos() as u64;
        let retry_ns = self.pace.due_ns().filter(|due_ns| *due_ns > now_ns);
        self.due_ns = retry_ns.map_or(next_ns, |retry_ns| retry_ns.min(next_ns));
    }
}

/// What `synchronous_standby_names` is to say.
pub(super) fn names(synchronous: &Synchronous) -> String {
    use crate::hand::standby_name;
    if synchronous.needed == 0 {
        return String::new();
    }
    let all: Vec<String> = synchronous.standbys.iter().map(|&id| standby_name(id)).collect();
    format!("ANY {} ({})", synchronous.needed, all.join(", "))
}

fn in_vain(ops: &[Op]) -> String {
    let set = ops.iter().find_map(|op| match op {
        Op::Set { name, .. } => Some(name),
        _ => None,
    });
    match set {
        Some(name) => format!(
            "{name} was set by ALTER SYSTEM and is something else: is it set on the command line?"
        ),
        None => "replication slots are not as they were made".to_owned(),
    }
}
