//! The registry: every metric, from what the page says. `pgraft_get_metrics()` and `/metrics` show
//! the same. Values only; any thread.
#![forbid(unsafe_code)]

mod exposition;

pub use exposition::{CONTENT_TYPE, exposition};

use crate::shmem::{Counter, Histogram, MemberView, NodeState, StatusPage, View};
use crate::wire::PgRole;

/// One value.
#[derive(Clone, PartialEq, Debug)]
pub struct Metric {
    /// As Prometheus has it.
    pub name: &'static str,
    /// Name and value each.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
    /// "gauge", "counter", or "histogram", which is several: `_bucket`, `_sum`, `_count`.
    pub kind: &'static str,
    /// What it is, a sentence without its full stop.
    pub help: &'static str,
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";
const HISTOGRAM: &str = "histogram";

impl Metric {
    /// What HELP and TYPE name: a histogram's values have it in common.
    pub fn family(&self) -> &'static str {
        let parts = ["_bucket", "_sum", "_count"];
        let common = parts.into_iter().find_map(|part| self.name.strip_suffix(part));
        common.filter(|_| self.kind == HISTOGRAM).unwrap_or(self.name)
    }
}

/// Every metric of this node. With an old page the last values are shown, but `pgraft_up`,
/// `pgraft_is_leader`, `pgraft_has_quorum`, the leader, the lease and who is reachable say what is
/// certain now.
pub fn metrics(view: &View, page: &StatusPage, now_ns: u64) -> Vec<Metric> {
    let fresh = page.is_fresh(now_ns);
    let mut list = node_metrics(view, page, now_ns, fresh);
    list.extend(states(view));
    list.extend(counter_metrics(page));
    list.extend(histogram_metrics(page));
    let others = view.members.iter().filter(|member| member.id != view.node_id);
    list.extend(others.flat_map(|member| peer_metrics(view, member, fresh)));
    list
}

fn node_metrics(view: &View, page: &StatusPage, now_ns: u64, fresh: bool) -> Vec<Metric> {
    let flag = |yes: bool| f64::from(u8::from(yes));
    let is_leader = page.is_leader(now_ns);
    let lease_ns = if is_leader { view.lease_expires_ns.saturating_sub(now_ns) } else { 0 };
    let leader = if fresh { view.leader } else { 0 };
    let gauge = |name, value, help| Metric { name, labels: Vec::new(), value, kind: GAUGE, help };
    vec![
        Metric {
            labels: label("version", env!("CARGO_PKG_VERSION")),
            ..gauge("pgraft_build_info", 1.0, "The version, as a label")
        },
        gauge("pgraft_up", flag(fresh), "Whether consensus runs on this node and answers"),
        gauge(
            "pgraft_member",
            flag(view.state == NodeState::Member),
            "Whether this node takes part in a cluster",
        ),
        gauge("pgraft_term", view.term as f64, "Current term"),
        gauge("pgraft_leader_id", f64::from(leader), "Node id of the leader, 0 for none"),
        gauge("pgraft_is_leader", flag(is_leader), "Whether this node leads and its lease holds"),
        gauge(
            "pgraft_has_quorum",
            flag(fresh && view.has_quorum),
            "Whether a quorum is in contact as far as this node can tell",
        ),
        gauge("pgraft_voters", f64::from(view.voters), "Voting members"),
        gauge(
            "pgraft_voters_reachable",
            f64::from(if fresh { view.reachable } else { 0 }),
            "Voting members in contact with this node, itself included",
        ),
        gauge("pgraft_last_log_index", view.last_index as f64, "Index of the last log entry"),
        gauge("pgraft_commit_index", view.commit as f64, "Index of the last committed entry"),
        gauge("pgraft_applied_index", view.applied as f64, "Index of the last applied entry"),
        gauge(
            "pgraft_log_size",
            page.counter(Counter::LogBytes) as f64,
            "Size of the Raft log on disk in bytes",
        ),
        gauge(
            "pgraft_store_keys",
            page.counter(Counter::StoreKeys) as f64,
            "Keys in the key/value store",
        ),
        gauge(
            "pgraft_store_bytes",
            page.counter(Counter::StoreBytes) as f64,
            "Size of the key/value store as kv_max_store_bytes counts it",
        ),
        gauge("pgraft_lease_seconds", seconds(lease_ns), "What is left of the leader's lease"),
        gauge(
            "pgraft_fenced",
            flag(page.is_fenced(now_ns)),
            "Whether commits are refused on this node",
        ),
        gauge(
            "pgraft_commits_under_way",
            f64::from(page.commits_under_way()),
            "Commits between their look at the fence and their end",
        ),
        gauge(
            "pgraft_primary_id",
            f64::from(page.primary_id()),
            "Node id of the primary by the last word of the log, 0 for none",
        ),
        gauge(
            "pgraft_is_primary",
            flag(fresh && view.pg_role == Some(PgRole::Primary)),
            "Whether this server is not in recovery",
        ),
        gauge("pgraft_wal_lsn_bytes", view.wal_lsn as f64, "WAL position of this server"),
        gauge(
            "pgraft_unreplicated_wal_bytes",
            unreplicated(view).filter(|_| fresh).unwrap_or(0) as f64,
            "On a primary, WAL that no standby had received when it last reported",
        ),
        gauge(
            "pgraft_fsync_last_seconds",
            seconds(page.counter(Counter::FsyncLastNs)),
            "Duration of the latest fsync of the Raft log",
        ),
    ]
}

