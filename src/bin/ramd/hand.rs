//! The hand: the only thread that does something to the server. It looks at the board, does the
//! first thing that leads from what is to what the Raft log decided, and looks again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::daemon::Daemon;
use crate::orders::Order;
use crate::threads;

/// How often it is looked whether there is something to do.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The hand as others hold it.
pub struct Hand {
    ended: Receiver<()>,
}

impl Hand {
    /// Waits until it has let go, at most so long.
    pub fn await_end(self, at_most: Duration) {
        // Its sender only ever goes: the thread has ended, or it takes too long.
        let _ = self.ended.recv_timeout(at_most);
    }
}

/// Starts it.
pub fn begin(daemon: &Daemon, orders: Receiver<Order>) -> std::io::Result<Hand> {
    let (alive, ended) = channel();
    let daemon = daemon.clone();
    threads::spawn("ramd hand", move || {
        run(&daemon, &orders);
        drop(alive);
    })?;
    Ok(Hand { ended })
}

fn run(daemon: &Daemon, orders: &Receiver<Order>) {
    daemon.doing("watching", "");
    while !daemon.is_ending() {
        match orders.recv_timeout(LOOK_EVERY) {
            Ok(order) => {
                // Gone already: whoever gave it did not wait.
                let _ = order.answer.send(Err("ramd cannot do this yet".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
