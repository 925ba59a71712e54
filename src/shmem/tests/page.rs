//! The page and its seqlock, within one process.

use super::*;
use crate::shmem::seqlock::{Sequence, Words};
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;

fn page() -> &'static StatusPage {
    shared(SHMEM_BYTES_MIN).page()
}

fn leading(lease_expires_ns: u64) -> Core {
    Core { role: RoleCode::Leader, lease_start_ns: 1, lease_expires_ns, ..Core::default() }
}

#[test]
fn what_is_published_is_read() {
    let page = page();
    for n in [0, 1, 2, 3, 65535] {
        page.publish(&view_of(n));
        assert_whole(&page.view().unwrap());
        assert_eq!(page.core().unwrap(), view_of(n).core());
        assert_eq!((page.node_id(), page.term()), (1, n));
    }
    let core = Core { applied: 7, ..view_of(65535).core() };
    page.publish_core(&core);
    assert_eq!(page.view().unwrap(), View { applied: 7, ..view_of(65535) });
    let of_postgres = View { pg_role: Some(PgRole::Standby), wal_lsn: 42, ..View::default() };
    page.publish(&of_postgres);
    assert_eq!(page.view().unwrap(), of_postgres);
}

#[test]
fn texts_too_long_are_cut_between_characters_and_members_at_the_last_place() {
    let page = page();
    let long = View {
        last_error: "é".repeat(1000),
        node_name: "n".repeat(63),
        cluster_id: "c".repeat(64),
        leader_address: format!("{}:65535", "h".repeat(253)),
        members: (1..100).map(|id| MemberView { id, ..MemberView::default() }).collect(),
        ..View::default()
    };
    page.publish(&long);
    let read = page.view().unwrap();
    assert_eq!(read.last_error, "é".repeat(255), "511 bytes and the zero");
    assert_eq!((&read.node_name, &read.cluster_id), (&long.node_name, &long.cluster_id));
    assert_eq!(read.leader_address, long.leader_address);
    assert_eq!(read.members, long.members[..MEMBERS_MAX]);
    // A shorter text leaves nothing of the longer one.
    for text in ["", "12345678", "a\0b"] {
        page.publish(&View { last_error: text.to_owned(), ..View::default() });
        assert_eq!(page.view().unwrap().last_error, text.split('\0').next().unwrap());
    }
}

#[test]
fn only_a_lease_on_a_fresh_page_of_a_living_worker_makes_a_leader() {
    let page = page();
    let now = 100 * SECOND;
    assert!(!page.is_leader(now) && !page.is_leader(0), "a page never opened");
    page.publish_core(&leading(now + 10));
    assert!(!page.is_leader(now), "no worker");
    page.open(1234, SECOND);
    assert!(!page.is_leader(now), "a new worker's page began with its predecessor's lease");
    page.publish_core(&leading(now + 10));
    assert!(!page.is_leader(now) && !page.is_fresh(now), "no heartbeat yet");
    page.beat(now - 5);
    assert!(page.is_leader(now) && page.is_fresh(now));
    assert!(page.is_leader(now + 9) && !page.is_leader(now + 10), "the lease's end is not in it");
    page.publish_core(&leading(now + 100 * SECOND));
    assert!(page.is_leader(now - 5 + SECOND));
    assert!(!page.is_leader(now - 4 + SECOND), "the heartbeat is old, whatever the lease");
    assert_eq!(page.heartbeat_age_ns(now), Some(5));
    page.publish_core(&Core { role: RoleCode::Follower, ..leading(now + SECOND) });
    assert!(!page.is_leader(now), "a follower with a lease left over");
    page.publish_core(&leading(now + SECOND));
    assert_eq!(page.worker_pid(), Some(1234));
    page.clear();
    assert!(!page.is_leader(now) && !page.is_fresh(now));
    assert_eq!((page.worker_pid(), page.heartbeat_age_ns(now)), (None, None));
    // A stuck thread that publishes after the worker's end changes nothing.
    page.publish_core(&leading(now + SECOND));
    page.beat(now);
    assert!(!page.is_leader(now) && !page.is_fresh(now));
}

