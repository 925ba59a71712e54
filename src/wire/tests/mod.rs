//! Tests of the wire: what is written is read, and nothing else is.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::testing::Draw;
use super::*;
use crate::cluster::{
    Change, ClusterState, Command, KEY_BYTES_MAX, OUTCOMES_MAX, Request, RequestId, Session, Uuid,
    VALUE_BYTES_MAX,
};
use crate::raft::{Body, Message, SNAPSHOT_BYTES_MAX, SNAPSHOT_CHUNK_BYTES, SnapshotMeta, Term};

/// Enough that each variant of each kind comes up some tens of times.
const DRAWS: u64 = 500;

fn bytes_of<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.put(&mut bytes);
    bytes
}

fn framed<T: Wire>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame(|body| value.put(body), &mut bytes);
    bytes
}

/// Reads a frame as `net` does.
fn unframed<T: Wire>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (header, body) = bytes.split_first_chunk().ok_or(DecodeError::Truncated)?;
    let header = FrameHeader::decode(header, FRAME_BYTES_MAX)?;
    header.check(body)?;
    decode(body)
}

/// Which variant a packet's bytes hold: Raft's messages have their kind behind the term.
fn packet_kind(bytes: &[u8]) -> (u8, u8) {
    (bytes[0], if bytes[0] == 1 { bytes[9] } else { 0 })
}

/// Each value round; no beginning of it is a value; a byte more is refused.
/// `kind` tells variants apart, of which there must have been `variants`.
fn check_kind<T, K>(variants: usize, kind: fn(&[u8]) -> K, draw: fn(&mut Draw) -> T)
where
    T: Wire + PartialEq + Debug,
    K: Ord + Debug,
{
    let mut seen = BTreeSet::new();
    for seed in 0..DRAWS {
        let value = draw(&mut Draw(seed));
        let mut bytes = bytes_of(&value);
        seen.insert(kind(&bytes));
        assert_eq!(decode::<T>(&bytes).as_ref(), Ok(&value), "seed {seed}");
        for end in 0..bytes.len() {
            let cut = decode::<T>(&bytes[..end]);
            assert!(cut.is_err(), "seed {seed}: {end} of {} bytes gave {cut:?}", bytes.len());
        }
        bytes.push(0);
        assert_eq!(decode::<T>(&bytes), Err(DecodeError::TrailingBytes), "seed {seed}");
    }
    assert_eq!(seen.len(), variants, "these variants were drawn: {seen:?}");
}

#[test]
fn every_value_comes_back_and_no_beginning_of_one_does() {
    check_kind(11 + 7, packet_kind, Draw::packet);
    check_kind(10, |bytes| bytes[0], Draw::command);
    check_kind(13, |bytes| bytes[0], Draw::request);
    check_kind(3, |bytes| bytes[0], Draw::change);
    // Fourteen: four kinds of finding, and ten kinds of failure.
    check_kind(14, |bytes| if bytes[0] == 1 { (1, bytes[2]) } else { (0, bytes[1]) }, Draw::answer);
    // Ten: accepted, and nine refusals.
    check_kind(10, |bytes| if bytes[0] == 1 { 0 } else { bytes[1] }, Draw::hello_answer);
    check_kind(1, |bytes| bytes[0], Draw::hello);
    check_kind(3, |bytes| bytes[16], Draw::any_entry);
    check_kind(1, |_| 0, Draw::snapshot_meta);
    check_kind(1, |_| 0, Draw::state);
}

#[test]
fn a_flipped_bit_is_noticed_by_the_frame_and_survived_without_it() {
    for seed in 0..60 {
        let packet = Draw(seed).packet();
        let frame = framed(&packet);
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(unframed::<Packet>(&bad).is_err(), "seed {seed}, bit {bit}");
            // Without the checksum another value may come out, but nothing may panic, and what
            // comes out is written as it was read.
            if let Ok(other) = decode::<Packet>(&bad[FRAME_HEADER_BYTES..]) {
                assert_eq!(decode::<Packet>(&bytes_of(&other)).as_ref(), Ok(&other));
            }
        }
        for end in 0..frame.len() {
            assert!(unframed::<Packet>(&frame[..end]).is_err(), "seed {seed}, cut at {end}");
        }
    }
}

