//! Clients that write to one node each, all the time, and note what they were told.
//!
//! A writer uses one connection at a time. One on which nothing happens any more, because its
//! backend was stopped or waits for a standby, is left alone with its thread, which notes an answer
//! that comes late; the writer goes on with another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use crate::clock::now_ns;
use crate::ledger::{Ack, Key, Ledger, TABLE};
use crate::{Cluster, Failure, Node, Result, Session, SqlError};

/// Longer than a commit waits at the fence.
const STUCK: Duration = Duration::from_secs(3);
/// How many connections a writer leaves alone.
const LEFT_ALONE_MAX: u32 = 8;
const CONNECT_AT_MOST: Duration = Duration::from_secs(1);
const SUPERVISE: Duration = Duration::from_millis(50);
const FENCED: &str = "25006";

/// How a writer writes a row. All have the server's own `synchronous_commit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A single INSERT.
    Insert,
    /// BEGIN, INSERT, COMMIT.
    Block,
    /// PREPARE TRANSACTION, then COMMIT PREPARED.
    Prepared,
}

/// How a node's writer is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between an answer and the next row.
    pub pause: Duration,
    /// After a failure, also to connect.
    pub pause_after_failure: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { pause: Duration::from_millis(5), pause_after_failure: Duration::from_millis(10) }
    }
}

/// Writers on all nodes. Dropped, they stop.
pub struct Writers {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    supervisors: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Makes the table on the primary and starts a writer of each kind on each node.
    pub fn start(cluster: &Cluster, primary: &Node, kinds: &[Kind], pace: Pace) -> Result<Writers> {
        primary.session()?.run(TABLE)?;
        let mut writers =
            Writers { ledger: Arc::default(), stop: Arc::default(), supervisors: Vec::new() };
        for node in cluster.nodes() {
            for kind in kinds {
                writers.add(node, *kind, pace);
            }
        }
        Ok(writers)
    }

    /// One more writer, on this node.
    pub fn add(&mut self, node: &Node, kind: Kind, pace: Pace) {
        let writer = Writer {
            client: self.supervisors.len() as u32 + 1,
            node: node.id(),
            host: node.place.host.clone(),
            port: node.place.pg_port,
            kind,
            pace,
            next: AtomicU64::new(1),
            ledger: self.ledger.clone(),
            stop: self.stop.clone(),
        };
        self.supervisors.push(spawn(move || supervise(&Arc::new(writer))));
    }

    /// What they were told.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Stops them. Answers that are still to come are noted all the same.
    pub fn stop(mut self) -> Result<Arc<Ledger>> {
        self.stop.store(true, Ordering::Relaxed);
        for supervisor in self.supervisors.drain(..) {
            supervisor.join().map_err(|_| Failure::new("a writer's thread panicked"))?;
        }
        Ok(self.ledger.clone())
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What the threads of one writer share.
struct Writer {
    client: u32,
    node: u32,
    host: String,
    port: u16,
    kind: Kind,
    pace: Pace,
    /// The number of the next row.
    next: AtomicU64,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
}

/// One thread with its connection, as its supervisor sees it.
#[derive(Default)]
struct Hand {
    /// When it last had an answer of any kind.
    moved_ns: AtomicU64,
    /// To end with the next answer.
    relieved: AtomicBool,
}

/// Has one thread at work until the writers are stopped.
fn supervise(writer: &Arc<Writer>) {
    let left_alone = Arc::new(AtomicU32::new(0));
    let (mut hand, mut thread) = hire(writer);
    while !writer.stop.load(Ordering::Relaxed) {
        sleep(SUPERVISE);
        let still_ns = now_ns().saturating_sub(hand.moved_ns.load(Ordering::Relaxed));
        let is_stuck = u128::from(still_ns) > STUCK.as_nanos();
        if is_stuck && left_alone.load(Ordering::Relaxed) < LEFT_ALONE_MAX {
            hand.relieved.store(true, Ordering::Relaxed);
            left_alone.fetch_add(1, Ordering::Relaxed);
            let (stuck, count) = (thread, left_alone.clone());
            spawn(move || {
                let _ = stuck.join(); // a panic was printed by the thread itself
                count.fetch_sub(1, Ordering::Relaxed);
            });
            (hand, thread) = hire(writer);
        }
    }
    // One that waits for an answer goes on waiting.
    hand.relieved.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        if thread.is_finished() {
            return;
        }
        sleep(SUPERVISE);
    }
}

fn hire(writer: &Arc<Writer>) -> (Arc<Hand>, JoinHandle<()>) {
    let hand = Arc::new(Hand::default());
    hand.moved_ns.store(now_ns(), Ordering::Relaxed);
    let (its_writer, itself) = (writer.clone(), hand.clone());
    (hand, spawn(move || its_writer.work(&itself)))
}

impl Writer {
    fn work(&self, hand: &Hand) {
        let is_over = || hand.relieved.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed);
        while !is_over() {
            if let Ok(mut session) = self.connect() {
                while !is_over() {
                    let goes_on = self.write(&mut session);
                    hand.moved_ns.store(now_ns(), Ordering::Relaxed);
                    match goes_on {
                        Some(pause) => sleep(pause),
                        None => break,
                    }
                }
            }
            hand.moved_ns.store(now_ns(), Ordering::Relaxed);
            sleep(self.pace.pause_after_failure);
        }
    }

