//! Servers by themselves: they recover, stream WAL from one another over the network's cuts, are
//! promoted, and end.

use pgraft::raft::NodeId;
use pgraft::shmem::Verdict;
use pgraft::wire::PgRole;

use crate::postgres::{Postgres, Receiver, Record, Sender, Step};
use crate::world::{What, World};

const MS: u64 = 1_000_000;
/// What a cut or stopped machine holds up is tried again after so long.
const AGAIN_NS: u64 = 100 * MS;

/// Something that the processes of one server do, or that reaches them.
#[derive(Clone, Debug)]
pub enum Act {
    /// Its recovery is over.
    Recovered,
    /// It is promoted.
    Promoted,
    /// Its startup process wants a WAL receiver.
    Connect,
    /// WAL arrives that begins at `from`.
    Wal { stream: u64, from: usize, records: Vec<Record> },
    /// A standby has flushed so much.
    Confirmed { stream: u64, standby: u32, lsn: usize },
    /// Its WAL receiver ends.
    ReceiverEnds { stream: u64 },
    /// The other end of a WAL sender is gone.
    SenderEnds { stream: u64, standby: u32 },
    /// A backend goes on.
    Backend(u64),
}

impl World {
    pub(crate) fn pg(&self, host: u32) -> &Postgres {
        &self.hosts[&host].pg
    }

    pub(crate) fn pg_mut(&mut self, host: u32) -> &mut Postgres {
        &mut self.hosts.get_mut(&host).expect("an installed machine").pg
    }

    /// A process of this run of the server does something later.
    pub(crate) fn act_later(&mut self, host: u32, pause_ns: u64, act: Act) {
        let boot = self.pg(host).boot;
        self.schedule(self.now_ns + pause_ns, What::Server { host, boot, act });
    }

    /// A server does something.
    pub(crate) fn act(&mut self, host: u32, boot: u64, act: Act) {
        let pg = self.pg(host);
        if pg.boot != boot || !pg.up {
            return;
        }
        if pg.stopped {
            return self.act_later(host, AGAIN_NS, act);
        }
        match act {
            Act::Recovered => self.recovered(host),
            Act::Promoted => self.promoted(host),
            Act::Connect => self.connect(host),
            Act::Wal { stream, from, records } => self.receive(host, stream, from, records),
            Act::Confirmed { stream, standby, lsn } => {
                if self.is_cut(standby, host) {
                    let act = Act::Confirmed { stream, standby, lsn };
                    return self.act_later(host, AGAIN_NS, act);
                }
                if let Some(sender) = self.pg_mut(host).senders.get_mut(&stream) {
                    sender.confirmed = sender.confirmed.max(lsn);
                    self.release_commits(host);
                }
            }
            Act::ReceiverEnds { stream } => self.receiver_ends(host, stream),
            Act::SenderEnds { stream, standby } => {
                if self.is_cut(standby, host) {
                    return self.act_later(host, AGAIN_NS, Act::SenderEnds { stream, standby });
                }
                self.pg_mut(host).senders.remove(&stream);
            }
            Act::Backend(backend) => self.backend(host, backend),
        }
    }

    fn is_cut(&self, from: u32, to: u32) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// How long something is on its way from server to server, fsync included.
    fn wal_latency(&mut self) -> u64 {
        let mix = &self.mix;
        let (spread, sync) = (mix.latency_spread_ns, mix.sync_ns.0);
        mix.latency_ns + self.random.below(spread + 1) + sync
    }

    /// A server starts.
    pub(crate) fn start_server(&mut self, host: u32) {
        if self.pg(host).up {
            return;
        }
        self.pg_mut(host).start();
        let (least, most) = self.mix.recovery_ms;
        let takes = self.random.scaled(least, most) * MS;
        self.act_later(host, takes, Act::Recovered);
    }

    fn recovered(&mut self, host: u32) {
        let pg = self.pg_mut(host);
        pg.flushed = pg.wal.len();
        let standby = pg.standby_signal;
        pg.role = Some(if standby { PgRole::Standby } else { PgRole::Primary });
        let role = pg.role;
        self.trace.line(self.now_ns, || format!("n{host}'s server is up as {role:?}"));
        self.want_receiver(host, 10);
        self.main_soon(host);
    }

    /// Its startup process asks for a receiver within so many milliseconds.
    pub(crate) fn want_receiver(&mut self, host: u32, within_ms: u64) {
        let pg = self.pg_mut(host);
        let wants = pg.role == Some(PgRole::Standby)
            && pg.conninfo.is_some()
            && pg.receiver.is_none()
            && !pg.connecting;
        if wants {
            pg.connecting = true;
            let pause = self.random.below(within_ms * MS);
            self.act_later(host, pause, Act::Connect);
        }
    }

