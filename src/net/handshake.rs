//! The handshake on a fresh connection, both sides:
//!
//! 1. the dialler sends its `Hello`;
//! 2. the listener judges it and sends a `HelloAnswer`: refused and why, or accepted and its own
//!    `Hello`;
//! 3. the dialler judges that and sends a `HelloAnswer` of its own, so that a refusal is known on
//!    both sides; then packets.
//!
//! All of it before one deadline, in frames of at most 4 KiB.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::frames::{FrameReader, Patience, ReadError, write_all_within};
use super::gate::{Gate, Pass, why_refused, why_refused_there};
use super::{ConnId, Inner};
use crate::cluster::Address;
use crate::raft::NodeId;
use crate::wire::{
    self, DecodeError, HANDSHAKE_BYTES_MAX, Hello, HelloAnswer, PROTOCOL_NEWEST, PROTOCOL_OLDEST,
    Refusal,
};

/// A handshake that did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// One side said no.
    Refused {
        /// What it said.
        refusal: Refusal,
        /// Whether it was this side.
        by_us: bool,
        /// Who the other is, if it came to that.
        node: Option<NodeId>,
        /// For the log.
        why: String,
    },
    /// What came is no handshake.
    Bad(DecodeError),
    /// The connection ended or fell silent.
    Lost(String),
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Failed {
        match error {
            ReadError::Frame(error) => Failed::Bad(error),
            error => Failed::Lost(error.to_string()),
        }
    }
}

/// One side of a handshake.
pub(super) struct Handshake<'a, 'b> {
    pub(super) stream: &'a TcpStream,
    pub(super) reader: &'b mut FrameReader<'a>,
    pub(super) gate: &'b Arc<Gate>,
    pub(super) conn: ConnId,
    pub(super) deadline: Instant,
}

impl Handshake<'_, '_> {
    /// The listener's side.
    pub(super) fn listen(&mut self, net: &Inner) -> Result<(Hello, Pass), Failed> {
        let hello = match wire::decode_hello(self.read()?) {
            Ok(hello) => hello,
            Err(error) => return Err(self.undecodable(error)),
        };
        self.gate.judge(&hello).map_err(|refusal| self.refuse(refusal, &hello))?;
        if !net.inbounds.has_room(self.gate.is_member(hello.node)) {
            return Err(self.refuse(Refusal::Full, &hello));
        }
        self.write_answer(&HelloAnswer::Accepted(self.gate.hello(None)))?;
        match wire::decode_hello_answer(self.read()?).map_err(Failed::Bad)? {
            HelloAnswer::Refused(refusal) => Err(self.refused(refusal, Some(hello.node))),
            HelloAnswer::Accepted(_) => match self.gate.enter(&hello, self.conn) {
                Ok(pass) => Ok((hello, pass)),
                Err(refusal) => Err(self.refuse(refusal, &hello)),
            },
        }
    }

    /// The dialler's side; `before` is who answered at this address the last time.
    pub(super) fn dial(
        &mut self,
        address: &Address,
        before: Option<NodeId>,
    ) -> Result<(Hello, Pass), Failed> {
        let own = self.gate.hello(Some(address));
        self.write(|out| wire::encode_hello(&own, out))?;
        let hello = match wire::decode_hello_answer(self.read()?) {
            Ok(HelloAnswer::Accepted(hello)) => hello,
            Ok(HelloAnswer::Refused(refusal)) => return Err(self.refused(refusal, before)),
            Err(error) => return Err(self.undecodable(error)),
        };
        let pass =
            self.gate.enter(&hello, self.conn).map_err(|refusal| self.refuse(refusal, &hello))?;
        self.write_answer(&HelloAnswer::Accepted(own))?;
        Ok((hello, pass))
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
    }

    fn read(&mut self) -> Result<&[u8], ReadError> {
        self.reader.next(HANDSHAKE_BYTES_MAX, Patience::Until(self.deadline))
    }

    fn write(&self, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), Failed> {
        let mut out = Vec::new();
        wire::frame(body, &mut out);
        write_all_within(self.stream, &out, self.time_left())
            .map_err(|error| Failed::Lost(error.to_string()))
    }

    fn write_answer(&self, answer: &HelloAnswer) -> Result<(), Failed> {
        self.write(|out| wire::encode_hello_answer(answer, out))
    }

    /// Says no to the bearer of `hello`.
    fn refuse(&self, refusal: Refusal, hello: &Hello) -> Failed {
        // It is refused whether or not it hears so.
        let _ = self.write_answer(&HelloAnswer::Refused(refusal));
        let why = why_refused(refusal, hello, &self.gate.hello(None));
        Failed::Refused { refusal, by_us: true, node: Some(hello.node), why }
    }

    /// The other side said no.
    fn refused(&self, refusal: Refusal, node: Option<NodeId>) -> Failed {
        let why = why_refused_there(refusal, &self.gate.hello(None));
        Failed::Refused { refusal, by_us: false, node, why }
    }

    /// A version of another time is refused in words, anything else is no handshake at all.
    fn undecodable(&self, error: DecodeError) -> Failed {
        let DecodeError::Version { oldest, newest } = error else {
            return Failed::Bad(error);
        };
        let refusal = Refusal::Version;
        // As in `refuse`.
        let _ = self.write_answer(&HelloAnswer::Refused(refusal));
        let why = format!(
            "it speaks protocol versions {oldest} to {newest}, this node {PROTOCOL_OLDEST} to \
             {PROTOCOL_NEWEST}"
        );
        Failed::Refused { refusal, by_us: true, node: None, why }
    }
}
