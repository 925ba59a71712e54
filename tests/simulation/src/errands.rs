//! The worker's main thread: it looks how its server is doing, and makes it what the log says, a
//! step at a time and each after a while. It dies with the worker; what it did stays done.

use std::collections::BTreeSet;

use pgraft::cluster::Address;
use pgraft::raft::{LogIndex, NodeId};
use pgraft::runtime::duty::{Duty, Synchronous, Task};
use pgraft::runtime::{Event, ToMain};
use pgraft::wire::{Ask, PgRole, Report, Standing};

use crate::postgres::{Names, Postgres};
use crate::world::{What, World};

const MS: u64 = 1_000_000;
/// How long a stopped thread's errand waits before it is looked at again.
const AGAIN_NS: u64 = 20 * MS;
/// Until a probe that nobody answers is given up.
const PROBE_NS: u64 = 800 * MS;

/// What the thread remembers.
#[derive(Debug, Default)]
pub struct Main {
    duty: Duty,
    told: Report,
    hindrance: String,
    /// A look at the duty is to come.
    looks: bool,
    /// `synchronous_standby_names` is about to be changed.
    renames: bool,
}

impl Main {
    /// Whether commits wait for whom they are to wait for, and nothing is about to change that.
    pub fn has_names(&self, pg: &Postgres) -> bool {
        let wanted = self.duty.synchronous.as_ref();
        !self.renames && wanted.is_some_and(|wanted| pg.names == names(wanted))
    }

    /// For people.
    pub fn summary(&self) -> String {
        let Report { names_at, synchronous_at, .. } = self.told;
        let (task, names) = (&self.duty.task, &self.duty.synchronous);
        let at = (names_at.0, synchronous_at.0);
        format!("is to {task:?}, names {names:?}, said {at:?} {}", self.hindrance)
    }
}

/// One thing that it does.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Says how the server is doing.
    Report,
    /// Says how far it has come, frozen if that is asked.
    Standing(Ask),
    /// Flushes a primary's WAL.
    Flush,
    /// Looks at its duty.
    Look,
    /// Has changed whom commits wait for.
    Rename(Synchronous),
}

impl World {
    /// The main thread is told something.
    pub(crate) fn main_hears(&mut self, host: u32, message: ToMain) {
        let errand = match message {
            ToMain::WantReport => Errand::Report,
            ToMain::WantStanding(ask) => Errand::Standing(ask),
            ToMain::WantFlush => Errand::Flush,
            ToMain::Duty(duty) => {
                self.trace.line(self.now_ns, || format!("n{host} is to {duty:?}"));
                if let Some(up) = self.up_mut(host) {
                    up.main.duty = *duty;
                }
                return self.look_soon(host, 10);
            }
            other => panic!("a deed of its own: {other:?}"),
        };
        let pause = self.main_pause();
        self.errand_later(host, pause, errand);
    }

    fn main_pause(&mut self) -> u64 {
        match self.random.chance(10_000) {
            true => self.random.scaled(10, 2000) * MS,
            false => self.random.scaled(10, 5000) * 1000,
        }
    }

    fn errand_later(&mut self, host: u32, pause_ns: u64, errand: Errand) {
        let boot = self.hosts[&host].boot;
        self.schedule(self.now_ns + pause_ns, What::Errand { host, boot, errand });
    }

    /// Something changed with the server: its main thread sees it soon.
    pub(crate) fn main_soon(&mut self, host: u32) {
        self.look_soon(host, 100);
    }

    fn look_soon(&mut self, host: u32, within_ms: u64) {
        let pause = self.random.below(within_ms * MS);
        if let Some(up) = self.up_mut(host)
            && !up.main.looks
        {
            up.main.looks = true;
            self.errand_later(host, pause, Errand::Look);
        }
    }

    /// The main thread does something.
    pub(crate) fn errand(&mut self, host: u32, errand: Errand) {
        let up = self.up(host).expect("it was asked for");
        if up.paused || self.pg(host).stopped {
            return self.errand_later(host, AGAIN_NS, errand);
        }
        match errand {
            Errand::Report => {
                let report = self.report_of(host);
                self.tell_report(host, report);
                self.look_soon(host, 50);
            }
            Errand::Standing(ask) => self.standing(host, ask),
            Errand::Flush => {
                let pg = self.pg_mut(host);
                pg.flushed = pg.wal.len();
                let lsn = pg.flushed as u64;
                self.send_wal(host);
                self.tell(host, Event::Flushed { lsn });
            }
            Errand::Look => self.look(host),
            Errand::Rename(synchronous) => self.rename(host, &synchronous),
        }
    }

    fn tell_report(&mut self, host: u32, report: Report) {
        if let Some(up) = self.up_mut(host) {
            up.main.told = report;
        }
        self.tell(host, Event::Report(report));
    }

    fn report_of(&self, host: u32) -> Report {
        let pg = self.pg(host);
        let main = &self.up(host).expect("it was asked for").main;
        let wanted =
            main.duty.synchronous.as_ref().filter(|wanted| {
                !main.renames && { pg.role.is_some() && pg.names == names(wanted) }
            });
        let at = |wanted: Option<&Synchronous>| wanted.map_or(LogIndex(0), |w| w.members_at);
        let confirmed =
            wanted.filter(|_| pg.role == Some(PgRole::Primary) && pg.is_confirmed(pg.names_lsn));
        Report {
            pg_role: pg.role,
            wal_lsn: pg.lsn(),
            timeline: pg.timeline(),
            fork: pg.position().fork().filter(|_| pg.role == Some(PgRole::Primary)),
            receiving: pg.receiver.is_some(),
            stopping: false,
            names_at: at(wanted),
            synchronous_at: at(confirmed),
        }
    }

