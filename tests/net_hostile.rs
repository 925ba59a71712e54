//! Hostile and unlucky callers against one node that has a healthy peer: each is closed and
//! counted, and the healthy link does not notice.

mod net_harness;

use std::fs::File;
use std::net::{Shutdown, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use net_harness::*;
use pgraft::net::{NetCounters, NetEvent, UNKNOWN_PER_SOURCE_MAX};
use pgraft::wire::{FRAME_BYTES_MAX, HANDSHAKE_BYTES_MAX, Hello, HelloAnswer, Refusal};

type Counter = fn(&NetCounters) -> &AtomicU64;
const BAD_FRAMES: Counter = |c| &c.bad_frames;
const FAILED: Counter = |c| &c.handshakes_failed;

/// Node 1 with its healthy peer, node 2.
struct Scene {
    node: Node,
    healthy: Healthy,
}

impl Scene {
    fn set() -> Scene {
        let node = Node::start(1, &[1, 2, 3]);
        let healthy = Healthy::start(&node);
        Scene { node, healthy }
    }

    /// Runs an attack, which returns the callers it opened: each must be closed by node 1 and
    /// counted, and one log line tells of the first.
    fn attack(&mut self, counter: Counter, attack: impl FnOnce(&Node) -> Vec<Raw>) -> Vec<Vec<u8>> {
        let before = counter(&self.node.counters).load(Ordering::Relaxed);
        let mut callers = attack(&self.node);
        let told: Vec<_> = callers.iter_mut().map(Raw::read_to_close).collect();
        let counted = || counter(&self.node.counters).load(Ordering::Relaxed) - before;
        eventually("the counter", || counted() >= callers.len() as u64);
        assert_eq!(counted(), callers.len() as u64);
        let of_callers = |line: &String| {
            callers.iter().any(|raw| line.contains(&format!("127.0.0.1:{}", raw.port())))
        };
        let lines: Vec<_> = log_lines("WARN").into_iter().filter(of_callers).collect();
        assert_eq!(lines.len(), 1, "one source, one kind, one line: {lines:?}");
        self.healthy.check(&self.node, drop);
        told
    }

    fn end(self) {
        assert_eq!(self.node.counters.received_dropped.load(Ordering::Relaxed), 0);
        self.healthy.stop();
        self.node.stop();
    }
}

/// A caller that sends `bytes` and waits.
fn caller(node: &Node, bytes: &[u8]) -> Raw {
    let mut raw = Raw::connect(&node.address);
    raw.write(bytes);
    raw
}

#[test]
fn garbage_is_closed_and_counted() {
    let _turn = turn();
    let mut scene = Scene::set();
    let noise: Vec<u8> =
        (0..5000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let told = scene.attack(BAD_FRAMES, |node| {
        let texts: [&[u8]; 4] = [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x00\x00\x00\x08\x04\xd2\x16\x2fPGRAFT\0\x01",
            &noise,
        ];
        texts.iter().map(|text| caller(node, text)).collect()
    });
    assert!(told.iter().all(Vec::is_empty), "garbage gets no answer");
    scene.end();
}

#[test]
fn impossible_frame_lengths_are_closed_before_and_after_the_handshake() {
    let _turn = turn();
    let mut scene = Scene::set();
    let lengths = [0, u32::MAX, FRAME_BYTES_MAX + 1];
    let header = |len: u32| [&len.to_be_bytes()[..], &[0; 4]].concat();
    scene.attack(BAD_FRAMES, |node| {
        let early = lengths.iter().chain(&[HANDSHAKE_BYTES_MAX + 1]);
        early.map(|len| caller(node, &header(*len))).collect()
    });
    for len in lengths {
        let before = scene.node.counters.bad_frames.load(Ordering::Relaxed);
        let mut raw = Raw::established(&scene.node.address, &hello(3));
        raw.write(&header(len));
        assert!(raw.read_to_close().is_empty());
        let counted = scene.node.counters.bad_frames.load(Ordering::Relaxed);
        assert_eq!(counted, before + 1, "length {len}");
        scene.healthy.check(&scene.node, drop);
    }
    let peer = scene.node.counters.peer(id(3)).unwrap();
    assert_eq!(peer.errors.load(Ordering::Relaxed), 3);
    scene.end();
}

#[test]
fn damaged_and_unknown_frames_of_a_peer_are_closed() {
    let _turn = turn();
    let mut scene = Scene::set();
    let mut flipped = packet_frame(&numbered(1));
    *flipped.last_mut().unwrap() ^= 1;
    let unknown = framed(|out| out.extend_from_slice(&[250, 1, 2, 3]));
    let trailing = {
        let body = packet_frame(&numbered(1))[8..].to_vec();
        framed(|out| out.extend(body.iter().chain(&[0])))
    };
    for bytes in [flipped, unknown, trailing] {
        let before = scene.node.counters.bad_frames.load(Ordering::Relaxed);
        let mut raw = Raw::established(&scene.node.address, &hello(3));
        raw.write(&bytes);
        raw.read_to_close();
        assert_eq!(scene.node.counters.bad_frames.load(Ordering::Relaxed), before + 1);
    }
    scene.healthy.check(&scene.node, |event| {
        assert!(!matches!(event, NetEvent::Packet { .. }), "{event:?}");
    });
    scene.end();
}

#[test]
fn a_port_scan_is_counted() {
    let _turn = turn();
    let mut scene = Scene::set();
    let told = scene.attack(FAILED, |node| {
        let scan = |_| {
            let raw = Raw::connect(&node.address);
            raw.0.shutdown(Shutdown::Write).unwrap();
            raw
        };
        (0..8).map(scan).collect()
    });
    assert!(told.iter().all(Vec::is_empty));
    let before = scene.node.counters.handshakes_failed.load(Ordering::Relaxed);
    (0..100).for_each(|_| drop(Raw::connect(&scene.node.address)));
    let counters = &scene.node.counters;
    eventually("all scans", || counters.handshakes_failed.load(Ordering::Relaxed) >= before + 100);
    eventually("their threads to end", || scene.node.threads() <= 2);
    scene.healthy.check(&scene.node, drop);
    scene.end();
}

/// The whole conversation of a caller: hello, verdict, one packet.
fn conversation(round: u64) -> Vec<u8> {
    let hello = hello(3);
    [
        hello_frame(&hello),
        answer_frame(&HelloAnswer::Accepted(hello.clone())),
        packet_frame(&numbered(round)),
    ]
    .concat()
}

#[test]
fn a_conversation_split_at_every_byte_arrives_whole() {
    let _turn = turn();
    let mut scene = Scene::set();
    let len = conversation(0).len();
    for at in 1..len {
        let bytes = conversation(at as u64);
        let mut raw = caller(&scene.node, &bytes[..at]);
        thread::sleep(Duration::from_millis(1));
        raw.write(&bytes[at..]);
        // Node 2's packets are checked by number, so they must not be dropped here.
        let mut arrived = false;
        while !arrived {
            scene.healthy.check(&scene.node, |event| {
                if let NetEvent::Packet { from, packet, .. } = event
                    && from == id(3)
                {
                    arrived |= number(&packet) == at as u64;
                }
            });
        }
    }
    assert_eq!(scene.node.counters.bad_frames.load(Ordering::Relaxed), 0);
    scene.end();
}

#[test]
fn a_conversation_cut_at_any_byte_harms_nobody() {
    let _turn = turn();
    let mut scene = Scene::set();
    let bytes = conversation(7);
    let whole = bytes.len();
    for at in 0..whole {
        drop(caller(&scene.node, &bytes[..at]));
    }
    let mut packets = 0;
    scene.healthy.check(&scene.node, |event| {
        packets += usize::from(matches!(event, NetEvent::Packet { .. }));
    });
    assert_eq!(packets, 0, "no packet of a cut conversation may arrive");
    eventually("their threads to end", || scene.node.threads() <= 2);
    assert_eq!(scene.node.counters.bad_frames.load(Ordering::Relaxed), 0);
    scene.end();
}

#[test]
fn half_open_callers_are_closed_at_the_deadline() {
    let _turn = turn();
    let mut scene = Scene::set();
    let start = Instant::now();
    let told = scene.attack(FAILED, |node| {
        let frame = hello_frame(&hello(3));
        vec![
            caller(node, &[]),
            caller(node, &frame[..7]),
            caller(node, &frame[..frame.len() - 1]),
            // Says who it is and never how it likes the answer.
            caller(node, &frame),
        ]
    });
    assert!(start.elapsed() >= LIMITS.handshake && start.elapsed() < 5 * LIMITS.handshake);
    assert!(told[..3].iter().all(Vec::is_empty) && !told[3].is_empty());
    scene.healthy.check(&scene.node, |event| {
        assert!(!matches!(event, NetEvent::Connected { .. }), "{event:?}");
    });
    scene.end();
}

#[test]
fn a_slow_loris_has_one_deadline_not_one_a_byte() {
    let _turn = turn();
    let mut scene = Scene::set();
    let start = Instant::now();
    scene.attack(FAILED, |node| {
        let mut raw = Raw::connect(&node.address);
        for byte in hello_frame(&hello(3)) {
            // Ten bytes a second would take many times the deadline.
            if start.elapsed() > 4 * LIMITS.handshake || !raw.write(&[byte]) {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        vec![raw]
    });
    assert!(start.elapsed() < 4 * LIMITS.handshake, "{:?}", start.elapsed());
    scene.end();
}

#[test]
fn an_established_link_that_falls_silent_or_trickles_is_closed() {
    let _turn = turn();
    let mut scene = Scene::set();
    let start = Instant::now();
    let mut silent = Raw::established(&scene.node.address, &hello(3));
    assert!(silent.read_to_close().is_empty());
    assert!(start.elapsed() >= LIMITS.silence && start.elapsed() < 3 * LIMITS.silence);
    let start = Instant::now();
    let mut slow = Raw::established(&scene.node.address, &hello(3));
    let frame = framed(|out| out.resize(1000, 7));
    for byte in frame {
        if !slow.write(&[byte]) || start.elapsed() > 3 * LIMITS.frame {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    slow.read_to_close();
    assert!(start.elapsed() < 2 * LIMITS.frame, "{:?}", start.elapsed());
    scene.healthy.check(&scene.node, drop);
    scene.end();
}

#[test]
fn each_refusal_is_told_counted_and_logged() {
    let _turn = turn();
    let mut scene = Scene::set();
    // Node 4 lives, from its usual directory, and is no member.
    let _four = Raw::established(&scene.node.address, &hello(4));
    let stranger = |n: i64| Hello { directory: uuid(99), ..hello(n) };
    let cases = [
        (Hello { cluster_id: "another".to_owned(), ..hello(3) }, Refusal::ClusterId),
        (Hello { cluster: Some(uuid(201)), ..hello(3) }, Refusal::ClusterUuid),
        (stranger(1), Refusal::DuplicateNode),
        (stranger(2), Refusal::DuplicateNode),
        (stranger(4), Refusal::DuplicateNode),
        (stranger(3), Refusal::WrongDirectory),
        (hello(9), Refusal::Removed),
        (Hello { oldest: 2, newest: 3, ..hello(3) }, Refusal::Version),
        (Hello { auth_method: 1, ..hello(3) }, Refusal::Auth),
    ];
    let mut logged = std::collections::BTreeSet::new();
    for (hello, refusal) in cases {
        let before = scene.node.counters.handshakes_refused.load(Ordering::Relaxed);
        let mut raw = caller(&scene.node, &hello_frame(&hello));
        assert_eq!(raw.read_answer(), HelloAnswer::Refused(refusal), "{hello:?}");
        assert!(raw.read_to_close().is_empty());
        assert_eq!(scene.node.counters.handshakes_refused.load(Ordering::Relaxed), before + 1);
        if logged.insert(refusal) {
            let lines = log_lines(&format!("127.0.0.1:{}", raw.port()));
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with("WARN: refused a connection from"), "{lines:?}");
        }
        scene.healthy.check(&scene.node, |event| match event {
            NetEvent::HandshakeRefused { address: None, refusal: told, by_us: true, .. } => {
                assert_eq!(told, refusal);
            }
            NetEvent::Connected { hello, .. } => assert_eq!(hello.node, id(4)),
            NetEvent::Closed { node, .. } => assert_eq!(node, id(4)),
            event => panic!("{event:?}"),
        });
    }
    scene.end();
}

#[test]
fn a_build_of_the_future_is_told_that_it_is_too_new() {
    let _turn = turn();
    let mut scene = Scene::set();
    // Of its hello only the head is as in version 1.
    let future = framed(|out| out.extend_from_slice(b"PGRAFT\0\x01\0\x02\0\x09{\"new\": true}"));
    let told = scene.attack(|c| &c.handshakes_refused, |node| vec![caller(node, &future)]);
    assert_eq!(told[0], answer_frame(&HelloAnswer::Refused(Refusal::Version)));
    assert_eq!(log_lines("it speaks protocol versions 2 to 9, this node 1 to 1").len(), 1);
    scene.end();
}

#[test]
fn reaching_oneself_is_told_silently() {
    let _turn = turn();
    let node = Node::start(1, &[1]);
    node.net.dial(&node.address);
    node.wait("refusal", |event| match event {
        NetEvent::HandshakeRefused {
            address: Some(_), refusal: Refusal::Oneself, by_us, ..
        } => {
            assert!(!by_us);
            Some(())
        }
        event => panic!("{event:?}"),
    });
    assert_eq!(node.counters.handshakes_refused.load(Ordering::Relaxed), 0);
    assert!(log_lines(&node.address.to_string()).is_empty());
    node.stop();
}

/// A listener that answers each caller with what `answer` makes of it.
fn answering(answer: impl Fn(Raw) + Send + 'static) -> pgraft::cluster::Address {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = address(listener.local_addr().unwrap());
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            answer(Raw::of(stream));
        }
    });
    at
}

#[test]
fn the_dialler_judges_the_answer_and_says_no() {
    let _turn = turn();
    let mut scene = Scene::set();
    let cases = [
        (Hello { cluster_id: "another".to_owned(), ..hello(3) }, Refusal::ClusterId),
        (Hello { cluster: Some(uuid(201)), ..hello(3) }, Refusal::ClusterUuid),
        (Hello { directory: uuid(99), ..hello(1) }, Refusal::DuplicateNode),
        (Hello { directory: uuid(99), ..hello(2) }, Refusal::DuplicateNode),
        (Hello { directory: uuid(99), ..hello(3) }, Refusal::WrongDirectory),
        (hello(9), Refusal::Removed),
        (Hello { oldest: 2, newest: 2, ..hello(3) }, Refusal::Version),
    ];
    for (hello, refusal) in cases {
        let (heard, verdict) = crossbeam_channel::bounded(1);
        let answer = answer_frame(&HelloAnswer::Accepted(hello));
        let at = answering(move |mut raw| {
            raw.read_frame();
            raw.write(&answer);
            let verdict = raw.read_answer();
            assert!(raw.read_to_close().is_empty());
            // Only the first is awaited.
            let _ = heard.try_send(verdict);
        });
        scene.node.net.dial(&at);
        assert_eq!(verdict.recv_timeout(LONG).unwrap(), HelloAnswer::Refused(refusal));
        scene.node.net.hang_up(&at);
        let lines = log_lines(&at.to_string());
        assert_eq!(lines.len(), 1, "{lines:?}");
        let mut told = false;
        while !told {
            scene.healthy.check(&scene.node, |event| match event {
                NetEvent::HandshakeRefused { address, refusal: why, by_us, .. } => {
                    assert_eq!((address.as_ref(), why, by_us), (Some(&at), refusal, true));
                    told = true;
                }
                event => panic!("{event:?}"),
            });
        }
    }
    scene.end();
}

#[test]
fn a_dialled_port_that_talks_nonsense_or_nothing_is_left_alone() {
    let _turn = turn();
    let mut scene = Scene::set();
    let nonsense = answering(|mut raw| {
        raw.write(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n");
        raw.read_to_close();
    });
    let chatty = answering(|mut raw| {
        raw.read_frame();
        raw.write(&answer_frame(&HelloAnswer::Accepted(hello(3))));
        raw.read_answer();
        raw.write(b"x");
        raw.read_to_close();
    });
    for at in [&nonsense, &chatty] {
        let before = scene.node.counters.bad_frames.load(Ordering::Relaxed);
        scene.node.net.dial(at);
        let counters = &scene.node.counters;
        eventually("the count", || counters.bad_frames.load(Ordering::Relaxed) > before);
        scene.node.net.hang_up(at);
        scene.healthy.check(&scene.node, drop);
    }
    let mute = answering(|mut raw| drop(raw.read_to_close()));
    scene.node.net.dial(&mute);
    let counters = &scene.node.counters;
    eventually("the count", || counters.handshakes_failed.load(Ordering::Relaxed) > 0);
    scene.healthy.check(&scene.node, drop);
    scene.end();
}

#[test]
fn claimed_lengths_and_floods_cost_no_memory() {
    let _turn = turn();
    let mut scene = Scene::set();
    let (used, asked, open) = (memory("VmRSS"), memory("VmData"), descriptors());
    // Frames that claim 16 MiB and send little, from established links.
    let claim = [&FRAME_BYTES_MAX.to_be_bytes()[..], &[0; 4], &[7; 100]].concat();
    let links: Vec<Raw> = (20..50)
        .map(|n| {
            let mut raw = Raw::established(&scene.node.address, &hello(n));
            raw.write(&claim);
            raw
        })
        .collect();
    scene.healthy.check(&scene.node, drop);
    let grown = memory("VmRSS").saturating_sub(used);
    assert!(grown < 30 * 200_000, "{grown} bytes for 30 links");
    // Each has a stack of 2 MiB, which is not used, and no 16 MiB, used or not.
    let grown = memory("VmData").saturating_sub(asked);
    assert!(grown < 30 * (4 << 20), "{grown} bytes asked for");
    drop(links);
    // And a crowd that says nothing: the newest few stay, the rest makes room.
    let crowd: Vec<Raw> = (0..300).map(|_| Raw::connect(&scene.node.address)).collect();
    let unknown = UNKNOWN_PER_SOURCE_MAX;
    let accepted = || scene.node.counters.accepted.load(Ordering::Relaxed);
    // The healthy peer and 30 links came before.
    eventually("the crowd to be accepted", || accepted() == 331);
    eventually("the crowd to be cut", || scene.node.threads() <= unknown + 2);
    let counters = &scene.node.counters;
    let rejected = counters.rejected_full.load(Ordering::Relaxed);
    assert!(rejected > 0);
    let failed = counters.handshakes_failed.load(Ordering::Relaxed);
    assert!(rejected + failed >= (300 - unknown) as u64, "{rejected} rejected, {failed} failed");
    // A peer gets in all the same.
    drop(Raw::established(&scene.node.address, &hello(3)));
    scene.healthy.check(&scene.node, drop);
    drop(crowd);
    eventually("the threads to end", || scene.node.threads() <= 2);
    eventually("the descriptors to be closed", || descriptors() <= open);
    let grown = memory("VmRSS").saturating_sub(used);
    assert!(grown < 6 << 20, "{grown} bytes kept");
    scene.end();
}

/// Sets this process' soft limit of descriptors.
fn limit_descriptors(soft: &str) {
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={soft}:");
    let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(done.expect("prlimit of util-linux").success());
}

#[test]
fn out_of_descriptors_the_listener_waits_and_recovers() {
    let _turn = turn();
    let mut scene = Scene::set();
    limit_descriptors("200");
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    hoard.pop();
    // The last descriptor is the caller's own.
    let mut raw = Raw::connect(&scene.node.address);
    let errors = || scene.node.counters.accept_errors.load(Ordering::Relaxed);
    eventually("an error", || errors() > 0);
    thread::sleep(Duration::from_millis(300));
    let tries = errors();
    scene.healthy.check(&scene.node, drop);
    drop(hoard);
    limit_descriptors("1024");
    assert!(tries < 10, "{tries} tries in 300 ms");
    assert_eq!(log_lines("could not accept a connection").len(), 1);
    raw.write(&hello_frame(&hello(3)));
    assert!(matches!(raw.read_answer(), HelloAnswer::Accepted(_)));
    scene.end();
}
