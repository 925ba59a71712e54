//! SIGKILL to everything that can be killed, sixty times in random order, while the membership
//! changes: nothing that was confirmed is lost, and no term has two leaders.

mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgraft_cluster::check::{await_voters, equal, expect, members};
use pgraft_cluster::random::{Random, seed};
use pgraft_cluster::{Cluster, Failure, Node, Options, Process, Result, Session, Stop};
use pgraft_cluster::{wait_for, with};

/// Of each kind.
const KILLS: usize = 20;
/// A server that was killed recovers in well under a second on an idle machine.
const BACK_AT_MOST: Duration = Duration::from_secs(30);
/// The nodes that the load adds are never there; their ids and ports begin here, above the range
/// from which Linux takes ports for outgoing connections.
const FIRST_GUEST: u32 = 61_000;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Victim {
    Postmaster,
    Worker,
    Backend,
}

/// What was confirmed to the load.
#[derive(Default)]
struct Confirmed {
    added: BTreeSet<u32>,
    removed: BTreeSet<u32>,
    updates: u64,
    failures: u64,
}

#[test]
fn sixty_kills_lose_nothing_and_no_term_has_two_leaders() {
    static DONE: AtomicBool = AtomicBool::new(false);
    with(Cluster::form("kills", Options::default()), |cluster| {
        let mut random = Random::new(seed());
        cluster
            .node(1)
            .session()?
            .run("CREATE TABLE load (n bigint); INSERT INTO load VALUES (0)")?;
        let ports: Vec<u16> = cluster.nodes().iter().map(|node| node.place.pg_port).collect();
        let load = {
            let ports = ports.clone();
            std::thread::spawn(move || load(&ports, &DONE))
        };
        let watch = std::thread::spawn(move || watch(&ports, &DONE));

        let began = Instant::now();
        let killed = kill_all(cluster, &mut random);
        println!("{} kills in {:?}", 3 * KILLS, began.elapsed());
        DONE.store(true, Ordering::Relaxed);
        let confirmed = join(load)?;
        let mut leaders = join(watch)?;
        let killed = killed?;
        println!(
            "confirmed: {} nodes added, {} removed, {} updates; {} attempts failed",
            confirmed.added.len(),
            confirmed.removed.len(),
            confirmed.updates,
            confirmed.failures,
        );
        expect(confirmed.removed.len() >= 10, || "the load hardly got through".to_owned())?;

        let commit = come_to_rest(cluster)?;
        let sql = "SELECT n FROM load";
        let updates: u64 =
            cluster.node(1).session()?.value(sql)?.and_then(|n| n.parse().ok()).unwrap_or(0);
        expect(updates >= confirmed.updates, || format!("{updates} updates are left"))?;
        cluster.stop_all(Stop::Fast)?;
        compare_logs(cluster, commit, &confirmed)?;
        for node in cluster.nodes() {
            for term in terms_led(&node.log()) {
                leaders.entry(term).or_default().insert(node.id());
            }
            no_other_restart(node, &killed)?;
        }
        println!("{} terms had a leader", leaders.len());
        let twice: Vec<_> = leaders.iter().filter(|(_, nodes)| nodes.len() > 1).collect();
        expect(twice.is_empty(), || format!("terms with two leaders: {twice:?}"))
    });
}

fn join<T>(thread: JoinHandle<T>) -> Result<T> {
    thread.join().map_err(|_| Failure::new("a thread of the test panicked"))
}

/// Every kill; which victims each node lost.
fn kill_all(cluster: &mut Cluster, random: &mut Random) -> Result<Vec<(u32, Victim)>> {
    let kinds = [Victim::Postmaster, Victim::Worker, Victim::Backend];
    let mut order: Vec<Victim> = kinds.iter().flat_map(|kind| [*kind; KILLS]).collect();
    random.shuffle(&mut order);
    let mut killed = Vec::new();
    for victim in order {
        let id = 1 + random.below(3) as u32;
        match victim {
            Victim::Postmaster => {
                cluster.node_mut(id).kill();
                std::thread::sleep(Duration::from_millis(random.below(600) as u64));
                cluster.node_mut(id).start()?;
            }
            Victim::Worker => {
                let node = cluster.node(id);
                let what = format!("node {id} has a worker");
                wait_for(&what, BACK_AT_MOST, || Ok(node.worker()))?.kill();
                await_back(node)?;
            }
            Victim::Backend => kill_backend(cluster.node(id))?,
        }
        killed.push((id, victim));
        // Sometimes at once, sometimes when the cluster has found itself again.
        std::thread::sleep(Duration::from_millis(random.below(400) as u64));
        if random.below(4) == 0 {
            cluster.leader_within(BACK_AT_MOST)?;
        }
    }
    Ok(killed)
}

/// A backend of the load's if there is one, else one of our own that is waiting for the cluster.
fn kill_backend(node: &Node) -> Result<()> {
    let own = wait_for("a connection", BACK_AT_MOST, || node.session().map(Some))?;
    let backends: Vec<Process> =
        node.processes().into_iter().filter(|p| p.title().contains(" 127.0.0.1(")).collect();
    let first = backends.first().ok_or_else(|| Failure::new("no backend is to be found"))?;
    first.kill();
    drop(own);
    await_back(node)
}

/// The postmaster starts everything anew after a child was killed.
fn await_back(node: &Node) -> Result<()> {
    std::thread::sleep(Duration::from_millis(30)); // it has to notice first
    wait_for(&format!("node {} takes connections again", node.id()), BACK_AT_MOST, || {
        Ok(node.session()?.is_true("SELECT true")?.then_some(()))
    })
}