/// One for each state, of which this node's is 1.
fn states(view: &View) -> impl Iterator<Item = Metric> {
    let state = view.state;
    NodeState::ALL.into_iter().map(move |one| Metric {
        name: "pgraft_state",
        labels: label("state", one.name()),
        value: f64::from(u8::from(one == state)),
        kind: GAUGE,
        help: "This node's state as pgraft_status() names it, the last one known",
    })
}

/// What a crash of this primary right now would lose at most, but for the time since the last
/// reports, a second each; `None` on others.
fn unreplicated(view: &View) -> Option<u64> {
    let standbys = view.members.iter().filter(|member| member.id != view.node_id);
    let received = standbys.map(|member| member.wal_lsn).max().unwrap_or(0);
    let primary = view.pg_role == Some(PgRole::Primary);
    primary.then(|| view.wal_lsn.saturating_sub(received))
}

fn counter_metrics(page: &StatusPage) -> Vec<Metric> {
    let count = |name, counter, help| Metric {
        name,
        labels: Vec::new(),
        value: page.counter(counter) as f64,
        kind: COUNTER,
        help,
    };
    let health = |result: &str, counter| Metric {
        labels: label("result", result),
        ..count("pgraft_health_checks_total", counter, "Calls of pgraft_is_healthy()")
    };
    use Counter as C;
    vec![
        count("pgraft_elections_total", C::Elections, "Elections this node began"),
        count("pgraft_leader_changes_total", C::LeaderChanges, "Times a new leader was seen"),
        count("pgraft_heartbeats_sent_total", C::HeartbeatsSent, "Heartbeats sent as leader"),
        count("pgraft_requests_total", C::Requests, "SQL requests that reached the worker"),
        count("pgraft_store_writes_total", C::StoreWrites, "Changes of the store asked for here"),
        count("pgraft_store_reads_total", C::StoreReads, "Reads of the store answered here"),
        count("pgraft_late_answers_total", C::LateAnswers, "Answers nobody waited for any more"),
        count("pgraft_handshakes_refused_total", C::HandshakesRefused, "Handshakes refused"),
        count("pgraft_bad_frames_total", C::BadFrames, "Connections closed for a bad frame"),
        count("pgraft_connections_accepted_total", C::ConnectionsAccepted, "Connections accepted"),
        count(
            "pgraft_connections_turned_away_total",
            C::ConnectionsTurnedAway,
            "Connections closed because there were too many",
        ),
        count("pgraft_events_dropped_total", C::EventsDropped, "Messages dropped at a full queue"),
        count(
            "pgraft_snapshots_taken_total",
            C::SnapshotsTaken,
            "Snapshots of the cluster state taken by this node",
        ),
        count(
            "pgraft_snapshots_installed_total",
            C::SnapshotsInstalled,
            "Snapshots received from a leader because the log began too late",
        ),
        count(
            "pgraft_snapshots_sent_total",
            C::SnapshotsSent,
            "Snapshots sent to other nodes as leader",
        ),
        count("pgraft_log_lines_dropped_total", C::LogLinesDropped, "Log messages dropped"),
        health("passed", C::HealthChecksPassed),
        health("failed", C::HealthChecksFailed),
    ]
}

fn histogram_metrics(page: &StatusPage) -> Vec<Metric> {
    let mut list = Vec::new();
    for (histogram, [bucket, sum, count], help) in [
        (
            Histogram::Fsync,
            [
                "pgraft_fsync_duration_seconds_bucket",
                "pgraft_fsync_duration_seconds_sum",
                "pgraft_fsync_duration_seconds_count",
            ],
            "Time to make a batch durable in the Raft log",
        ),
        (
            Histogram::Commit,
            [
                "pgraft_commit_duration_seconds_bucket",
                "pgraft_commit_duration_seconds_sum",
                "pgraft_commit_duration_seconds_count",
            ],
            "Time from when this node, as leader, begins to store an entry of the Raft log until \
             the entry is committed",
        ),
    ] {
        let metric = |name, value| Metric { name, labels: vec![], value, kind: HISTOGRAM, help };
        let (counts, total_ns) = page.histogram(histogram);
        let bounds = Histogram::BOUNDS_NS.iter().map(|bound| seconds(*bound).to_string());
        let mut up_to = 0;
        for (bound, of_range) in bounds.chain(["+Inf".to_owned()]).zip(counts) {
            up_to += of_range;
            list.push(Metric { labels: label("le", &bound), ..metric(bucket, up_to as f64) });
        }
        list.push(metric(sum, seconds(total_ns)));
        list.push(metric(count, up_to as f64));
    }
    list
}

