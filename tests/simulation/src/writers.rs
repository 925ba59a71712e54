//! Clients that commit on every server that lets them, as a backend does it: it looks at the fence,
//! writes, flushes, waits for standbys, looks again, and only then is the commit acknowledged.
//! Between any two of these it may be stopped.

use pgraft::shmem::Verdict;
use pgraft::wire::PgRole;

use crate::postgres::{Backend, Record, Step};
use crate::streaming::Act;
use crate::world::{What, World};

const MS: u64 = 1_000_000;

impl World {
    /// Someone commits something on each primary that there is.
    pub(crate) fn write(&mut self) {
        if self.mix.write_every_ns == 0 {
            return;
        }
        let pause = 1 + self.random.below(self.mix.write_every_ns);
        self.schedule(self.now_ns + pause, What::Write);
        let primaries: Vec<u32> = self
            .hosts
            .values()
            .filter(|host| host.pg.role == Some(PgRole::Primary) && !host.pg.stopped)
            .map(|host| host.node)
            .collect();
        for host in primaries {
            self.last_conn += 1;
            let (number, patience) = (self.last_conn, self.random.scaled(1, 3000) * MS);
            let patience_ns = self.now_ns + patience;
            let backend = Backend {
                lsn: 0,
                passed: Verdict::Refuse,
                epoch: 0,
                period: None,
                step: Step::Look,
                patience_ns,
            };
            self.pg_mut(host).backends.insert(number, backend);
            self.stats.commits_begun += 1;
            self.backend(host, number);
        }
    }

    /// A backend goes on after a moment; or, at times, after it was stopped for long.
    pub(crate) fn backend_later(&mut self, host: u32, number: u64) {
        let pause = match self.random.chance(self.mix.backend_stops_ppm) {
            true => self.random.scaled(1, 4000) * MS,
            false => self.random.scaled(5, 2000) * 1000,
        };
        self.act_later(host, pause, Act::Backend(number));
    }

    /// A backend does its next step.
    pub(crate) fn backend(&mut self, host: u32, number: u64) {
        let now_ns = self.now_ns;
        let found = self.hosts.get_mut(&host).expect("an installed machine");
        let (local_ns, pg) = (found.clock.local_ns(now_ns), &mut found.pg);
        let end = pg.wal.len() + 1;
        let Some(backend) = pg.backends.get_mut(&number) else { return };
        match backend.step {
            Step::Look => match pg.fence.verdict(local_ns) {
                passed @ Verdict::Pass { .. } => {
                    (backend.passed, backend.step) = (passed, Step::Append);
                    (backend.epoch, backend.period) = (pg.fence_epoch, self.auditor.period(host));
                    pg.count(true);
                    self.backend_later(host, number);
                }
                Verdict::Wait { .. } if now_ns < backend.patience_ns => {
                    let pause = self.random.between(20, 200) * MS;
                    self.act_later(host, pause, Act::Backend(number));
                }
                Verdict::Wait { .. } | Verdict::Refuse => {
                    pg.backends.remove(&number);
                    self.stats.commits_refused += 1;
                }
            },
            Step::Append => {
                (backend.lsn, backend.step) = (end, Step::Flush);
                let timeline = pg.timeline();
                pg.wal.push(Record { timeline, id: number });
                self.backend_later(host, number);
            }
            Step::Flush => {
                let lsn = backend.lsn;
                backend.step = Step::Wait;
                pg.flushed = pg.flushed.max(lsn);
                self.send_wal(host);
                self.release_commits(host);
            }
            Step::Wait => {}
            Step::Tell => {
                let (lsn, passed, period) = (backend.lsn, backend.passed, backend.period);
                let epoch = backend.epoch;
                pg.backends.remove(&number);
                pg.count(false);
                if !pg.fence.still_passes(local_ns, passed) {
                    self.stats.commits_open += 1;
                    return;
                }
                let record = pg.wal[lsn - 1];
                let successor = found.up.as_ref().and_then(|up| up.consensus.naming());
                self.stats.commits += 1;
                self.auditor.told(host, successor);
                self.auditor.acknowledged((host, now_ns), epoch, (lsn, record), period);
            }
        }
    }
}
