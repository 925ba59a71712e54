//! Changes that were asked for, one at a time: what each is, how far it has come, how it ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::envelope::Refusal;
use crate::clock::unix_ms;

/// How many are remembered.
const REMEMBERED_MAX: usize = 32;
/// The longest list of steps.
const STEPS_MAX: usize = 64;

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Under way.
    Running,
    /// It was done.
    Done,
    /// It was refused, and nothing was changed; or an order to the server failed, as the message
    /// says.
    Refused,
    /// What became of it is not known.
    Unknown,
}

/// One thing that happened in the course of it.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// When, in milliseconds since it began.
    pub after_ms: u64,
    /// What.
    pub text: String,
}

/// An operation.
#[derive(Clone, Debug, Serialize)]
pub struct Operation {
    /// Its number.
    pub id: u64,
    /// `switchover`, `failover`, `pause`, `resume`, `restart`, `reload`.
    pub what: &'static str,
    /// Who asked for it.
    pub who: String,
    /// When it began, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// How it stands.
    pub state: State,
    /// What happened so far.
    pub steps: Vec<Step>,
    /// What came of it, in words; empty while it is under way.
    pub message: String,
    /// What to do, if it was refused; or empty.
    pub hint: String,
    /// The status of the answer to who waits for it; 0 while it is under way.
    pub code: u16,
}

/// All of them; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Operations(Arc<Mutex<VecDeque<Operation>>>);

impl Operations {
    /// Begins one; refused while another is under way.
    pub fn begin(&self, what: &'static str, who: String) -> Result<UnderWay, Refusal> {
        let mut all = self.lock();
        if let Some(other) = all.back().filter(|other| other.state == State::Running) {
            let message = format!("operation {}, a {}, is under way", other.id, other.what);
            return Err(Refusal::new(409, "busy", message)
                .hint("GET /api/v1/operations says how far it has come."));
        }
        let id = all.back().map_or(1, |last| last.id + 1);
        all.push_back(Operation {
            id,
            what,
            who,
            began_unix_ms: unix_ms(),
            state: State::Running,
            steps: Vec::new(),
            message: String::new(),
            hint: String::new(),
            code: 0,
        });
        if all.len() > REMEMBERED_MAX {
            all.pop_front();
        }
        Ok(UnderWay { all: self.clone(), id })
    }

    /// One by its number.
    pub fn get(&self, id: u64) -> Option<Operation> {
        self.lock().iter().find(|operation| operation.id == id).cloned()
    }

    /// All that are remembered, oldest first.
    pub fn list(&self) -> Vec<Operation> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Operation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operation under way. One that is dropped before it was ended has an unknown outcome.
#[derive(Debug)]
pub struct UnderWay {
    all: Operations,
    id: u64,
}

/// How an operation ended.
pub type Outcome = Result<String, Refusal>;

impl UnderWay {
    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Something happened.
    pub fn step(&self, text: impl Into<String>) {
        self.change(|operation| {
            if operation.steps.len() < STEPS_MAX {
                let after_ms = unix_ms().saturating_sub(operation.began_unix_ms);
                operation.steps.push(Step { after_ms, text: text.into() });
            }
        });
    }

    /// It has ended.
    pub fn end(self, outcome: &Outcome) {
        self.change(|operation| match outcome {
            Ok(message) => {
                (operation.state, operation.code) = (State::Done, 200);
                operation.message.clone_from(message);
            }
            Err(refusal) => {
                let unknown = refusal.reason == UNKNOWN;
                operation.state = if unknown { State::Unknown } else { State::Refused };
                operation.code = refusal.status;
                operation.message.clone_from(&refusal.message);
                operation.hint.clone_from(&refusal.hint);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Operation)) {
        if let Some(own) = self.all.lock().iter_mut().find(|other| other.id == self.id) {
            change(own);
        }
    }
}

/// The reason of what is no refusal: it may or may not take effect.
pub const UNKNOWN: &str = "outcome_unknown";

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.change(|operation| {
            if operation.state == State::Running {
                (operation.state, operation.code) = (State::Unknown, 500);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_a_bounded_memory() {
        let all = Operations::default();
        let first = all.begin("pause", "test".into()).unwrap();
        assert_eq!(all.begin("resume", "test".into()).unwrap_err().status, 409);
        first.step("asked");
        first.end(&Ok("paused".into()));
        assert_eq!((all.get(1).unwrap().state, all.get(1).unwrap().code), (State::Done, 200));
        let refusal = Refusal::new(412, "no_member", "there is no node 9").hint("So it is.");
        all.begin("switchover", "test".into()).unwrap().end(&Err(refusal));
        let second = all.get(2).unwrap();
        assert_eq!((second.state, second.code), (State::Refused, 412));
        drop(all.begin("failover", "test".into()).unwrap());
        assert_eq!(all.get(3).unwrap().state, State::Unknown);
        for _ in 0..2 * REMEMBERED_MAX {
            all.begin("pause", "test".into()).unwrap().end(&Ok(String::new()));
        }
        assert_eq!(all.list().len(), REMEMBERED_MAX);
        assert!(all.get(1).is_none());
    }
}
