//! Links between nodes that mean well: delivery, loss, return, a stopped peer, the end.

mod net_harness;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use net_harness::*;
use pgraft::cluster::Address;
use pgraft::net::{ConnId, LINKS_PER_NODE_MAX, Net, NetEvent, STRANGERS_MAX};
use pgraft::raft::{Body, Entry, EntryId, LogIndex, Message, Payload, Term};
use pgraft::wire::{FRAME_BYTES_MAX, HelloAnswer, Packet, Refusal};

/// A packet of about `bytes`.
fn big(bytes: usize) -> Packet {
    let id = EntryId { term: Term(1), index: LogIndex(1) };
    let entries = vec![Entry { id, payload: Payload::Command(vec![7; bytes]) }];
    let (prev, commit) = (EntryId::default(), LogIndex(0));
    let body = Body::AppendEntries { prev, entries, commit, round: 1 };
    Packet::Raft(Message { term: Term(1), body })
}

/// Nodes 1 and 2, each dialling the other.
fn pair() -> (Node, Node) {
    let (one, two) = (Node::start(1, &[1, 2]), Node::start(2, &[1, 2]));
    one.net.dial(&two.address);
    two.net.dial(&one.address);
    one.wait_connected(2, true);
    two.wait_connected(1, true);
    (one, two)
}

#[test]
fn packets_arrive_in_order_both_ways_and_are_counted() {
    let _turn = turn();
    let (one, two) = pair();
    for round in 0..200 {
        assert!(one.net.send(&two.address, numbered(round)));
        assert!(two.net.send(&one.address, numbered(1000 + round)));
    }
    for round in 0..200 {
        assert_eq!(number(&two.wait_packet(1)), round);
        assert_eq!(number(&one.wait_packet(2)), 1000 + round);
    }
    let (sent, received) = (one.counters.peer(id(2)).unwrap(), two.counters.peer(id(1)).unwrap());
    eventually("the count", || sent.messages_sent.load(Ordering::Relaxed) == 200);
    assert_eq!(received.messages_received.load(Ordering::Relaxed), 200);
    let bytes = sent.bytes_sent.load(Ordering::Relaxed);
    assert_eq!(received.bytes_received.load(Ordering::Relaxed), bytes);
    assert_eq!(sent.connects.load(Ordering::Relaxed), 1);
    one.stop();
    two.stop();
}

#[test]
fn packets_of_every_size_arrive_whole_and_too_long_ones_are_not_sent() {
    let _turn = turn();
    let (one, two) = pair();
    let most = FRAME_BYTES_MAX as usize;
    for bytes in [0, 1, 4096, (128 << 10) - 60, 128 << 10, 1 << 20, most - 1000] {
        assert!(one.net.send(&two.address, big(bytes)));
        assert_eq!(two.wait_packet(1), big(bytes));
    }
    assert!(!one.net.send(&two.address, big(most)));
    assert!(one.net.send(&two.address, numbered(5)));
    assert_eq!(number(&two.wait_packet(1)), 5);
    assert_eq!(one.counters.sends_dropped.load(Ordering::Relaxed), 1);
    one.stop();
    two.stop();
}

#[test]
fn without_a_link_a_packet_is_dropped_and_counted() {
    let _turn = turn();
    let node = Node::start(1, &[1]);
    let nowhere = Address::new("127.0.0.1", 1).unwrap();
    assert!(!node.net.send(&nowhere, numbered(1)));
    node.net.dial(&nowhere);
    assert!(!node.net.send(&nowhere, numbered(2)));
    assert_eq!(node.counters.sends_dropped.load(Ordering::Relaxed), 2);
    node.stop();
}

/// Has `node` connect to a node 3 that shakes hands and never reads again, as a process under
/// SIGSTOP; returns its address, the link, and what must be kept for the sockets to stay open.
fn stopped_peer(node: &Node) -> (Address, ConnId, impl Sized + use<>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = address(listener.local_addr().unwrap());
    let asleep = thread::spawn(move || {
        let mut raw = Raw::of(listener.accept().unwrap().0);
        raw.read_frame();
        raw.write(&answer_frame(&HelloAnswer::Accepted(hello(3))));
        raw.read_frame();
        (raw, listener)
    });
    node.net.dial(&at);
    let conn = node.wait_connected(3, true);
    (at, conn, asleep.join().unwrap())
}

