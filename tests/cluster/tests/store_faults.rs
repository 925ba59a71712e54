//! A hundred kills, pauses and restarts of real servers while clients on all of them use the
//! key/value store: what the clients were told is linearizable, and in the end all nodes hold the
//! same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{await_voters, equal, expect};
use pgraft_cluster::random::{Random, seed};
use pgraft_cluster::{Cluster, Failure, Options, Result, Session, SqlError, Stop};
use pgraft_cluster::{wait_for, with};
use pgraft_history::{History, Op, Ret};

const CLIENTS: usize = 6;
/// Used at the same time.
const KEYS: usize = 4;
/// A key is left after so many operations, because the checker's work grows steeply with them.
const OPERATIONS_A_KEY: usize = 24;
/// A server that was killed recovers in well under a second on an idle machine.
const BACK_AT_MOST: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    KillServer,
    KillWorker,
    PauseServer,
    PauseWorker,
    Restart,
}

/// A hundred in all.
const FAULTS: [(Fault, usize); 5] = [
    (Fault::KillServer, 25),
    (Fault::KillWorker, 25),
    (Fault::PauseServer, 20),
    (Fault::PauseWorker, 15),
    (Fault::Restart, 15),
];

/// What the clients share.
struct Workload {
    ports: Vec<u16>,
    history: Mutex<History>,
    begun: AtomicUsize,
    done: AtomicBool,
}

#[test]
fn a_hundred_faults_leave_a_linearizable_history() {
    with(Cluster::form("store-faults", Options::default()), |cluster| {
        let seed = seed();
        let mut random = Random::new(seed);
        let work = Arc::new(Workload {
            ports: cluster.nodes().iter().map(|node| node.place.pg_port).collect(),
            history: Mutex::default(),
            begun: AtomicUsize::new(0),
            done: AtomicBool::new(false),
        });
        let clients: Vec<JoinHandle<usize>> = (0..CLIENTS)
            .map(|client| {
                let (work, random) = (work.clone(), Random::new(seed ^ (client as u64 + 1)));
                std::thread::spawn(move || Client::new(client, work, random).run())
            })
            .collect();
        let began = Instant::now();
        let injected = inject_all(cluster, &mut random);
        work.done.store(true, Ordering::Relaxed);
        let mut refused = 0;
        for client in clients {
            refused += client.join().map_err(|_| Failure::new("a client panicked"))?;
        }
        let injected = injected?;
        println!("{injected:?} in {:?}", began.elapsed());

        come_to_rest(cluster)?;
        read_all(cluster, &work)?;
        let history = lock(&work.history);
        let checking = Instant::now();
        let checked = history.check().map_err(|violation| Failure::new(violation.to_string()))?;
        println!(
            "{} operations on {} keys, {refused} refused, {} writes of unknown outcome: \
             linearizable (checked in {:?})",
            checked.known,
            checked.keys,
            checked.unknown,
            checking.elapsed()
        );
        expect(checked.known >= 500, || "the clients hardly got through".to_owned())?;
        for node in cluster.nodes() {
            let log = node.log();
            let bad = ["panicked", "PANIC", "lost data", "damaged", "terminated by signal 6"];
            let found = log.lines().find(|line| bad.iter().any(|bad| line.contains(bad)));
            expect(found.is_none(), || format!("node {}: {found:?}", node.id()))?;
        }
        Ok(())
    });
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no client panics while it holds the history")
}

/// One client: one operation after another, on a random server each.
struct Client {
    number: usize,
    work: Arc<Workload>,
    random: Random,
    sessions: Vec<Option<Session>>,
    /// What it last knew of each key: a good guess makes some of its cas succeed.
    seen: BTreeMap<String, Option<String>>,
    refused: usize,
}

impl Client {
    fn new(number: usize, work: Arc<Workload>, random: Random) -> Client {
        let sessions = work.ports.iter().map(|_| None).collect();
        Client { number, work, random, sessions, seen: BTreeMap::new(), refused: 0 }
    }

