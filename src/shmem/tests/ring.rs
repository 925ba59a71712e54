//! The log ring: what it keeps, and what writers at the same time do to it.

use super::*;
use log::{Level, LevelFilter};
use std::thread;
use std::time::{Duration, Instant};

fn ring() -> LogRing {
    shared(SHMEM_BYTES_MIN).log()
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn lines_come_back_newest_last_by_number_and_level() {
    let ring = ring();
    for (level, text) in [
        (Level::Error, "e1"),
        (Level::Debug, "d1"),
        (Level::Info, "i1"),
        (Level::Warn, "w1"),
        (Level::Debug, "d2"),
    ] {
        ring.write(1_700_000_000_000_000, level, 3, 17, text);
    }
    assert_eq!(texts(&ring.read(100, LevelFilter::Trace)), ["e1", "d1", "i1", "w1", "d2"]);
    assert_eq!(texts(&ring.read(2, LevelFilter::Trace)), ["w1", "d2"]);
    assert_eq!(texts(&ring.read(2, LevelFilter::Info)), ["i1", "w1"]);
    assert_eq!(texts(&ring.read(100, LevelFilter::Error)), ["e1"]);
    assert_eq!(texts(&ring.read(100, LevelFilter::Off)), Vec::<&str>::new());
    assert_eq!(texts(&ring.read(0, LevelFilter::Trace)), Vec::<&str>::new());
    let expected = LogLine {
        number: 3,
        unix_us: 1_700_000_000_000_000,
        level: Level::Warn,
        node_id: 3,
        term: 17,
        text: "w1".to_owned(),
    };
    assert_eq!(ring.read(1, LevelFilter::Warn), [expected]);
}

#[test]
fn the_newest_replace_the_oldest() {
    let ring = ring();
    let capacity = ring.capacity() as u64;
    for n in 0..capacity * 2 + 5 {
        ring.write(0, Level::Info, 1, n, &format!("line {n}"));
    }
    let lines = ring.read(usize::MAX, LevelFilter::Trace);
    assert_eq!(lines.len() as u64, capacity);
    let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
    assert_eq!(numbers, (capacity + 5..capacity * 2 + 5).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line.text == format!("line {}", line.number)));
    assert_eq!(ring.lost(), 0);
}

#[test]
fn long_lines_are_cut_between_characters() {
    let ring = ring();
    ring.write(0, Level::Info, 1, 1, &format!("a{}", "é".repeat(1000)));
    ring.write(0, Level::Info, 1, 1, "");
    let lines = ring.read(2, LevelFilter::Info);
    assert_eq!(lines[0].text, format!("a{}", "é".repeat(239)));
    assert_eq!(lines[1].text, "", "nothing is left of what stood there");
}

#[test]
fn writers_at_the_same_time_mix_no_lines() {
    // So small that every line read is about to be overwritten.
    let ring = LogRing::for_tests(5);
    let done = AtomicBool::new(false);
    // The time also says which writer and line it is, and the text is as long as that says.
    let whole = |line: &LogLine| {
        let text = format!("{}/{}", line.node_id, line.term);
        let text = format!("{text}{}", "x".repeat(line.term as usize % 400));
        assert_eq!(line.text, text, "a torn line");
        assert_eq!(line.unix_us, i64::from(line.node_id) * 1_000_000 + line.term as i64);
    };
    thread::scope(|scope| {
        for writer in 1..=3_u32 {
            let done = &done;
            scope.spawn(move || {
                let mut n = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    n += 1;
                    let text = format!("{writer}/{n}{}", "x".repeat(n as usize % 400));
                    let at = i64::from(writer) * 1_000_000 + n as i64;
                    ring.write(at, Level::Info, writer, n, &text);
                }
            });
        }
        let _finish = Finish(&done);
        let start = Instant::now();
        let mut read = 0;
        while start.elapsed() < Duration::from_millis(500) || read < 1000 {
            let lines = ring.read(50, LevelFilter::Trace);
            assert!(lines.windows(2).all(|pair| pair[0].number < pair[1].number));
            lines.iter().for_each(whole);
            read += lines.len();
            assert!(start.elapsed() < Duration::from_secs(60), "only {read} lines were read");
        }
    });
    let lines = ring.read(usize::MAX, LevelFilter::Trace);
    lines.iter().for_each(whole);
    let missing = ring.capacity() - lines.len();
    assert!(missing as u64 <= ring.lost(), "{missing} missing, {} lost", ring.lost());
}

#[test]
fn an_entry_whose_writer_died_is_skipped_until_the_next_worker_repairs_it() {
    let ring = ring();
    let capacity = ring.capacity() as u64;
    ring.write(0, Level::Info, 1, 1, "zero");
    ring.leave_unfinished();
    ring.write(0, Level::Info, 1, 1, "two");
    assert_eq!(texts(&ring.read(9, LevelFilter::Info)), ["zero", "two"]);
    for n in 3..capacity + 3 {
        ring.write(0, Level::Info, 1, 1, &format!("line {n}"));
    }
    assert_eq!(ring.lost(), 1, "the line for the stuck entry");
    assert_eq!(ring.read(usize::MAX, LevelFilter::Info).len() as u64, capacity - 1);
    ring.repair();
    for n in 0..capacity {
        ring.write(0, Level::Info, 1, 1, &format!("again {n}"));
    }
    assert_eq!(ring.lost(), 1);
    assert_eq!(ring.read(usize::MAX, LevelFilter::Info).len() as u64, capacity);
}