#[test]
fn a_stopped_peer_delays_nobody_else() {
    let _turn = turn();
    let node = Node::start(1, &[1, 2, 3]);
    let two = Node::start(2, &[1, 2, 3]);
    node.net.dial(&two.address);
    node.wait_connected(2, true);
    let (stopped, conn, asleep) = stopped_peer(&node);
    let (start, mut slowest, mut slowest_send) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let mut refused = 0;
    for round in 0.. {
        let sent = Instant::now();
        refused += u32::from(!node.net.send(&stopped, big(1 << 20)));
        assert!(node.net.send(&two.address, numbered(round)));
        slowest_send = slowest_send.max(sent.elapsed());
        assert_eq!(number(&two.wait_packet(1)), round);
        slowest = slowest.max(sent.elapsed());
        thread::sleep(Duration::from_millis(5));
        if let Ok(event) = node.events.try_recv()
            && matches!(event, NetEvent::Closed { conn: closed, .. } if closed == conn)
        {
            break;
        }
        assert!(start.elapsed() < LONG, "the stopped peer was never given up");
    }
    assert!(refused > 0, "its queue is bounded");
    assert!(start.elapsed() >= LIMITS.write);
    assert!(slowest_send < Duration::from_millis(200), "a send blocked for {slowest_send:?}");
    assert!(slowest < Duration::from_millis(400), "a heartbeat took {slowest:?}");
    let lines = log_lines("lost the connection to node 3");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].ends_with("it took nothing for 0.6 s"), "{lines:?}");
    drop(asleep);
    node.stop();
    two.stop();
}

#[test]
fn a_dead_listener_is_told_at_once_and_its_return_is_found() {
    let _turn = turn();
    let (one, two) = pair();
    let port = two.address.port();
    // Longer than a link must last to count as good.
    thread::sleep(Duration::from_millis(1100));
    let start = Instant::now();
    let address = two.address.clone();
    two.stop();
    one.wait("close", |event| match event {
        NetEvent::Closed { node, outbound: true, .. } => {
            assert_eq!(node, id(2));
            Some(())
        }
        _ => None,
    });
    one.wait("refused port", |event| match event {
        NetEvent::PortRefused { address: at, node } => {
            assert_eq!((at, node), (address.clone(), Some(id(2))));
            Some(())
        }
        _ => None,
    });
    assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
    assert!(!one.net.send(&address, numbered(1)));
    let two = Node::start_at(2, &[1, 2], Net::listen("127.0.0.1", port).unwrap());
    one.wait_connected(2, true);
    assert!(one.net.send(&two.address, numbered(2)));
    assert_eq!(number(&two.wait_packet(1)), 2);
    let (lost, found) = (log_lines("lost the connection to node 2"), "connected to node 2 at");
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!(log_lines(found).len(), 2);
    one.stop();
    two.stop();
}

/// Tells a test binary that it is to be a node, for `a_killed_process_is_told_at_once`.
const CHILD: &str = "PGRAFT_NET_TEST_CHILD";

#[test]
fn a_killed_process_is_told_at_once() {
    if std::env::var_os(CHILD).is_some() {
        let two = Node::start(2, &[1, 2]);
        println!("at {}", two.address);
        // Until killed, or forgotten.
        return thread::sleep(2 * LONG);
    }
    let _turn = turn();
    let one = Node::start(1, &[1, 2]);
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_killed_process_is_told_at_once", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find(|l| l.contains("at 127")).unwrap();
        let at = Address::parse(line.rsplit(' ').next().unwrap()).unwrap();
        one.net.dial(&at);
        one.wait_connected(2, true);
        thread::sleep(Duration::from_millis(1100));
        child.kill().unwrap();
        let start = Instant::now();
        one.wait("refused port", |event| match event {
            NetEvent::PortRefused { address, .. } if address == at => Some(()),
            _ => None,
        });
        assert!(start.elapsed() < Duration::from_millis(300), "{:?}", start.elapsed());
        child.wait().unwrap();
        one.net.hang_up(&at);
    }
    one.stop();
}

#[test]
fn a_node_that_dials_in_is_dialled_back_without_waiting() {
    let _turn = turn();
    let (one, two) = pair();
    let port = two.address.port();
    two.stop();
    // Let the pauses grow to 1 to 2 s.
    thread::sleep(Duration::from_secs(3));
    let two = Node::start_at(2, &[1, 2], Net::listen("127.0.0.1", port).unwrap());
    two.net.dial(&one.address);
    let start = Instant::now();
    one.wait_connected(2, true);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    one.stop();
    two.stop();
}

