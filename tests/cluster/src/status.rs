//! What `pgraft_status()` says on each node, and the table of it.

use std::collections::BTreeMap;

use crate::{Node, Result, Session, SqlError};

/// One row of `pgraft_status()`: the values by their columns' names, as text.
#[derive(Clone, Debug, Default)]
pub struct Status(BTreeMap<String, String>);

impl Status {
    /// The node's own view.
    pub fn of(node: &Node) -> Result<Status> {
        Ok(Status::ask(&mut node.session()?)?)
    }

    fn ask(session: &mut Session) -> std::result::Result<Status, SqlError> {
        let rows = session.named_rows("SELECT * FROM pgraft_status()")?;
        let row = rows.into_iter().next().unwrap_or_default();
        Ok(Status(row.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()))
    }

    /// A column's value; empty when it is NULL.
    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// A column that is a number; 0 when it is NULL.
    pub fn number(&self, column: &str) -> u64 {
        self.get(column).parse().unwrap_or(0)
    }

    /// Whether the node says that it leads.
    pub fn is_leader(&self) -> bool {
        self.get("role") == "leader"
    }
}

/// The one leader that all of these nodes agree on, with its term: each is a member, each sees the
/// same leader in the same term, and the leader itself, if among them, says so. `None`: not yet.
pub fn leader_of<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Result<Option<(u32, u64)>> {
    let mut agreed = None;
    for node in nodes {
        let status = Status::of(node)?;
        let leader = status.number("leader_id") as u32;
        let seen = (leader, status.number("current_term"));
        let settled = leader != 0
            && status.get("state") == "member"
            && status.is_leader() == (leader == node.id());
        if !settled || agreed.is_some_and(|agreed| agreed != seen) {
            return Ok(None);
        }
        agreed = Some(seen);
    }
    Ok(agreed)
}

/// The nodes as a table, one line each.
pub fn table<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> String {
    const HEAD: [&str; 10] = [
        "node", "postgres", "pg_role", "raft", "state", "role", "term", "leader", "applied",
        "remark",
    ];
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(nodes.into_iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
        .collect();
    let rule = widths.iter().map(|width| "-".repeat(*width)).collect();
    lines.insert(1, rule);
    lines
        .iter()
        .map(|line| {
            let cells: Vec<String> =
                line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

fn row(node: &Node) -> Vec<String> {
    let (pg_role, view) = look(node);
    let mut cells =
        vec![node.id().to_string(), node.pg_address(), pg_role.to_owned(), node.raft_address()];
    match view {
        Ok(status) => {
            for column in ["state", "role", "current_term", "leader_id", "applied_index"] {
                let value = status.get(column);
                cells.push(if value.is_empty() { "-".to_owned() } else { value.to_owned() });
            }
            cells.push(status.get("last_error").to_owned());
        }
        Err(remark) => {
            cells.extend(["-"; 5].map(str::to_owned));
            cells.push(remark);
        }
    }
    cells
}

/// What Postgres and pgraft say of themselves on a node, or why they say nothing.
fn look(node: &Node) -> (&'static str, std::result::Result<Status, String>) {
    if !node.is_running() {
        return ("-", Err("down".to_owned()));
    }
    let mut session = match node.session() {
        Ok(session) => session,
        Err(failure) => return ("-", Err(failure.to_string())),
    };
    let pg_role = match session.is_true("SELECT pg_is_in_recovery()") {
        Ok(true) => "standby",
        Ok(false) => "primary",
        Err(error) => return ("-", Err(error.message)),
    };
    (pg_role, Status::ask(&mut session).map_err(|error| error.message))
}
