//! Bounded queues to one thread each, which sleeps when its queue is empty.
//!
//! They are crossbeam's, but for the waiting: its blocking receive first spins and yields the
//! processor, several times. On few cores that keeps whoever has work from it: one commit wakes
//! several threads, and while two that had nothing left to do yielded to each other, the client's
//! backend was seen to wait 50 µs to take its answer.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

pub use crossbeam_channel::{
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};

/// A queue of at most `len_max` items.
pub fn bounded<T>(len_max: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(len_max);
    let sleeper = Arc::new(Sleeper::default());
    let wake = Wake(sleeper.clone());
    (Sender { queue: sender, wake }, Receiver { queue: receiver, sleeper })
}

/// The end for any number of threads. When the last one is gone the receiver learns of it.
#[derive(Debug)]
pub struct Sender<T> {
    queue: crossbeam_channel::Sender<T>,
    /// Behind `queue`, so that what is dropped second wakes the receiver to find it closed.
    wake: Wake,
}

/// The end for one thread: the first that calls `recv`.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: crossbeam_channel::Receiver<T>,
    sleeper: Arc<Sleeper>,
}

#[derive(Debug, Default)]
struct Sleeper {
    /// Set before the receiver looks into its queue for the last time and sleeps. Who takes it back
    /// wakes it.
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

#[derive(Clone, Debug)]
struct Wake(Arc<Sleeper>);

impl Wake {
    /// To be called behind what the receiver shall see.
    fn wake(&self) {
        // Either this sees the flag, or the receiver sees what was done before: both look only
        // after they have written, with such a fence in between.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed)
            && self.0.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.0.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.wake();
    }
}

// Not derived: that would ask for items that can be cloned.
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender { queue: self.queue.clone(), wake: self.wake.clone() }
    }
}

impl<T> Sender<T> {
    /// Queues the item, if there is room.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        let sent = self.queue.try_send(item);
        self.wake.wake();
        sent
    }

    /// Queues the item, waiting for room as long as that takes.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        let sent = self.queue.send(item);
        self.wake.wake();
        sent
    }

    /// Queues the item, waiting for room no longer than that.
    pub fn send_timeout(&self, item: T, limit: Duration) -> Result<(), SendTimeoutError<T>> {
        let sent = self.queue.send_timeout(item, limit);
        self.wake.wake();
        sent
    }
}

impl<T> Receiver<T> {
    /// The next item. Sleeps until there is one, or until every sender is gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.next(|| {
            thread::park();
            true
        })
        .map_err(|_| RecvError)
    }

    /// The same, no longer than that.
    pub fn recv_timeout(&self, limit: Duration) -> Result<T, RecvTimeoutError> {
        let deadline = Instant::now() + limit;
        let next = self.next(|| {
            let left = deadline.saturating_duration_since(Instant::now());
            thread::park_timeout(left);
            !left.is_zero()
        });
        next.map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }

    /// The next item; while there is none, `park`, which may return for no reason, and says whether
    /// to go on.
    fn next(&self, park: impl Fn() -> bool) -> Result<T, TryRecvError> {
        let mut go_on = true;
        let mut next = self.queue.try_recv();
        while go_on && matches!(next, Err(TryRecvError::Empty)) {
            self.sleeper.thread.get_or_init(thread::current);
            self.sleeper.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst); // see `wake`
            next = self.queue.try_recv();
            if matches!(next, Err(TryRecvError::Empty)) {
                go_on = park();
                next = self.queue.try_recv();
            }
            self.sleeper.asleep.store(false, Ordering::Relaxed);
        }
        next
    }

    /// The next item, if there is one.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.queue.try_recv()
    }

    /// The items that are there.
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        self.queue.try_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Short bursts with pauses, so that the receiver falls asleep thousands of times; a wake-up
    /// that gets lost leaves it waiting for ever.
    #[test]
    fn no_wake_up_is_lost() {
        const SENDERS: u64 = 3;
        const EACH: u64 = 50_000;
        let (sender, receiver) = bounded(64);
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for number in 1..=EACH {
                        let mut item = number;
                        while let Err(TrySendError::Full(back)) = sender.try_send(item) {
                            item = back;
                            thread::yield_now();
                        }
                        if number % 7 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut sum = 0;
        while let Ok(number) = receiver.recv() {
            sum += number;
        }
        assert_eq!(sum, SENDERS * EACH * (EACH + 1) / 2);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn a_sleeping_receiver_learns_that_the_last_sender_went() {
        for _ in 0..1_000 {
            let (sender, receiver) = bounded::<()>(1);
            let sleeper = thread::spawn(move || receiver.recv());
            drop(sender.clone());
            drop(sender);
            assert_eq!(sleeper.join().unwrap(), Err(RecvError));
        }
    }

    #[test]
    fn patience_ends() {
        let (sender, receiver) = bounded(1);
        let limit = Duration::from_millis(1);
        assert_eq!(receiver.recv_timeout(limit), Err(RecvTimeoutError::Timeout));
        sender.try_send(7).unwrap();
        assert_eq!(receiver.recv_timeout(limit), Ok(7));
        drop(sender);
        assert_eq!(receiver.recv_timeout(limit), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_queue_without_a_receiver_takes_nothing() {
        let (sender, receiver) = bounded(1);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(TrySendError::Disconnected(1)));
    }
}