fn peer_metrics(view: &View, member: &MemberView, fresh: bool) -> Vec<Metric> {
    let of_peer = || label("peer", &member.id.to_string());
    let metric = |name, kind, value, help| Metric { name, labels: of_peer(), value, kind, help };
    let directed = |name, direction: &str, value: u64, help| Metric {
        labels: [of_peer(), label("direction", direction)].concat(),
        ..metric(name, COUNTER, value as f64, help)
    };
    let counters = &member.counters;
    const MESSAGES: &str = "Messages exchanged with this peer";
    const BYTES: &str = "Bytes exchanged with this peer";
    let mut list = vec![
        directed("pgraft_peer_messages_total", "sent", counters.messages_sent, MESSAGES),
        directed("pgraft_peer_messages_total", "received", counters.messages_received, MESSAGES),
        directed("pgraft_peer_bytes_total", "sent", counters.bytes_sent, BYTES),
        directed("pgraft_peer_bytes_total", "received", counters.bytes_received, BYTES),
        metric(
            "pgraft_peer_errors_total",
            COUNTER,
            counters.errors as f64,
            "Connections with this peer that ended with an error",
        ),
        metric(
            "pgraft_peer_dropped_total",
            COUNTER,
            counters.dropped as f64,
            "Messages to this peer dropped at its full queue",
        ),
        metric(
            "pgraft_peer_connects_total",
            COUNTER,
            counters.connects as f64,
            "Connections made to this peer",
        ),
    ];
    // What is not known is not shown, rather than shown as 0.
    if let Some(reachable) = member.reachable.filter(|_| fresh) {
        let value = f64::from(u8::from(reachable));
        list.push(metric("pgraft_peer_reachable", GAUGE, value, "Whether this peer answers"));
    }
    if counters.round_trip_us != 0 {
        list.push(metric(
            "pgraft_peer_round_trip_seconds",
            GAUGE,
            counters.round_trip_us as f64 / 1e6,
            "Latest round trip to this peer",
        ));
    }
    if fresh && view.pg_role == Some(PgRole::Primary) && member.wal_lsn != 0 {
        list.push(metric(
            "pgraft_peer_wal_lag_bytes",
            GAUGE,
            view.wal_lsn.saturating_sub(member.wal_lsn) as f64,
            "On a primary, WAL that this peer had not received when it last reported",
        ));
    }
    if let Some(matched) = member.matched.filter(|_| fresh) {
        list.push(metric(
            "pgraft_peer_match_index",
            GAUGE,
            matched as f64,
            "Last log index known to be on this peer",
        ));
    }
    list
}