/// Adds and removes nodes that are not there, each once, through one server after another.
fn load(ports: &[u16], done: &AtomicBool) -> Confirmed {
    let mut confirmed = Confirmed::default();
    let mut asked = 0;
    for guest in FIRST_GUEST.. {
        // An add whose outcome is not known is asked for again until it is: doing it twice is
        // doing it once.
        let add = format!("SELECT pgraft_add_node('127.0.0.1:{guest}', {guest})");
        let remove = format!("SELECT pgraft_remove_node({guest})");
        for (sql, added) in [(&add, true), (&remove, false)] {
            loop {
                if done.load(Ordering::Relaxed) {
                    return confirmed;
                }
                asked += 1;
                let port = ports[asked % ports.len()];
                match change(port, sql) {
                    Ok(_) if added => confirmed.added.insert(guest),
                    // False: an earlier attempt did it after all.
                    Ok(_) => confirmed.removed.insert(guest),
                    Err(_) => {
                        confirmed.failures += 1;
                        std::thread::sleep(Duration::from_millis(50));
                        continue;
                    }
                };
                break;
            }
        }
        let update =
            || Session::connect(ports[0])?.run("UPDATE load SET n = n + 1").map_err(Failure::from);
        match update() {
            Ok(()) => confirmed.updates += 1,
            Err(_) => confirmed.failures += 1,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    confirmed
}

fn change(port: u16, sql: &str) -> Result<bool> {
    let mut session = Session::connect(port)?;
    session.run("SET pgraft.command_timeout = '3s'")?;
    Ok(session.is_true(sql)?)
}

/// Who says of itself that it leads, by term.
fn watch(ports: &[u16], done: &AtomicBool) -> BTreeMap<u64, BTreeSet<u32>> {
    let mut leaders: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    let mut sessions: Vec<Option<Session>> = ports.iter().map(|_| None).collect();
    while !done.load(Ordering::Relaxed) {
        for (session, port) in sessions.iter_mut().zip(ports) {
            if session.is_none() {
                *session = Session::connect(*port).ok();
            }
            let Some(open) = session else { continue };
            let sql = "SELECT node_id, current_term FROM pgraft_status() WHERE role = 'leader'";
            match open.rows(sql) {
                Ok(rows) => {
                    for row in rows {
                        let number = |i: usize| row[i].as_deref().and_then(|n| n.parse().ok());
                        if let (Some(node), Some(term)) = (number(0), number(1)) {
                            leaders.entry(term).or_default().insert(node as u32);
                        }
                    }
                }
                Err(_) => *session = None, // killed: connect again
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    leaders
}

/// Removes what the load left and waits until all nodes are healthy and equally far; how far.
fn come_to_rest(cluster: &Cluster) -> Result<u64> {
    cluster.leader_within(BACK_AT_MOST)?;
    for guest in members(cluster.leader_node()?, false)?.into_iter().filter(|id| *id > 3) {
        cluster.node(1).session()?.run(&format!("SELECT pgraft_remove_node({guest})"))?;
    }
    await_voters(cluster, &[1, 2, 3], &[1, 2, 3])?;
    logs::await_rest(cluster, BACK_AT_MOST)
}

/// The nodes' logs agree in every committed entry, and hold everything that was confirmed.
fn compare_logs(cluster: &Cluster, commit: u64, confirmed: &Confirmed) -> Result<()> {
    let changes = logs::agreed_changes(cluster, commit)?;
    let lost: Vec<_> = confirmed.added.difference(&changes.added).collect();
    expect(lost.is_empty(), || format!("confirmed and lost: the addition of {lost:?}"))?;
    let lost: Vec<_> = confirmed.removed.difference(&changes.removed).collect();
    expect(lost.is_empty(), || format!("confirmed and lost: the removal of {lost:?}"))
}

/// The terms that a node led, by its log.
fn terms_led(log: &str) -> Vec<u64> {
    let says = "this node is the leader in term ";
    log.lines().filter_map(|line| line.split_once(says)?.1.trim().parse().ok()).collect()
}

/// Postgres restarted after our kills and for no other reason.
fn no_other_restart(node: &Node, killed: &[(u32, Victim)]) -> Result<()> {
    let log = node.log();
    let own = |victim: Victim| killed.iter().filter(|kill| **kill == (node.id(), victim)).count();
    let children = own(Victim::Worker) + own(Victim::Backend);
    let restarts = log.matches("terminating any other active server processes").count();
    println!(
        "node {}: {children} children and {} postmasters killed, {restarts} crash restarts",
        node.id(),
        own(Victim::Postmaster),
    );
    expect(restarts <= children, || {
        format!("node {} restarted {restarts} times after {children} kills", node.id())
    })?;
    let mut ends = log.lines().filter(|line| line.contains("was terminated by signal"));
    let other = ends.find(|line| !line.contains("signal 9"));
    expect(other.is_none(), || format!("node {}: {other:?}", node.id()))?;
    let bad = log.lines().find(|line| line.contains("panicked") || line.contains("PANIC"));
    expect(bad.is_none(), || format!("node {}: {bad:?}", node.id()))?;
    let bad = log.lines().find(|line| line.contains("lost data") || line.contains("damaged"));
    expect(bad.is_none(), || format!("node {}: {bad:?}", node.id()))?;
    // A term is led once: a node that restarted needs another.
    let led = terms_led(&log);
    let once: BTreeSet<u64> = led.iter().copied().collect();
    equal(once.len(), led.len(), "the terms that a node led, each once")
}