    fn connect(&mut self, host: u32) {
        let pg = self.pg_mut(host);
        pg.connecting = false;
        let Some(upstream) = pg.conninfo else { return };
        if pg.receiver.is_some() || pg.promoting.is_some() || pg.role != Some(PgRole::Standby) {
            return;
        }
        let reached = !self.is_cut(host, upstream) && !self.is_cut(upstream, host);
        let fits = self.hosts.get(&upstream).is_some_and(|found| {
            let other = &found.pg;
            other.up && !other.stopped && other.role.is_some() && other.has_all_of(self.pg(host))
        });
        if upstream == host || !reached || !fits {
            return self.want_receiver(host, 1000);
        }
        self.last_conn += 1;
        let stream = self.last_conn;
        let sent = self.pg(host).wal.len();
        self.pg_mut(host).receiver = Some(Receiver { upstream, stream });
        let sender = Sender { standby: host, sent, in_flight: false, confirmed: sent };
        self.pg_mut(upstream).senders.insert(stream, sender);
        self.trace.line(self.now_ns, || format!("n{host}'s server streams from n{upstream}"));
        self.send_wal(upstream);
        self.main_soon(host);
    }

    /// Sends what is flushed to whoever has not got it.
    pub(crate) fn send_wal(&mut self, host: u32) {
        let pg = self.pg_mut(host);
        let end = pg.flushed;
        let mut parcels = Vec::new();
        for (stream, sender) in &mut pg.senders {
            if sender.sent < end && !sender.in_flight {
                let records = pg.wal[sender.sent..end].to_vec();
                let wal = Act::Wal { stream: *stream, from: sender.sent, records };
                (sender.in_flight, sender.sent) = (true, end);
                parcels.push((sender.standby, wal));
            }
        }
        for (standby, wal) in parcels {
            let pause = self.wal_latency();
            self.act_later(standby, pause, wal);
        }
    }

    fn receive(&mut self, host: u32, stream: u64, from: usize, records: Vec<Record>) {
        let pg = self.pg(host);
        let Some(receiver) = pg.receiver.filter(|receiver| receiver.stream == stream) else {
            return;
        };
        let upstream = receiver.upstream;
        if pg.stalled || self.is_cut(upstream, host) {
            return self.act_later(host, AGAIN_NS, Act::Wal { stream, from, records });
        }
        let pg = self.pg_mut(host);
        assert_eq!(pg.wal.len(), from, "a stream has no gaps");
        pg.wal.extend(records);
        pg.flushed = pg.wal.len();
        let lsn = pg.flushed;
        self.stats.wal_received += 1;
        self.send_wal(host);
        if let Some(sender) = self.pg_mut(upstream).senders.get_mut(&stream) {
            sender.in_flight = false;
            let back = self.wal_latency();
            self.act_later(upstream, back, Act::Confirmed { stream, standby: host, lsn });
            self.send_wal(upstream);
        }
    }

    fn receiver_ends(&mut self, host: u32, stream: u64) {
        let pg = self.pg_mut(host);
        let Some(receiver) = pg.receiver.filter(|receiver| receiver.stream == stream) else {
            return;
        };
        pg.receiver = None;
        self.tell_upstream(host, receiver);
        self.want_receiver(host, 300);
        self.main_soon(host);
    }

    fn tell_upstream(&mut self, host: u32, receiver: Receiver) {
        let Receiver { upstream, stream } = receiver;
        let pause = self.wal_latency();
        self.act_later(upstream, pause, Act::SenderEnds { stream, standby: host });
    }

    /// Where the receiver connects to from now on; one that runs ends if it is elsewhere.
    pub(crate) fn set_conninfo(&mut self, host: u32, conninfo: Option<u32>) {
        let pg = self.pg_mut(host);
        if pg.conninfo == conninfo {
            return;
        }
        pg.conninfo = conninfo;
        match pg.receiver {
            Some(receiver) => {
                let takes = self.random.scaled(1, 100) * MS;
                let act = Act::ReceiverEnds { stream: receiver.stream };
                self.act_later(host, takes, act);
            }
            None => self.want_receiver(host, 50),
        }
    }

    /// A standby begins to be promoted.
    pub(crate) fn promote(&mut self, host: u32, timeline: u32) {
        let takes = self.random.scaled(5, self.mix.promotion_ms) * MS;
        let pg = self.pg_mut(host);
        pg.promoting = Some(timeline);
        if let Some(receiver) = pg.receiver.take() {
            self.tell_upstream(host, receiver);
        }
        self.trace.line(self.now_ns, || format!("n{host}'s server is promoted onto {timeline}"));
        self.act_later(host, takes, Act::Promoted);
    }

