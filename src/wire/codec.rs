//! The primitive values: how numbers, texts and options stand in bytes, and the reader that checks
//! every length against what is left before it believes it.

use byteorder::{BigEndian, WriteBytesExt};

use super::DecodeError;
use crate::cluster::{Address, Uuid};
use crate::raft::{EntryId, LogIndex, NodeId, Term};

/// Reads values off the front of a slice.
pub struct Reader<'a>(&'a [u8]);

/// A value that stands in bytes. Numbers are big-endian; a text is a `u32` length and UTF-8; an
/// option is a byte, 0 or 1, and the value; a list is a `u32` count and the items.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one.
    fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// The one value that `bytes` hold, and nothing after it.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader(bytes);
    let value = T::take(&mut reader)?;
    reader.end()?;
    Ok(value)
}

impl<'a> Reader<'a> {
    /// Reads from `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// That nothing is left.
    pub fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }
}

macro_rules! number {
    ($type:ty, $write:ident) => {
        impl Wire for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.$write::<BigEndian>(*self).expect("a Vec takes every byte");
            }
            fn take(from: &mut Reader<'_>) -> Result<$type, DecodeError> {
                Ok(<$type>::from_be_bytes(from.array()?))
            }
        }
    };
}

number!(u16, write_u16);
number!(u32, write_u32);
number!(u64, write_u64);

impl Wire for u8 {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn take(from: &mut Reader<'_>) -> Result<u8, DecodeError> {
        Ok(from.array::<1>()?[0])
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(from: &mut Reader<'_>) -> Result<bool, DecodeError> {
        match u8::take(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("truth value")),
        }
    }
}

/// Bytes, as a `u32` length and themselves.
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    (bytes.len() as u32).put(out);
    out.extend_from_slice(bytes);
}

/// What [`put_bytes`] wrote.
pub fn take_bytes<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = u32::take(from)?;
    from.bytes(len as usize)
}

impl Wire for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }
    fn take(from: &mut Reader<'_>) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(take_bytes(from)?);
        Ok(text.map_err(|_| DecodeError::Invalid("text"))?.to_owned())
    }
}

/// The longest name of a node or cluster; pgraft.conf allows less.
const NAME_BYTES_MAX: usize = 255;

/// A name: short, and one line, as it is printed in logs.
pub(super) fn take_name(from: &mut Reader<'_>) -> Result<String, DecodeError> {
    let name = String::take(from)?;
    if name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
        return Err(DecodeError::Invalid("name"));
    }
    Ok(name)
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn take(from: &mut Reader<'_>) -> Result<Option<T>, DecodeError> {
        if bool::take(from)? { T::take(from).map(Some) } else { Ok(None) }
    }
}

/// A list of anything, by reference.
pub fn put_list<'a, T: Wire + 'a>(items: impl ExactSizeIterator<Item = &'a T>, out: &mut Vec<u8>) {
    (items.len() as u32).put(out);
    for item in items {
        item.put(out);
    }
}

/// What [`put_list`] wrote. An item takes a byte at least, so a count beyond the bytes left is a
/// lie and nothing is allocated for it.
pub fn take_list<C>(from: &mut Reader<'_>) -> Result<C, DecodeError>
where
    C: IntoIterator + Extend<C::Item> + Default,
    C::Item: Wire,
{
    let count = u32::take(from)? as usize;
    if count > from.0.len() {
        return Err(DecodeError::Truncated);
    }
    let mut list = C::default();
    for _ in 0..count {
        list.extend([Wire::take(from)?]);
    }
    Ok(list)
}

impl Wire for NodeId {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
        NodeId::new(i64::from(u32::take(from)?)).ok_or(DecodeError::Invalid("node id"))
    }
}

impl Wire for Term {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Term, DecodeError> {
        take_position(from, "term").map(Term)
    }
}

impl Wire for LogIndex {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<LogIndex, DecodeError> {
        take_position(from, "log index").map(LogIndex)
    }
}

/// A term or an index: no larger than SQL's `bigint`, as which it is shown, so that adding to it
/// cannot overflow.
fn take_position(from: &mut Reader<'_>, what: &'static str) -> Result<u64, DecodeError> {
    let position = u64::take(from)?;
    if position > i64::MAX as u64 { Err(DecodeError::Invalid(what)) } else { Ok(position) }
}

impl Wire for EntryId {
    fn put(&self, out: &mut Vec<u8>) {
        self.term.put(out);
        self.index.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<EntryId, DecodeError> {
        Ok(EntryId { term: Wire::take(from)?, index: Wire::take(from)? })
    }
}

impl Wire for Uuid {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }
    fn take(from: &mut Reader<'_>) -> Result<Uuid, DecodeError> {
        from.array().map(Uuid::from_bytes)
    }
}

impl Wire for Address {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.host().as_bytes(), out);
        self.port().put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Address, DecodeError> {
        let host = String::take(from)?;
        let port = u16::take(from)?;
        Address::new(&host, port).map_err(|_| DecodeError::Invalid("address"))
    }
}
