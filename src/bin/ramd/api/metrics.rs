//! ramd's own numbers in Prometheus' text format; pgraft's are on the worker's port.

use std::fmt::Write;

use super::moment::Moment;
use super::traffic::{BOUNDS, Counted};
use super::view::{healthy_nodes, lag, last_contact_ms};
use crate::overview::PgState;

/// The media type.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, as of this moment. `failovers`: how often the primary changed since ramd began.
pub fn text(moment: &Moment, failovers: u64, counted: &Counted) -> String {
    let mut out = Out::default();
    let overview = &moment.overview;
    out.head("ramd_up", "gauge", "1 while ramd looks at its server");
    out.value("ramd_up", &[], f64::from(u8::from(moment.fresh().is_ok())));
    out.head("ramd_info", "gauge", "this node; always 1");
    let id = overview.node_id.to_string();
    out.value(
        "ramd_info",
        &[
            ("cluster", &overview.cluster_id),
            ("node", &overview.node_name),
            ("node_id", &id),
            ("version", env!("CARGO_PKG_VERSION")),
        ],
        1.0,
    );
    cluster(&mut out, moment, failovers);
    server(&mut out, moment);
    http(&mut out, counted);
    out.0
}

fn cluster(out: &mut Out, moment: &Moment, failovers: u64) {
    out.head("ramd_failover_count_total", "counter", "changes of the primary since ramd began");
    out.value("ramd_failover_count_total", &[], failovers as f64);
    out.head("ramd_pgraft_known", "gauge", "1 while pgraft's page is fresh");
    out.value("ramd_pgraft_known", &[], f64::from(u8::from(moment.page.is_ok())));
    out.head("ramd_cluster_paused", "gauge", "1 while automatic failover is paused");
    out.value("ramd_cluster_paused", &[], f64::from(u8::from(moment.overview.paused)));
    let Ok(page) = &moment.page else { return };
    out.head("ramd_cluster_nodes_total", "gauge", "members of the cluster");
    out.value("ramd_cluster_nodes_total", &[], page.members.len() as f64);
    out.head("ramd_cluster_healthy_nodes", "gauge", "members that do what they should");
    out.value("ramd_cluster_healthy_nodes", &[], healthy_nodes(page) as f64);
    out.head("ramd_cluster_primary_node", "gauge", "the primary's node id; 0: none");
    out.value("ramd_cluster_primary_node", &[], f64::from(page.primary_id));
    out.head("ramd_cluster_has_quorum", "gauge", "1 while a quorum, or a leader, is heard");
    out.value("ramd_cluster_has_quorum", &[], f64::from(u8::from(page.has_quorum)));
    let members = || page.members.iter().map(|member| (member.id.to_string(), member));
    out.head("ramd_replication_lag_bytes", "gauge", "WAL that a standby lacks");
    for (id, member) in members() {
        if let Some(lag) = lag(page, member) {
            let labels = [("node_id", id.as_str()), ("node", &member.name)];
            out.value("ramd_replication_lag_bytes", &labels, lag as f64);
        }
    }
    out.head("ramd_last_contact_seconds", "gauge", "since a member was last heard");
    for (id, member) in members() {
        if let Some(ms) = last_contact_ms(moment, member) {
            let labels = [("node_id", id.as_str()), ("node", &member.name)];
            out.value("ramd_last_contact_seconds", &labels, ms as f64 / 1000.0);
        }
    }
}

