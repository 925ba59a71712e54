//! Wakes the worker's main thread: a byte through a socket pair that it waits on beside its latch.
//! Any thread may wake; only main drains.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

/// The sending side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<UnixStream>);

/// The side main waits on.
#[derive(Debug)]
pub struct WakeSource(UnixStream);

/// A connected pair, both sides nonblocking.
pub fn pair() -> io::Result<(Waker, WakeSource)> {
    let (sender, receiver) = UnixStream::pair()?;
    sender.set_nonblocking(true)?;
    receiver.set_nonblocking(true)?;
    Ok((Waker(Arc::new(sender)), WakeSource(receiver)))
}

impl Waker {
    /// Makes the source readable.
    pub fn wake(&self) {
        // A full socket buffer means that main has been woken often enough; a closed one that it is
        // gone.
        let _ = (&*self.0).write(&[1]);
    }
}

impl WakeSource {
    /// What to wait on.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Takes the wake-ups so far. To be called before looking for work, not after.
    pub fn drain(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.0.read(&mut bytes), Ok(n) if n > 0) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_wake_ups_neither_blocks_nor_outlives_a_drain() {
        let (waker, mut source) = pair().unwrap();
        for _ in 0..1_000_000 {
            waker.wake();
        }
        source.drain();
        assert_eq!(source.0.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        waker.wake();
        assert_eq!(source.0.read(&mut [0; 8]).unwrap(), 1);
    }
}
