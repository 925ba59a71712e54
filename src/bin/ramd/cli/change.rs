//! Has something done, and says how far it has come.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::{Exit, Reach, Trouble, pretty, say};

/// Between two questions for how far it has come.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// ramd gives up earlier.
const AT_MOST: Duration = Duration::from_secs(300);

/// Asks for a change and waits for its end. Progress goes to standard error, the outcome to
/// standard output.
pub fn run(reach: &Reach, what: &str, body: &Value, dry_run: bool) -> Result<Exit, Trouble> {
    let client = Client::new(reach)?;
    let how = if dry_run { "dry_run=true" } else { "wait=false" };
    let body = without_nulls(body);
    let answer = client.post(&format!("/api/v1/{what}?{how}"), &body)?;
    match answer.status {
        202 => follow(reach, &client.at(&answer.url), &answer),
        200 => {
            tell(reach, &answer);
            Ok(Exit::Ok)
        }
        _ => refused(reach, &answer),
    }
}

fn without_nulls(body: &Value) -> Value {
    let fields = body.as_object().into_iter().flatten();
    fields.filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn tell(reach: &Reach, answer: &Answer) {
    say(&if reach.json { pretty(&answer.body) } else { answer.message() + "\n" });
}

fn refused(reach: &Reach, answer: &Answer) -> Result<Exit, Trouble> {
    let exit = if answer.status == 504 { Exit::Unreachable } else { Exit::Refused };
    if reach.json {
        tell(reach, answer);
        return Ok(exit);
    }
    Err(Trouble::new(exit, answer.message()))
}

/// Says each step as it is made.
fn follow(reach: &Reach, client: &Client, begun: &Answer) -> Result<Exit, Trouble> {
    let id = begun.body["data"]["operation"]["id"].as_u64().unwrap_or(0);
    let deadline = Instant::now() + AT_MOST;
    let mut told = 0;
    let mut last_trouble = String::new();
    while Instant::now() < deadline {
        let operation = match client.get(&format!("/api/v1/operations/{id}")) {
            Ok(answer) if answer.status == 200 => answer.body["data"]["operation"].clone(),
            // That ramd began again, and has forgotten it.
            Ok(answer) => return Err(Trouble::new(Exit::Unreachable, answer.message())),
            Err(trouble) => {
                last_trouble = trouble.message;
                sleep(ASK_EVERY);
                continue;
            }
        };
        let steps = operation["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
        for step in steps.iter().skip(told).filter(|_| !reach.json) {
            let seconds = step["after_ms"].as_f64().unwrap_or(0.0) / 1000.0;
            eprintln!("{seconds:>8.3} s  {}", step["text"].as_str().unwrap_or_default());
        }
        told = steps.len();
        if operation["state"] != "running" {
            return ended(reach, &operation);
        }
        sleep(ASK_EVERY);
    }
    Err(Trouble::new(Exit::Unreachable, format!("the outcome is not known: {last_trouble}")))
}

fn ended(reach: &Reach, operation: &Value) -> Result<Exit, Trouble> {
    let exit = match operation["state"].as_str() {
        Some("done") => Exit::Ok,
        Some("refused") => Exit::Refused,
        _ => Exit::Unreachable,
    };
    if reach.json {
        say(&pretty(operation));
        return Ok(exit);
    }
    let body = json!({ "message": operation["message"], "data": { "hint": operation["hint"] } });
    let message = Answer { url: String::new(), status: 0, body }.message();
    if exit == Exit::Ok {
        say(&(message + "\n"));
        return Ok(exit);
    }
    Err(Trouble::new(exit, message))
}
