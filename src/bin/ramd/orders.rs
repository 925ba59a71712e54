//! What people may ask ramd to do to its own server, through the API: one thing at a time, carried
//! out by the hand, with an answer.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

/// Orders that wait while one is carried out; more are refused.
const WAITING_MAX: usize = 4;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Start the server, if it is down. Also while the cluster is paused.
    Start,
    /// Stop it, and leave it so until it is started, or ordered to be.
    Stop,
    /// Stop it and start it.
    Restart,
    /// Have it read its configuration again (SIGHUP).
    Reload,
}

/// An order under way.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub what: What,
    /// Who wants it, for the history: "POST nodes/1/restart from 127.0.0.1".
    pub who: String,
    /// Takes the outcome: what was done, or why not.
    pub answer: Sender<Result<String, String>>,
}

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoOutcome {
    /// Too many wait already.
    Busy,
    /// ramd is ending.
    Ending,
    /// It takes longer than one wanted to wait; it is carried out all the same.
    Late,
}

/// Where orders are given; cheap to clone.
#[derive(Clone, Debug)]
pub struct Orders(SyncSender<Order>);

impl Orders {
    /// The two ends.
    pub fn channel() -> (Orders, Receiver<Order>) {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        (Orders(sender), receiver)
    }

    /// Gives an order and waits for its outcome, at most so long.
    pub fn give(
        &self,
        what: What,
        who: &str,
        at_most: Duration,
    ) -> Result<Result<String, String>, NoOutcome> {
        let (answer, outcome) = std::sync::mpsc::channel();
        let order = Order { what, who: who.to_owned(), answer };
        self.0.try_send(order).map_err(|error| match error {
            TrySendError::Full(_) => NoOutcome::Busy,
            TrySendError::Disconnected(_) => NoOutcome::Ending,
        })?;
        outcome.recv_timeout(at_most).map_err(|error| match error {
            RecvTimeoutError::Timeout => NoOutcome::Late,
            RecvTimeoutError::Disconnected => NoOutcome::Ending,
        })
    }
}
