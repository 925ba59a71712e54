//! One segment's bytes: records of `length u32 | crc32c u32 | kind u8 | payload`, the length
//! counting kind and payload, numbers big-endian.
//!
//! A record is what one fdatasync made durable, and the next is written only after that. So bytes
//! that are no record are a write that power cut short if nothing readable follows them, and
//! damage if something does.
//!
//! A segment begins with a header, which says what the log is up to there: so any segment can be
//! the first, once a snapshot stands for those before it.

use crate::bugs::{self, Bug};
use byteorder::{BigEndian, ByteOrder};

use crate::raft::{Entry, EntryId, HardState};
use crate::wire::codec::{Reader, Wire, take_list};
use crate::wire::{DecodeError, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, frame};

/// What a segment begins with, in its header record.
const MAGIC: [u8; 8] = *b"PGRAFTLG";
const FORMAT_VERSION: u16 = 2;
/// A batch that grew beyond this ends there and another follows: so a segment can be read at once.
const BATCH_BYTES: usize = 8 << 20;
/// The longest record: an entry fits a frame, so a batch ends before this.
pub const RECORD_BYTES_MAX: u32 = BATCH_BYTES as u32 + FRAME_BYTES_MAX + 1024;

// The kinds stand on disk: never renumber.
const KIND_HEADER: u8 = 1;
const KIND_BATCH: u8 = 2;

/// What a segment says of what came before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which segment it is, counted from 1.
    pub number: u64,
    /// The bytes of the one before it, all of them on disk.
    pub bytes_before: u64,
    /// The log begins here: no entry of an earlier segment is part of it.
    pub begins: bool,
    /// The log's last entry; of a log that begins here, the one before its first.
    pub start: EntryId,
    /// The hard state.
    pub hard_state: HardState,
}

/// What one write made durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// The entry before the first of `entries`; with none, the log's last.
    pub prev: EntryId,
    /// If it changed.
    pub hard_state: Option<HardState>,
    /// To be appended; what was behind `prev` is replaced.
    pub entries: Vec<Entry>,
}

/// The name of segment `number`.
pub fn name(number: u64) -> String {
    format!("{number:010}.log")
}

/// The number in a segment's name.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() == 10 { digits.parse().ok() } else { None }
}

/// The record that begins a segment.
pub fn header(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(
        |out| {
            out.push(KIND_HEADER);
            out.extend_from_slice(&MAGIC);
            FORMAT_VERSION.put(out);
            header.put(out);
        },
        &mut bytes,
    );
    bytes
}

/// One batch as a record, of as many of `entries` as one takes, and how many those are.
pub fn encode(
    prev: EntryId,
    hard_state: Option<&HardState>,
    entries: &[Entry],
) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut taken = 0;
    frame(
        |out| {
            out.push(KIND_BATCH);
            prev.put(out);
            hard_state.copied().put(out);
            let count_at = out.len();
            0u32.put(out);
            while taken < entries.len() && out.len() < BATCH_BYTES {
                entries[taken].put(out);
                taken += 1;
            }
            BigEndian::write_u32(&mut out[count_at..], taken as u32);
        },
        &mut bytes,
    );
    (bytes, taken)
}

/// What stands in a segment.
#[derive(Debug)]
pub struct Contents {
    /// What it begins with; `None` if not even that is whole.
    pub header: Option<Header>,
    /// The batches, in order, each with the offset of its record.
    pub batches: Vec<(u64, Batch)>,
    /// Where its last record begins.
    pub last: u64,
    /// Where the readable part ends.
    pub end: u64,
    /// What is wrong there, unless it is the end of the file.
    pub broken: Option<Broken>,
}

/// What follows the readable part of a segment.
#[derive(Debug)]
pub struct Broken {
    /// What is wrong.
    pub what: String,
    /// A record can be read further on, or what is wrong cannot come from a write cut short.
    pub damage: bool,
}

