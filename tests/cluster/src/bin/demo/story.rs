//! The lines of the servers' logs that tell of a failover, as a table.

use pgraft_cluster::{Cluster, timeline};

/// Something that happened.
pub struct Event {
    /// Milliseconds since the kill.
    pub ms: f64,
    /// A node, or a client.
    pub who: String,
    /// In words.
    pub says: String,
}

/// What a log line of pgraft or Postgres must contain to be told; each once for a node.
const TELLING: [&str; 13] = [
    "lost the connection to node",
    "campaigning in term",
    "this node is the leader in term",
    "is the leader in term",
    "is lost: looking for",
    "has the most WAL",
    "is to be the primary, epoch",
    "had reported",
    "promoting this server",
    "this server is promoted",
    "archive recovery complete",
    "started streaming WAL from primary",
    "handing leadership",
];

/// From the kill on. Logs have whole milliseconds: what is in the first one may be told as at 0.
pub fn of_logs(cluster: &Cluster, killed_ms: i64) -> Vec<Event> {
    let mut told = Vec::new();
    let mut events = Vec::new();
    for line in timeline::since(cluster.nodes(), killed_ms) {
        let Some(part) = TELLING.iter().find(|part| line.text.contains(**part)) else { continue };
        if told.contains(&(line.node, *part)) {
            continue;
        }
        told.push((line.node, *part));
        let says = line.text.strip_prefix("pgraft: ").unwrap_or(&line.text);
        events.push(Event {
            ms: (line.at_ms - killed_ms) as f64,
            who: format!("node {}", line.node),
            says: says.to_owned(),
        });
    }
    events
}

/// All events, the kill among them, in the order of time.
pub fn table(mut events: Vec<Event>) -> String {
    let who = "kill -9".to_owned();
    events.push(Event { ms: 0.0, who, says: "----------------------------------".to_owned() });
    events.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    let mut text = format!("{:>9}  {:<7}  {}\n", "ms", "who", "what");
    for event in events {
        text.push_str(&format!("{:>9.1}  {:<7}  {}\n", event.ms, event.who, event.says));
    }
    text
}