    fn promoted(&mut self, host: u32) {
        let record = self.random.number();
        let pg = self.pg_mut(host);
        let Some(timeline) = pg.promoting.take() else { return };
        pg.wal.push(Record { timeline, id: record });
        pg.flushed = pg.wal.len();
        pg.role = Some(PgRole::Primary);
        pg.standby_signal = false;
        // Whoever's commits waited for these names before: all of it is to be confirmed anew.
        pg.names_lsn = pg.flushed;
        let lsn = pg.flushed;
        self.stats.promotions += 1;
        self.trace.line(self.now_ns, || format!("n{host} writes on timeline {timeline}, {lsn}"));
        self.auditor.promoted(host, timeline);
        self.send_wal(host);
        self.main_soon(host);
    }

    /// Waiting commits that have their standbys go on.
    pub(crate) fn release_commits(&mut self, host: u32) {
        let pg = self.pg_mut(host);
        let waiting: Vec<(u64, usize)> = pg
            .backends
            .iter()
            .filter(|(_, backend)| backend.step == Step::Wait)
            .map(|(number, backend)| (*number, backend.lsn))
            .collect();
        for (number, lsn) in waiting {
            if self.pg(host).is_confirmed(lsn) {
                if let Some(backend) = self.pg_mut(host).backends.get_mut(&number) {
                    backend.step = Step::Tell;
                }
                self.backend_later(host, number);
            }
        }
    }

    /// A server ends, as a crash ends it; with its machine, silently.
    pub(crate) fn end_server(&mut self, host: u32, machine_too: bool) {
        if !self.pg(host).up {
            return;
        }
        let (flushed, end) = (self.pg(host).flushed as u64, self.pg(host).wal.len() as u64);
        let kept = self.random.between(flushed, end) as usize;
        let receiver = self.pg(host).receiver;
        self.pg_mut(host).end(kept);
        if let Some(receiver) = receiver {
            self.tell_upstream(host, receiver);
        }
        // Those who stream from it learn of it now, or when they miss it.
        let from_it = |pg: &Postgres| pg.receiver.filter(|receiver| receiver.upstream == host);
        let standbys: Vec<(u32, u64)> = self
            .hosts
            .iter()
            .filter_map(|(node, found)| Some((*node, from_it(&found.pg)?.stream)))
            .collect();
        for (standby, stream) in standbys {
            let missed = machine_too || self.is_cut(host, standby);
            let pause = match missed {
                true => self.random.between(1000, 10_000) * MS,
                false => self.wal_latency(),
            };
            self.act_later(standby, pause, Act::ReceiverEnds { stream });
        }
        self.auditor.closed(host);
        self.trace.line(self.now_ns, || format!("n{host}'s server ends with {kept} records"));
    }

    /// An operator rewinds a server that cannot follow the primary, and starts it as a standby.
    /// Only to a primary that commits, and that the log names.
    pub(crate) fn rejoin(&mut self, host: u32) -> bool {
        let ups = self.hosts.values().filter_map(|host| host.up.as_ref());
        let newest = ups.map(|up| up.consensus.cluster()).max_by_key(|state| state.applied);
        let named = newest.and_then(|state| state.primary).map(|primary| primary.node.get());
        let Some(primary) = self.committing().filter(|_| self.committing() == named) else {
            return false;
        };
        let pg = self.pg(host);
        let apart = pg.role == Some(PgRole::Primary) || !self.pg(primary).has_all_of(pg);
        if host == primary || !pg.up || pg.role.is_none() || !apart || pg.stopped {
            return false;
        }
        self.kill(host);
        let source = self.pg(primary);
        let wal = source.wal[..source.flushed].to_vec();
        let pg = self.pg_mut(host);
        (pg.flushed, pg.wal) = (wal.len(), wal);
        (pg.standby_signal, pg.conninfo) = (true, Some(primary));
        self.stats.rewinds += 1;
        self.trace.line(self.now_ns, || format!("n{host}'s server is rewound to n{primary}'s"));
        true
    }

    /// Whose fence lets commits pass, and who can make them.
    pub(crate) fn committing(&self) -> Option<u32> {
        let mut passing = self.hosts.values().filter(|host| {
            let now = host.clock.local_ns(self.now_ns);
            host.pg.role == Some(PgRole::Primary)
                && matches!(host.pg.fence.verdict(now), Verdict::Pass { .. })
        });
        passing.next().map(|host| host.node)
    }

    /// What keeps the servers from being one primary and its standbys, by the log's word.
    pub(crate) fn servers_apart(&self, leader: u32, members: &[NodeId]) -> Option<String> {
        let primary = self.committing();
        if primary != Some(leader) {
            return Some(format!("n{leader} leads, and commits pass on {primary:?}"));
        }
        let strays = members.iter().map(|member| member.get()).find(|&node| {
            let streams = |pg: &Postgres| pg.receiver.is_some_and(|r| r.upstream == leader);
            node != leader && self.hosts.get(&node).is_some_and(|host| !streams(&host.pg))
        });
        strays.map(|node| format!("n{node}'s server does not stream from n{leader}'s"))
    }
}