    fn connect(&self) -> Result<Session> {
        let (host, port) = (&self.host, self.port);
        let mut session = Session::connect_within(CONNECT_AT_MOST, host, port, "postgres")?;
        // Else a standby's log would be full of what it refuses.
        session.run("SET log_min_messages = fatal")?;
        Ok(session)
    }

    /// Writes one row; the pause after it, or nothing if the connection is broken.
    fn write(&self, session: &mut Session) -> Option<Duration> {
        let key = (self.client, self.next.fetch_add(1, Ordering::Relaxed));
        let sent_ns = now_ns();
        let outcome = match self.kind {
            Kind::Insert => self.insert(session, key, sent_ns),
            Kind::Block => self.block(session, key, sent_ns),
            Kind::Prepared => self.prepare(session, key, sent_ns),
        };
        let Err(error) = outcome else { return Some(self.pace.pause) };
        let Some(sqlstate) = &error.sqlstate else {
            self.ledger.failed(self.node, key, "lost", false);
            return None;
        };
        // A standby refuses the statement itself; the fence lets it be and refuses the commit.
        let by_fence = sqlstate == FENCED && !error.message.contains("read-only transaction");
        self.ledger.failed(self.node, key, sqlstate, by_fence);
        let _ = session.run("ROLLBACK"); // a broken connection is noticed with the next row
        Some(self.pace.pause_after_failure)
    }

    fn ack(&self, key: Key, sent_ns: u64, rows: &[Vec<Option<String>>]) -> Ack {
        let acked_ns = now_ns();
        // The name of a WAL file begins with the timeline.
        let name = rows.first().and_then(|row| row[0].as_deref()).unwrap_or_default();
        let timeline = name.get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        Ack { key, node: self.node, timeline: timeline.unwrap_or(0), sent_ns, acked_ns }
    }

    fn row(&self, (client, seq): Key, sent_ns: u64) -> String {
        let node = self.node;
        format!(
            "INSERT INTO written VALUES ({client}, {seq}, {node}, {sent_ns}) \
             RETURNING pg_walfile_name(pg_current_wal_insert_lsn())"
        )
    }

    fn insert(&self, on: &mut Session, key: Key, sent_ns: u64) -> Outcome {
        let rows = on.rows(&self.row(key, sent_ns))?;
        self.ledger.acked(self.ack(key, sent_ns, &rows));
        Ok(())
    }

    fn block(&self, on: &mut Session, key: Key, sent_ns: u64) -> Outcome {
        let rows = on.rows(&format!("BEGIN; {}", self.row(key, sent_ns)))?;
        on.run("COMMIT")?;
        self.ledger.acked(self.ack(key, sent_ns, &rows));
        Ok(())
    }

    fn prepare(&self, on: &mut Session, key: Key, sent_ns: u64) -> Outcome {
        let gid = format!("written_{}_{}", key.0, key.1);
        let rows = on.rows(&format!("BEGIN; {}", self.row(key, sent_ns)))?;
        on.run(&format!("PREPARE TRANSACTION '{gid}'"))?;
        let prepared = self.ack(key, sent_ns, &rows);
        match on.run(&format!("COMMIT PREPARED '{gid}'")) {
            Ok(()) => self.ledger.acked(self.ack(key, sent_ns, &rows)),
            Err(error) => {
                self.ledger.prepared(prepared);
                return Err(error);
            }
        }
        Ok(())
    }
}

type Outcome = std::result::Result<(), SqlError>;