#[test]
fn random_bytes_are_survived() {
    let mut draw = Draw(1);
    for _ in 0..20_000 {
        let mut bytes: Vec<u8> = (0..draw.below(80)).map(|_| draw.number() as u8).collect();
        if let Some(first) = bytes.first_mut() {
            // Most bytes name no kind at all: let more of them in.
            *first %= 13;
        }
        let _ =
            decode_packet(&bytes).map(|packet| assert_eq!(bytes_of(&packet).len(), bytes.len()));
        let _ = (decode_hello(&bytes), decode_hello_answer(&bytes), decode_entry(&bytes));
        let _ = (decode_command(&bytes), decode_request(&bytes), decode_answer(&bytes));
        let _ = (decode_snapshot_meta(&bytes), decode_state(&bytes));
    }
}

#[test]
fn frame_lengths_beyond_the_limit_are_refused_from_the_header_alone() {
    let header = |len: u32| [&len.to_be_bytes()[..], &[0; 4]].concat().try_into().unwrap();
    for (len, max) in [(0, FRAME_BYTES_MAX), (FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX), (u32::MAX, 9)]
    {
        let error = FrameHeader::decode(&header(len), max);
        assert_eq!(error, Err(DecodeError::FrameLength { len, max }));
    }
    assert_eq!(FrameHeader::decode(&header(9), 9).unwrap().len, 9);
}

/// Each place where a count or length stands, found by writing the largest one there.
#[test]
fn huge_counts_and_lengths_are_refused_before_allocation() {
    for seed in 0..200 {
        let bytes = bytes_of(&Draw(seed).packet());
        for at in 0..bytes.len().saturating_sub(3) {
            for count in [u32::MAX, u32::MAX / 2, 1 << 24] {
                let mut bad = bytes.clone();
                bad[at..at + 4].copy_from_slice(&count.to_be_bytes());
                // Four billion of anything would end the test's process.
                let _ = decode_packet(&bad);
            }
        }
    }
    for bytes in [
        [&[5][..], &u32::MAX.to_be_bytes()].concat(),
        [&[3][..], &[0; 8], &[6, 0, 0, 0, 4], &u32::MAX.to_be_bytes()].concat(),
    ] {
        assert_eq!(decode_packet(&bytes), Err(DecodeError::Truncated));
    }
}

#[test]
fn a_newer_protocol_is_understood_as_far_as_it_speaks_ours() {
    let ours = Draw(3).hello();
    let both = Hello { newest: PROTOCOL_NEWEST + 1, ..ours.clone() };
    let longer = [bytes_of(&both), vec![1, 2, 3]].concat();
    assert_eq!(decode_hello(&longer).as_ref(), Ok(&both));
    let longer = [bytes_of(&HelloAnswer::Accepted(both.clone())), vec![9]].concat();
    assert_eq!(decode_hello_answer(&longer), Ok(HelloAnswer::Accepted(both)));

    let (oldest, newest) = (PROTOCOL_NEWEST + 1, PROTOCOL_NEWEST + 7);
    let mut strange = bytes_of(&Hello { oldest, newest, ..ours.clone() });
    let version = Err(DecodeError::Version { oldest, newest });
    assert_eq!(decode_hello(&strange), version);
    // Whatever else it says: nothing after the versions is ours to judge.
    strange.truncate(12);
    strange.extend([0xff; 40]);
    assert_eq!(decode_hello(&strange), version);

    let ancient = bytes_of(&Hello { oldest: 0, newest: 0, ..ours });
    assert_eq!(decode_hello(&ancient), Err(DecodeError::Version { oldest: 0, newest: 0 }));
}

#[test]
fn another_protocol_is_named_so() {
    for bytes in ["", "PGRAFT", "GET / HTTP/1.1\r\nHost: localhost\r\n", "\x16\x03\x01\x02\0\x01\0"]
    {
        assert_eq!(decode_hello(bytes.as_bytes()), Err(DecodeError::NotPgraft), "{bytes:?}");
    }
}

