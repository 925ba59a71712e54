//! Command slots: the way round, and every way off it.

use super::*;
use std::sync::atomic::AtomicU64;
use std::thread;

fn slots() -> &'static Slots {
    shared(SHMEM_BYTES_MIN).slots()
}

#[test]
fn a_request_goes_round() {
    let slots = slots();
    let handle = slots.claim(1234, 56).unwrap();
    assert_eq!(slots.requested(), [], "claimed is not yet asked");
    handle.submit(b"ping").unwrap();
    assert_eq!(handle.poll(), Poll::Waiting);
    assert!(!handle.was_taken());
    let taken = slots.requested();
    assert_eq!(taken, [Taken { id: handle.id(), pid: 1234, bytes: b"ping".to_vec() }]);
    assert!(handle.was_taken());
    assert_eq!(handle.poll(), Poll::Waiting);
    assert_eq!(slots.requested(), [], "taken only once");
    let id = SlotId::from_token(taken[0].id.token());
    assert_eq!(slots.answer(id.index, id.generation, b"pong"), Some(56));
    assert_eq!(handle.poll(), Poll::Answered(b"pong".to_vec()));
    assert_eq!(slots.answer(id.index, id.generation, b"again"), None, "answered only once");
    assert_eq!(handle.poll(), Poll::Answered(b"pong".to_vec()));
    drop(handle);
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn a_late_answer_is_dropped_even_if_the_slot_is_in_use_again() {
    let slots = slots();
    let given_up = slots.claim(1, 10).unwrap();
    given_up.submit(b"first").unwrap();
    let first = slots.take().unwrap();
    drop(given_up);
    assert_eq!(slots.answer(first.id.index, first.id.generation, b"late"), None);
    // Until the same slot comes round again.
    let next = loop {
        let handle = slots.claim(1, 11).unwrap();
        if handle.id().index == first.id.index {
            break handle;
        }
    };
    assert_ne!(next.id().generation, first.id.generation);
    next.submit(b"second").unwrap();
    assert_eq!(slots.answer(first.id.index, first.id.generation, b"late"), None);
    let second = slots.take().unwrap();
    assert_eq!(second.bytes, b"second");
    assert_eq!(slots.answer(first.id.index, first.id.generation, b"late"), None);
    assert_eq!(next.poll(), Poll::Waiting);
    assert_eq!(slots.answer(second.id.index, second.id.generation, b"right"), Some(11));
    assert_eq!(next.poll(), Poll::Answered(b"right".to_vec()));
}

#[test]
fn a_request_given_up_before_it_is_taken_never_reaches_the_worker() {
    let slots = slots();
    let handle = slots.claim(1, 1).unwrap();
    handle.submit(b"never mind").unwrap();
    drop(handle);
    assert_eq!(slots.requested(), []);
}

#[test]
fn there_are_as_many_slots_as_promised_and_all_come_back() {
    let slots = slots();
    let held: Vec<_> = (0..SLOTS as i32).map(|pid| slots.claim(pid + 1, pid).unwrap()).collect();
    assert!(slots.claim(999, 0).is_none());
    for handle in &held {
        handle.submit(b"x").unwrap();
    }
    assert_eq!(slots.requested().len(), SLOTS);
    drop(held);
    assert_eq!(slots.in_use(), 0);
    assert!(slots.claim(999, 0).is_some());
}

#[test]
fn too_long_a_request_is_refused_and_too_long_an_answer_cut() {
    let slots = slots();
    let handle = slots.claim(1, 1).unwrap();
    assert_eq!(handle.submit(&[0; REQUEST_BYTES_MAX + 1]), Err(SubmitError::TooLong));
    let longest: Vec<u8> = (0..REQUEST_BYTES_MAX).map(|n| n as u8).collect();
    handle.submit(&longest).unwrap();
    assert_eq!(handle.submit(b"twice"), Err(SubmitError::NotClaimed));
    let taken = slots.take().unwrap();
    assert_eq!(taken.bytes, longest);
    let answer: Vec<u8> = (0..ANSWER_BYTES_MAX + 9).map(|n| n as u8).collect();
    slots.answer(taken.id.index, taken.id.generation, &answer).unwrap();
    assert_eq!(handle.poll(), Poll::Answered(answer[..ANSWER_BYTES_MAX].to_vec()));
    assert_eq!(slots.answer(u32::MAX, 0, b"no such slot"), None);
}

#[test]
fn the_slot_of_a_process_that_is_gone_is_reclaimed_in_any_state() {
    let slots = slots();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = child.id() as i32;
    child.wait().unwrap();
    let own = sys::own_pid();
    let mine = slots.claim(own, 1).unwrap();
    mine.submit(b"mine").unwrap();
    let claimed = slots.claim(dead, 2).unwrap();
    let requested = slots.claim(dead, 3).unwrap();
    requested.submit(b"r").unwrap();
    let taken = slots.requested();
    assert_eq!(taken.len(), 2);
    assert_eq!(slots.reclaim(sys::pid_in_use), 2);
    assert_eq!(slots.in_use(), 1, "the living keep theirs");
    assert_eq!(claimed.poll(), Poll::Abandoned);
    let of_the_dead = taken.iter().find(|taken| taken.pid == dead).unwrap().id;
    assert_eq!(slots.answer(of_the_dead.index, of_the_dead.generation, b"x"), None);
    // A handle whose slot was taken away must not free its next owner's.
    let next: Vec<_> = (1..SLOTS).map(|_| slots.claim(own, 4).unwrap()).collect();
    drop((claimed, requested));
    assert_eq!(slots.in_use(), SLOTS);
    drop(next);
}

#[test]
fn a_new_worker_frees_those_whom_the_old_one_left_waiting() {
    let slots = slots();
    let taken = slots.claim(1, 41).unwrap();
    taken.submit(b"lost").unwrap();
    slots.take().unwrap();
    let waiting = slots.claim(1, 42).unwrap();
    waiting.submit(b"not lost").unwrap();
    assert_eq!(slots.abandon_taken(), [41]);
    assert_eq!(taken.poll(), Poll::Abandoned);
    assert_eq!(waiting.poll(), Poll::Waiting);
    assert_eq!(slots.take().unwrap().bytes, b"not lost", "the new worker takes what was not taken");
    drop((taken, waiting));
    assert_eq!(slots.in_use(), 0);
}

#[test]
fn a_request_that_gives_way_to_anothers_while_it_is_copied_is_not_taken() {
    let slots = slots();
    // One slot is left, so that the next claim gets that very one.
    let held: Vec<_> = (1..SLOTS).map(|_| slots.claim(999, 0).unwrap()).collect();
    for submitted_again in [false, true] {
        let first = slots.claim(1, 0).unwrap();
        first.submit(b"first").unwrap();
        let (index, taken) = slots.begin_take().unwrap();
        drop(first);
        let second = slots.claim(1, 0).unwrap();
        if submitted_again {
            second.submit(b"second").unwrap();
        }
        assert_eq!(slots.finish_take(index, taken), None);
        assert_eq!(slots.take().is_some(), submitted_again);
    }
    drop(held);
}

#[test]
fn backends_that_give_up_at_random_never_get_anothers_answer() {
    let slots = slots();
    let done = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        let backends: Vec<_> = (1..=4)
            .map(|pid| {
                let answered = &answered;
                scope.spawn(move || {
                    for n in 0..3000_u32 {
                        // Of different lengths, so that a mixture shows.
                        let body = [format!("{pid}:{n}:"), "z".repeat(n as usize % 900)].concat();
                        let Some(handle) = slots.claim(pid, pid) else { continue };
                        handle.submit(body.as_bytes()).unwrap();
                        let patience = if n % 3 == 0 { n % 50 } else { u32::MAX };
                        for _ in 0..patience {
                            if let Poll::Answered(bytes) = handle.poll() {
                                assert_eq!(bytes, body.as_bytes(), "another's answer");
                                answered.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for taken in slots.requested() {
                    let text = String::from_utf8(taken.bytes).expect("a torn request");
                    assert!(text.starts_with(&format!("{}:", taken.pid)), "a torn request");
                    let (head, tail) = text.rsplit_once(':').unwrap();
                    let n: usize = head.rsplit_once(':').unwrap().1.parse().unwrap();
                    assert_eq!(tail.len(), n % 900, "a torn request");
                    slots.answer(taken.id.index, taken.id.generation, text.as_bytes());
                }
                thread::yield_now();
            }
        });
        let _finish = Finish(&done);
        let results: Vec<_> = backends.into_iter().map(|backend| backend.join()).collect();
        for result in results {
            result.unwrap();
        }
    });
    assert!(answered.load(Ordering::Relaxed) >= 4 * 2000, "{answered:?}");
    assert_eq!(slots.in_use(), 0);
}
