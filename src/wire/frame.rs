//! Frames: `u32` big-endian length | `u32` crc32c of the body | body.

use byteorder::{BigEndian, ByteOrder};

use super::DecodeError;

/// Bytes before a frame's body.
pub const FRAME_HEADER_BYTES: usize = 8;

/// What stands before a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// Bytes in the body, at least one.
    pub len: u32,
    crc: u32,
}

impl FrameHeader {
    /// Reads a header; a length of zero or above `max` is refused before anything is allocated.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES], max: u32) -> Result<FrameHeader, DecodeError> {
        let len = BigEndian::read_u32(&bytes[..4]);
        if len == 0 || len > max {
            return Err(DecodeError::FrameLength { len, max });
        }
        Ok(FrameHeader { len, crc: BigEndian::read_u32(&bytes[4..]) })
    }

    /// Whether `body` is the one this header announced.
    pub fn check(&self, body: &[u8]) -> Result<(), DecodeError> {
        match body.len() == self.len as usize && crc32c::crc32c(body) == self.crc {
            true => Ok(()),
            false => Err(DecodeError::Checksum),
        }
    }
}

/// Appends to `out` a frame whose body is what `body` appends.
pub fn frame(body: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    body(out);
    let (header, body) = out[start..].split_at_mut(FRAME_HEADER_BYTES);
    BigEndian::write_u32(&mut header[..4], body.len() as u32);
    BigEndian::write_u32(&mut header[4..], crc32c::crc32c(body));
}
