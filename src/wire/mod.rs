//! Messages to bytes and back, on slices; sockets are `net`'s. Everything read is checked here once:
//! behind this gate only valid values exist.
#![forbid(unsafe_code)]

pub mod packet;

pub use packet::*;
