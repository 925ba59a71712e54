//! Why bytes are no message.

use std::fmt;

/// What is wrong with bytes that were received or stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// A frame claims a length of zero or beyond the limit.
    FrameLength {
        /// The length claimed.
        len: u32,
        /// The limit in force.
        max: u32,
    },
    /// The checksum does not fit the bytes.
    Checksum,
    /// The bytes end within a value.
    Truncated,
    /// Bytes are left after the value.
    TrailingBytes,
    /// A first frame that does not begin as pgraft's do.
    NotPgraft,
    /// The other side understands no protocol version that this one does.
    Version {
        /// The oldest it understands.
        oldest: u16,
        /// The newest it understands.
        newest: u16,
    },
    /// A value that no sender writes; the name says of what.
    Invalid(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::FrameLength { len, max } => {
                write!(f, "frame length {len} is not between 1 and {max}")
            }
            DecodeError::Checksum => f.write_str("checksum does not match"),
            DecodeError::Truncated => f.write_str("message ends too early"),
            DecodeError::TrailingBytes => f.write_str("message is followed by other bytes"),
            DecodeError::NotPgraft => f.write_str("this is not the pgraft protocol"),
            DecodeError::Version { oldest, newest } => {
                write!(f, "protocol versions {oldest} to {newest} are not supported")
            }
            DecodeError::Invalid(what) => write!(f, "invalid {what}"),
        }
    }
}

impl std::error::Error for DecodeError {}
