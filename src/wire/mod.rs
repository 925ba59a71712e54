//! Messages to bytes and back, on slices; sockets are `net`'s. Everything read is checked here
//! once: behind this gate only valid values exist.
#![forbid(unsafe_code)]

mod cluster_codec;
pub mod codec;
mod error;
pub mod frame;
pub mod packet;
mod packet_codec;
mod raft_codec;
mod state_codec;
mod store_codec;
pub mod testing;
#[cfg(test)]
mod tests;

pub use codec::{Wire, decode};
pub use error::DecodeError;
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, frame};
pub use packet::*;
pub use state_codec::{decode_state, encode_state};

use crate::cluster::{Answer, Command, Request};
use crate::raft::{Entry, SnapshotMeta};

macro_rules! codec {
    ($($encode:ident $decode:ident $type:ty: $what:literal;)*) => {$(
        #[doc = concat!("Appends ", $what, " to `out`.")]
        pub fn $encode(value: &$type, out: &mut Vec<u8>) {
            value.put(out);
        }
        #[doc = concat!("Reads ", $what, ", and nothing after it.")]
        pub fn $decode(bytes: &[u8]) -> Result<$type, DecodeError> {
            decode(bytes)
        }
    )*};
}

codec! {
    encode_hello decode_hello Hello: "a handshake's first frame";
    encode_hello_answer decode_hello_answer HelloAnswer: "a handshake's answer";
    encode_packet decode_packet Packet: "a packet";
    encode_entry decode_entry Entry: "a log entry";
    encode_snapshot_meta decode_snapshot_meta SnapshotMeta: "a snapshot's description";
    encode_command decode_command Command: "a command";
    encode_request decode_request Request: "a request";
    encode_answer decode_answer Answer: "an answer";
}
