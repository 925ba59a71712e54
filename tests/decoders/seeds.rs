//! The beginnings of the fuzz corpus: for each way in some inputs that get far, of the formats as
//! they are now. `make corpus` writes them to `fuzz/corpus/`.

use std::collections::{BTreeMap, BTreeSet};

use pgraft::config::KEYS;
use pgraft::raft::*;
use pgraft::storage::Storage;
use pgraft::storage::testing::MemDisk;
use pgraft::wire::testing::Draw;
use pgraft::wire::*;

/// Inputs by the way in that they are for, and by name.
pub type Seeds = BTreeMap<(&'static str, String), Vec<u8>>;

/// Drawn from so many seeds of the generator: enough that each kind of value comes up.
const DRAWS: u64 = 300;

/// All of them.
pub fn seeds() -> Seeds {
    let mut seeds = Seeds::new();
    values(&mut seeds);
    add(&mut seeds, "frame", "three", [1, 2, 3].map(|n| framed(&Draw(n).packet())).concat());
    add(&mut seeds, "frame", "http", b"GET / HTTP/1.1\r\nHost: db1\r\n\r\n".to_vec());
    add(&mut seeds, "frame", "longest", vec![0, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1]);
    add(&mut seeds, "step", "elected", elected());
    add(&mut seeds, "step", "follows", follows());
    directories(&mut seeds);
    let every_key: String = KEYS.map(|key| format!("{key} = 1\n")).concat();
    add(&mut seeds, "config", "keys", every_key.into_bytes());
    for (name, text) in CONFIGURATIONS {
        add(&mut seeds, "config", name, text.as_bytes().to_vec());
    }
    for (name, text) in HTTP_REQUESTS {
        add(&mut seeds, "http", name, text.as_bytes().to_vec());
    }
    for (number, text) in SQL_TEXTS.iter().enumerate() {
        add(&mut seeds, "sql", &format!("{number:02}"), text.as_bytes().to_vec());
    }
    seeds
}

fn add(seeds: &mut Seeds, target: &'static str, name: &str, bytes: Vec<u8>) {
    seeds.insert((target, name.to_owned()), bytes);
}

fn bytes_of<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.put(&mut bytes);
    bytes
}

fn framed<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(|out| value.put(out), &mut bytes);
    bytes
}

