//! What goes wrong, and its end.

use pgraft::cluster::Request;
use pgraft::config::Config;
use pgraft::runtime::Event;
use pgraft::storage::testing::Fault as DiskFault;

use crate::hands::DiskSpeed;
use crate::host::Host;
use crate::mix::{FAULTS, Fault};
use crate::world::{What, World};

/// The end of something that goes wrong.
#[derive(Clone, Debug)]
pub enum Mend {
    /// A server is started.
    Start(u32),
    /// One way is open again.
    Unblock(u32, u32),
    /// A port takes callers again.
    Accept(u32),
    /// A stopped server goes on.
    Resume(u32),
    /// All processes of a stopped server go on.
    Continue(u32),
    /// Automatic failover goes on.
    Unpause(u32),
    /// A receiver gets WAL again.
    Unstall(u32),
    /// A disk is fast again.
    Hasten(u32),
}

impl World {
    /// Something goes wrong.
    pub(crate) fn fault(&mut self) {
        if self.mix.fault_every_ns == 0 {
            return;
        }
        let pause = 1 + self.random.below(self.mix.fault_every_ns);
        let weights = self.mix.faults;
        if let Some(at) = self.random.weighted(&weights) {
            self.stats.faults += 1;
            self.happen(FAULTS[at]);
        }
        self.schedule(self.now_ns + pause, What::Fault);
    }

    /// Ends a fault after some time.
    pub(crate) fn mend_later(&mut self, mend: Mend) {
        let after = self.random.scaled(10, self.mix.lasts_ns / 1_000_000) * 1_000_000;
        self.schedule(self.now_ns + after, What::Mend(mend));
    }

    fn victim(&mut self) -> u32 {
        if let Some(leader) = self.leader()
            && self.random.chance(self.mix.leader_ppm)
        {
            return leader;
        }
        let all: Vec<u32> = self.hosts.keys().copied().collect();
        self.random.pick(&all)
    }

    fn happen(&mut self, fault: Fault) {
        let victim = self.victim();
        let other = self.victim();
        self.trace.mix(&[fault as u64, u64::from(victim)]);
        self.trace.line(self.now_ns, || format!("n{victim}: {fault:?}"));
        match fault {
            Fault::Kill => {
                self.kill(victim);
                self.mend_later(Mend::Start(victim));
            }
            Fault::PowerCut => {
                self.power_cut(victim);
                self.mend_later(Mend::Start(victim));
            }
            Fault::DieSoon => {
                let effects = self.random.scaled(0, 60) as u32;
                if let Some(up) = self.up(victim) {
                    up.out.borrow_mut().effects_left = Some(effects);
                }
            }
            Fault::DieWriting => {
                if let Some(up) = self.up(victim) {
                    up.out.borrow_mut().die_writing = true;
                }
            }
            Fault::CutOneWay => self.cut_for_a_while(victim, other),
            Fault::CutPair => {
                self.cut_for_a_while(victim, other);
                self.cut_for_a_while(other, victim);
            }
            Fault::Isolate => {
                let all: Vec<u32> = self.hosts.keys().copied().collect();
                for node in all {
                    self.cut_for_a_while(victim, node);
                    self.cut_for_a_while(node, victim);
                }
            }
            Fault::Split => self.split(),
            Fault::CloseConnection => {
                let open = self.open_conns();
                if !open.is_empty() {
                    let conn = self.random.pick(&open);
                    self.break_conn(conn);
                }
            }
            Fault::RefusePort => {
                self.host_mut(victim).refusing = true;
                self.break_conns(victim);
                self.mend_later(Mend::Accept(victim));
            }
            Fault::Pause => {
                if let Some(up) = self.up_mut(victim) {
                    up.paused = true;
                    self.mend_later(Mend::Resume(victim));
                }
            }
            Fault::SlowDisk => {
                let spread_ns = self.random.scaled(5, 3000) * 1_000_000;
                self.host_mut(victim).disk_speed = DiskSpeed { least_ns: 0, spread_ns };
                self.mend_later(Mend::Hasten(victim));
            }
            Fault::DiskError => self.fail_disk(victim, DiskFault::Io),
            Fault::DiskFull => {
                let room = self.random.below(400) as usize;
                self.fail_disk(victim, DiskFault::NoSpace(room));
            }
            Fault::Wipe => self.wipe_one(victim),
            Fault::Reconfigure => self.reconfigure(victim),
            Fault::Bounce => {
                let spared = self.leader().filter(|_| self.random.coin());
                let all: Vec<u32> = self.hosts.keys().copied().collect();
                for node in all {
                    if Some(node) != spared && !self.random.chance(250_000) {
                        self.bounce(node);
                    }
                }
            }
            Fault::RestartWorker
            | Fault::StopServer
            | Fault::StallReceiver
            | Fault::RestartFrozen
            | Fault::LoseCopies
            | Fault::SwitchMode => self.happen_to_server(victim, fault),
            Fault::Blackout => {
                let all: Vec<u32> = self.hosts.keys().copied().collect();
                for node in all {
                    self.power_cut(node);
                    self.mend_later(Mend::Start(node));
                }
            }
        }
    }

