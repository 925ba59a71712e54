//! Wakes the worker's main thread: a byte through a socket pair that it waits on beside its latch.
//! Any thread may wake; only main drains. However many wake it before it looks, one byte goes.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The sending side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker {
    socket: Arc<UnixStream>,
    /// A byte is on its way that main has not taken.
    rung: Arc<AtomicBool>,
}

/// The side main waits on.
#[derive(Debug)]
pub struct WakeSource {
    socket: UnixStream,
    rung: Arc<AtomicBool>,
}

/// A connected pair, both sides nonblocking.
pub fn pair() -> io::Result<(Waker, WakeSource)> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    let rung = Arc::new(AtomicBool::new(false));
    let waker = Waker { socket: Arc::new(sender), rung: rung.clone() };
    Ok((waker, WakeSource { socket: receiver, rung }))
}

impl Waker {
    /// Makes the source readable. What main is to find must be there before.
    pub fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            // It can only fail when main is gone: there is one byte under way at most, or two.
            let _ = (&*self.socket).write(&[1]);
        }
    }
}

impl WakeSource {
    /// What to wait on.
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Takes the wake-ups so far. To be called before looking for work, not after.
    pub fn drain(&mut self) {
        // Nothing to read is as good as something: main looks for work all the same.
        let _ = self.take();
    }

    /// The bytes come first: who rings in between sends none, but what it brings is found, as it
    /// was there before it rang.
    fn take(&mut self) -> io::Result<usize> {
        let taken = self.socket.read(&mut [0; 64]);
        self.rung.swap(false, Ordering::AcqRel);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_wake_ups_is_one_byte_and_does_not_outlive_a_drain() {
        let (waker, mut source) = pair().unwrap();
        for _ in 0..1_000_000 {
            waker.wake();
        }
        assert_eq!(source.socket.read(&mut [0; 8]).unwrap(), 1);
        source.drain();
        waker.wake();
        source.drain();
        assert_eq!(source.socket.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        waker.wake();
        assert_eq!(source.socket.read(&mut [0; 8]).unwrap(), 1);
    }

    #[test]
    fn whatever_is_queued_before_a_wake_up_is_found() {
        const EACH: usize = 20_000;
        let (waker, mut source) = pair().unwrap();
        // As main waits: until there is something to read.
        source.socket.set_nonblocking(false).unwrap();
        source.socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        let (sender, queue) = crossbeam_channel::unbounded();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let (waker, sender) = (waker.clone(), sender.clone());
                scope.spawn(move || {
                    for n in 0..EACH {
                        sender.send(n).unwrap();
                        waker.wake();
                    }
                });
            }
            let mut found = 0;
            while found < 3 * EACH {
                source.take().expect("a wake-up was lost");
                found += queue.try_iter().count();
            }
        });
    }
}