#[test]
fn is_leader_now_uses_the_clock_of_leases() {
    let page = page();
    let now = sys::now_boottime_ns();
    page.open(1, 60 * SECOND);
    page.beat(now);
    page.publish_core(&leading(now + 60 * SECOND));
    assert!(page.is_leader_now());
    page.publish_core(&leading(now.saturating_sub(1)));
    assert!(!page.is_leader_now());
}

#[test]
fn counters_and_the_debug_flag_stand_by_themselves() {
    let page = page();
    page.add(Counter::HealthChecksFailed, 2);
    page.add(Counter::HealthChecksFailed, 3);
    page.set(Counter::LogBytes, 9);
    page.set_debug(true);
    page.publish(&View::default());
    page.open(1, 1);
    assert_eq!(page.counter(Counter::HealthChecksFailed), 5);
    assert_eq!(page.counter(Counter::LogBytes), 9);
    assert!(page.debug(), "debug outlives the worker");
    assert!((Counter::Requests as usize) < COUNTERS_MAX);
}

#[test]
fn readers_never_see_half_of_a_write() {
    let page = page();
    page.publish(&view_of(0));
    let done = AtomicBool::new(false);
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    // The writer never rests here, so a reader may well find no gap in time.
                    let Some(view) = page.view() else { continue };
                    assert_whole(&view);
                    let Some(core) = page.core() else { continue };
                    assert_eq!(core, view_of(core.term).core());
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _finish = Finish(&done);
        let start = Instant::now();
        let mut n = 0;
        while start.elapsed() < Duration::from_millis(500) || seen.load(Ordering::Relaxed) < 1000 {
            n += 1;
            page.publish(&view_of(n % 60_000));
            if start.elapsed() > Duration::from_secs(20) {
                break;
            }
        }
    });
    assert!(seen.load(Ordering::Relaxed) >= 1000, "only {seen:?} reads in 20 s");
}

#[test]
fn a_writer_that_died_inside_delays_readers_a_moment_and_the_next_writer_not_at_all() {
    let sequence = Sequence::default();
    let value = Words::<2>::default();
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        sequence.write(|| {
            value.store(&[1; 8]);
            std::panic::resume_unwind(Box::new("died"));
        })
    }));
    assert!(died.is_err());
    let start = Instant::now();
    assert_eq!(sequence.read(|| value.load(16)), None);
    assert!(start.elapsed() < Duration::from_secs(1), "took {:?}", start.elapsed());
    sequence.write(|| value.store(&[2; 16]));
    assert_eq!(sequence.read(|| value.load(16)), Some(vec![2; 16]));
}

#[test]
fn a_reader_outlasts_a_writer_that_is_held_up_inside() {
    let sequence = Sequence::default();
    let inside = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            sequence.write(|| {
                inside.store(true, Ordering::Release);
                thread::sleep(Duration::from_micros(300));
            });
        });
        while !inside.load(Ordering::Acquire) {
            thread::yield_now();
        }
        // On a loaded machine the sleep may take far longer: then None is right. Never a panic, and
        // a value only from after the write.
        if sequence.read(|| ()).is_none() {
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(sequence.read(|| 1), Some(1));
}

#[test]
fn words_have_the_bytes_in_the_order_of_c() {
    let words = Words::<2>::default();
    words.store_text("abcdefghi");
    assert_eq!(words.load(16), b"abcdefghi\0\0\0\0\0\0\0");
    assert_eq!(words.load(3), b"abc");
    assert_eq!(words.load(99).len(), 16, "never past the end");
    words.store(&[b'x'; 99]);
    assert_eq!(words.load_text(), "x".repeat(16));
    words.store(b"\xff\xfe\0");
    assert_eq!(words.load_text(), "\u{fffd}\u{fffd}");
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("aé", 3), "aé");
}