/// Reads a segment.
pub fn read(bytes: &[u8]) -> Contents {
    let mut contents =
        Contents { header: None, batches: Vec::new(), last: 0, end: 0, broken: None };
    while (contents.end as usize) < bytes.len() {
        let rest = &bytes[contents.end as usize..];
        let body = match record(rest) {
            Ok(body) => body,
            Err(error) => {
                let damage = later_record(rest);
                contents.broken = Some(Broken { what: error.to_string(), damage });
                return contents;
            }
        };
        let (kind, payload) = (body[0], &body[1..]);
        let parsed = match (kind, contents.header) {
            (KIND_HEADER, None) => {
                read_header(payload).map(|header| contents.header = Some(header))
            }
            (KIND_BATCH, Some(_)) => batch(payload)
                .map(|batch| contents.batches.push((contents.end, batch)))
                .map_err(|error| error.to_string()),
            (kind, _) => Err(format!("record of kind {kind} where none is expected")),
        };
        if let Err(what) = parsed {
            // Its checksum holds, so it was written so.
            contents.broken = Some(Broken { what, damage: true });
            return contents;
        }
        contents.last = contents.end;
        contents.end += (FRAME_HEADER_BYTES + body.len()) as u64;
    }
    contents
}

/// The body of the record that `bytes` begin with.
fn record(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let header = bytes.first_chunk().ok_or(DecodeError::Truncated)?;
    let header = FrameHeader::decode(header, RECORD_BYTES_MAX)?;
    let end = FRAME_HEADER_BYTES + header.len as usize;
    let body = bytes.get(FRAME_HEADER_BYTES..end).ok_or(DecodeError::Truncated)?;
    if !bugs::on(Bug::TornTail) {
        header.check(body)?;
    }
    Ok(body)
}

/// Whether a batch can be read anywhere behind the broken record that `bytes` begin with.
fn later_record(bytes: &[u8]) -> bool {
    // Cheap tests first: a length that fits, the kind, then the checksum, then the contents.
    (1..bytes.len().saturating_sub(FRAME_HEADER_BYTES)).any(|at| {
        let rest = &bytes[at..];
        let len = BigEndian::read_u32(rest) as usize;
        len > 1
            && len <= rest.len() - FRAME_HEADER_BYTES
            && rest[FRAME_HEADER_BYTES] == KIND_BATCH
            && record(rest).is_ok_and(|body| batch(&body[1..]).is_ok())
    })
}

fn read_header(payload: &[u8]) -> Result<Header, String> {
    let mut from = Reader::new(payload);
    let parsed = (|| {
        let magic: [u8; 8] = from.array()?;
        let version = u16::take(&mut from)?;
        if (magic, version) != (MAGIC, FORMAT_VERSION) {
            return Ok((magic, version, None));
        }
        let header = Header::take(&mut from)?;
        from.end()?;
        Ok::<_, DecodeError>((magic, version, Some(header)))
    })();
    match parsed {
        Ok((.., Some(header))) => Ok(header),
        Ok((MAGIC, version, None)) => Err(format!("format version {version} is not supported")),
        Ok(_) => Err("this is not a pgraft log".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn batch(payload: &[u8]) -> Result<Batch, DecodeError> {
    let mut from = Reader::new(payload);
    let batch = Batch {
        prev: Wire::take(&mut from)?,
        hard_state: Wire::take(&mut from)?,
        entries: take_list(&mut from)?,
    };
    from.end()?;
    Ok(batch)
}

impl Wire for Header {
    fn put(&self, out: &mut Vec<u8>) {
        self.number.put(out);
        self.bytes_before.put(out);
        self.begins.put(out);
        self.start.put(out);
        self.hard_state.put(out);
    }
    fn take(from: &mut Reader<'_>) -> Result<Header, DecodeError> {
        Ok(Header {
            number: Wire::take(from)?,
            bytes_before: Wire::take(from)?,
            begins: Wire::take(from)?,
            start: Wire::take(from)?,
            hard_state: Wire::take(from)?,
        })
    }
}
