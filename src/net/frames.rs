//! Whole frames off a socket and whole buffers onto it, each with a deadline. The blocking calls of
//! this layer are here, in `peer` (connect) and in `listener` (accept).

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::wire::{DecodeError, FRAME_HEADER_BYTES, FrameHeader};

/// How long to wait for bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    /// Until this instant, however the bytes trickle.
    Until(Instant),
    /// So long without a single byte, and a whole frame in at most `frame`.
    Idle {
        /// Between two bytes.
        silence: Duration,
        /// From the first byte of a frame to its last.
        frame: Duration,
    },
}

/// Why there is no next frame.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The other side closed between two frames.
    Closed,
    /// It closed inside one.
    Cut,
    /// The deadline passed.
    TimedOut,
    /// The socket failed.
    Io(io::Error),
    /// What came is no frame.
    Frame(DecodeError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Closed => f.write_str("the connection was closed"),
            ReadError::Cut => f.write_str("the connection was closed inside a message"),
            ReadError::TimedOut => f.write_str("nothing was received in time"),
            ReadError::Io(error) => write!(f, "{error}"),
            ReadError::Frame(error) => write!(f, "{error}"),
        }
    }
}

/// Whether a blocking socket call ended because its timeout passed.
pub(super) fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Reads frames. Memory: one buffer of the given size; a frame that does not fit is collected in a
/// second one that grows only as its bytes arrive, so that a claimed length costs nothing.
pub(super) struct FrameReader<'a> {
    stream: &'a TcpStream,
    buffer: Vec<u8>,
    /// Invariant: `start <= end <= buffer.len()`; between them lies what is read and not used.
    start: usize,
    end: usize,
    large: Vec<u8>,
    /// When the first byte of the frame at hand was seen.
    begun: Option<Instant>,
    timeout: Option<Duration>,
}

/// A large frame's buffer is given back when it is bigger than this.
const LARGE_KEPT_BYTES: usize = 1 << 20;

impl<'a> FrameReader<'a> {
    /// A reader with a buffer of `bytes`.
    pub(super) fn new(stream: &'a TcpStream, bytes: usize) -> FrameReader<'a> {
        let buffer = vec![0; bytes.max(FRAME_HEADER_BYTES)];
        let large = Vec::new();
        FrameReader { stream, buffer, start: 0, end: 0, large, begun: None, timeout: None }
    }

    /// From now on a buffer of `bytes`; what was read already is kept.
    pub(super) fn grow(&mut self, bytes: usize) {
        let mut buffer = vec![0; bytes.max(self.buffer.len())];
        let unread = &self.buffer[self.start..self.end];
        buffer[..unread.len()].copy_from_slice(unread);
        (self.start, self.end) = (0, unread.len());
        self.buffer = buffer;
    }

    /// Whether everything read was used.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The body of the next frame, checked, of at most `max` bytes.
    pub(super) fn next(&mut self, max: u32, patience: Patience) -> Result<&[u8], ReadError> {
        self.begun = (self.start < self.end).then(Instant::now);
        if self.large.capacity() > LARGE_KEPT_BYTES {
            self.large = Vec::new();
        }
        self.fill(FRAME_HEADER_BYTES, patience)?;
        let mut header = [0; FRAME_HEADER_BYTES];
        header.copy_from_slice(&self.buffer[self.start..self.start + FRAME_HEADER_BYTES]);
        let header = FrameHeader::decode(&header, max).map_err(ReadError::Frame)?;
        let len = header.len as usize;
        let body = if FRAME_HEADER_BYTES + len <= self.buffer.len() {
            self.fill(FRAME_HEADER_BYTES + len, patience)?;
            let from = self.start + FRAME_HEADER_BYTES;
            self.start = from + len;
            &self.buffer[from..from + len]
        } else {
            self.start += FRAME_HEADER_BYTES;
            self.collect(len, patience)?;
            &self.large[..]
        };
        header.check(body).map_err(ReadError::Frame)?;
        Ok(body)
    }

    /// Reads until `bytes` unused ones lie in the buffer, which is big enough for them.
    fn fill(&mut self, bytes: usize, patience: Patience) -> Result<(), ReadError> {
        if self.buffer.len() - self.start < bytes {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < bytes {
            self.read(patience)?;
        }
        Ok(())
    }

    /// Moves the next `len` bytes into `large`.
    fn collect(&mut self, len: usize, patience: Patience) -> Result<(), ReadError> {
        self.large.clear();
        while self.large.len() < len {
            if self.is_empty() {
                (self.start, self.end) = (0, 0);
                self.read(patience)?;
            }
            let take = (self.end - self.start).min(len - self.large.len());
            self.large.extend_from_slice(&self.buffer[self.start..self.start + take]);
            self.start += take;
        }
        Ok(())
    }

    /// One read to the end of the buffer, of at least a byte.
    fn read(&mut self, patience: Patience) -> Result<(), ReadError> {
        loop {
            let timeout = self.time_left(patience)?;
            if self.timeout != Some(timeout) {
                self.stream.set_read_timeout(Some(timeout)).map_err(ReadError::Io)?;
                self.timeout = Some(timeout);
            }
            let mut stream = self.stream;
            match stream.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.begun.is_none() => return Err(ReadError::Closed),
                Ok(0) => return Err(ReadError::Cut),
                Ok(n) => {
                    self.end += n;
                    self.begun.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => return Err(ReadError::TimedOut),
                Err(error) => return Err(ReadError::Io(error)),
            }
        }
    }

    /// How long the next read may block; never zero, which would mean for ever.
    fn time_left(&self, patience: Patience) -> Result<Duration, ReadError> {
        match patience {
            Patience::Until(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ReadError::TimedOut);
                }
                Ok(left.max(Duration::from_millis(1)))
            }
            Patience::Idle { silence, frame } => {
                let slow = self.begun.is_some_and(|begun| begun.elapsed() > frame);
                if slow { Err(ReadError::TimedOut) } else { Ok(silence) }
            }
        }
    }
}

/// Writes all of `bytes` within `limit`, or fails; then part of them may be gone out.
pub(super) fn write_all_within(
    mut stream: &TcpStream,
    mut bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut timeout = limit;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(timeout))?;
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if timed_out(&error) => return Err(ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
        timeout = deadline.saturating_duration_since(Instant::now());
        if timeout.is_zero() && !bytes.is_empty() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}