#[test]
fn names_are_short_and_one_line() {
    let hello = Draw(3).hello();
    for bad in ["a\nLOG: all is well", "\0", "\u{85}", &"x".repeat(256)] {
        let named = Hello { name: bad.to_owned(), ..hello.clone() };
        assert_eq!(decode_hello(&bytes_of(&named)), Err(DecodeError::Invalid("name")), "{bad:?}");
        let of = Hello { cluster_id: bad.to_owned(), ..hello.clone() };
        assert_eq!(decode_hello(&bytes_of(&of)), Err(DecodeError::Invalid("name")), "{bad:?}");
    }
}

#[test]
fn positions_that_could_overflow_are_refused() {
    let message = Message { term: Term(u64::MAX), body: Body::TimeoutNow };
    assert_eq!(decode_packet(&bytes_of(&Packet::Raft(message))), Err(DecodeError::Invalid("term")));
}

#[test]
fn a_handshake_fits_its_limit() {
    let address = crate::cluster::Address::new(&"h".repeat(253), 65535).unwrap();
    let hello = Hello {
        cluster_id: "c".repeat(255),
        name: "n".repeat(255),
        cluster: Some(Uuid::from_bytes([1; 16])),
        raft_address: Some(address.clone()),
        dialled: Some(address),
        ..Draw(3).hello()
    };
    let frame = framed(&HelloAnswer::Accepted(hello));
    assert!(frame.len() < HANDSHAKE_BYTES_MAX as usize / 2, "{} bytes", frame.len());
}

#[test]
fn a_state_has_one_encoding_only() {
    for seed in 0..60 {
        let state = Draw(seed).state();
        let bytes = encode_state(&state);
        assert_eq!(decode_state(&bytes).as_ref(), Ok(&state), "seed {seed}");
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            if let Ok(read) = decode_state(&other) {
                assert_eq!(encode_state(&read), other, "seed {seed}, bit {bit}");
            }
        }
    }
}

#[test]
fn a_state_that_no_node_writes_is_refused() {
    let state = (0..).map(|seed| Draw(seed).state()).find(|state| state.members.len() > 1).unwrap();
    let members: Vec<_> = state.members.values().cloned().collect();
    let written = |members: &[crate::cluster::Member], removed: &[crate::raft::NodeId]| {
        let mut bytes = vec![2];
        state.applied.put(&mut bytes);
        state.uuid.put(&mut bytes);
        codec::put_list(members.iter(), &mut bytes);
        codec::put_list(removed.iter(), &mut bytes);
        bytes.push(0); // no primary
        0u32.put(&mut bytes); // no timelines
        bytes.extend([0, 0]); // neither paused nor synchronous
        0u64.put(&mut bytes); // no items, no sessions
        decode_state(&bytes)
    };
    assert!(written(&members, &[]).is_ok());
    let order = Err(DecodeError::Invalid("order in a snapshot"));
    assert_eq!(written(&[members[1].clone(), members[0].clone()], &[]), order);
    assert_eq!(written(&[members[0].clone(), members[0].clone()], &[]), order);
    assert_eq!(written(&members[..1], &[members[1].id, members[1].id]), order);
    let both = written(&members, &[members[0].id]);
    assert_eq!(both, Err(DecodeError::Invalid("members in a snapshot")));
    let mut later = encode_state(&state);
    later[0] = 3;
    assert_eq!(decode_state(&later), Err(DecodeError::Invalid("format of a snapshot")));
}

#[test]
fn a_piece_that_is_none_of_its_snapshot_is_refused() {
    let with = |bytes, offset, len| {
        let snapshot = SnapshotMeta { bytes, ..Draw(3).snapshot_meta() };
        let body = Body::InstallSnapshot { snapshot, offset, data: vec![7; len], round: 1 };
        decode_packet(&bytes_of(&Packet::Raft(Message { term: Term(1), body }))).map(drop)
    };
    assert_eq!(with(10, 4, 6), Ok(()));
    let whole = SNAPSHOT_CHUNK_BYTES;
    assert_eq!(with(whole as u64, 0, whole), Ok(()));
    let refused = Err(DecodeError::Invalid("piece of a snapshot"));
    for (bytes, offset, len) in
        [(10, 4, 7), (10, 11, 0), (10, u64::MAX, 1), (SNAPSHOT_BYTES_MAX, 0, whole + 1)]
    {
        assert_eq!(with(bytes, offset, len), refused, "{len} at {offset} of {bytes}");
    }
}