fn server(out: &mut Out, moment: &Moment) {
    let overview = &moment.overview;
    out.head("ramd_postgres_up", "gauge", "1 while this node's PostgreSQL answers");
    out.value("ramd_postgres_up", &[], f64::from(u8::from(moment.facts().is_ok())));
    out.head("ramd_postgres_hung", "gauge", "1 while it runs and does not answer");
    let hung = overview.postgres.state == PgState::Hung;
    out.value("ramd_postgres_hung", &[], f64::from(u8::from(hung)));
    out.head("ramd_postgres_takes_writes", "gauge", "1 where /primary answers 200");
    out.value(
        "ramd_postgres_takes_writes",
        &[],
        f64::from(u8::from(moment.takes_writes().is_ok())),
    );
    out.head("ramd_probe_seconds", "gauge", "how long it took to answer the last time");
    out.value("ramd_probe_seconds", &[], overview.postgres.probe_us as f64 / 1e6);
    if let Ok(facts) = moment.facts() {
        out.head("ramd_postgres_timeline", "gauge", "its timeline");
        out.value("ramd_postgres_timeline", &[], f64::from(facts.timeline));
        out.head("ramd_postgres_wal_bytes", "gauge", "its position in the WAL");
        out.value("ramd_postgres_wal_bytes", &[], facts.lsn as f64);
        if facts.in_recovery {
            const STREAMS: &str = "ramd_replication_streaming";
            out.head(STREAMS, "gauge", "1 while this standby streams from a primary");
            out.value(STREAMS, &[], f64::from(u8::from(facts.streaming)));
        }
        if let Some(seconds) = facts.lag_seconds.filter(|_| facts.in_recovery) {
            out.head("ramd_replication_lag_seconds", "gauge", "how old what this standby shows is");
            out.value("ramd_replication_lag_seconds", &[], seconds);
        }
    }
    if let Some(disk) = overview.disk {
        out.head("ramd_disk_free_bytes", "gauge", "room left for the data directory");
        out.value("ramd_disk_free_bytes", &[], disk.free_bytes as f64);
        out.head("ramd_disk_size_bytes", "gauge", "room in all for the data directory");
        out.value("ramd_disk_size_bytes", &[], disk.total_bytes as f64);
    }
}

fn http(out: &mut Out, counted: &Counted) {
    out.head("ramd_http_requests_total", "counter", "requests answered");
    for ((path, status), count) in &counted.requests {
        let status = status.to_string();
        let labels = [("path", *path), ("code", status.as_str())];
        out.value("ramd_http_requests_total", &labels, *count as f64);
    }
    const TIMES: &str = "ramd_http_request_duration_seconds";
    out.head(TIMES, "histogram", "how long the answer took");
    for (path, times) in &counted.times {
        let mut below = 0;
        for (bucket, count) in times.buckets.iter().enumerate() {
            below += count;
            let bound = BOUNDS.get(bucket).map_or("+Inf".to_owned(), f64::to_string);
            let labels = [("path", *path), ("le", bound.as_str())];
            out.value(&format!("{TIMES}_bucket"), &labels, below as f64);
        }
        out.value(&format!("{TIMES}_sum"), &[("path", path)], times.sum);
        out.value(&format!("{TIMES}_count"), &[("path", path)], below as f64);
    }
}

/// Writing to a string cannot fail.
#[derive(Default)]
struct Out(String);

impl Out {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if number == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::samples::*;
    use crate::api::traffic::Traffic;
    use std::time::Duration;

    #[test]
    fn numbers_are_told_with_their_types() {
        let traffic = Traffic::default();
        traffic.count("/primary", 200, Duration::from_micros(200));
        traffic.count("/primary", 503, Duration::from_micros(2000));
        let mut moment = standby();
        set(&mut moment, |overview| overview.cluster_id = "a\"b\\c".into());
        let text = text(&moment, 2, &traffic.counted());
        for line in [
            "# TYPE ramd_failover_count_total counter",
            "ramd_failover_count_total 2",
            "ramd_cluster_nodes_total 3",
            "ramd_cluster_healthy_nodes 3",
            "ramd_cluster_primary_node 1",
            "ramd_replication_lag_seconds 0.1",
            "ramd_replication_streaming 1",
            "ramd_replication_lag_bytes{node_id=\"2\",node=\"node2\"} 4096",
            "ramd_http_requests_total{path=\"/primary\",code=\"503\"} 1",
            "ramd_http_request_duration_seconds_bucket{path=\"/primary\",le=\"0.00025\"} 1",
            "ramd_http_request_duration_seconds_bucket{path=\"/primary\",le=\"+Inf\"} 2",
            "ramd_http_request_duration_seconds_count{path=\"/primary\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
        assert!(text.contains("cluster=\"a\\\"b\\\\c\""));
    }
}