/// The reverse of `checks::pieces`.
fn joined(pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let len = u16::try_from(piece.len()).expect("seeds are small");
        bytes.extend_from_slice(&len.to_be_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes
}

/// The shortest value of each kind that comes up: small seeds are fast.
fn of_each_kind(
    seeds: &mut Seeds,
    target: &'static str,
    kind: fn(&[u8]) -> Vec<u8>,
    draw: fn(&mut Draw) -> Vec<u8>,
) {
    let mut found: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for bytes in (0..DRAWS).map(|seed| draw(&mut Draw(seed))) {
        let known = found.entry(kind(&bytes)).or_insert_with(|| bytes.clone());
        if bytes.len() < known.len() {
            *known = bytes;
        }
    }
    for (kind, bytes) in found {
        let name: String = kind.iter().map(|byte| format!("{byte:02x}")).collect();
        add(seeds, target, &name, bytes);
    }
}

fn values(seeds: &mut Seeds) {
    // Raft's messages have their kind behind the term.
    let of_packet = |bytes: &[u8]| match bytes[0] {
        1 => vec![1, bytes[9]],
        kind => vec![kind],
    };
    of_each_kind(seeds, "packet", of_packet, |draw| bytes_of(&draw.packet()));
    of_each_kind(seeds, "handshake", |_| vec![0], |draw| bytes_of(&draw.hello()));
    let of_answer = |bytes: &[u8]| bytes[..if bytes[0] == 1 { 1 } else { 2 }].to_vec();
    of_each_kind(seeds, "handshake", of_answer, |draw| bytes_of(&draw.hello_answer()));
    of_each_kind(seeds, "request", |b| vec![0, b[0]], |draw| bytes_of(&draw.request()));
    of_each_kind(seeds, "request", of_answer, |draw| bytes_of(&draw.answer()));
    let size = |bytes: &[u8]| vec![(bytes.len() / 128) as u8];
    of_each_kind(seeds, "state", size, |draw| encode_state(&draw.state()));
    let genesis = (0..).find_map(|seed| {
        let command = Draw(seed).command();
        matches!(&command, pgraft::cluster::Command::Genesis { members, .. } if members.len() == 3)
            .then(|| bytes_of(&command))
    });
    let mut all = vec![genesis.expect("one of them")];
    let mut kinds = BTreeSet::new();
    for bytes in (0..DRAWS).map(|seed| bytes_of(&Draw(seed).command())) {
        if kinds.insert(bytes[0]) {
            add(
                seeds,
                "command",
                &format!("{:02x}", bytes[0]),
                joined(&[all[0].clone(), bytes.clone()]),
            );
            all.push(bytes);
        }
    }
    add(seeds, "command", "all", joined(&all));
}

const HTTP_REQUESTS: [(&str, &str); 4] = [
    ("scrape", "GET /metrics HTTP/1.1\r\nHost: localhost:9091\r\nAccept: text/plain\r\n\r\n"),
    (
        "check",
        "OPTIONS * HTTP/1.0\r\n\r\nHEAD http://db1/replica?lag=10MB HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "change",
        "POST /api/v1/cluster/switchover?dry_run=true&a=%c3%bc+b HTTP/1.1\r\nHost: db1\r\n\
         Authorization: Bearer x\r\nContent-Length: 17\r\nConnection: close\r\n\r\n\
         {\"candidate\":\"b\"}",
    ),
    (
        "expects",
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    ),
];

const READY: [u8; 2] = [4, 0];

/// A message to `checks::step` from node `from`.
fn told(from: u8, term: u64, body: Body) -> Vec<u8> {
    let message = Message { term: Term(term), body };
    [vec![0, from - 1], bytes_of(&message)].concat()
}

/// Time passes, the others vote, and there is a leader that takes proposals.
fn elected() -> Vec<u8> {
    let granted = |pre_vote| Body::VoteAnswer { granted: true, pre_vote, lease_left_ms: 0 };
    let accepted = |matched| Body::AppendAnswer {
        round: 1,
        promise_ms: 500,
        result: AppendResult::Accepted { matched: LogIndex(matched) },
    };
    joined(&[
        vec![3, 15],
        vec![3, 15],
        READY.to_vec(),
        told(2, 2, granted(true)),
        READY.to_vec(),
        told(2, 2, granted(false)),
        READY.to_vec(),
        told(2, 2, accepted(2)),
        READY.to_vec(),
        b"\x05\x00proposed".to_vec(),
        vec![6, 3],
        READY.to_vec(),
        told(2, 2, accepted(4)),
        vec![7, 20],
        READY.to_vec(),
        vec![7, 1],
        told(3, 3, Body::RequestVote { last: EntryId::default(), pre_vote: false, transfer: true }),
    ])
}

/// Another leads: entries come, one is replaced, a snapshot stands for more.
fn follows() -> Vec<u8> {
    let entry = |term, index| Entry {
        id: EntryId { term: Term(term), index: LogIndex(index) },
        payload: Payload::Command(vec![index as u8]),
    };
    let append = |prev: (u64, u64), entries: Vec<Entry>| Body::AppendEntries {
        prev: EntryId { term: Term(prev.0), index: LogIndex(prev.1) },
        entries,
        commit: LogIndex(1),
        round: 7,
    };
    let data = b"all that there was".to_vec();
    let snapshot = SnapshotMeta {
        last: EntryId { term: Term(3), index: LogIndex(9) },
        membership: Membership {
            voters: (1..=3).filter_map(NodeId::new).collect(),
            ..Membership::default()
        },
        bytes: data.len() as u64,
        checksum: crc32c::crc32c(&data),
    };
    joined(&[
        told(2, 2, Body::Heartbeat { commit: LogIndex(1), round: 6 }),
        told(2, 2, append((1, 1), vec![entry(2, 2), entry(2, 3)])),
        READY.to_vec(),
        told(3, 3, append((2, 2), vec![entry(3, 3)])),
        READY.to_vec(),
        told(3, 3, Body::InstallSnapshot { snapshot, offset: 0, data, round: 8 }),
        READY.to_vec(),
        told(3, 3, append((3, 9), vec![entry(3, 10)])),
        told(3, 3, Body::TimeoutNow),
        READY.to_vec(),
    ])
}

/// Directories that a node left: as files, and as the records in them.
fn directories(seeds: &mut Seeds) {
    let disk = MemDisk::new();
    // Segments of a few records each.
    let (mut storage, _) = Storage::open_with(disk.clone(), 300).expect("a disk without faults");
    let mut last = EntryId::default();
    for (round, index) in (1..=12).enumerate() {
        let id = EntryId { term: Term(1 + index / 5), index: LogIndex(index) };
        let entry = Entry { id, ..Draw(index).any_entry() };
        let hard_state = HardState { term: id.term, vote: NodeId::new(2), commit: last.index };
        let hard_state = (round % 3 == 0).then_some(hard_state);
        storage.save(hard_state.as_ref(), &[entry], true).expect("a disk without faults");
        last = id;
        if index == 1 {
            add(seeds, "segment", "first", file(&disk, "log/0000000001.log"));
        }
    }
    add(seeds, "segment", "full", file(&disk, "log/0000000001.log"));
    let torn = file(&disk, "log/0000000001.log");
    add(seeds, "segment", "torn", torn[..torn.len() - 3].to_vec());
    add(seeds, "record", "several", log_of(&disk, Vec::new()));

    let data = encode_state(&Draw(5).state());
    let meta = SnapshotMeta {
        last: EntryId { term: Term(2), index: LogIndex(7) },
        membership: Membership {
            voters: (1..=3).filter_map(NodeId::new).collect(),
            ..Membership::default()
        },
        bytes: data.len() as u64,
        checksum: crc32c::crc32c(&data),
    };
    storage.snapshots().store(&meta, &data).expect("a disk without faults");
    add(seeds, "snapshot", "whole-log", log_of(&disk, frames_of(&file(&disk, "snapshot/current"))));
    storage.compact(EntryId { term: Term(2), index: LogIndex(6) }).expect("a disk without faults");
    add(seeds, "snapshot", "compacted", log_of(&disk, frames_of(&file(&disk, "snapshot/current"))));
    let meta = SnapshotMeta { last: EntryId { term: Term(9), index: LogIndex(90) }, ..meta };
    let hard_state = HardState { term: Term(9), vote: None, commit: LogIndex(90) };
    storage.install(&meta, &data, Some(&hard_state)).expect("a disk without faults");
    add(seeds, "snapshot", "received", log_of(&disk, frames_of(&file(&disk, "snapshot/current"))));
}

fn file(disk: &MemDisk, name: &str) -> Vec<u8> {
    assert!(disk.names().iter().any(|known| known == name), "{name} is not in {:?}", disk.names());
    disk.with_file(name, |file| file.clone())
}

/// The bodies of a file's frames.
fn frames_of(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() {
        let header = FrameHeader::decode(header, u32::MAX).expect("a frame");
        let (body, rest) = rest.split_at(header.len as usize);
        bodies.push(body.to_vec());
        bytes = rest;
    }
    bodies
}

/// The log's segments as input of `checks::record`, after what comes before them.
fn log_of(disk: &MemDisk, mut bodies: Vec<Vec<u8>>) -> Vec<u8> {
    let mut first = None;
    for name in disk.names() {
        let Some(number) = name.strip_prefix("log/") else { continue };
        if first.is_some() || !bodies.is_empty() {
            bodies.push(Vec::new());
        }
        let number: u8 = number.trim_end_matches(".log").parse().expect("a small number");
        first.get_or_insert(number);
        bodies.extend(frames_of(&file(disk, &name)));
    }
    [vec![first.expect("a log")], joined(&bodies)].concat()
}

const CONFIGURATIONS: [(&str, &str); 3] = [
    (
        "guide",
        "# Raft\nraft_node_id = 1\nraft_cluster_id = ram_cluster\nraft_data_dir = /tmp/p\n\
         raft_log_level = info\n\nraft_port = 7400\nraft_bind_address = 0.0.0.0\n\
         raft_peer_addresses = localhost:7401,localhost:7402\n\
         postgresql_integration_enabled = true\npostgresql_shmem_key = 12345\n",
    ),
    (
        "strict",
        "raft_node_id = 2\nraft_cluster_id = \"c \\\"q\\\"\"\nraft_data_dir = '/a b'\n\
         raft_peer_addresses = [\"[::1]:7401\", \"db2:7402\"] # both\n\
         raft_election_timeout_ms = 1_500\nnode_name = \"\"\"n\"\"\"\n",
    ),
    ("wrong", "raft_node_id = 0\r\n[network]\nraft_port = 74000\nraft_port = x\nk = {a = 1}\n"),
];

const SQL_TEXTS: [&str; 14] = [
    "",
    "localhost:7401",
    "[::1]:7400",
    "::1",
    "db2.example.net:65535",
    " 10.0.0.1:1 ",
    "fe80::1%eth0",
    "'; DROP TABLE x; --:7400",
    "höst:7400",
    "warn",
    "INFO",
    "0d9f3a52-8a6b-4c1d-9e2f-0123456789ab",
    "lock/primary=node 2",
    "日本=",
];