fn label(name: &str, value: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), value.to_owned())]
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shmem::{PeerCounters, RoleCode};
    use std::collections::BTreeSet;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 100 * SECOND;

    fn leader() -> (View, &'static StatusPage) {
        let peer = |id, reachable| MemberView {
            id,
            wal_lsn: 400 + 100 * u64::from(id == 2),
            reachable,
            matched: Some(11),
            counters: PeerCounters {
                messages_sent: 5,
                bytes_received: 600,
                round_trip_us: 1500,
                ..PeerCounters::default()
            },
            ..MemberView::default()
        };
        let view = View {
            state: NodeState::Member,
            role: RoleCode::Leader,
            term: 4,
            leader: 1,
            lease_expires_ns: NOW + SECOND / 2,
            has_quorum: true,
            voters: 3,
            reachable: 2,
            commit: 12,
            pg_role: Some(PgRole::Primary),
            wal_lsn: 700,
            node_id: 1,
            members: vec![peer(1, Some(true)), peer(2, Some(true)), peer(3, Some(false))],
            ..View::default()
        };
        let page = StatusPage::for_tests();
        page.open(1, SECOND);
        page.beat(NOW);
        page.publish(&view);
        page.observe(Histogram::Fsync, SECOND, 1);
        page.observe(Histogram::Fsync, SECOND + 1, 1);
        page.observe(Histogram::Fsync, 99 * SECOND, 2);
        page.add(Counter::HealthChecksFailed, 2);
        (view, page)
    }

    /// The value of `name` with exactly these labels.
    fn value(list: &[Metric], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let same = |metric: &&Metric| {
            let of_metric = metric.labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            metric.name == name && of_metric.eq(labels.iter().copied())
        };
        list.iter().find(same).map(|metric| metric.value)
    }

    #[test]
    fn a_leaders_metrics_say_what_the_page_says() {
        let (view, page) = leader();
        let list = metrics(&view, page, NOW);
        for (name, labels, expected) in [
            ("pgraft_up", &[][..], 1.0),
            ("pgraft_term", &[], 4.0),
            ("pgraft_leader_id", &[], 1.0),
            ("pgraft_is_leader", &[], 1.0),
            ("pgraft_has_quorum", &[], 1.0),
            ("pgraft_commit_index", &[], 12.0),
            ("pgraft_lease_seconds", &[], 0.5),
            ("pgraft_fenced", &[], 0.0),
            ("pgraft_unreplicated_wal_bytes", &[], 200.0),
            ("pgraft_fsync_duration_seconds_bucket", &[("le", "0.0001")], 0.0),
            ("pgraft_fsync_duration_seconds_bucket", &[("le", "0.25")], 0.0),
            ("pgraft_fsync_duration_seconds_bucket", &[("le", "1")], 1.0),
            ("pgraft_fsync_duration_seconds_bucket", &[("le", "5")], 2.0),
            ("pgraft_fsync_duration_seconds_bucket", &[("le", "+Inf")], 4.0),
            ("pgraft_fsync_duration_seconds_count", &[], 4.0),
            ("pgraft_fsync_duration_seconds_sum", &[], 200.000000001),
            ("pgraft_commit_duration_seconds_count", &[], 0.0),
            ("pgraft_state", &[("state", "member")], 1.0),
            ("pgraft_state", &[("state", "error")], 0.0),
            ("pgraft_is_primary", &[], 1.0),
            ("pgraft_peer_wal_lag_bytes", &[("peer", "2")], 200.0),
            ("pgraft_peer_wal_lag_bytes", &[("peer", "3")], 300.0),
            ("pgraft_health_checks_total", &[("result", "failed")], 2.0),
            ("pgraft_health_checks_total", &[("result", "passed")], 0.0),
            ("pgraft_peer_messages_total", &[("peer", "2"), ("direction", "sent")], 5.0),
            ("pgraft_peer_bytes_total", &[("peer", "3"), ("direction", "received")], 600.0),
            ("pgraft_peer_reachable", &[("peer", "2")], 1.0),
            ("pgraft_peer_reachable", &[("peer", "3")], 0.0),
            ("pgraft_peer_round_trip_seconds", &[("peer", "2")], 0.0015),
        ] {
            assert_eq!(value(&list, name, labels), Some(expected), "{name} {labels:?}");
        }
        assert_eq!(value(&list, "pgraft_peer_reachable", &[("peer", "1")]), None, "no own peer");
    }

    #[test]
    fn with_a_dead_worker_nothing_is_claimed_that_only_a_live_one_knows() {
        let (view, page) = leader();
        page.clear();
        let list = metrics(&view, page, NOW);
        for name in [
            "pgraft_up",
            "pgraft_leader_id",
            "pgraft_is_leader",
            "pgraft_has_quorum",
            "pgraft_voters_reachable",
            "pgraft_lease_seconds",
            "pgraft_is_primary",
        ] {
            assert_eq!(value(&list, name, &[]), Some(0.0), "{name}");
        }
        assert_eq!(value(&list, "pgraft_peer_reachable", &[("peer", "2")]), None);
        assert_eq!(value(&list, "pgraft_term", &[]), Some(4.0), "last known");
    }

    #[test]
    fn names_are_prometheus_own_and_each_series_comes_once() {
        let (view, page) = leader();
        let list = metrics(&view, page, NOW);
        let mut series = BTreeSet::new();
        for metric in &list {
            let known = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.starts_with("pgraft_") && metric.name.chars().all(known));
            let part = |part| metric.name.ends_with(part);
            let histogram = metric.kind == "histogram";
            assert_eq!(histogram, ["_bucket", "_sum", "_count"].into_iter().any(part));
            assert_eq!(metric.kind == "counter", metric.name.ends_with("_total"), "{metric:?}");
            assert!(!metric.help.is_empty() && !metric.help.ends_with('.'), "{metric:?}");
            assert!(series.insert((metric.name, metric.labels.clone())), "twice: {metric:?}");
            let of_family = list.iter().filter(|other| other.family() == metric.family());
            let same = |other: &Metric| other.help == metric.help && other.kind == metric.kind;
            assert!(of_family.clone().all(same), "{metric:?}");
        }
    }
}
