//! One segment's bytes: records of `length u32 | crc32c u32 | kind u8 | payload`, the length
//! counting kind and payload, numbers big-endian.
//!
//! A record is what one fdatasync made durable, and the next is written only after that. So bytes
//! that are no record are a write that power cut short if nothing readable follows them, and
//! damage if something does.

use byteorder::{BigEndian, ByteOrder};

use crate::raft::{Entry, HardState};
use crate::wire::codec::{Reader, Wire, take_list};
use crate::wire::{DecodeError, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, frame};

/// What a segment begins with, in its header record.
const MAGIC: [u8; 8] = *b"PGRAFTLG";
const FORMAT_VERSION: u16 = 1;
/// A batch that grew beyond this ends there and another follows: so a segment can be read at once.
const BATCH_BYTES: usize = 8 << 20;
/// The longest record: an entry fits a frame, so a batch ends before this.
pub const RECORD_BYTES_MAX: u32 = BATCH_BYTES as u32 + FRAME_BYTES_MAX + 1024;

// The kinds stand on disk: never renumber.
const KIND_HEADER: u8 = 1;
const KIND_BATCH: u8 = 2;

/// What one write made durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// If it changed.
    pub hard_state: Option<HardState>,
    /// To be appended; one at or before the end replaces from there on.
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

/// The record that begins segment `number`; the one before it has `bytes_before`, all on disk.
pub fn header(number: u64, bytes_before: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(
        |out| {
            out.push(KIND_HEADER);
            out.extend_from_slice(&MAGIC);
            FORMAT_VERSION.put(out);
            number.put(out);
            bytes_before.put(out);
        },
        &mut bytes,
    );
    bytes
}

/// One batch as a record, of as many of `entries` as one takes, and how many those are.
pub fn encode(hard_state: Option<&HardState>, entries: &[Entry]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut taken = 0;
    frame(
        |out| {
            out.push(KIND_BATCH);
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

/// Reads segment `number`, with `bytes_before` in the one before it.
pub fn read(number: u64, bytes_before: u64, bytes: &[u8]) -> Contents {
    let mut contents = Contents { batches: Vec::new(), last: 0, end: 0, broken: None };
    let mut first = true;
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
        let parsed = match (kind, first) {
            (KIND_HEADER, true) => check_header(number, bytes_before, payload),
            (KIND_BATCH, false) => batch(payload)
                .map(|batch| contents.batches.push((contents.end, batch)))
                .map_err(|error| error.to_string()),
            (kind, _) => Err(format!("record of kind {kind} where none is expected")),
        };
        if let Err(what) = parsed {
            // Its checksum holds, so it was written so.
            contents.broken = Some(Broken { what, damage: true });
            return contents;
        }
        first = false;
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
    header.check(body)?;
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

fn check_header(expected: u64, expected_before: u64, payload: &[u8]) -> Result<(), String> {
    let mut from = Reader::new(payload);
    let parsed = (|| {
        let magic: [u8; 8] = from.array()?;
        let version = u16::take(&mut from)?;
        if (magic, version) != (MAGIC, FORMAT_VERSION) {
            return Ok((magic, version, 0, 0));
        }
        let (number, before) = (u64::take(&mut from)?, u64::take(&mut from)?);
        from.end()?;
        Ok::<_, DecodeError>((magic, version, number, before))
    })();
    match parsed {
        Ok((MAGIC, FORMAT_VERSION, number, _)) if number != expected => {
            Err(format!("this is segment {number}, not {expected}"))
        }
        Ok((MAGIC, FORMAT_VERSION, _, before)) if before != expected_before => {
            Err(format!("the segment before it has {expected_before} bytes instead of {before}"))
        }
        Ok((MAGIC, FORMAT_VERSION, ..)) => Ok(()),
        Ok((MAGIC, version, ..)) => Err(format!("format version {version} is not supported")),
        Ok(_) => Err("this is not a pgraft log".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn batch(payload: &[u8]) -> Result<Batch, DecodeError> {
    let mut from = Reader::new(payload);
    let batch = Batch { hard_state: Wire::take(&mut from)?, entries: take_list(&mut from)? };
    from.end()?;
    Ok(batch)
}
