//! The clock of consensus: one thread that turns time into `Event::Tick`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::event::Event;
use crate::queue::{Receiver, RecvTimeoutError, Sender};

/// The unit in which `raft` counts time. Short enough for heartbeats of 100 ms to be regular, long
/// enough for an idle node to use next to no CPU: its wake-ups are most of what it costs.
pub const TICK: Duration = Duration::from_millis(TICK_MS as u64);
/// `TICK` in milliseconds.
pub const TICK_MS: u32 = 50;

/// At least one tick that lasts at least `ms`.
pub fn ticks(ms: u32) -> u32 {
    ms.div_ceil(TICK_MS).max(1)
}

/// Set while a tick is queued. Ticks that come while one waits are dropped: a burst of late ticks
/// would be taken for silence of the leader, and time that runs slow only delays an election.
#[derive(Clone, Debug, Default)]
pub struct TickPending(Arc<AtomicBool>);

impl TickPending {
    /// The consensus thread took the tick.
    pub fn taken(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The ticker thread's body; ends when `stop` is closed.
///
/// Never faster than the clock, however late it is woken: a voter counts its promise to the leader
/// in these ticks.
pub fn run(events: Sender<Event>, pending: TickPending, stop: Receiver<()>) {
    while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        if !pending.0.swap(true, Ordering::AcqRel) && events.try_send(Event::Tick).is_err() {
            pending.taken();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue;

    #[test]
    fn ticks_round_up() {
        assert_eq!([1, 50, 51, 100, 1000].map(ticks), [1, 1, 2, 2, 20]);
    }

    #[test]
    fn a_stalled_consumer_finds_one_tick_not_a_burst() {
        let (events, inbox) = queue::bounded(100);
        let (stop, stopped) = queue::bounded(1);
        let pending = TickPending::default();
        let ticker = {
            let pending = pending.clone();
            std::thread::spawn(move || run(events, pending, stopped))
        };
        assert!(matches!(inbox.recv(), Ok(Event::Tick)));
        // `pending` is still set: however long we wait, no further tick is queued.
        std::thread::sleep(5 * TICK);
        assert!(inbox.try_recv().is_err());
        pending.taken();
        assert!(matches!(inbox.recv(), Ok(Event::Tick)));
        drop(stop);
        ticker.join().unwrap();
    }
}