    /// Until the workload is done; how many operations were refused.
    fn run(mut self) -> usize {
        while !self.work.done.load(Ordering::Relaxed) {
            let server = self.random.below(self.work.ports.len());
            match self.session(server) {
                Ok(mut session) => {
                    if self.operate(server, &mut session) {
                        self.sessions[server] = Some(session);
                    }
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        self.refused
    }

    fn session(&mut self, server: usize) -> Result<Session> {
        if let Some(open) = self.sessions[server].take() {
            return Ok(open);
        }
        let mut session = Session::connect(self.work.ports[server])?;
        session.run("SET pgraft.command_timeout = '4s'")?;
        Ok(session)
    }

    /// One operation; whether the connection is still good.
    fn operate(&mut self, server: usize, session: &mut Session) -> bool {
        let begun = self.work.begun.fetch_add(1, Ordering::Relaxed);
        let key = format!("key-{:05}", begun / OPERATIONS_A_KEY + self.random.below(KEYS));
        let op = self.choose(&key, begun);
        let who = format!("client {} on node {}", self.number, server + 1);
        let ticket = lock(&self.work.history).begin(who, &key, op.clone());
        let answer = ask(session, &key, &op);
        match answer {
            Ok(ret) => {
                lock(&self.work.history).end(ticket, ret.clone());
                self.learn(key, op, ret);
                true
            }
            Err(error) if never_happened(&error) => {
                self.refused += 1;
                lock(&self.work.history).refused(ticket);
                true
            }
            Err(error) => error.sqlstate.as_deref() == Some("40003"),
        }
    }

    fn choose(&mut self, key: &str, begun: usize) -> Op {
        let value = format!("value-{begun}");
        match self.random.below(20) {
            0..8 => Op::Get,
            8..14 => Op::Put(value),
            14..18 => Op::Cas(self.seen.get(key).cloned().flatten(), value),
            _ => Op::Delete,
        }
    }

    fn learn(&mut self, key: String, op: Op, ret: Ret) {
        let value = match (op, ret) {
            (Op::Put(value) | Op::Cas(_, value), Ret::Done(true)) => Some(value),
            (Op::Get, Ret::Value(value)) => value,
            (Op::Delete, _) => None,
            _ => return,
        };
        self.seen.insert(key, value);
    }
}

fn ask(session: &mut Session, key: &str, op: &Op) -> std::result::Result<Ret, SqlError> {
    let sql = match op {
        Op::Put(value) => format!("SELECT pgraft_kv_put('{key}', '{value}')"),
        Op::Delete => format!("SELECT pgraft_kv_delete('{key}')"),
        Op::Cas(None, value) => format!("SELECT pgraft_kv_cas('{key}', NULL, '{value}')"),
        Op::Cas(Some(old), value) => format!("SELECT pgraft_kv_cas('{key}', '{old}', '{value}')"),
        Op::Get => {
            return Ok(Ret::Value(session.value(&format!("SELECT pgraft_kv_get('{key}')"))?));
        }
    };
    Ok(Ret::Done(session.is_true(&sql)?))
}

/// What the documentation promises of these errors: nothing was changed, nor will be.
fn never_happened(error: &SqlError) -> bool {
    matches!(error.sqlstate.as_deref(), Some("57P03" | "55000" | "53000"))
}

fn inject_all(cluster: &mut Cluster, random: &mut Random) -> Result<BTreeMap<Fault, usize>> {
    let mut order: Vec<Fault> =
        FAULTS.iter().flat_map(|(fault, times)| vec![*fault; *times]).collect();
    random.shuffle(&mut order);
    let mut injected = BTreeMap::new();
    for fault in order {
        // The leader's faults are the interesting ones.
        let leader = cluster.leader_within(Duration::ZERO).map(|(leader, _)| leader);
        let any = 1 + random.below(3) as u32;
        let id = if random.below(2) == 0 { leader.unwrap_or(any) } else { any };
        inject(cluster, id, fault, random)?;
        *injected.entry(fault).or_default() += 1;
        // Sometimes at once, sometimes when the cluster has found itself again.
        std::thread::sleep(Duration::from_millis(random.below(400) as u64));
        if random.below(3) == 0 {
            cluster.leader_within(BACK_AT_MOST)?;
        }
    }
    Ok(injected)
}

fn inject(cluster: &mut Cluster, id: u32, fault: Fault, random: &mut Random) -> Result<()> {
    let a_while = Duration::from_millis(random.below(1500) as u64);
    let worker = |cluster: &Cluster| {
        let what = format!("node {id} has a worker");
        wait_for(&what, BACK_AT_MOST, || Ok(cluster.node(id).worker()))
    };
    match fault {
        Fault::KillServer => {
            cluster.node_mut(id).kill();
            std::thread::sleep(a_while / 2);
            cluster.node_mut(id).start()
        }
        Fault::KillWorker => {
            worker(cluster)?.kill();
            wait_for(&format!("node {id} takes connections again"), BACK_AT_MOST, || {
                Ok(cluster.node(id).session()?.is_true("SELECT true")?.then_some(()))
            })
        }
        Fault::PauseServer => {
            cluster.node(id).pause();
            std::thread::sleep(a_while);
            cluster.node(id).resume();
            Ok(())
        }
        Fault::PauseWorker => {
            let worker = worker(cluster)?;
            worker.pause();
            std::thread::sleep(a_while);
            worker.resume();
            Ok(())
        }
        Fault::Restart => {
            cluster.node_mut(id).stop(Stop::Fast)?;
            std::thread::sleep(a_while / 4);
            cluster.node_mut(id).start()
        }
    }
}

fn come_to_rest(cluster: &Cluster) -> Result<()> {
    cluster.leader_within(BACK_AT_MOST)?;
    await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
    for node in cluster.nodes() {
        wait_for(&format!("node {} is healthy", node.id()), BACK_AT_MOST, || {
            Ok(node.session()?.is_true("SELECT pgraft_is_healthy()")?.then_some(()))
        })?;
    }
    Ok(())
}

/// Every key once more, on every node; and the whole store, which is the same everywhere.
fn read_all(cluster: &Cluster, work: &Workload) -> Result<()> {
    let mut stores = Vec::new();
    for node in cluster.nodes() {
        let store = node.session()?.rows("SELECT * FROM pgraft_kv()")?;
        for key in (0..work.begun.load(Ordering::Relaxed) / OPERATIONS_A_KEY + KEYS)
            .map(|number| format!("key-{number:05}"))
        {
            let found = store.iter().find(|row| row[0].as_deref() == Some(&key));
            let value = found.and_then(|row| row[1].clone());
            let mut history = lock(&work.history);
            let ticket = history.begin(format!("the end on node {}", node.id()), &key, Op::Get);
            history.end(ticket, Ret::Value(value));
        }
        stores.push(store);
    }
    println!("{} keys are left", stores[0].len());
    equal(&stores[0], &stores[1], "the stores of nodes 1 and 2")?;
    equal(&stores[0], &stores[2], "the stores of nodes 1 and 3")
}