#[test]
fn retry_now_ends_a_pause_and_renews_an_old_link_only() {
    let _turn = turn();
    let (one, two) = pair();
    one.net.retry_now(&two.address);
    thread::sleep(Duration::from_millis(1200));
    let young = one.events.try_iter().any(|e| matches!(e, NetEvent::Closed { .. }));
    assert!(!young, "a link that was just made is fine");
    one.net.retry_now(&two.address);
    one.wait("close", |event| match event {
        NetEvent::Closed { outbound: true, .. } => Some(()),
        _ => None,
    });
    one.wait_connected(2, true);
    assert!(one.net.send(&two.address, numbered(3)));
    assert_eq!(number(&two.wait_packet(1)), 3);
    one.stop();
    two.stop();
}

#[test]
fn a_silent_callers_own_address_is_dialled_anew() {
    let _turn = turn();
    let (one, two) = pair();
    // Node 2 says nothing, as a host that vanished: node 1 looks whether it is still there.
    one.wait("new link", |event| match event {
        NetEvent::Closed { outbound: true, .. } => Some(()),
        _ => None,
    });
    one.wait_connected(2, true);
    one.stop();
    two.stop();
}

#[test]
fn hanging_up_ends_the_link_and_the_dialling() {
    let _turn = turn();
    let (one, two) = pair();
    one.net.hang_up(&two.address);
    one.wait("close", |event| match event {
        NetEvent::Closed { outbound: true, .. } => Some(()),
        _ => None,
    });
    assert!(!one.net.send(&two.address, numbered(1)));
    // Its listener and the link from node 2 are left.
    eventually("the threads to end", || one.threads() <= 4);
    one.net.dial(&two.address);
    one.wait_connected(2, true);
    assert!(log_lines("lost the connection to node 2").is_empty(), "it was not lost");
    one.stop();
    two.stop();
}

#[test]
fn a_disconnected_node_comes_again_and_is_judged_anew() {
    let _turn = turn();
    let (one, two) = pair();
    one.gate.update(hello(1), [(id(1), Some(uuid(1)))].into(), [id(2)].into());
    one.net.disconnect(id(2));
    two.wait("refusal", |event| match event {
        NetEvent::HandshakeRefused { refusal: Refusal::Removed, by_us: false, node, .. } => {
            assert_eq!(node, Some(id(1)));
            Some(())
        }
        _ => None,
    });
    one.stop();
    two.stop();
}

#[test]
fn a_newer_caller_of_the_same_node_and_address_replaces_the_older() {
    let _turn = turn();
    let node = Node::start(1, &[1, 2]);
    let mut again = hello(2);
    again.dialled = Some(node.address.clone());
    let mut older = Raw::established(&node.address, &again);
    let conn = node.wait_connected(2, false);
    let mut newer = Raw::established(&node.address, &again);
    node.wait_closed(conn);
    assert!(older.read_to_close().is_empty());
    newer.write(&packet_frame(&numbered(4)));
    assert_eq!(number(&node.wait_packet(2)), 4);
    node.stop();
}

#[test]
fn links_of_one_node_and_of_strangers_are_bounded() {
    let _turn = turn();
    let node = Node::start(1, &[1, 2]);
    let by = |port: u16| {
        let mut hello = hello(2);
        hello.dialled = Some(Address::new("127.0.0.1", port).unwrap());
        Raw::established(&node.address, &hello)
    };
    let mut links: Vec<Raw> = (1..=LINKS_PER_NODE_MAX as u16 + 1).map(by).collect();
    assert!(links[0].read_to_close().is_empty(), "the oldest makes room");
    let strangers: Vec<Raw> = (0..STRANGERS_MAX as i64)
        .map(|n| Raw::established(&node.address, &hello(100 + n)))
        .collect();
    for _ in &strangers {
        node.wait("stranger", |event| match event {
            NetEvent::Connected { hello, .. } if hello.node >= id(100) => Some(()),
            _ => None,
        });
    }
    let mut one_more = Raw::connect(&node.address);
    one_more.write(&hello_frame(&hello(50)));
    assert_eq!(one_more.read_answer(), HelloAnswer::Refused(Refusal::Full));
    drop(Raw::established(&node.address, &hello(2)));
    node.stop();
}