    /// What goes wrong with a Postgres server, or with what is set for it.
    fn happen_to_server(&mut self, victim: u32, fault: Fault) {
        let mend = match fault {
            Fault::RestartWorker => {
                // The primary's above all: its server commits until the lease is over.
                let leader = self.leader().filter(|_| self.random.chance(800_000));
                let victim = leader.unwrap_or(victim);
                self.end_worker(victim);
                let after = self.random.scaled(1, 8000) * 1_000_000;
                return self.schedule(self.now_ns + after, What::Mend(Mend::Start(victim)));
            }
            Fault::StopServer => {
                self.pg_mut(victim).stopped = self.pg(victim).up;
                if let Some(up) = self.up_mut(victim) {
                    up.paused = true;
                }
                Mend::Continue(victim)
            }
            Fault::StallReceiver => {
                self.pg_mut(victim).stalled = true;
                Mend::Unstall(victim)
            }
            Fault::RestartFrozen => {
                let frozen = |host: &&Host| host.pg.standby_signal && host.pg.conninfo.is_none();
                let frozen: Vec<u32> =
                    self.hosts.values().filter(frozen).map(|host| host.node).collect();
                if frozen.is_empty() {
                    return;
                }
                let victim = self.random.pick(&frozen);
                self.kill(victim);
                Mend::Start(victim)
            }
            Fault::LoseCopies => return self.lose_copies(),
            _ => {
                // Of all, so that the next primary has it, too.
                let synchronous = self.random.coin();
                let all: Vec<u32> = self.hosts.keys().copied().collect();
                for node in all {
                    self.host_mut(node).synchronous = synchronous;
                    let config = Event::Reconfigure(Box::new(self.hosts[&node].config()));
                    self.tell(node, config);
                }
                return;
            }
        };
        self.mend_later(mend);
    }

    /// The primary dies, and so do most of those that have all that it can have acknowledged, but
    /// not for long.
    fn lose_copies(&mut self) {
        let Some(primary) = self.committing() else { return };
        self.kill(primary);
        self.mend_later(Mend::Start(primary));
        let ends = |host: &Host| host.pg.wal.len();
        let most = self.hosts.values().filter(|host| host.node != primary).map(ends).max();
        let copies: Vec<u32> = self
            .hosts
            .values()
            .filter(|host| host.node != primary && Some(ends(host)) == most)
            .map(|host| host.node)
            .collect();
        for node in copies {
            if self.random.chance(800_000) {
                self.bounce(node);
            }
        }
    }

    /// A server is killed and started again, sooner than anyone loses patience.
    fn bounce(&mut self, node: u32) {
        self.kill(node);
        let after = self.random.scaled(1, 100) * 1_000_000;
        self.schedule(self.now_ns + after, What::Mend(Mend::Start(node)));
    }

    /// A fence has opened: perhaps not for long.
    pub(crate) fn fence_opened(&mut self, host: u32) {
        if self.random.chance(self.mix.opened_dies_ppm) {
            let after = self.random.scaled(20, 2000) * 1_000_000;
            self.schedule(self.now_ns + after, What::Strike { host, bounces: false });
        }
    }

    /// A server that receives nothing any more has said how far it is.
    pub(crate) fn has_frozen(&mut self, host: u32) {
        if self.random.chance(self.mix.frozen_dies_ppm) {
            let after = self.random.scaled(1, 20) * 1_000_000;
            self.schedule(self.now_ns + after, What::Strike { host, bounces: true });
        }
    }

    /// What was planned for a server happens.
    pub(crate) fn strike(&mut self, host: u32, bounces: bool) {
        // Not to what was healed meanwhile.
        if self.mix.fault_every_ns == 0 || self.up(host).is_none() {
            return;
        }
        self.stats.faults += 1;
        self.trace.line(self.now_ns, || format!("n{host} is struck"));
        if bounces {
            return self.bounce(host);
        }
        self.kill(host);
        self.mend_later(Mend::Start(host));
    }

    fn host_mut(&mut self, node: u32) -> &mut crate::host::Host {
        self.hosts.get_mut(&node).expect("an installed machine")
    }

