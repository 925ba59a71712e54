//! Tables for people.

use serde_json::Value;

use crate::api::iso8601;

/// The cluster, its members, and what is wrong.
pub fn status(url: &str, cluster: &Value, health: &Value) -> String {
    let told_by = &cluster["told_by"];
    let members = cluster["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |id: &Value| {
        let member = members.iter().find(|member| !id.is_null() && member["id"] == *id);
        member.map_or("none".to_owned(), |member| text(&member["name"]))
    };
    let paused = if cluster["pause"] == true { "paused" } else { "on" };
    let mut out = format!(
        "cluster {}   primary {}   term {}   quorum {}   automatic failover {paused}\n",
        text(&cluster["scope"]),
        name(&cluster["primary_id"]),
        text(&cluster["term"]),
        if cluster["has_quorum"] == true { "yes" } else { "no" },
    );
    out += &format!(
        "told by {} at {url}, {}\n\n",
        text(&told_by["name"]),
        iso8601(told_by["unix_ms"].as_u64().unwrap_or(0)),
    );
    out += &self::members(&cluster["members"]);
    let doing = &told_by["doing"];
    if doing["why"] != "" || !matches!(doing["what"].as_str(), None | Some("watch")) {
        out += &format!("\n{}: {}", text(&told_by["name"]), text(&doing["what"]));
        if doing["why"] != "" {
            out += &format!(", {}", text(&doing["why"]));
        }
        out.push('\n');
    }
    let problems = health["problems"].as_array().map(Vec::as_slice).unwrap_or_default();
    let stale = told_by["stale"].as_str().into_iter().map(str::to_owned);
    let trouble = told_by["last_error"].as_str().filter(|error| !error.is_empty());
    let trouble = trouble.map(|error| format!("{}: {error}", text(&told_by["name"])));
    for problem in problems.iter().map(text).chain(stale).chain(trouble) {
        out += &format!("\n! {problem}");
    }
    if out.contains("\n! ") {
        out.push('\n');
    }
    out
}

/// One line a member.
pub fn members(members: &Value) -> String {
    const HEAD: [&str; 8] = ["ID", "NAME", "ROLE", "STATE", "POSTGRES", "LSN", "LAG", "HEARD"];
    let mut rows = vec![HEAD.map(str::to_owned)];
    for member in members.as_array().into_iter().flatten() {
        let host = member["host"].as_str().unwrap_or_default();
        let address = match (host, member["port"].as_u64()) {
            (host, Some(port)) if host.contains(':') => format!("[{host}]:{port}"),
            (host, Some(port)) => format!("{host}:{port}"),
            _ => "-".to_owned(),
        };
        let role = match member["role"].as_str() {
            // What people call it; "leader" is what programs look for.
            Some("leader") => "primary".to_owned(),
            Some("replica") => "standby".to_owned(),
            Some("quorum_standby") => "sync standby".to_owned(),
            Some(role) => role.to_owned(),
            None => "-".to_owned(),
        };
        rows.push([
            text(&member["id"]),
            text(&member["name"]),
            role,
            text(&member["state"]),
            address,
            text(&member["lsn"]),
            member["lag"].as_u64().map_or("-".to_owned(), bytes),
            member["last_contact_ms"].as_u64().map_or("-".to_owned(), ago),
        ]);
    }
    table(&rows)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Without quotes; "-" for what is not known. Control characters are no business of a terminal.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    }
}

/// How many, in units that people read.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    format!("{number:.1} {}", UNITS[unit])
}

fn ago(ms: u64) -> String {
    match ms {
        0..1000 => "now".to_owned(),
        1000..120_000 => format!("{} s ago", ms / 1000),
        _ => format!("{} min ago", ms / 60_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_for_people() {
        let cluster = json!({
            "scope": "ram", "term": 4, "primary_id": 1, "has_quorum": true, "pause": false,
            "members": [
                { "id": 1, "name": "db1", "role": "leader", "state": "running", "host": "h",
                  "port": 5501, "lsn": "0/5001000", "lag": null, "last_contact_ms": 20 },
                { "id": 2, "name": "db\u{1b}[2J", "role": "replica", "state": "unreachable",
                  "host": "::1", "port": 5502, "lsn": null, "lag": 2048, "last_contact_ms": 5000 },
            ],
            "told_by": { "name": "db1", "unix_ms": 0, "doing": { "what": "watch", "why": "" },
                         "stale": null, "last_error": "" },
        });
        let health = json!({ "healthy": false, "problems": ["node 2 does not answer"] });
        let expected = "\
cluster ram   primary db1   term 4   quorum yes   automatic failover on
told by db1 at http://x, 1970-01-01T00:00:00.000Z

ID  NAME    ROLE     STATE        POSTGRES    LSN        LAG     HEARD
1   db1     primary  running      h:5501      0/5001000  -       now
2   db [2J  standby  unreachable  [::1]:5502  -          2.0 kB  5 s ago

! node 2 does not answer
";
        assert_eq!(status("http://x", &cluster, &health), expected);
    }

    #[test]
    fn sizes_have_units() {
        for (number, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (2048, "2.0 kB"),
            (10 << 20, "10.0 MB"),
            (3 << 41, "6.0 TB"),
        ] {
            assert_eq!(bytes(number), shown);
        }
    }
}
