//! A real HAProxy that asks each node's ramd who takes writes, in front of a client that writes
//! while primaries are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use pgraft_cluster::api::Api;
use pgraft_cluster::check::{SOON, equal, expect};
use pgraft_cluster::haproxy::check_shipped;
use pgraft_cluster::{Cluster, Failure, Haproxy, Options, Result, Session, wait_for, with};

/// A rewind, starts and pauses between them, on a machine that has other things to do.
const BACK_AT_MOST: Duration = Duration::from_secs(90);
/// How many primaries are killed; PGRAFT_FAILOVERS says another number.
const FAILOVERS: u32 = 3;

/// What the client was told.
#[derive(Debug, Default)]
struct Told {
    /// Acknowledged rows, each with the server and the timeline that wrote it.
    acked: Vec<(u64, String, u32)>,
    /// How often a standby was reached.
    standby: Vec<String>,
    /// How often the fence refused.
    fenced: u64,
    /// The longest time between two acknowledged rows.
    longest_pause: Duration,
}

/// Writes one row after the other over the proxy; a failure means another connection.
fn write(port: u16, end: &AtomicBool, acked: &AtomicU64) -> Told {
    let mut told = Told::default();
    let mut last = Instant::now();
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        let connected = Session::connect_within(SOON, "127.0.0.1", port, "postgres");
        let Ok(mut session) = connected else {
            sleep(Duration::from_millis(20));
            continue;
        };
        while !end.load(Ordering::Relaxed) {
            number += 1;
            let sql = format!(
                "INSERT INTO t VALUES ({number}) RETURNING current_setting('cluster_name'), \
                 ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
            );
            match session.rows(&sql) {
                Ok(rows) => {
                    let text = |n: usize| rows[0][n].clone().unwrap_or_default();
                    told.acked.push((number, text(0), text(1).parse().unwrap_or(0)));
                    acked.fetch_add(1, Ordering::Relaxed);
                    told.longest_pause = told.longest_pause.max(last.elapsed());
                    last = Instant::now();
                }
                Err(error) => {
                    let said = error.to_string();
                    if said.contains("read-only transaction") || said.contains("recovery is in") {
                        told.standby.push(said);
                    } else if error.sqlstate.as_deref() == Some("25006") {
                        told.fenced += 1;
                    }
                    break;
                }
            }
        }
    }
    told
}

fn formed() -> Result<Cluster> {
    let pgraft = "synchronous_mode = quorum\n".to_owned();
    let mut cluster =
        Cluster::form("haproxy", Options { failover: true, pgraft, ..Options::default() })?;
    cluster.noting_while(|cluster| {
        cluster.next_primary(None, SOON)?;
        let mut session = cluster.node(1).session()?;
        wait_for("a table", SOON, || Ok(session.run("CREATE TABLE t (a bigint)").ok()))?;
        cluster.await_streaming(1, SOON)
    })?;
    Ok(cluster)
}

#[test]
fn haproxy_understands_the_file_that_is_shipped() {
    check_shipped().unwrap();
}

#[test]
fn a_proxy_follows_the_primary_and_no_write_reaches_another_server() {
    let failovers = std::env::var("PGRAFT_FAILOVERS").ok().and_then(|text| text.parse().ok());
    let failovers: u32 = failovers.unwrap_or(FAILOVERS);
    with(formed(), |cluster| {
        let mut ramds = cluster.start_ramds("")?;
        for id in 1..=3 {
            wait_for("each ramd answers", SOON, || {
                let status = Api::of(cluster.node(id)).get("/readiness")?.status;
                Ok((status == 200).then_some(()))
            })?;
        }
        let proxy = Haproxy::start(cluster)?;
        // It takes every server for good until it has asked for the first time.
        let mut in_a_row = 0;
        wait_for("the proxy has asked all", SOON, || {
            let mut session = Session::connect_within(SOON, "127.0.0.1", proxy.port, "postgres")?;
            let first = session.value("SHOW cluster_name")?.as_deref() == Some("node1");
            in_a_row = if first { in_a_row + 1 } else { 0 };
            Ok((in_a_row == 20).then_some(()))
        })?;
        let read = proxy.port + 1;
        wait_for("readers reach a standby", SOON, || {
            let mut session = Session::connect_within(SOON, "127.0.0.1", read, "postgres")?;
            Ok(session.is_true("SELECT pg_is_in_recovery()")?.then_some(()))
        })?;
        let end = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let client = {
            let (port, end, acked) = (proxy.port, end.clone(), acked.clone());
            spawn(move || write(port, &end, &acked))
        };
        let mut primary = 1;
        for _ in 0..failovers {
            let session = || Session::connect_within(SOON, "127.0.0.1", proxy.port, "postgres");
            let served = |name: &str| {
                wait_for(&format!("the proxy leads to {name}"), SOON, || {
                    let found = session()?.value("SHOW cluster_name")?;
                    Ok((found.as_deref() == Some(name)).then_some(()))
                })
            };
            served(&format!("node{primary}"))?;
            let before = acked.load(Ordering::Relaxed);
            wait_for("the client writes there", SOON, || {
                Ok((acked.load(Ordering::Relaxed) > before).then_some(()))
            })?;
            let at = primary as usize - 1;
            cluster.kill_node(&mut ramds[at]);
            let next = cluster.next_primary(Some(primary), SOON)?;
            served(&format!("node{next}"))?;
            ramds[at] = cluster.node(primary).start_ramd()?;
            cluster.await_streaming(next, BACK_AT_MOST)?;
            primary = next;
        }
        let before = acked.load(Ordering::Relaxed);
        wait_for("the client writes at the end", SOON, || {
            Ok((acked.load(Ordering::Relaxed) > before).then_some(()))
        })?;
        end.store(true, Ordering::Relaxed);
        let told = client.join().map_err(|_| Failure::new("the client panicked"))?;
        drop(proxy);
        println!(
            "{failovers} failovers: {} rows acknowledged, {} times fenced, longest pause {} ms",
            told.acked.len(),
            told.fenced,
            told.longest_pause.as_millis(),
        );
        equal(&told.standby, &Vec::new(), "a standby was reached")?;
        // Each timeline is one server's.
        let mut owners: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for (_, server, timeline) in &told.acked {
            owners.entry(*timeline).or_default().insert(server);
        }
        expect(owners.values().all(|servers| servers.len() == 1), || format!("{owners:?}"))?;
        expect(owners.len() > failovers as usize, || format!("{owners:?}"))?;
        // And nothing that was acknowledged is missing.
        let rows = cluster.node(primary).session()?.rows("SELECT a FROM t")?;
        let there: BTreeSet<u64> =
            rows.iter().filter_map(|row| row[0].as_deref()?.parse().ok()).collect();
        let lost: Vec<u64> =
            told.acked.iter().map(|(n, ..)| *n).filter(|n| !there.contains(n)).collect();
        expect(lost.is_empty(), || format!("acknowledged and gone: {lost:?}"))
    });
}
