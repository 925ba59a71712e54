//! What holds for whatever bytes or text come from outside, one check for each way in. A check that
//! does not hold panics. The fuzz targets (`fuzz/`) run the same.

use std::fmt::Display;
use std::path::Path;

use pgraft::cluster::{
    Address, Change, ClusterState, Command, KEY_BYTES_MAX, Request, Uuid, VALUE_BYTES_MAX,
    store::check_key,
};
use pgraft::config;
use pgraft::http::{Limits, read_head};
use pgraft::raft::*;
use pgraft::storage::testing::MemDisk;
use pgraft::storage::{Recovered, Storage};
use pgraft::wire::*;

use crate::allocation::peak_of;

/// A way in: its name, and what holds for it.
pub type Target = (&'static str, fn(&[u8]));

/// Every way in. Each has a folder of the corpus and a fuzz target of its name.
pub const TARGETS: [Target; 13] = [
    ("frame", frames),
    ("handshake", handshake),
    ("packet", packet),
    ("step", step),
    ("command", commands),
    ("request", request),
    ("record", record),
    ("segment", segment),
    ("snapshot", snapshot),
    ("state", state),
    ("config", configuration),
    ("sql", sql),
    ("http", http),
];

/// What decoding may hold for each byte decoded, and for none: a node in a set takes four bytes on
/// the wire and some tens in memory.
const HELD_PER_BYTE: usize = 64;
const HELD_BASE: usize = 4 << 10;

/// Decodes, holding no more than the bytes pay for.
fn frugal<T>(bytes: usize, decode: impl FnOnce() -> T) -> T {
    let (value, held) = peak_of(decode);
    let allowed = HELD_BASE + HELD_PER_BYTE * bytes;
    assert!(held <= allowed, "{held} bytes held to decode {bytes}");
    value
}

/// Reads a value. One that can be read is read again from what it is written as.
fn round<T: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = match frugal(bytes.len(), || decode(bytes)) {
        Ok(value) => value,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let mut written = Vec::new();
    value.put(&mut written);
    assert_eq!(decode::<T>(&written).as_ref(), Ok(&value), "written and read back");
    Some(value)
}

/// The pieces of an input: each has its length before it, as `u16`. The last may be cut short.
pub fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk() {
        let (piece, rest) = rest.split_at(rest.len().min(u16::from_be_bytes(*len).into()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Frames off a connection, read as `net` reads them, each a packet.
pub fn frames(mut bytes: &[u8]) {
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let Ok(header) = frugal(0, || FrameHeader::decode(header, FRAME_BYTES_MAX)) else { return };
        let Some(body) = rest.get(..header.len as usize) else { return };
        if header.check(body).is_err() {
            return;
        }
        let mut again = Vec::new();
        frame(|out| out.extend_from_slice(body), &mut again);
        assert_eq!(again, bytes[..again.len()], "framed again");
        packet(body);
        bytes = &rest[body.len()..];
    }
}

/// Requests of one HTTP connection, one behind the other.
pub fn http(mut bytes: &[u8]) {
    let limits = Limits::default();
    while !bytes.is_empty() {
        let head = match frugal(bytes.len(), || read_head(bytes, &limits)) {
            Ok(Some(head)) => head,
            Ok(None) => return assert!(bytes.len() < limits.head_bytes_max),
            Err(bad) => return assert!((400..600).contains(&bad.status)),
        };
        assert!(head.head_bytes <= limits.head_bytes_max);
        assert!(head.body_bytes <= limits.body_bytes_max);
        let request = &head.request;
        let decoded = request.query.iter().flat_map(|(name, value)| [name, value]);
        for text in decoded.chain([&request.path]) {
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        assert!(request.path.starts_with('/'));
        // However little of it has come, it is the same request.
        for part in [1, 2, 3, 5, 8] {
            let cut = &bytes[..(head.head_bytes - 1) / part];
            assert_eq!(read_head(cut, &limits), Ok(None), "the beginning");
        }
        let whole = &bytes[..head.head_bytes];
        assert_eq!(read_head(whole, &limits).as_ref(), Ok(&Some(head.clone())), "the head alone");
        bytes = bytes.get(head.head_bytes + head.body_bytes..).unwrap_or(&[]);
    }
}

/// What either side of a connection sends first.
pub fn handshake(bytes: &[u8]) {
    round::<Hello>(bytes);
    round::<HelloAnswer>(bytes);
}

/// What comes after that.
pub fn packet(bytes: &[u8]) {
    round::<Packet>(bytes);
}

/// A node that is told anything at all: messages, time, calls. Debug builds check its invariants.
pub fn step(bytes: &[u8]) {
    let mut node = voter();
    for piece in pieces(bytes) {
        let &[call, with, ref rest @ ..] = piece else { continue };
        let id = NodeId::new(1 + i64::from(with % 5)).expect("a small number");
        match call % 8 {
            0..=2 => {
                if let Ok(message) = decode::<Message>(rest) {
                    node.step(id, message);
                }
            }
            3 => (0..with % 16).for_each(|_| node.tick()),
            4 => carry_out(&mut node),
            5 => drop(node.propose(rest.to_vec())),
            6 => {
                let change = match with / 5 % 3 {
                    0 => MembershipChange::AddLearner(id),
                    1 => MembershipChange::Promote(id),
                    _ => MembershipChange::Remove(id),
                };
                drop(node.propose_membership(change, rest.to_vec()));
            }
            _ => match with / 5 % 5 {
                0 => drop(node.transfer_leadership(id)),
                1 => node.leader_refused(id),
                2 => node.peer_unreachable(id),
                3 => drop(node.force_election()),
                _ => drop(node.read_index(u64::from(with))),
            },
        }
    }
    carry_out(&mut node);
}

/// The first of three voters, in term 1.
fn voter() -> Node {
    let config = Config {
        id: NodeId::new(1).expect("a small number"),
        tick_ms: 50,
        election_timeout_ticks: 10,
        heartbeat_ticks: 2,
        append_bytes_max: 1 << 10,
        inflight_max: 4,
        proposals_bytes_max: 1 << 12,
    };
    let voters = (1..=3).filter_map(NodeId::new).collect();
    let membership = Membership { voters, ..Membership::default() };
    let id = EntryId { term: Term(1), index: LogIndex(1) };
    let payload = Payload::Membership { membership, command: Vec::new() };
    let restored = Restored {
        hard_state: HardState { term: Term(1), vote: None, commit: id.index },
        snapshot: None,
        base: EntryId::default(),
        entries: vec![Entry { id, payload }],
    };
    let mut node = Node::new(config, restored, 1).expect("a log that is one");
    node.set_may_vote(true);
    node
}

fn carry_out(node: &mut Node) {
    if let Some(mut ready) = node.ready() {
        let stored = Durable::attest();
        ready.promises(&stored);
        node.advance(stored);
    }
}

/// Commands of a log, applied one after the other, and the state that they lead to.
pub fn commands(bytes: &[u8]) {
    let mut state = ClusterState::default();
    for (piece, index) in pieces(bytes).into_iter().zip(1..) {
        let command = round::<Command>(piece);
        state.apply(EntryId { term: Term(1), index: LogIndex(index) }, command);
    }
    let written = encode_state(&state);
    assert_eq!(decode_state(&written), Ok(state), "the state written and read back");
}

/// What lies in a command slot: a request, or an answer.
pub fn request(bytes: &[u8]) {
    round::<Request>(bytes);
    round::<pgraft::cluster::Answer>(bytes);
}

/// The records of a log, with checksums that fit: the first byte is the number of the first
/// segment, an empty piece begins the next.
pub fn record(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    recovers(&disk_of(*first, &pieces(rest)), bytes.len());
}

/// A log of one segment.
pub fn segment(bytes: &[u8]) {
    recovers(&disk_of_segment(bytes), bytes.len());
}

fn disk_of_segment(bytes: &[u8]) -> MemDisk {
    let disk = MemDisk::new();
    disk.with_file("log/0000000001.log", |file| file.extend_from_slice(bytes));
    disk
}

/// A snapshot's frames, with checksums that fit, up to the first empty piece; then a log's records
/// as above.
pub fn snapshot(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    recovers(&disk_with_snapshot(*first, &pieces(rest)), bytes.len());
}

fn disk_with_snapshot(first: u8, pieces: &[&[u8]]) -> MemDisk {
    let end = pieces.iter().position(|piece| piece.is_empty()).unwrap_or(pieces.len());
    let disk = disk_of(first, pieces.get(end + 1..).unwrap_or(&[]));
    disk.with_file("snapshot/current", |file| *file = framed(&pieces[..end]));
    disk
}

fn framed(bodies: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for body in bodies {
        frame(|out| out.extend_from_slice(body), &mut bytes);
    }
    bytes
}

fn disk_of(first: u8, pieces: &[&[u8]]) -> MemDisk {
    let disk = MemDisk::new();
    for (bodies, number) in pieces.split(|piece| piece.is_empty()).zip(u64::from(first)..) {
        disk.with_file(&format!("log/{number:010}.log"), |file| *file = framed(bodies));
    }
    disk
}

/// Whether an input of `record`, `segment` or `snapshot` is a sound directory.
pub fn opens(target: &str, bytes: &[u8]) -> bool {
    let disk = match target {
        "segment" => disk_of_segment(bytes),
        "record" => disk_of(bytes[0], &pieces(&bytes[1..])),
        _ => disk_with_snapshot(bytes[0], &pieces(&bytes[1..])),
    };
    Storage::open(disk).is_ok()
}

/// The directory is refused in words, or it opens: then it opens the same again, and takes and
/// keeps another entry.
fn recovers(disk: &MemDisk, bytes: usize) {
    let open = || frugal(2 * bytes + (64 << 10), || Storage::open(disk.clone()));
    let (mut storage, recovered) = match open() {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.hint().is_empty());
            return;
        }
    };
    if let Some((meta, data)) = &recovered.snapshot {
        assert_eq!((meta.bytes, meta.checksum), (data.len() as u64, crc32c::crc32c(data)));
        let _ = decode_state(data);
    }
    let Recovered { hard_state, base, mut entries, .. } = recovered;
    let last = entries.last().map_or(base, |entry| entry.id);
    if last.index < LogIndex(i64::MAX as u64) {
        let id =
            EntryId { term: last.term.max(hard_state.term).max(Term(1)), index: last.index.next() };
        entries.push(Entry { id, payload: Payload::Command(b"next".to_vec()) });
        storage.save(None, &entries[entries.len() - 1..], true).expect("room for another entry");
    }
    drop(storage);
    let (_, again) = open().expect("what was opened opens again");
    // The commit index may be ahead of a log whose end was lost: it counts as far as that reaches.
    let end = entries.last().map_or(base.index, |entry| entry.id.index);
    assert!((hard_state.commit..=end).contains(&again.hard_state.commit));
    let hard_state = HardState { commit: again.hard_state.commit, ..hard_state };
    assert_eq!((again.hard_state, again.base, again.entries), (hard_state, base, entries));
    assert!(again.torn.is_none(), "cut off once more");
}

/// The data of a snapshot. It has one encoding only.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = frugal(bytes.len(), || decode_state(bytes)) {
        assert_eq!(encode_state(&state), bytes, "another encoding of one state");
    }
}