    fn cut_for_a_while(&mut self, from: u32, to: u32) {
        if from != to {
            self.block(from, to, true);
            self.mend_later(Mend::Unblock(from, to));
        }
    }

    fn split(&mut self) {
        let all: Vec<u32> = self.hosts.keys().copied().collect();
        let side: Vec<bool> = all.iter().map(|_| self.random.coin()).collect();
        let after = self.random.scaled(10, self.mix.lasts_ns / 1_000_000) * 1_000_000;
        for (from, one) in all.iter().zip(&side) {
            for (to, other) in all.iter().zip(&side) {
                if one != other {
                    self.block(*from, *to, true);
                    self.schedule(self.now_ns + after, What::Mend(Mend::Unblock(*from, *to)));
                }
            }
        }
    }

    fn fail_disk(&mut self, node: u32, fault: DiskFault) {
        let after = self.random.below(6);
        self.host_mut(node).disk.fail_after(after, fault);
    }

    /// At most one directory at a time, and only one of whose loss the others can do without.
    fn wipe_one(&mut self, node: u32) {
        let lost = self.hosts.values().filter(|host| self.is_lost(host)).count();
        let spares = self.hosts.len() - self.mix.nodes as usize;
        if self.judge.committed() == 0 || lost > spares || self.mix.nodes < 3 {
            return;
        }
        self.power_cut(node);
        self.wipe(node);
        self.stats.wipes += 1;
        self.mend_later(Mend::Start(node));
    }

    fn reconfigure(&mut self, node: u32) {
        let heartbeat_ms = 50 * self.random.between(1, 4) as u32;
        let election_ms = heartbeat_ms * self.random.between(3, 12) as u32;
        let host = self.host_mut(node);
        (host.heartbeat_ms, host.election_ms) = (heartbeat_ms, election_ms);
        let config: Config = host.config();
        self.tell(node, Event::Reconfigure(Box::new(config)));
    }

    /// Something is mended.
    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Start(node) => {
                if !self.start(node) {
                    self.mend_later(Mend::Start(node));
                }
            }
            Mend::Unblock(from, to) => self.block(from, to, false),
            Mend::Accept(node) => self.host_mut(node).refusing = false,
            Mend::Resume(node) => self.resume(node),
            Mend::Continue(node) => {
                self.pg_mut(node).stopped = false;
                self.resume(node);
            }
            Mend::Unpause(node) => {
                self.request(node, Request::SetPaused { paused: false }, 5000);
            }
            Mend::Unstall(node) => self.pg_mut(node).stalled = false,
            Mend::Hasten(node) => {
                let (least_ns, spread_ns) = self.mix.sync_ns;
                self.host_mut(node).disk_speed = DiskSpeed { least_ns, spread_ns };
            }
        }
    }

    fn resume(&mut self, node: u32) {
        if let Some(up) = self.up_mut(node)
            && up.paused
        {
            up.paused = false;
            self.plan_run(node);
        }
    }

    /// Nothing is wrong any more, and nothing goes wrong.
    pub(crate) fn heal(&mut self) {
        self.mix.fault_every_ns = 0;
        self.mix.wish_every_ns = 0;
        self.mix.ask_every_ns = 0;
        self.mix.backend_stops_ppm = 0;
        self.mix.promotion_ms = self.mix.promotion_ms.min(500);
        self.auditor.by_hand = false;
        self.mix.lost_ppm = 0;
        self.mix.doubled_ppm = 0;
        self.mix.reordered_ppm = 0;
        self.mix.delayed_ppm = 0;
        // A network and disks that the shortest timeouts suit.
        (self.mix.latency_ns, self.mix.latency_spread_ns) = (100_000, 1_000_000);
        (self.mix.lag_ns, self.mix.sync_ns) = (100_000, (100_000, 1_000_000));
        self.unblock_all();
        let all: Vec<u32> = self.hosts.keys().copied().collect();
        for node in all {
            let timeouts = (self.mix.heartbeat_ms, self.mix.election_ms);
            let host = self.host_mut(node);
            (host.heartbeat_ms, host.election_ms) = timeouts;
            host.auto_failover = true;
            (host.pg.stopped, host.pg.stalled) = (false, false);
            let config = Event::Reconfigure(Box::new(host.config()));
            self.tell(node, config);
            let host = self.host_mut(node);
            host.refusing = false;
            host.disk.mend();
            if let Some(up) = &host.up {
                let mut out = up.out.borrow_mut();
                (out.effects_left, out.die_writing) = (None, false);
            }
            self.mend(Mend::Hasten(node));
            self.resume(node);
            assert!(self.start(node), "a sound disk opens");
        }
    }
}
