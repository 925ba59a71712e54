//! What happened at a node: ramd's history, and pgraft's log, by time.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Client;
use super::{Exit, Reach, Trouble, say};
use crate::api::iso8601;

/// Between two looks of `--follow`.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Prints the latest lines, and those that come.
pub fn run(reach: &Reach, lines: u64, follow: bool) -> Result<Exit, Trouble> {
    let client = Client::new(reach)?;
    let mut told = BTreeSet::new();
    let mut first = true;
    loop {
        match look(&client, lines, first) {
            Ok(all) => {
                let new: Vec<&Line> = all.iter().filter(|line| !told.contains(*line)).collect();
                if !say(&new.iter().map(|line| line.show(reach.json)).collect::<String>()) {
                    return Ok(Exit::Ok);
                }
                told = all.into_iter().collect();
            }
            Err(trouble) if first || !follow => return Err(trouble),
            Err(trouble) => eprintln!("pgraftctl: {}", trouble.message),
        }
        if !follow {
            return Ok(Exit::Ok);
        }
        first = false;
        sleep(LOOK_EVERY);
    }
}

/// In the order of time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    unix_ms: u64,
    from: &'static str,
    text: String,
}

impl Line {
    fn show(&self, as_json: bool) -> String {
        let time = iso8601(self.unix_ms);
        match as_json {
            true => {
                json!({ "time": time, "from": self.from, "text": self.text }).to_string() + "\n"
            }
            false => format!("{time}  {:<6}  {}\n", self.from, self.text),
        }
    }
}

fn look(client: &Client, lines: u64, first: bool) -> Result<Vec<Line>, Trouble> {
    let history = client.get(&format!("/api/v1/history?limit={lines}"))?;
    let of = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let event = |event: &Value| {
        let (what, why) = (of(event, "what"), of(event, "why"));
        let text = match of(event, "outcome").as_str() {
            "" => format!("{what}: {why}"),
            outcome => {
                let times = event["times"].as_u64().filter(|times| *times > 1);
                let times = times.map_or(String::new(), |times| format!(", {times} times so far"));
                format!("{what}: {why}: {outcome} ({} ms{times})", event["took_ms"])
            }
        };
        Line { unix_ms: event["unix_ms"].as_u64().unwrap_or(0), from: "ramd", text: plain(&text) }
    };
    let events = history.body["data"]["events"].as_array().into_iter().flatten();
    let mut all: Vec<Line> = events.map(event).collect();
    let log = client.at(&history.url).get(&format!("/api/v1/logs?lines={lines}"))?;
    let line = |line: &Value| {
        let text = format!("{}: {}", of(line, "level"), of(line, "message"));
        Line { unix_ms: line["unix_ms"].as_u64().unwrap_or(0), from: "pgraft", text: plain(&text) }
    };
    match log.status {
        200 => all.extend(log.body["data"]["lines"].as_array().into_iter().flatten().map(line)),
        _ if first => eprintln!("pgraftctl: without pgraft's log: {}", log.message()),
        _ => {}
    }
    all.sort();
    let surplus = all.len().saturating_sub(lines as usize);
    Ok(all.split_off(surplus))
}

/// Control characters are no business of a terminal.
fn plain(text: &str) -> String {
    text.replace(char::is_control, " ")
}