/// pgraft.conf.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let path = Path::new("/etc/pgraft.conf");
    match frugal(4 * text.len() + (16 << 10), || config::Config::parse(path, &text)) {
        Ok(config) => {
            assert_eq!(config.restart_only_changes(&config), [""; 0]);
            assert_eq!(config.reloaded(&config), config);
            config.warnings().iter().for_each(one_line);
        }
        Err(error) => {
            assert!(error.to_string().contains("/etc/pgraft.conf"), "{error}");
            one_line(&error);
            assert!(!error.hint().contains(BREAKS), "{:?}", error.hint());
        }
    }
}

const BREAKS: [char; 3] = ['\n', '\r', '\0'];

/// A message is one line, whatever it quotes: a line break in it could fake another.
fn one_line(message: &impl Display) {
    let message = message.to_string();
    assert!(!message.is_empty() && !message.contains(BREAKS), "{message:?}");
}

/// A text argument of an SQL function, through the parser of each.
pub fn sql(bytes: &[u8]) {
    // Postgres lets no zero byte into a text.
    let text = String::from_utf8_lossy(bytes).replace('\0', "");
    if let Ok(address) = frugal(text.len(), || Address::parse(&text)) {
        assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(&address));
        assert_eq!(Address::new(address.host(), address.port()).as_ref(), Ok(&address));
        asked(&Request::AddNode { node: NodeId::new(4).expect("a small number"), address });
    }
    if let Ok(address) = Address::new(&text, 7400) {
        assert_eq!(address.host(), text);
        assert_eq!(Address::parse(&address.to_string()).as_ref(), Ok(&address));
    }
    if let Some(uuid) = Uuid::parse(&text) {
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
    }
    let _ = text.parse::<log::Level>();
    store(&text);
}

/// Keys and values: what the limits let through reaches the worker unchanged.
fn store(text: &str) {
    let (key, value) = text.split_once('=').unwrap_or((text, text));
    let (key, value) = (key.to_owned(), value.to_owned());
    if key.len() <= KEY_BYTES_MAX {
        asked(&Request::Keys { prefix: key.clone(), consistent: false });
    }
    match check_key(&key, KEY_BYTES_MAX) {
        Ok(()) => asked(&Request::Get { key: key.clone(), consistent: true }),
        Err(error) => one_line(&error),
    }
    let change = Change::Cas { key, expected: Some(value.clone()), value };
    match change.check(KEY_BYTES_MAX, VALUE_BYTES_MAX) {
        Ok(()) => asked(&Request::Store { id: None, change }),
        Err(error) => one_line(&error),
    }
}

/// A request reaches the worker as it was asked.
fn asked(request: &Request) {
    let mut bytes = Vec::new();
    encode_request(request, &mut bytes);
    assert_eq!(decode_request(&bytes).as_ref(), Ok(request));
}