#[test]
fn a_snapshot_of_senseless_size_is_refused() {
    for bytes in [0, SNAPSHOT_BYTES_MAX + 1, u64::MAX] {
        let meta = SnapshotMeta { bytes, ..Draw(3).snapshot_meta() };
        let refused = Err(DecodeError::Invalid("size of a snapshot"));
        assert_eq!(decode_snapshot_meta(&bytes_of(&meta)), refused, "{bytes}");
    }
}

#[test]
fn keys_values_and_request_ids_beyond_the_protocols_limits_are_refused() {
    let long = |bytes: usize| "x".repeat(bytes);
    let put = |key: &str, value: &str| Change::Put { key: key.to_owned(), value: value.to_owned() };
    let cas = |expected: &str| Change::Cas {
        key: "k".to_owned(),
        expected: Some(expected.to_owned()),
        value: String::new(),
    };
    let id = Draw(1).request_id();
    let read = |change: Change| decode::<Command>(&bytes_of(&Command::Store { id, change }));
    assert!(read(put(&long(KEY_BYTES_MAX), &long(VALUE_BYTES_MAX))).is_ok());
    assert!(read(cas(&long(VALUE_BYTES_MAX))).is_ok());
    for (change, what) in [
        (put("", "v"), "key"),
        (put(&long(KEY_BYTES_MAX + 1), "v"), "key"),
        (put("a\0b", "v"), "key"),
        (put("k", &long(VALUE_BYTES_MAX + 1)), "value"),
        (put("k", "a\0b"), "value"),
        (cas(&long(VALUE_BYTES_MAX + 1)), "value"),
        (Change::Delete { key: String::new() }, "key"),
    ] {
        assert_eq!(read(change.clone()), Err(DecodeError::Invalid(what)), "{change:?}");
    }
    for (serial, oldest) in [(1, 2), (OUTCOMES_MAX, 0), (u64::MAX, 1)] {
        let id = RequestId { serial, oldest, ..id };
        let read = decode::<RequestId>(&bytes_of(&id));
        assert_eq!(read, Err(DecodeError::Invalid("request id")), "{id:?}");
    }
    let keys = Request::Keys { prefix: long(KEY_BYTES_MAX + 1), consistent: true };
    assert_eq!(decode_request(&bytes_of(&keys)), Err(DecodeError::Invalid("key")));
}

#[test]
fn a_store_or_session_that_no_node_writes_is_refused() {
    let state = ClusterState::default();
    let empty = encode_state(&state);
    let start = &empty[..empty.len() - 8];
    let item = [&[0, 0, 0, 1, b'v'][..], &[0; 24]].concat();
    let items = |keys: &[&str]| {
        let mut bytes = [start, &(keys.len() as u32).to_be_bytes()].concat();
        for key in keys {
            codec::put_bytes(key.as_bytes(), &mut bytes);
            bytes.extend_from_slice(&item);
        }
        0u32.put(&mut bytes);
        decode_state(&bytes)
    };
    assert_eq!(items(&["a", "b"]).unwrap().store.bytes(), 2 * (2 + 64));
    for keys in [&["b", "a"], &["a", "a"]] {
        assert_eq!(items(keys), Err(DecodeError::Invalid("order of keys")));
    }
    let session = |closed, outcomes: &[(u64, bool)]| {
        let session = Session {
            directory: Uuid::from_bytes([1; 16]),
            session: 1,
            closed,
            oldest: 5,
            outcomes: outcomes.iter().copied().collect(),
        };
        decode::<Session>(&bytes_of(&session))
    };
    assert!(session(false, &[(5, true), (4 + OUTCOMES_MAX, false)]).is_ok());
    let refused = Err(DecodeError::Invalid("session"));
    assert_eq!(session(false, &[(4, true)]), refused);
    assert_eq!(session(false, &[(5 + OUTCOMES_MAX, true)]), refused);
    assert_eq!(session(true, &[(5, true)]), refused);
}