    /// Freezes, if that is asked; says how far the server has come once it is done.
    fn standing(&mut self, host: u32, ask: Ask) {
        let standby = self.pg(host).role == Some(PgRole::Standby);
        if ask.freeze && standby {
            self.set_conninfo(host, None);
            if self.pg(host).receiver.is_some() {
                return self.errand_later(host, 5 * MS, Errand::Standing(ask));
            }
        }
        let pg = self.pg(host);
        let obstacle = pg.promoting.map_or(String::new(), |_| "it is being promoted".to_owned());
        let standing = Standing {
            pg_role: pg.role,
            position: pg.position(),
            system_identifier: 1,
            receiving: pg.receiver.is_some(),
            frozen: ask.freeze && standby,
            obstacle,
        };
        self.trace.line(self.now_ns, || format!("n{host} stands at {standing:?}"));
        let frozen = standing.frozen;
        self.tell(host, Event::Standing { ask, standing: Box::new(standing) });
        if frozen {
            self.has_frozen(host);
        }
    }

    /// Goes a step on the way from what the server is to what it is to be.
    fn look(&mut self, host: u32) {
        let Some(up) = self.up_mut(host) else { return };
        up.main.looks = false;
        let duty = up.main.duty.clone();
        let pg = self.pg(host);
        let (mut again, mut hindrance) = (false, "");
        match (&duty.task, pg.role) {
            (_, None) => again = true,
            (Task::BePrimary { timeline }, Some(PgRole::Standby)) => {
                again = true;
                if pg.promoting.is_none() && pg.timeline() < *timeline {
                    self.promote(host, *timeline);
                } else if pg.promoting.is_none() {
                    hindrance = "its history has that timeline already";
                }
            }
            (Task::Follow { .. }, Some(PgRole::Primary)) => hindrance = "it must be rewound",
            (_, Some(PgRole::Standby)) if pg.promoting.is_some() => again = true,
            (Task::Follow { node, .. }, Some(PgRole::Standby)) => {
                self.set_conninfo(host, Some(node.get()));
            }
            (Task::Freeze, Some(PgRole::Standby)) => self.set_conninfo(host, None),
            (Task::Nothing | Task::BePrimary { .. } | Task::Freeze, Some(_)) => {}
        }
        if let Some(wanted) = &duty.synchronous {
            again |= self.see_to_names(host, wanted);
        }
        let report = self.report_of(host);
        let up = self.up_mut(host).expect("it was asked for");
        if up.main.hindrance != hindrance {
            up.main.hindrance = hindrance.to_owned();
            let what = hindrance.to_owned();
            let hindrance = Event::Hindrance { what, blocked: !hindrance.is_empty() };
            self.tell(host, hindrance);
        }
        let told = self.up(host).expect("it was asked for").main.told;
        if report != (Report { wal_lsn: report.wal_lsn, ..told }) {
            self.tell_report(host, report);
        }
        if again {
            self.look_soon(host, 150);
        }
    }

    /// Whether there is more to do for whom commits wait.
    fn see_to_names(&mut self, host: u32, wanted: &Synchronous) -> bool {
        let found = &self.hosts[&host];
        let (pg, main) = (&found.pg, &found.up.as_ref().expect("it was asked for").main);
        if pg.names == names(wanted) || pg.role.is_none() || main.renames {
            // On a primary the standbys are waited for, too.
            return pg.role == Some(PgRole::Primary) && !pg.is_confirmed(pg.names_lsn);
        }
        let slow = self.random.chance(self.mix.slow_names_ppm);
        let takes = self.random.scaled(1, if slow { 6000 } else { 300 }) * MS;
        self.up_mut(host).expect("it was asked for").main.renames = true;
        self.errand_later(host, takes, Errand::Rename(wanted.clone()));
        true
    }

    fn rename(&mut self, host: u32, synchronous: &Synchronous) {
        self.up_mut(host).expect("it was asked for").main.renames = false;
        let pg = self.pg_mut(host);
        if pg.role.is_none() {
            return self.look_soon(host, 10);
        }
        pg.names = names(synchronous);
        pg.names_lsn = pg.wal.len();
        self.trace.line(self.now_ns, || format!("n{host}'s commits wait for {synchronous:?}"));
        self.release_commits(host);
        self.look_soon(host, 10);
    }

    /// A node asks whether a Postgres answers at `address`.
    pub(crate) fn probe(&mut self, host: u32, address: Address) {
        let to = u32::from(address.port()) - 5400;
        let cut = self.blocked.contains_key(&(host, to)) || self.blocked.contains_key(&(to, host));
        let there = self.hosts.get(&to);
        let silent = cut || there.is_none_or(|there| !there.powered || there.pg.stopped);
        let answers = !silent && there.is_some_and(|there| there.pg.up);
        let pause = if silent { PROBE_NS } else { self.random.scaled(50, 20_000) * 1000 };
        let boot = self.hosts[&host].boot;
        self.schedule(self.now_ns + pause, What::Probed { host, boot, address, answers });
    }
}

fn names(synchronous: &Synchronous) -> Names {
    let standbys: BTreeSet<NodeId> = match synchronous.needed {
        0 => BTreeSet::new(),
        _ => synchronous.standbys.clone(),
    };
    Names { needed: synchronous.needed, standbys }
}
