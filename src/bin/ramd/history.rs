//! What ramd did, why, and what came of it; and what it saw change. Kept in a file, one JSON object
//! a line, so that it outlives ramd; bounded.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pgraft::storage::replace_file;
use serde::{Deserialize, Serialize};

use crate::clock::unix_ms;

/// How many events are remembered: weeks, on a cluster that people would call restless.
pub const EVENTS_MAX: usize = 1000;
/// The file may grow to twice that before it is written anew.
const LINES_MAX: usize = 2 * EVENTS_MAX;
/// What is read of the file; more than `LINES_MAX` of the longest lines.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// What the outcome of an action begins with that did not fail.
const OK: &str = "ok";
/// Among so many of the latest events one that is the same is looked for: a rewind that fails, a
/// copy that fails, a server that goes and comes in between.
const NEAR: usize = 12;
/// The longest text of an event.
const TEXT_BYTES_MAX: usize = 1000;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// ramd did something.
    Action,
    /// ramd saw something change.
    Transition,
}

/// One thing that was done or seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Done or seen.
    pub kind: Kind,
    /// What: `start`, `stop`, `restart`, `rewind`, `clone`, `rejoin`, `join` of actions; `primary`,
    /// `leader`, `postgres`, `role`, `paused` of transitions.
    pub what: String,
    /// Why it was done; of a transition: from what to what.
    pub why: String,
    /// What came of it, `ok` or an error in words; empty of a transition.
    pub outcome: String,
    /// How long it took, the last time.
    pub took_ms: u64,
    /// How often it failed so in a row; `unix_ms` is the last time.
    #[serde(default = "once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

/// The events, for any thread.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<Event>,
    /// How many lines the file has.
    lines: usize,
    /// The last write failed: the file is to be written anew.
    broken: bool,
}

impl History {
    /// Reads what is there; lines that cannot be read, as after a full disk, are left out.
    pub fn open(path: &Path) -> io::Result<History> {
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => drop(file.take(FILE_BYTES_MAX).read_to_string(&mut text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let lines = text.lines().count();
        let mut events: VecDeque<Event> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        events.drain(..events.len().saturating_sub(EVENTS_MAX));
        // A last line without its end would be continued by the next.
        let broken = !text.is_empty() && !text.ends_with('\n');
        Ok(History { path: path.to_owned(), inner: Mutex::new(Inner { events, lines, broken }) })
    }

    /// Remembers that something was done.
    pub fn action(&self, what: &str, why: &str, outcome: &str, took_ms: u64) {
        log::info!("{what}: {why}: {outcome} ({took_ms} ms)");
        self.add(Kind::Action, what, why, outcome, took_ms);
    }

    /// Remembers that something was seen to change.
    pub fn transition(&self, what: &str, change: &str) {
        log::info!("{what}: {change}");
        self.add(Kind::Transition, what, change, "", 0);
    }

    fn add(&self, kind: Kind, what: &str, why: &str, outcome: &str, took_ms: u64) {
        let short = |text: &str| pgraft::hand::one_line(text, TEXT_BYTES_MAX);
        let (what, why, outcome) = (short(what), short(why), short(outcome));
        let mut event = Event { unix_ms: unix_ms(), kind, what, why, outcome, took_ms, times: 1 };
        let mut inner = self.lock();
        // What fails again and again must not push all else out.
        let same = |last: &Event| {
            last.kind == Kind::Action
                && !last.outcome.starts_with(OK)
                && (&last.what, &last.why, &last.outcome)
                    == (&event.what, &event.why, &event.outcome)
        };
        let near = inner.events.len().saturating_sub(NEAR);
        let former = inner.events.iter().skip(near).position(same);
        if let Some(last) = former.and_then(|at| inner.events.remove(near + at)) {
            event.times += last.times;
            // One line less than before.
            inner.broken = true;
        }
        inner.events.push_back(event.clone());
        while inner.events.len() > EVENTS_MAX {
            inner.events.pop_front();
        }
        if let Err(error) = self.write(&mut inner, &event) {
            inner.broken = true;
            log::warn!("could not write \"{}\": {error}", self.path.display());
        }
    }

    fn write(&self, inner: &mut Inner, event: &Event) -> io::Result<()> {
        if inner.broken || inner.lines >= LINES_MAX {
            let text: String = inner.events.iter().map(line).collect();
            replace_file(&self.path, &text, 0o640).map_err(|e| io::Error::other(e.to_string()))?;
            (inner.lines, inner.broken) = (inner.events.len(), false);
            return Ok(());
        }
        let mut file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path)?;
        file.write_all(line(event).as_bytes())?;
        inner.lines += 1;
        Ok(())
    }

    /// The latest `at_most`, oldest first.
    pub fn latest(&self, at_most: usize) -> Vec<Event> {
        let inner = self.lock();
        inner.events.iter().skip(inner.events.len().saturating_sub(at_most)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(event: &Event) -> String {
    // Plain values of our own: this cannot fail.
    serde_json::to_string(event).map_or_else(|_| String::new(), |text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn remove(path: &Path) {
        let _ = fs::remove_file(path); // it may never have been written
    }

    #[test]
    fn it_survives_a_restart_a_torn_line_and_is_bounded() {
        let path = std::env::temp_dir().join(format!("ramd-history-{}", std::process::id()));
        remove(&path);
        let history = History::open(&path).unwrap();
        for n in 0..LINES_MAX + 5 {
            history.transition("leader", &format!("{n}\n"));
        }
        history.action("start", "it was down", "no room", 12);
        history.action("start", "it was down", "no room", 13);
        let last = history.latest(1)[0].clone();
        assert_eq!((last.times, last.took_ms), (2, 13));
        history.action("start", "it was down", "ok", 12);
        history.action("start", "it was down", "ok", 12);
        assert_eq!(history.latest(1)[0].times, 1);
        assert_eq!(history.latest(usize::MAX).len(), EVENTS_MAX);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= LINES_MAX);
        fs::write(&path, text + "{\"unix_ms\": 1, ").unwrap();
        let again = History::open(&path).unwrap();
        assert_eq!(again.latest(3), history.latest(3));
        again.action("stop", "asked", "ok", 1);
        let third = History::open(&path).unwrap();
        assert_eq!(third.latest(2), again.latest(2));
        assert_eq!(third.latest(1)[0].what, "stop");
        remove(&path);
    }
}