#[test]
fn a_full_queue_loses_packets_and_nothing_else() {
    let _turn = turn();
    let (sender, events) = bounded(1000);
    let (refusals, full) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(true)));
    let sink = {
        let (refusals, full) = (refusals.clone(), full.clone());
        Arc::new(move |event| {
            let taken = !full.load(Ordering::Relaxed) && sender.try_send(event).is_ok();
            refusals.fetch_add(u64::from(!taken), Ordering::Relaxed);
            taken
        })
    };
    let listener = Net::listen("127.0.0.1", 0).unwrap();
    let node = Node::start_with(1, &[1, 2], listener, events, sink);
    let mut raw = Raw::established(&node.address, &hello(2));
    eventually("an offer", || refusals.load(Ordering::Relaxed) > 3);
    full.store(false, Ordering::Relaxed);
    let conn = node.wait_connected(2, false);
    full.store(true, Ordering::Relaxed);
    (0..10).for_each(|n| assert!(raw.write(&packet_frame(&numbered(n)))));
    let dropped = || node.counters.received_dropped.load(Ordering::Relaxed);
    eventually("the drops", || dropped() == 10);
    drop(raw);
    thread::sleep(Duration::from_millis(20));
    full.store(false, Ordering::Relaxed);
    node.wait_closed(conn);
    assert_eq!(dropped(), 10);
    assert_eq!(node.counters.peer(id(2)).unwrap().dropped.load(Ordering::Relaxed), 10);
    node.stop();
}

#[test]
fn stopping_ends_every_thread_within_a_second() {
    let _turn = turn();
    let (one, two) = pair();
    let (dead, mute) = (Address::new("127.0.0.1", 1).unwrap(), TcpListener::bind("127.0.0.1:0"));
    let mute = mute.unwrap();
    // In a pause, in a handshake, in a connect that nothing answers (or nothing lets out).
    one.net.dial(&dead);
    one.net.dial(&address(mute.local_addr().unwrap()));
    one.net.dial(&Address::new("192.0.2.1", 7400).unwrap());
    let _half_open: Vec<Raw> = (0..5).map(|_| Raw::connect(&one.address)).collect();
    let _silent = Raw::established(&one.address, &hello(5));
    eventually("callers", || one.threads() >= 14);
    let at = socket_addr(&one.address);
    let took = one.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(std::net::TcpStream::connect(at).is_err(), "the port is closed");
    two.stop();
}

#[test]
fn stopping_ends_a_blocked_write_at_once() {
    let _turn = turn();
    let node = Node::start(1, &[1, 3]);
    let (stopped, _, _asleep) = stopped_peer(&node);
    // Until the socket is full, its sender blocked, and its queue full.
    while node.net.send(&stopped, big(1 << 20)) {
        while node.net.send(&stopped, big(1 << 20)) {}
        thread::sleep(LIMITS.write / 10);
    }
    let took = node.stop();
    assert!(took < LIMITS.write / 3, "{took:?}");
}

/// A packet is written by who sends it, by the link's own thread, or begun by the one and ended by
/// the other where the socket is full. Whichever it is, all arrive whole and in order.
#[test]
fn packets_arrive_in_order_whoever_writes_them() {
    const ROUNDS: u64 = 500;
    // At last some so large that who sends leaves them to the thread.
    let large = |round: u64| big(if round < ROUNDS * 4 / 5 { 40 << 10 } else { 100 << 10 });
    let _turn = turn();
    let node = Node::start(1, &[1, 3]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = address(listener.local_addr().unwrap());
    let reader = thread::spawn(move || {
        let mut raw = Raw::of(listener.accept().unwrap().0);
        raw.read_frame();
        raw.write(&answer_frame(&HelloAnswer::Accepted(hello(3))));
        raw.read_frame();
        for round in 0..ROUNDS {
            assert_eq!(pgraft::wire::decode_packet(&raw.read_frame()).unwrap(), large(round));
            assert_eq!(number(&pgraft::wire::decode_packet(&raw.read_frame()).unwrap()), round);
            // Slower than who sends, which finds the socket full now and then.
            thread::sleep(Duration::from_millis(1));
        }
    });
    node.net.dial(&slow);
    node.wait_connected(3, true);
    for round in 0..ROUNDS {
        for packet in [large(round), numbered(round)] {
            while !node.net.send(&slow, packet.clone()) {
                assert!(!reader.is_finished(), "the reader gave up");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    reader.join().unwrap();
    node.stop();
}

#[test]
fn small_packets_pass_beside_a_queue_full_of_bytes() {
    let _turn = turn();
    let node = Node::start(1, &[1, 3]);
    let (stopped, _, _asleep) = stopped_peer(&node);
    while node.net.send(&stopped, big(1 << 20)) {
        while node.net.send(&stopped, big(1 << 20)) {}
        thread::sleep(LIMITS.write / 10);
    }
    assert!(node.net.send(&stopped, numbered(1)));
    // But there is a bound to them too.
    assert!((0..1000).any(|n| !node.net.send(&stopped, numbered(n))));
    node.stop();
}

#[test]
fn a_port_in_use_is_an_error() {
    let _turn = turn();
    let node = Node::start(1, &[1]);
    let error = Net::listen("127.0.0.1", node.address.port()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    node.stop();
}
